"""Which joints of a body balance reflexes act on, and where its feet feel their load."""

from __future__ import annotations

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment

SIDES = ("r", "l")
LEG = (("hip_flexion", "knee_angle", "ankle_angle"), ("hip_adduction", "hip_rotation", "subtalar_angle"))
"""Joints of a leg, without side: those that turn in the sagittal plane, and the others."""
GROUPS = (
    ("hip_flexion",), ("hip_adduction",), ("hip_rotation",), ("knee_angle",), ("ankle_angle",), ("subtalar_angle",),
    ("flex_extension", "lat_bending", "axial_rotation"), ("elv_angle", "shoulder_elv", "shoulder_rot"),
    ("elbow_flex", "pro_sup", "deviation", "flexion"),
)
"""Joints that share gains, without side: of legs, trunk, arms; all others are one more group."""


def leg_joints(body: Embodiment) -> np.ndarray | None:
    """(2, 2, 3) places of ``LEG`` of both ``SIDES`` among the independent joints; None where the body does not walk."""
    names = [body.joint_names[joint] for joint in body.independent_hinges]
    wanted = [[[f"{joint}_{side}" for joint in plane] for plane in LEG] for side in SIDES]
    if not body.free_root or not {name for side in wanted for plane in side for name in plane} <= set(names):
        return None
    return np.array([[[names.index(name) for name in plane] for plane in side] for side in wanted])


def joint_groups(body: Embodiment) -> np.ndarray:
    """(D,) group of each independent joint."""
    plain = [body.joint_names[joint].removesuffix("_r").removesuffix("_l") for joint in body.independent_hinges]
    return np.array([next((g for g, joints in enumerate(GROUPS) if name in joints), len(GROUPS)) for name in plain])


def site_shares(body: Embodiment) -> np.ndarray:
    """(S,) share of the body's mass next to each mimic site at the neutral pose: every part counts for the nearest site.

    The mean of the sites' errors with these weights stands for the error of the centre of mass.
    """
    model, data = body.model, mujoco.MjData(body.model)
    data.qpos[:] = body.neutral_qpos
    mujoco.mj_kinematics(model, data)
    distance = np.linalg.norm(data.xipos[:, None] - data.xpos[body.site_body_ids], axis=-1)
    return np.bincount(distance.argmin(axis=1), model.body_mass, len(body.site_names)) / model.body_mass.sum()


def foot_touch(body: Embodiment) -> np.ndarray:
    """(2, T) 1 where a touch sensor belongs to the foot of a side, else 0."""
    return np.array([[float(name.startswith(f"{side}_")) for name in body.touch_sensors] for side in SIDES])
