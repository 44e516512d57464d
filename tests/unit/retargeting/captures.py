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


# Joints of a made-up skeleton by our names: parent, offset (3,) m from it in a T-pose, Y up, facing +Z, left is +X.
FIGURE = {
    "pelvis": ("", (0.0, 0.0, 0.0)),
    "trunk": ("pelvis", (0.0, 0.2, -0.01)),
    "left_hip": ("pelvis", (0.1, -0.05, 0.0)),
    "left_knee": ("left_hip", (0.0, -0.42, 0.01)),
    "left_ankle": ("left_knee", (0.0, -0.4, -0.02)),
    "left_toes": ("left_ankle", (0.01, -0.05, 0.14)),
    "left_shoulder": ("trunk", (0.18, 0.25, 0.0)),
    "left_elbow": ("left_shoulder", (0.28, 0.0, 0.0)),
    "left_wrist": ("left_elbow", (0.25, 0.0, 0.0)),
}
FIGURE |= {
    name.replace("left", "right"): (parent.replace("left", "right"), (-offset[0], *offset[1:]))
    for name, (parent, offset) in FIGURE.items() if name.startswith("left")
}  # fmt: skip
Y_UP = np.eye(3)  # columns: left, up and forward of the figure in the axes of the file
Z_UP_FACING_MINUS_Y = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
Y_UP_FACING_X = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


def write_bvh(
    path: Path, frames: int = 40, step: float = 0.01, unit: float = 1.0, axes: np.ndarray = Y_UP, prefix: str = "bone_"
) -> None:
    """A figure that walks forward at 1 m/s with swinging legs; its joints are ours with a prefix."""
    children = {name: [child for child, (parent, _) in FIGURE.items() if parent == name] for name in FIGURE}
    swing_axis = int(np.abs(axes[:, 0]).argmax())
    letters = [f"{'XYZ'[swing_axis]}rotation", *(f"{'XYZ'[a]}rotation" for a in range(3) if a != swing_axis)]
    order: list[str] = []

    def block(name: str) -> str:
        order.append(name)
        offset = " ".join(f"{v:.9f}" for v in axes @ np.array(FIGURE[name][1]) / unit)
        position = "" if FIGURE[name][0] else "Xposition Yposition Zposition "
        inside = "\n".join(block(child) for child in children[name]) or "End Site\n{\nOFFSET 0 0 0\n}"
        kind = "JOINT" if FIGURE[name][0] else "ROOT"
        count = 6 if position else 3
        return (f"{kind} {prefix}{name}\n{{\nOFFSET {offset}\nCHANNELS {count} {position}{' '.join(letters)}\n"
                f"{inside}\n}}")

    hierarchy = block("pelvis")
    rows = []
    for f in range(frames):
        angle = 20.0 * np.sin(2.0 * np.pi * f * step)
        turns = {"left_hip": angle, "right_hip": -angle, "left_knee": 15.0, "right_knee": 15.0}
        sign = np.sign(axes[swing_axis, 0])
        row = list(axes @ np.array([0.0, 0.95, f * step]) / unit)
        for name in order:
            row += [sign * turns.get(name, 0.0), 0.0, 0.0]
        rows.append(" ".join(f"{v:.9f}" for v in row))
    path.write_text(f"HIERARCHY\n{hierarchy}\nMOTION\nFrames: {frames}\nFrame Time: {step}\n" + "\n".join(rows) + "\n")


def write_mapping(path: Path, prefix: str = "bone_", **keys: object) -> Path:
    """A mapping of the figure, with further keys."""
    lines = [f"{key}: {value}" for key, value in keys.items()]
    path.write_text("\n".join([*lines, "joints:", *(f"  {name}: {prefix}{name}" for name in FIGURE)]) + "\n")
    return path
