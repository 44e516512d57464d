"""Equations of motion along a reference, linear in activations and floor forces."""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from mm_torch.muscle.soles import SolePoints
from sim_models.embodiment import Embodiment
from sim_models.kinematics import reference_velocity

FRICTION = 0.8
CONTACT_HEIGHT = 0.02  # m; a point is charged more for its force the higher and the faster it is
CONTACT_SPEED = 0.3  # m/s
CONTACT_REACH = 2.0  # no force beyond this multiple of height and speed


class Reference(NamedTuple):
    """Reference motion with its derivatives: qpos (F, Q), qvel (F, V), qacc (F, V), MuJoCo's conventions."""

    qpos: np.ndarray
    qvel: np.ndarray
    qacc: np.ndarray


class Equations(NamedTuple):
    """Force balance of the independent dofs, ``muscle @ act + floor @ edge_force = load``, frame by frame.

    ========= ============================================================== ================ ========
    muscle    generalised force of full activation less that of none         (F, D, M)        Nm or N
    floor     generalised force of a unit force along each pyramid edge      (F, D, 4P)       per N
    load      inertial, bias and passive force that remains to be balanced   (F, D)           Nm or N
    effort    relative charge for floor force at each edge; inf: impossible  (F, 4P)
    points    where the edges' forces act, world                             (F, P, 3)        m
    ========= ============================================================== ================ ========
    """

    muscle: Tensor
    floor: Tensor
    load: Tensor
    effort: Tensor
    points: Tensor


def differentiate(body: Embodiment, qpos: np.ndarray, fps: float, smoothing_s: float) -> Reference:
    """Velocities and accelerations of a motion.

    Velocities are central differences, accelerations differences of the velocities half a frame before and after,
    smoothed by a Gaussian of the given standard deviation (zero phase); the ends repeat their neighbours.

    Args:
        body: embodiment.
        qpos: (F, Q), F >= 3.
        fps: frames per second.
        smoothing_s: standard deviation of the Gaussian in s.
    """
    between = np.empty((len(qpos) - 1, body.model.nv))
    for f in range(len(between)):
        mujoco.mj_differentiatePos(body.model, between[f], 1.0 / fps, qpos[f], qpos[f + 1])
    qacc = np.pad(np.diff(between, axis=0) * fps, ((1, 1), (0, 0)), mode="edge")
    qvel = reference_velocity(body, qpos, 1.0 / fps)
    return Reference(qpos, qvel, smooth(qacc, smoothing_s * fps))


def smooth(values: np.ndarray, sigma_frames: float) -> np.ndarray:
    """Gaussian filter along the frames of (F, D), ends extended; ``sigma_frames`` is the standard deviation."""
    radius = int(np.ceil(3.0 * sigma_frames))
    if radius == 0:
        return values
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma_frames) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(values, ((radius, radius), (0, 0)), mode="edge")
    return sum(weight * padded[k : k + len(values)] for k, weight in enumerate(kernel))


def equations_of_motion(body: Embodiment, reference: Reference, soles: SolePoints) -> Equations:
    """Linear equations of motion at each frame of a reference.

    With the couplings' Jacobian ``T(q)``: ``T' R' (f1 - f0) a + T' Jc' E lambda = T' (M qacc + c - p - R' f0)``, muscle
    moment arms ``R``, muscle forces ``f0`` and ``f1`` without and with full activation at the reference's lengths and
    velocities, bias ``c``, passive joint force ``p``, edges ``E`` of the friction pyramids at the soles' lowest points.

    Args:
        body: embodiment.
        reference: F frames.
        soles: P points that may carry force (none for a fixed root).

    Returns:
        Equations in double precision.
    """
    model, data = body.model, mujoco.MjData(body.model)
    frames, edges = len(reference.qpos), 4 * len(soles.geom)
    moment, gain = np.empty((frames, model.nu, model.nv)), np.empty((frames, model.nu))
    load = np.empty((frames, model.nv))
    floor, effort = np.zeros((frames, edges, model.nv)), np.full((frames, edges), np.inf)
    points = np.zeros((frames, len(soles.geom), 3))
    inertial = np.empty(model.nv)
    for f in range(frames):
        data.qpos[:], data.qvel[:] = reference.qpos[f], reference.qvel[f]
        _position_and_velocity(model, data)
        mujoco.mju_sparse2dense(moment[f], data.actuator_moment, data.moment_rownnz, data.moment_rowadr,
                                data.moment_colind)
        data.act[:] = 1.0
        mujoco.mj_fwdActuation(model, data)
        gain[f] = data.actuator_force
        data.act[:] = 0.0
        mujoco.mj_fwdActuation(model, data)
        gain[f] -= data.actuator_force
        mujoco.mj_mulM(model, data, inertial, reference.qacc[f])
        load[f] = inertial + data.qfrc_bias - data.qfrc_passive - data.qfrc_actuator
        if edges:
            points[f] = soles.lowest(data)
            floor[f], effort[f] = _floor_columns(model, data, soles, points[f])
    coupling = torch.from_numpy(body.couplings.jacobian(reference.qpos))  # (F, V, D)
    muscle = torch.bmm(torch.from_numpy(moment), coupling) * torch.from_numpy(gain)[:, :, None]
    return Equations(
        muscle.mT.contiguous(), torch.bmm(torch.from_numpy(floor), coupling).mT.contiguous(),
        torch.bmm(coupling.mT, torch.from_numpy(load)[:, :, None])[:, :, 0], torch.from_numpy(effort),
        torch.from_numpy(points),
    )


def edge_forces(edges: Tensor) -> Tensor:
    """Forces (F, P, 3) in N, world axes, of the forces along the edges of friction pyramids (F, 4P)."""
    right, left, ahead, back = edges.reshape(len(edges), -1, 4).unbind(dim=2)
    return torch.stack([FRICTION * (right - left), FRICTION * (ahead - back), right + left + ahead + back], dim=2)


def _position_and_velocity(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """What the equations need of the position and velocity stages; collisions and constraints are left out."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_tendon(model, data)
    mujoco.mj_crb(model, data)
    mujoco.mj_transmission(model, data)
    mujoco.mj_fwdVelocity(model, data)


def _floor_columns(
    model: mujoco.MjModel, data: mujoco.MjData, soles: SolePoints, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised force (4P, V) of unit edge forces and their relative charge (4P,), at the state in ``data``."""
    jacobian = np.zeros((len(points), 3, model.nv))
    for p, point in enumerate(points):
        if points[p, 2] < CONTACT_REACH * CONTACT_HEIGHT:
            mujoco.mj_jac(model, data, jacobian[p], None, point, soles.body[p])
    speed = np.linalg.norm(jacobian @ data.qvel, axis=1)
    off = np.maximum(np.maximum(points[:, 2], 0.0) / CONTACT_HEIGHT, speed / CONTACT_SPEED)
    effort = np.where(off < CONTACT_REACH, np.exp(4.0 * np.minimum(off, CONTACT_REACH) ** 2), np.inf)
    x, y, z = (jacobian[:, None, axis] for axis in range(3))  # (P, 1, V)
    columns = np.concatenate([z + FRICTION * x, z - FRICTION * x, z + FRICTION * y, z - FRICTION * y], axis=1)
    return columns.reshape(-1, model.nv), np.repeat(effort, 4)
