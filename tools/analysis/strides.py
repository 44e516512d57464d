"""Strides: from one heel strike to the next of the same foot; which of them count, and what they amount to."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mm_torch.evaluation.rollout_file import FEET
from tools.analysis.norm_tables import POINTS, GaitError
from tools.analysis.trial import Trial

DURATION = {"walking": (0.6, 1.6), "running": (0.45, 0.9)}  # s
MOST_MAD = 3.0  # a duration further from the median, in median absolute deviations, does not count
FRAMES = 2  # but so many frames off is always allowed
FORWARD, LEFT = np.array([0.0, -1.0, 0.0]), np.array([1.0, 0.0, 0.0])  # of the pelvis at qpos0


@dataclass(frozen=True, eq=False)
class Stride:
    """One stride of one foot.

    ============= ======================================================================= =====
    side          0 right, 1 left
    start, stop   frames of its two heel strikes
    toe_off       frame at which the foot leaves the floor in between
    other_strike  frame of the other foot's first heel strike in between; None without
    forward, left horizontal unit vectors of the pelvis, mean over the stride             (3,)
    ============= ======================================================================= =====
    """

    side: int
    start: int
    stop: int
    toe_off: int
    other_strike: int | None
    forward: np.ndarray
    left: np.ndarray

    @property
    def frames(self) -> slice:
        """From the last frame before the first heel strike to the frame of the second one."""
        return slice(self.start - 1, self.stop + 1)


def heel_strikes(contact: np.ndarray) -> np.ndarray:
    """Frames at which a foot (F,) comes to stand; the first frame of a recording is none."""
    return np.flatnonzero(contact[1:] & ~contact[:-1]) + 1


def find_strides(trial: Trial) -> tuple[list[Stride], str]:
    """Complete strides of both feet that count, and whether they walk or run.

    Raises:
        GaitError: there is none.
    """
    rate, contact = trial.rollout.control_rate, trial.contact
    found = [s for side in range(2) for s in _candidates(trial, side)]
    found = [s for s in found if DURATION["running"][0] <= (s.stop - s.start) / rate <= DURATION["walking"][1]]
    gait = gait_of(found, contact)
    low, high = DURATION[gait]
    timed = [s for s in found if low <= (s.stop - s.start) / rate <= high]
    if not timed:
        strikes = ", ".join(f"{len(heel_strikes(contact[:, k]))} {side}" for k, side in enumerate(FEET))
        raise GaitError(
            f"{trial.name}: no complete stride in {len(contact) / rate:.2f} s (heel strikes: {strikes}, by "
            f"{trial.contact_from}); a stride goes from one heel strike to the next of the same foot and lasts "
            f"{DURATION['running'][0]:g} to {DURATION['walking'][1]:g} s: give a longer recording of walking or running"
        )
    return without_outliers(timed), gait


def without_outliers(strides: list[Stride]) -> list[Stride]:
    """Strides whose duration is no further from the median than ``MOST_MAD`` deviations."""
    frames = np.array([s.stop - s.start for s in strides])
    away = np.abs(frames - np.median(frames))
    most = max(MOST_MAD * float(np.median(away)), FRAMES)
    return [s for s, a in zip(strides, away, strict=True) if a <= most]


def gait_of(strides: list[Stride], contact: np.ndarray) -> str:
    """Running where the feet stand for less than half of the stride, and hardly ever together; walking else."""
    if not strides:
        return "walking"
    duty = np.mean([(s.toe_off - s.start) / (s.stop - s.start) for s in strides])
    both = np.mean([contact[s.start : s.stop].all(axis=1).mean() for s in strides])
    return "running" if duty < 0.5 and both < 0.02 else "walking"


def _candidates(trial: Trial, side: int) -> list[Stride]:
    mine, other = trial.contact[:, side], trial.contact[:, 1 - side]
    strikes, other_strikes = heel_strikes(mine), heel_strikes(other)
    strides = []
    for start, stop in pairwise(strikes):
        off = int(start + np.argmin(mine[start:stop]))
        within = other_strikes[(other_strikes > start) & (other_strikes < stop)]
        forward = facing(trial.rollout.qpos[start : stop + 1, 3:7])
        left = np.array([-forward[1], forward[0], 0.0])
        strides.append(Stride(side, int(start), int(stop), off, int(within[0]) if len(within) else None, forward, left))
    return strides


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices (F, 3, 3) of unit quaternions (F, 4) wxyz."""
    w, x, y, z = quaternion.T
    rows = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    return np.moveaxis(np.array(rows), -1, 0)


def facing(quaternion: np.ndarray) -> np.ndarray:
    """Horizontal unit vector (3,) that the pelvis, (F, 4) wxyz, faces in the mean."""
    mean = (rotation(quaternion) @ FORWARD).mean(axis=0) * [1.0, 1.0, 0.0]
    return mean / np.linalg.norm(mean)


def over_stride(values: np.ndarray, stride: Stride) -> np.ndarray:
    """Values (F, ...) at 0, 1, ... 100 % of a stride, (101, ...), both heel strikes included."""
    return over_part(values[stride.frames])


def over_part(part: np.ndarray) -> np.ndarray:
    """The same of the frames of a stride alone, (n, ...).

    The foot is down in the frame of a heel strike and was not in the one before: it came down half a frame earlier, in the
    mean. So the cycle goes from half a frame after the first of these frames to half a frame before the last one.
    """
    at = np.linspace(0.5, len(part) - 1.5, POINTS)
    below = at.astype(int)
    share = (at - below).reshape(-1, *[1] * (part.ndim - 1))
    return (1.0 - share) * part[below] + share * part[below + 1]
