"""A walk with the forces that physics asks for: the built-in one, its floor forces from the centre of mass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mm_torch.evaluation.rollout_file import Rollout
from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_dir
from sim_models.embodiment import Embodiment
from tools.analysis.contacts import GRAVITY, by_soles
from tools.analysis.muscles import electrodes
from tools.analysis.norm_tables import bands, windows
from tools.analysis.quantities import MOMENT_SIGN
from tools.analysis.replay import replay_clip

STRIDE = 120.0 / 117.0  # s, of the built-in walk; it begins with right heel strike
SPEED = 1.226  # m/s
EARLY = 0.014  # s by which its soles touch the floor before the norm's heel strike
JOINTS = ("hip_flexion", "hip_adduction", "knee_angle", "ankle_angle")


def walking(body: Embodiment, delay: float = 0.0) -> Rollout:
    """The built-in walk as a rollout.

    The floor pushes with ``m (a + g)``; where both feet stand, it is handed over from one to the other. Moments are the
    published ones, excitations are 1 where EMG is on, ``delay`` s later, else 0.
    """
    rollout = replay_clip(body, load_clip(library_dir(body.name) / "walk.npz"))
    frames, rate, mass = len(rollout.time), rollout.control_rate, rollout.mass_kg
    acceleration = np.gradient(np.gradient(rollout.com, 1.0 / rate, axis=0), 1.0 / rate, axis=0)
    total = mass * (acceleration + np.array([0.0, 0.0, GRAVITY]))
    force = total[:, None] * shares(by_soles(body, rollout.qpos, rate))[..., None]
    moment = np.zeros((frames, len(rollout.joint_names)))
    excitation = np.zeros((frames, len(rollout.muscle_names)))
    for side, suffix in enumerate("rl"):
        percent = 100 * (((rollout.time + EARLY) / STRIDE + 0.5 * side) % 1.0)
        for joint in JOINTS:
            curve = bands("walking")[f"moment_{joint}"].mean
            column = rollout.joint_names.index(f"{joint}_{suffix}")
            moment[:, column] = MOMENT_SIGN.get(joint, 1.0) * mass * np.interp(percent, np.arange(101), curve)
        late = (percent - 100 * delay / STRIDE) % 100
        for muscle, window in windows("walking").items():
            excitation[:, electrodes(body, muscle, side)] = window.mask[late.astype(int)][:, None]
    return replace(rollout, kind="rollout", joint_moment=moment, excitation=excitation, activation=excitation,
                   muscle_force=excitation, foot_force=force, foot_centre_of_pressure=np.zeros_like(force))


def shares(contact: np.ndarray) -> np.ndarray:
    """Part of the force (F, 2) that each foot carries: in double support from 0 to 1, or from 1 to 0."""
    share = contact / contact.sum(axis=1, keepdims=True)
    both = contact.all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], both.astype(int), [0]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        ramp = (np.arange(stop - start) + 1.0) / (stop - start + 1.0)
        onto_right = not contact[start - 1, 0] if start > 0 else contact[stop, 0]
        share[start:stop, 0] = ramp if onto_right else ramp[::-1]
        share[start:stop, 1] = 1.0 - share[start:stop, 0]
    return share
