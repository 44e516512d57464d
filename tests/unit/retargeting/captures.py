"""Captures and AMASS files made on the spot: nobody's recording, so that tests need no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tools.retargeting.smplh import BODY_JOINTS


def walking_poses(frames: int, fps: float, arms: float = -1.2) -> tuple[np.ndarray, np.ndarray]:
    """Poses (F, 52, 3) rad and trans (F, 3) m of legs and arms that swing while the body moves along -Y, Z up."""
    time = np.arange(frames) / fps
    poses = np.zeros((frames, 52, 3))
    poses[:, 0, 0] = np.pi / 2
    joint = {name: k for k, name in enumerate(BODY_JOINTS)}
    swing = np.sin(2 * np.pi * 0.9 * time)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        poses[:, joint[f"{side}_hip"], 0] = sign * 0.4 * swing
        poses[:, joint[f"{side}_knee"], 0] = 0.25 - 0.2 * sign * swing
        poses[:, joint[f"{side}_shoulder"], 2] = sign * arms
        poses[:, joint[f"{side}_elbow"], 1] = -sign * (0.5 + 0.2 * swing + 0.3 * (side == "left"))
    poses[:, joint["spine3"], 1] = 0.1 * swing
    trans = np.zeros((frames, 3))
    trans[:, 1] = -0.8 * time
    return poses, trans


def write_amass(path: Path, poses: np.ndarray, trans: np.ndarray, fps: float, **extra: object) -> None:
    """Write the SMPL+H layout of AMASS."""
    content = dict(poses=poses.reshape(len(poses), -1), trans=trans, betas=np.zeros(16), gender="neutral",
                   mocap_framerate=fps)
    np.savez(path, **(content | extra))
