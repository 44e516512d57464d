"""AMASS files (SMPL+H and SMPL-X pose parameters) through an own joint chain; no body model file is needed.

The first 66 columns, root and 21 body joints in axis-angle, mean the same in both layouts; hands are not read.
Source: AMASS (Mahmood et al. 2019), SMPL-H (Romero et al. 2017); ``G_j = G_parent exp(pose_j)``, the pelvis is at
``trans + J0``.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.retargeting import rotations
from tools.retargeting.skeleton import LIMB_POINTS, SIDES, Z_UP, Capture, CaptureError, assemble

BODY_JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
RATE_KEYS = ("mocap_framerate", "mocap_frame_rate")
UP_AXES = ("auto", "y", "z")

# Rest joints (22, 3) m, Y up, facing +Z: mean adult of MakeHuman/Anny (CC0), scaled to 1.70 m, arms in a straight T,
# floor at y = 0.
STAND_IN_JOINTS = np.array([
    [0.000, 0.912, 0.011], [0.106, 0.904, 0.004], [-0.106, 0.904, 0.004], [0.000, 0.991, -0.026], [0.141, 0.492, 0.036],
    [-0.141, 0.492, 0.036], [0.000, 1.061, -0.011], [0.181, 0.075, 0.008], [-0.181, 0.075, 0.008],
    [0.000, 1.141, -0.010], [0.178, 0.026, 0.153], [-0.178, 0.026, 0.153], [0.000, 1.454, 0.006],
    [0.023, 1.382, 0.023], [-0.023, 1.382, 0.023],
    [0.000, 1.555, 0.042], [0.173, 1.360, 0.019], [-0.173, 1.360, 0.019], [0.439, 1.360, 0.019], [-0.439, 1.360, 0.019],
    [0.677, 1.360, 0.019], [-0.677, 1.360, 0.019],
])  # fmt: skip

_POINT_JOINTS = {point: point for point in LIMB_POINTS} | {"toes": "foot"}


@dataclass(frozen=True)
class PoseFile:
    """Contents of an AMASS file: poses (F, 22, 3) axis-angle rad, trans (F, 3) m, betas (nb,), rate in Hz."""

    poses: np.ndarray
    trans: np.ndarray
    betas: np.ndarray
    fps: float


def read_poses(path: Path, fps_in: float | None = None) -> PoseFile:
    """Read an AMASS npz, either generation, either spelling of the frame rate.

    Raises:
        CaptureError: the file is unreadable or pickled, lacks poses or the frame rate, or shapes disagree.
    """
    arrays = _arrays(path)
    if "poses" in arrays:
        body = arrays["poses"]
    elif {"root_orient", "pose_body"} <= arrays.keys():
        body = np.concatenate([arrays["root_orient"], arrays["pose_body"]], axis=1)
    else:
        raise CaptureError(f"{path}: neither poses nor root_orient and pose_body, only {', '.join(sorted(arrays)[:6])}")
    if body.ndim != 2 or body.shape[1] < 66 or arrays.get("trans", np.zeros(0)).shape != (len(body), 3):
        raise CaptureError(f"{path}: poses {body.shape} and trans {arrays.get('trans', np.zeros(0)).shape} do not fit; "
                           "(F, 66 or more) and (F, 3) are needed")
    rate = fps_in or next((float(arrays[k]) for k in RATE_KEYS if k in arrays), None)
    if rate is None:
        raise CaptureError(f"{path}: no frame rate ({' or '.join(RATE_KEYS)}); give it with fps_in=")
    betas = np.asarray(arrays.get("betas", np.zeros(0)), dtype=float).reshape(-1)[:16]
    return PoseFile(body[:, :66].reshape(-1, 22, 3).astype(float), arrays["trans"].astype(float), betas, rate)


def rest_joints(model: Path | None, betas: np.ndarray) -> np.ndarray:
    """Rest joints (22, 3) m: of a body model file shaped by ``betas``, else the stand-in.

    ``J = J_regressor (v_template + shapedirs betas)``.

    Raises:
        CaptureError: the model file cannot be read or lacks an array.
    """
    if model is None:
        return STAND_IN_JOINTS
    arrays = _arrays(model)
    if missing := sorted({"v_template", "shapedirs", "J_regressor"} - arrays.keys()):
        raise CaptureError(f"{model}: {missing[0]} is missing; smplh_model= takes an SMPL+H model as npz")
    count = min(len(betas), arrays["shapedirs"].shape[-1])
    vertices = arrays["v_template"] + arrays["shapedirs"][..., :count] @ betas[:count]
    return (arrays["J_regressor"] @ vertices)[:22]


def forward(joints: np.ndarray, poses: np.ndarray, trans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joint positions (F, 22, 3) m and rotations since the rest pose (F, 22, 3, 3) in the file's world."""
    local = rotations.exp(poses)
    turn = np.empty_like(local)
    position = np.empty((len(poses), len(PARENTS), 3))
    for j, parent in enumerate(PARENTS):
        if parent < 0:
            turn[:, j], position[:, j] = local[:, j], trans + joints[j]
        else:
            turn[:, j] = turn[:, parent] @ local[:, j]
            position[:, j] = position[:, parent] + turn[:, parent] @ (joints[j] - joints[parent])
    return position, turn


def load_amass(path: Path, fps_in: float | None = None, up: str = "auto", model: Path | None = None) -> Capture:
    """Read an AMASS motion.

    Args:
        path: the npz file.
        fps_in: its frame rate, where the file names none (or a wrong one).
        up: the file's vertical axis; ``auto`` takes the axis along which the pelvis is upright on average (AMASS: z).
        model: SMPL+H model as npz, for the subject's proportions; the stand-in skeleton otherwise.
    """
    file = read_poses(path, fps_in)
    joints = rest_joints(model, file.betas)
    position, turn = forward(joints, file.poses, file.trans)
    if up == "auto":
        upright = np.abs(turn[:, 0, :, 1].mean(axis=0))
        up = "y" if upright[1] > upright[2] else "z"
    if up == "z":  # to the Y-up world that all sources share
        position, turn = position @ Z_UP, Z_UP.T @ turn
    joint = {name: k for k, name in enumerate(BODY_JOINTS)}
    points, rest = {}, {}
    turns = {"pelvis": turn[:, joint["pelvis"]], "trunk": turn[:, joint["spine3"]]}
    for side in SIDES:
        points |= {f"{side}_{p}": position[:, joint[f"{side}_{j}"]] for p, j in _POINT_JOINTS.items()}
        parts = dict(foot="ankle", toes="foot", hand="wrist")
        turns |= {f"{side}_{part}": turn[:, joint[f"{side}_{j}"]] for part, j in parts.items()}
        rest[f"{side}_hand"] = joints[joint[f"{side}_wrist"]] - joints[joint[f"{side}_elbow"]]
    source: dict[str, Any] = {"format": "AMASS", "up": up, "body_model": model.name if model else "stand-in (CC0)"}
    return assemble(points, turns, rest, file.fps, source)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k] for k in file.files if k not in ("gender", "surface_model_type", "marker_labels")}
    except ValueError as error:
        raise CaptureError(f"{path}: holds pickled objects or is no npz ({error}); save plain arrays") from None
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise CaptureError(f"{path}: truncated, missing or no npz file ({error}); copy it again") from None
