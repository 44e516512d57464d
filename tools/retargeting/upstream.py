"""Clips as Trajectory files of MuscleMimic 0.1.0, so that they can be mixed with its published caches."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from mm_torch.motion.clip import Clip, MotionError
from sim_models.embodiment import Embodiment
from tools.retargeting.atomic import replacing

FREQUENCY = 100.0  # Hz: concatenation with the published caches needs exactly theirs
SPARSE = ("cvel_parent", "subtree_com_root", "xpos_parent", "xquat_parent")  # made at load, empty on disk


def trajectory(body: Embodiment, clip: Clip) -> dict[str, np.ndarray]:
    """Arrays of a Trajectory file, T frames, B bodies, J joints, S mimic sites in ascending order of their ids.

    ==================== ================= ======== ====================================================================
    qpos, qvel           (T, Q), (T, V)    float32  MuJoCo's conventions; a free root starts at x = y = 0
    xpos, xquat          (T, B, 3 | 4)     float32  world poses of all bodies, m, wxyz
    cvel, subtree_com    (T, B, 6 | 3)     float32  com-based velocities (angular, linear), subtree centres of mass, m
    site_xpos, site_xmat (T, S, 3 | 9)     float32  world poses of the sites, m, row-major matrices
    split_points         (2,)              int32    0 and T
    names, ids, model    (J | B | S, ...)           joint, body and site names; parts of the model that are compared
    ==================== ================= ======== ====================================================================

    The original's ``metadata`` (a pickled None) is left out: its loader does without, and nothing needs unpickling.

    Raises:
        MotionError: the clip is of another body or has another rate than 100 Hz.

    Source: MuscleMimic 0.1.0, ``loco_mujoco/trajectory/dataclasses.py`` (layout only).
    """
    if clip.body != body.name or clip.joint_names != body.joint_names:
        raise MotionError(f"{clip.name}: made for body {clip.body}, not {body.name}; retarget it with body={body.name}")
    if clip.fps != FREQUENCY:
        raise MotionError(
            f"{clip.name}: {clip.fps:g} frames per second; Trajectory files hold {FREQUENCY:g}: retarget with "
            f"fps={FREQUENCY:g}"
        )
    model = body.model
    sites = np.sort([model.site(name).id for name in body.site_names])
    qpos, qvel = clip.qpos.astype(np.float32), clip.qvel.astype(np.float32)
    if body.free_root:
        qpos[:, :2] = clip.qpos[:, :2] - clip.qpos[0, :2]
    return {
        "qpos": qpos,
        "qvel": qvel,
        **_forward(model, qpos, qvel, sites),
        **dict.fromkeys(SPARSE, np.zeros(0, np.float32)),
        "split_points": np.array([0, len(qpos)], np.int32),
        "joint_names": np.array(body.joint_names, np.str_),
        "frequency": np.float64(FREQUENCY),
        "body_names": np.array([model.body(b).name for b in range(model.nbody)], np.str_),
        "site_names": np.array([model.site(s).name for s in sites], np.str_),
        **_model_arrays(model, sites),
    }


def _forward(model: mujoco.MjModel, qpos: np.ndarray, qvel: np.ndarray, sites: np.ndarray) -> dict[str, np.ndarray]:
    data, frames = mujoco.MjData(model), len(qpos)
    fields = ("xpos", "xquat", "cvel", "subtree_com")
    arrays = {name: np.empty((frames, *getattr(data, name).shape), np.float32) for name in fields}
    arrays |= {name: np.empty((frames, len(sites), width), np.float32)
               for name, width in (("site_xpos", 3), ("site_xmat", 9))}
    for f in range(frames):
        data.qpos[:], data.qvel[:] = qpos[f], qvel[f]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        for name, array in arrays.items():
            array[f] = getattr(data, name)[sites] if name.startswith("site_") else getattr(data, name)
    return arrays


def _model_arrays(model: mujoco.MjModel, sites: np.ndarray) -> dict[str, np.ndarray]:
    bodies = {name: getattr(model, f"body_{name}") for name in ("pos", "quat", "ipos", "iquat")}
    return {
        "njnt": np.int64(model.njnt),
        "jnt_type": model.jnt_type.astype(np.int32),
        "nbody": np.int64(model.nbody),
        **{f"body_{name}": getattr(model, f"body_{name}").astype(np.int32) for name in ("rootid", "weldid", "mocapid")},
        **{f"body_{name}": array.astype(np.float32) for name, array in bodies.items()},
        "nsite": np.int64(len(sites)),
        "site_bodyid": model.site_bodyid[sites].astype(np.int32),
        "site_pos": model.site_pos[sites].astype(np.float32),
        "site_quat": model.site_quat[sites].astype(np.float32),
    }


def write_trajectory(body: Embodiment, clip: Clip, path: Path) -> None:
    """Write a clip as a Trajectory file: uncompressed npz, atomically.

    Raises:
        MotionError: the clip is of another body or has another rate than 100 Hz.
    """
    arrays = trajectory(body, clip)
    with replacing(path) as file:
        np.savez(file, **arrays)
