"""AMASS files (SMPL+H and SMPL-X pose parameters) through an own joint chain; no body model file is needed.

The first 66 columns, root and 21 body joints in axis-angle, mean the same in both layouts; hands are not read.
A Z-up world and metres are part of the format; files that stand upright along y are noticed.
Source: AMASS (Mahmood et al. 2019), SMPL-H (Romero et al. 2017); ``G_j = G_parent exp(pose_j)``, the pelvis is at
``trans + J0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mm_torch.motion.npz import NpzError, as_number, as_numbers, read_npz
from tools.retargeting.body_model import BODY_PARENTS, forward, load_body_model
from tools.retargeting.skeleton import LIMB_POINTS, SIDES, Z_UP, Capture, CaptureError, assemble

BODY_JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
TABLES = ("poses", "root_orient", "pose_body", "trans", "betas")
LABELS = ("gender", "surface_model_type")
RATE_KEYS = ("mocap_framerate", "mocap_frame_rate")
UP_AXES = ("auto", "y", "z")
FAMILIES = {156: "SMPL+H", 165: "SMPL-X"}  # by columns of poses
BODY_COLUMNS = 3 * len(BODY_PARENTS)
STANDS, LIES = 0.7, 0.4  # cosine of the pelvis with the vertical, on average: at least, at most
FLOOR = 0.4  # m: how far from y = 0 the feet of a file that stands along y may be
THIN = 0.2  # m: how far from z = 0 the lowest joint of a body that lies on the floor may be
ORIGIN = 0.3  # m: height of the models' origin over the pelvis (SMPL-H 0.22, SMPL-X 0.35), which trans is the path of

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


@dataclass(frozen=True, eq=False)
class PoseFile:
    """Contents of an AMASS file.

    ====== ============================================================ ================
    poses  root and body joints, axis-angle                             (F, 22, 3), rad
    trans  path                                                         (F, 3), file units
    betas  the subject's shape; empty where the file has none           (B,)
    fps    frames per second                                            1/s
    family SMPL+H or SMPL-X
    gender of the model that the shape belongs to; unknown if not said
    amass  whether the file is labelled as those of AMASS are
    ====== ============================================================ ================
    """

    poses: np.ndarray
    trans: np.ndarray
    betas: np.ndarray
    fps: float
    family: str
    gender: str
    amass: bool


def read_poses(path: Path, fps_in: float | None = None) -> PoseFile:
    """Read an AMASS npz, either generation, either spelling of the frame rate.

    Raises:
        CaptureError: the file is unreadable or pickled, lacks poses or the frame rate, or shapes disagree.
    """
    arrays = _arrays(path)
    body, family = _body_poses(path, arrays)
    trans = arrays.get("trans", np.zeros(0))
    if trans.shape != (len(body), 3):
        raise CaptureError(f"{path}: trans {trans.shape} does not fit {len(body)} frames of poses; (F, 3) is needed: the "
                           "file is damaged or no AMASS motion")
    if not len(body):
        raise CaptureError(f"{path}: 0 frames; the file is empty, copy it again")
    spelling = next((key for key in RATE_KEYS if key in arrays), None)
    if fps_in is None and spelling is None:
        raise CaptureError(f"{path}: no frame rate ({' or '.join(RATE_KEYS)}); give it with fps_in=")
    try:
        fps = fps_in or as_number(arrays[spelling], spelling)
    except NpzError:
        raise CaptureError(f"{path}: {spelling} is {arrays[spelling]!r}, no number; give the rate with fps_in=") from None
    betas = np.asarray(arrays.get("betas", np.zeros(0)), dtype=float).reshape(-1)
    amass = spelling is not None and {"gender", "betas"} <= arrays.keys()
    return PoseFile(body.reshape(-1, len(BODY_PARENTS), 3).astype(float), trans.astype(float), betas, fps, family,
                    _text(arrays, "gender"), amass)


def _text(arrays: dict[str, np.ndarray], key: str) -> str:
    """Lower-case text of an entry, which files store as text or bytes, with or without a dimension."""
    if key not in arrays:
        return "unknown"
    value = arrays[key].reshape(-1)[0]
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip().lower()


def _body_poses(path: Path, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """Columns of root and body (F, 66), and the family of the model."""
    if "poses" in arrays:
        poses = arrays["poses"]
        if poses.ndim != 2 or poses.shape[1] not in FAMILIES:
            wanted = " or ".join(f"{columns} ({family})" for columns, family in FAMILIES.items())
            raise CaptureError(f"{path}: poses has shape {poses.shape}; (F, {wanted}) is needed: the file is of another "
                               "model or damaged")
        return poses[:, :BODY_COLUMNS], FAMILIES[poses.shape[1]]
    if {"root_orient", "pose_body"} <= arrays.keys():
        root, rest = arrays["root_orient"], arrays["pose_body"]
        if root.ndim != 2 or rest.ndim != 2 or root.shape[1:] != (3,) or rest.shape != (len(root), BODY_COLUMNS - 3):
            raise CaptureError(f"{path}: root_orient {root.shape} and pose_body {rest.shape} do not fit; (F, 3) and (F, "
                               f"{BODY_COLUMNS - 3}) are needed")
        family = "SMPL+H" if "smplh" in _text(arrays, "surface_model_type") else "SMPL-X"
        return np.concatenate([root, rest], axis=1), family
    if "betas" in arrays:
        raise CaptureError(f"{path}: holds a shape and no motion (like shape.npz and *_stagei.npz of AMASS); leave it out")
    raise CaptureError(f"{path}: neither poses nor root_orient and pose_body; it is no AMASS motion")


def rest_joints(model: Path | None, file: PoseFile) -> tuple[np.ndarray, dict[str, str]]:
    """Rest joints (22, 3) m of a file's subject, and notes on what they come from.

    The shape belongs to one family of models: that of another keeps its mean shape.

    Raises:
        CaptureError: the model file cannot be used.
    """
    if model is None:
        return STAND_IN_JOINTS, {"body_model": "stand-in (CC0)", "subject_shape": "mean; the stand-in has one shape"}
    body = load_body_model(model)
    fits = body.family == file.family and file.betas.size > 0
    joints = body.joints(file.betas if fits else np.zeros(0))[: len(BODY_PARENTS)]
    if fits:
        shape = f"{min(len(file.betas), body.shapes.shape[-1])} betas of the file"
    elif file.betas.size:
        shape = f"mean; the betas are those of {file.family}, the model is {body.family}"
    else:
        shape = "mean; the file has no betas"
    return joints, {"body_model": f"{model.name} ({body.family}, {body.gender})", "subject_shape": shape}


def load_amass(
    path: Path, fps_in: float | None = None, up: str = "auto", model: Path | None = None, unit: float = 1.0
) -> Capture:
    """Read an AMASS motion.

    Args:
        path: the npz file.
        fps_in: its frame rate, where the file names none (or a wrong one).
        up: the file's vertical axis; ``auto``: z, as AMASS has it, unless the body stands on the plane y = 0.
        model: model file as npz, for the subject's proportions; the stand-in skeleton otherwise.
        unit: metres of one unit of the path.

    Raises:
        CaptureError: the file cannot be used, or its vertical axis is not to be found out.
    """
    file = read_poses(path, fps_in)
    joints, notes = rest_joints(model, file)
    position, turn = forward(joints, file.poses, unit * file.trans, BODY_PARENTS)
    if up == "auto":
        up = _vertical(path, position - joints[0], turn, file.amass)
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
    source = {"format": f"AMASS {file.family}", "up": up, "unit_m": unit, "gender": file.gender, **notes}
    return assemble(points, turns, rest, file.fps, source)


def _vertical(path: Path, position: np.ndarray, turn: np.ndarray, amass: bool) -> str:
    """Vertical axis of a file: y where the body stands along it, on y = 0; z where it stands along z or AMASS says so.

    Args:
        path: the file.
        position: (F, 22, 3) m with the pelvis at trans; on whose model the file was made, only trans tells.
        turn: (F, 22, 3, 3) rotations since the rest pose.
        amass: whether the file is labelled as those of AMASS are.
    """
    if not (np.isfinite(position).all() and np.isfinite(turn).all()):
        return "z"  # the check of values that follows refuses the file
    along = turn[:, 0, :, 1].mean(axis=0)
    if along[1] > STANDS and along[2] < LIES:  # stands in a Y-up world, or lies in a Z-up world
        lowest = np.median(position.min(axis=1), axis=0) - [0.0, ORIGIN, 0.0]
        lies_on_floor = abs(lowest[2]) < THIN
        if abs(lowest[1]) < FLOOR and not (lies_on_floor and amass):
            return "y"
        raise CaptureError(f"{path}: the body is upright along y; either it stands in a Y-up world, the feet at y = "
                           f"{lowest[1]:.2f} m, or it lies in a Z-up world, {lowest[2]:.2f} m high; give up=y or up=z")
    if amass or along[2] > STANDS:
        return "z"
    raise CaptureError(f"{path}: the body stands along no axis and the file is not labelled as those of AMASS (Z-up) are; "
                       "give up=y or up=z")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """What is needed of a file; labels are left out where they are pickled, of no length or no text."""
    try:
        arrays = read_npz(path, (*TABLES, *RATE_KEYS, *LABELS), LABELS)
        tables = {key: as_numbers(arrays[key], f"{path}: {key}") for key in TABLES if key in arrays}
    except NpzError as error:
        raise CaptureError(str(error)) from None
    labels = {key: arrays[key] for key in LABELS if key in arrays and arrays[key].size and arrays[key].dtype.kind in "SU"}
    return tables | labels | {key: arrays[key] for key in RATE_KEYS if key in arrays}
