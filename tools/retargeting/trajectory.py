"""Trajectory files of MuscleMimic (npz): its retargeted motions, which hold the positions of our own joints."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from mm_torch.motion.npz import NpzError, as_names, as_numbers, npz_keys, read_npz
from tools.retargeting.skeleton import CaptureError, JointMotion

KEYS = ("qpos", "joint_names", "jnt_type", "frequency", "split_points")  # never metadata, which is pickled
NEEDED = ("qpos", "joint_names")
FREE = int(mujoco.mjtJoint.mjJNT_FREE)
SCALAR = (int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE))


def load_trajectory(path: Path, fps_in: float | None = None) -> JointMotion:
    """Read one motion: positions by joint name; everything else in the file follows from them.

    Args:
        path: the npz file, with or without its kinematic arrays.
        fps_in: its rate in 1/s, where it names none or a wrong one.

    Raises:
        CaptureError: the file is damaged or another kind of npz, names no rate, or holds several motions.

    Source: MuscleMimic 0.1.0, ``loco_mujoco/trajectory/dataclasses.py`` (layout only).
    """
    try:
        arrays = _read(path)
    except NpzError as error:
        raise CaptureError(str(error)) from None
    qpos, names = arrays["qpos"].astype(float), tuple(arrays["joint_names"].tolist())
    if len(set(names)) != len(names):
        raise CaptureError(f"{path}: joint_names names a joint twice; the file is damaged")
    if qpos.ndim != 2:
        raise CaptureError(f"{path}: qpos {qpos.shape} is no table of frames; (F, Q) is needed")
    splits = arrays.get("split_points", np.array([0, len(qpos)])).reshape(-1)
    if len(splits) > 2:
        raise CaptureError(f"{path}: holds {len(splits) - 1} motions (split_points {splits[:4].tolist()}, ...); save each as "
                           "a file of its own")
    if splits.tolist() != [0, len(qpos)]:
        raise CaptureError(f"{path}: split_points {splits.tolist()} do not fit {len(qpos)} frames; the file is damaged")
    rate = fps_in or (float(arrays["frequency"].reshape(-1)[0]) if arrays.get("frequency", np.zeros(0)).size else None)
    if rate is None:
        raise CaptureError(f"{path}: no frame rate (frequency); give it with fps_in=")
    types = _types(path, arrays, names, qpos.shape[1])
    at = np.concatenate([[0], np.cumsum(np.where(types == FREE, 7, 1))])[:-1]
    free = np.flatnonzero(types == FREE)
    root = _root(path, qpos[:, at[free[0]] : at[free[0]] + 7]) if len(free) else None
    scalar = np.flatnonzero(types != FREE)
    return JointMotion(rate, tuple(names[j] for j in scalar), qpos[:, at[scalar]], root, {"format": "MuscleMimic Trajectory"})


def _types(path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...], columns: int) -> np.ndarray:
    """MuJoCo's joint types (J,); without ``jnt_type`` six columns more than joints are a free joint in front."""
    hinge = int(mujoco.mjtJoint.mjJNT_HINGE)
    first = FREE if columns == len(names) + 6 else hinge
    types = arrays.get("jnt_type", np.array([first, *[hinge] * (len(names) - 1)])[: len(names)]).reshape(-1)
    wanted = int(np.where(types == FREE, 7, 1).sum())
    known = np.isin(types, (FREE, *SCALAR)).all() and (types == FREE).sum() <= 1
    if len(types) != len(names) or wanted != columns or not known:
        raise CaptureError(f"{path}: {columns} columns of qpos do not fit {len(names)} joint names and {len(types)} types; "
                           "one free joint and scalar joints are supported")
    return types


def _root(path: Path, root: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(root[:, 3:], axis=1, keepdims=True)
    if (np.abs(norm - 1.0) > 1e-2).any():
        frame = int(np.argmax(np.abs(norm[:, 0] - 1.0)))
        raise CaptureError(f"{path}: the root's quaternion has length {norm[frame, 0]:.3g} at frame {frame}; the file is "
                           "damaged: copy it again")
    return np.concatenate([root[:, :3], root[:, 3:] / norm], axis=1)


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = read_npz(path, KEYS)
    if missing := [key for key in NEEDED if key not in arrays]:
        raise CaptureError(f"{path}: {missing[0]} is missing; not a Trajectory file (it holds "
                           f"{', '.join(sorted(npz_keys(path))[:6])}): drop source=trajectory for other npz files")
    names = as_names(arrays.pop("joint_names").reshape(-1), f"{path}: joint_names")
    arrays = {key: as_numbers(value, f"{path}: {key}") for key, value in arrays.items()}
    return arrays | {"joint_names": np.array(names, dtype=np.str_)}
