"""Kinematics of an embodiment on the CPU: mimic-site poses and velocities of whole motions, soles, velocities."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment


class SiteMotion(NamedTuple):
    """World motion of the mimic sites: position (F, S, 3) m, quaternion wxyz (F, S, 4), velocity (F, S, 6).

    The velocity is angular (rad/s), then linear (m/s) of the site's origin, both in world axes.
    """

    position: np.ndarray
    quaternion: np.ndarray
    velocity: np.ndarray


@lru_cache(maxsize=16)
def bare_model(body: Embodiment) -> mujoco.MjModel:
    """The bodies and joints of an embodiment, numbered as there, and nothing else.

    Kinematics and dynamics without contacts are the same, in a fraction of the time: the paths of the muscles alone have
    two thousand sites.
    """
    model, spec = body.model, mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.gravity = model.opt.gravity
    bodies = [spec.worldbody]
    for b in range(1, model.nbody):
        bodies.append(bodies[model.body_parentid[b]].add_body(
            name=model.body(b).name, pos=model.body_pos[b], quat=model.body_quat[b], mass=model.body_mass[b],
            ipos=model.body_ipos[b], iquat=model.body_iquat[b], inertia=model.body_inertia[b], explicitinertial=True,
        ))
    for j in range(model.njnt):
        kind = mujoco.mjtJoint(model.jnt_type[j])
        joint = bodies[model.jnt_bodyid[j]].add_joint(
            name=model.joint(j).name, type=kind, pos=model.jnt_pos[j], axis=model.jnt_axis[j],
            armature=model.dof_armature[model.jnt_dofadr[j]],
        )
        if kind in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE):
            joint.ref = model.qpos0[model.jnt_qposadr[j]]
    return spec.compile()


def site_motion(body: Embodiment, qpos: np.ndarray, qvel: np.ndarray) -> SiteMotion:
    """Forward kinematics of a motion.

    Args:
        body: embodiment.
        qpos: (F, Q).
        qvel: (F, V).

    Returns:
        Site motion of F frames, float64.

    Source: MuJoCo ``cvel`` is the com-based velocity: ``v_site = v_com + omega x (p - subtree_com)``.
    """
    model = bare_model(body)
    data, frames, sites = mujoco.MjData(model), len(qpos), len(body.site_names)
    position, quaternion = np.empty((frames, sites, 3)), np.empty((frames, sites, 4))
    velocity, arm = np.empty((frames, sites, 6)), np.empty((frames, sites, 3))
    for f in range(frames):
        data.qpos[:], data.qvel[:] = qpos[f], qvel[f]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        position[f], quaternion[f] = data.xpos[body.site_body_ids], data.xquat[body.site_body_ids]
        velocity[f], arm[f] = data.cvel[body.site_body_ids], position[f] - data.subtree_com[body.site_root_ids]
    velocity[..., 3:] += np.cross(velocity[..., :3], arm)
    return SiteMotion(position, quaternion, velocity)


def reference_velocity(body: Embodiment, qpos: np.ndarray, dt: float) -> np.ndarray:
    """Velocities of a motion by central differences (one-sided at both ends), consistent with ``mj_integratePos``.

    Args:
        body: embodiment.
        qpos: (F, Q), F >= 1.
        dt: s between frames.

    Returns:
        (F, V): joints rad/s or m/s; free root: linear in world axes, angular in the root frame, MuJoCo's convention.
    """
    frames = len(qpos)
    qvel = np.zeros((frames, body.model.nv))
    for f in range(frames):
        before, after = max(f - 1, 0), min(f + 1, frames - 1)
        if after > before:
            mujoco.mj_differentiatePos(body.model, qvel[f], (after - before) * dt, qpos[before], qpos[after])
    return qvel


def lowest_points(body: Embodiment, qpos: np.ndarray, geoms: np.ndarray) -> np.ndarray:
    """Height of the lowest surface point of some geoms (sphere, capsule, ellipsoid, box) over a motion.

    Args:
        body: embodiment.
        qpos: (F, Q).
        geoms: (G,) geom ids.

    Returns:
        (F, G) m above the floor z = 0.
    """
    model, data = body.model, mujoco.MjData(body.model)
    size, kind = model.geom_size[geoms], model.geom_type[geoms]
    heights = np.empty((len(qpos), len(geoms)))
    for f in range(len(qpos)):
        data.qpos[:] = qpos[f]
        mujoco.mj_kinematics(model, data)
        up = np.abs(data.geom_xmat[geoms].reshape(-1, 3, 3)[:, 2, :])  # |z row|: world up in geom axes
        extent = np.select(
            [kind == mujoco.mjtGeom.mjGEOM_CAPSULE, kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID,
             kind == mujoco.mjtGeom.mjGEOM_BOX],
            [size[:, 0] + up[:, 2] * size[:, 1], np.sqrt(((up * size) ** 2).sum(1)), (up * size).sum(1)],
            default=size[:, 0],
        )
        heights[f] = data.geom_xpos[geoms, 2] - extent
    return heights


def lowest_sole(body: Embodiment, qpos: np.ndarray) -> float:
    """Height in m of the lowest sole point over one pose (Q,) or a motion (F, Q)."""
    geoms = np.concatenate(list(body.foot_geom_ids.values()))
    return float(lowest_points(body, np.atleast_2d(qpos), geoms).min())
