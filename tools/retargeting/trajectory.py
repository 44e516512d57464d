"""Trajectory files of MuscleMimic (npz): its retargeted motions, which hold the positions of our own joints."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import mujoco
import numpy as np

from tools.retargeting.skeleton import CaptureError, JointMotion

KEYS = ("qpos", "joint_names", "jnt_type", "frequency", "split_points")  # never metadata, which is pickled
NEEDED = ("qpos", "joint_names")
FREE = int(mujoco.mjtJoint.mjJNT_FREE)
BALL = int(mujoco.mjtJoint.mjJNT_BALL)


def load_trajectory(path: Path, fps_in: float | None = None) -> JointMotion:
    """Read one motion: positions by joint name; everything else in the file follows from them.

    Args:
        path: the npz file, with or without its kinematic arrays.
        fps_in: its rate in 1/s, where it names none or a wrong one.

    Raises:
        CaptureError: the file is damaged or another kind of npz, names no rate, or holds several motions.

    Source: MuscleMimic 0.1.0, ``loco_mujoco/trajectory/dataclasses.py`` (layout only).
    """
    arrays = _read(path)
    qpos = np.asarray(arrays["qpos"], dtype=float)
    names = tuple(str(name) for name in arrays["joint_names"].reshape(-1))
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
    if len(types) != len(names) or wanted != columns or (types == FREE).sum() > 1 or (types == BALL).any():
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
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise CaptureError(f"{path}: a single array, no npz file with {' and '.join(NEEDED)}")
        with file:
            if missing := [key for key in NEEDED if key not in file.files]:
                raise CaptureError(f"{path}: {missing[0]} is missing; not a Trajectory file (it holds "
                                   f"{', '.join(file.files[:6])}): drop source=trajectory for other npz files")
            return {key: file[key] for key in KEYS if key in file.files}
    except CaptureError:
        raise
    except ValueError as error:
        raise CaptureError(f"{path}: holds pickled objects or is no npz ({error}); save plain arrays") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CaptureError(f"{path}: truncated, missing or no npz file ({error}); copy it again") from None
