"""When each foot stands: from the floor's force with hysteresis, or from height and speed of the soles."""

from __future__ import annotations

from itertools import pairwise

import mujoco
import numpy as np
from scipy.signal import butter, sosfiltfilt

from mm_torch.evaluation.rollout_file import FEET
from mm_torch.muscle.soles import SolePoints
from sim_models.embodiment import Embodiment

GRAVITY = 9.81  # m/s^2
CUT_OFF = 20.0  # Hz, of the floor's force
RISES, FALLS = 0.05, 0.03  # of body weight: a foot stands from the one on, and until the other
STAYS = 0.05  # s: shorter contacts and gaps do not count
NEAR, FAR = 0.020, 0.030  # m above the floor: points of a sole come to stand below the one, and leave above the other
SLOW, FAST = 0.6, 0.8  # m/s: the same for their speed


def low_pass(values: np.ndarray, rate: float, cut_off: float = CUT_OFF) -> np.ndarray:
    """Fourth-order Butterworth low-pass without lag (second order forward and backward) along the first axis."""
    if len(values) < 16 or cut_off >= rate / 2:
        return values
    return sosfiltfilt(butter(2, cut_off, fs=rate, output="sos"), values, axis=0)


def hysteresis(enter: np.ndarray, stay: np.ndarray) -> np.ndarray:
    """(F,) bool that becomes true where ``enter`` is and remains so while ``stay`` is."""
    state, out = False, np.zeros(len(enter), dtype=bool)
    for f in range(len(enter)):
        state = bool(enter[f]) or (state and bool(stay[f]))
        out[f] = state
    return out


def debounced(contact: np.ndarray, least: int) -> np.ndarray:
    """Without gaps, then without contacts, shorter than ``least`` frames; those at the ends are kept."""
    out = contact.copy()
    for value in (False, True):
        edges = np.flatnonzero(np.diff(out.astype(int))) + 1
        for start, stop in pairwise(edges):
            if out[start] == value and stop - start < least:
                out[start:stop] = not value
    return out


def by_force(force: np.ndarray, weight: float, rate: float) -> np.ndarray:
    """Contact (F, 2) from vertical forces.

    Args:
        force: (F, 2) N, up.
        weight: body weight in N.
        rate: frames per second.
    """
    share = low_pass(force, rate) / weight
    feet = [hysteresis(column > RISES, column > FALLS) for column in share.T]
    return np.stack([debounced(foot, round(STAYS * rate)) for foot in feet], axis=1)


def by_soles(body: Embodiment, qpos: np.ndarray, rate: float) -> np.ndarray:
    """Contact (F, 2) from the soles' points: one of them is low and slow.

    The floor of a foot lies where its lowest point is, in the median, while one of its points is slow: where joint angles of
    a person are played on a body of another size, it sinks or hovers.

    Args:
        body: embodiment with feet.
        qpos: (F, Q).
        rate: frames per second.
    """
    points, data = SolePoints.of(body), mujoco.MjData(body.model)
    place = np.empty((len(qpos), len(points.geom), 3))
    for f in range(len(qpos)):
        data.qpos[:] = qpos[f]
        mujoco.mj_kinematics(body.model, data)
        place[f] = points.lowest(data)
    speed = np.linalg.norm(np.gradient(place, 1.0 / rate, axis=0), axis=-1)
    feet = []
    for side in FEET:
        mine = np.isin(points.geom, body.foot_geom_ids[side])
        height, pace = place[:, mine, 2], speed[:, mine]
        slow = pace.min(axis=1) < SLOW
        height = height - (np.median(height[slow].min(axis=1)) if slow.any() else height.min())
        enter = ((height < NEAR) & (pace < SLOW)).any(axis=1)
        stay = ((height < FAR) & (pace < FAST)).any(axis=1)
        feet.append(debounced(hysteresis(enter, stay), round(STAYS * rate)))
    return np.stack(feet, axis=1)
