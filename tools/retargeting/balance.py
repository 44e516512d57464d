"""Zero-moment point: where the floor must push for the motion to be possible, and how to bring it over the feet.

The zero-moment point of a motion follows from the force and moment that Newton and Euler ask for at the root. Where it
lies outside the hull of the contacts, no floor force can produce the motion. Moving the body's mass by d moves the point
by ``d - (h / g) d''`` (linear inverted pendulum of height h), which gives a least-squares correction in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from scipy.linalg import solveh_banded

from sim_models.embodiment import Embodiment
from sim_models.kinematics import bare_model, reference_velocity

GRAVITY = 9.81
DIRECTIONS = 180  # over which the hull of the contacts is seen; its distance is exact to 1.5e-4
LIGHT = 0.2  # of the weight: with less on the floor the point is of no meaning
KEEP, ROUGH = 4.0, 2e-6  # cost of the shift and of its third difference, relative to that of a distant point
SHRINK = 0.75  # of the support's size: where the point is wanted
FARTHEST = 0.15  # m: farthest wish
YAW_JOINT, PLANES = "axial_rotation", ("elv_angle_r", "elv_angle_l")


@dataclass(frozen=True, eq=False)
class Dynamics:
    """What a motion asks for.

    ====== ============================================================ =========
    point  zero-moment point on the floor z = 0                         (F, 2) m
    load   vertical force over the weight                               (F,)
    height centre of mass above the floor                               (F,) m
    ====== ============================================================ =========
    """

    point: np.ndarray
    load: np.ndarray
    height: np.ndarray


def dynamics(body: Embodiment, qpos: np.ndarray, fps: float) -> Dynamics:
    """What a motion (F, Q) on a free root asks for, external forces at the root only."""
    return at_the_root(body, qpos, *inverse_dynamics(body, qpos, fps))


def inverse_dynamics(body: Embodiment, qpos: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generalised force (F, V) of a motion, its centre of mass (F, 3) m and rotation of the first joint's body (F, 3, 3).

    Source: recursive Newton-Euler of MuJoCo; velocities and accelerations by central differences.
    """
    model = bare_model(body)
    data = mujoco.MjData(model)
    qvel = reference_velocity(body, qpos, 1.0 / fps)
    qacc = np.gradient(qvel, 1.0 / fps, axis=0) if len(qvel) > 1 else np.zeros_like(qvel)
    force, com, turn = np.empty((len(qpos), model.nv)), np.empty((len(qpos), 3)), np.empty((len(qpos), 9))
    for f in range(len(qpos)):
        data.qpos[:], data.qvel[:], data.qacc[:] = qpos[f], qvel[f], qacc[f]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        mujoco.mj_rne(model, data, 1, force[f])
        com[f], turn[f] = data.subtree_com[0], data.xmat[model.jnt_bodyid[0]]
    return force, com, turn.reshape(-1, 3, 3)


def joint_moment(body: Embodiment, qpos: np.ndarray, force: np.ndarray, joint: str) -> np.ndarray:
    """(F,) Nm about an independent joint of generalised forces (F, V), coupled joints included."""
    dof = int(body.model.joint(joint).dofadr[0])
    driven = body.couplings.driver_dof == dof
    slopes = body.couplings.slopes(qpos)[:, driven]
    return force[:, dof] + (slopes * force[:, body.couplings.dependent_dof[driven]]).sum(axis=1)


def at_the_root(body: Embodiment, qpos: np.ndarray, force: np.ndarray, com: np.ndarray, turn: np.ndarray) -> Dynamics:
    """What the forces of ``inverse_dynamics`` ask for at a free root."""
    push, moment = force[:, :3], np.einsum("fij,fj->fi", turn, force[:, 3:6])
    weight = float(body.model.body_mass.sum()) * GRAVITY
    up = np.where(np.abs(push[:, 2]) < 1e-3 * weight, 1e-3 * weight, push[:, 2])
    root = qpos[:, :3]
    x = root[:, 0] - (moment[:, 1] + root[:, 2] * push[:, 0]) / up
    y = root[:, 1] - (root[:, 2] * push[:, 1] - moment[:, 0]) / up
    return Dynamics(np.stack([x, y], axis=1), push[:, 2] / weight, com[:, 2])


def outside(point: np.ndarray, corners: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of points to the hull of others.

    Args:
        point: (F, 2) m.
        corners: (F, P, 2) m.
        valid: (F, P) which of them count; frames without any have distance 0.

    Returns:
        distance (F,) m, negative inside, and the unit direction (F, 2) out of the hull.
    """
    angle = 2.0 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    normals = np.stack([np.cos(angle), np.sin(angle)])  # (2, N)
    reach = np.where(valid[:, :, None], corners @ normals, -np.inf).max(axis=1)
    gap = point @ normals - np.where(valid.any(axis=1)[:, None], reach, (point @ normals))
    best = gap.argmax(axis=1)
    return gap[np.arange(len(gap)), best], normals.T[best]


def shift(
    motion: Dynamics, corners: np.ndarray, valid: np.ndarray, fps: float, before: np.ndarray | None = None
) -> np.ndarray:
    """Horizontal shift (F, 2) m of the body's mass that brings the zero-moment point into the support.

    Minimises, for each axis, ``|p + (I - (h/g) D2) d - p*|^2 + k |d + d0|^2 + 2e-6 |D3 d|^2`` with p* the nearest point
    of the support shrunk towards its middle; frames in flight have no wish.

    Args:
        motion: of ``dynamics``.
        corners: (F, P, 2) m contact points.
        valid: (F, P) which of them carry.
        fps: frames per second.
        before: (F, 2) m shift d0 that the motion has already; zero by default.
    """
    frames = len(motion.point)
    before = np.zeros((frames, 2)) if before is None else before
    standing = valid.any(axis=1) & (motion.load > LIGHT)
    if frames < 5 or not standing.any():
        return np.zeros((frames, 2))
    count = np.maximum(valid.sum(axis=1), 1)[:, None]
    middle = np.where(valid[:, :, None], corners, 0.0).sum(axis=1) / count
    small = middle[:, None] + SHRINK * (corners - middle[:, None])
    distance, normal = outside(motion.point, small, valid)
    wish = -np.clip(distance, 0.0, FARTHEST)[:, None] * normal
    lever = motion.height / GRAVITY * fps**2
    lever[[0, -1]] = 0.0  # no acceleration is known at the ends
    moved = np.stack([-lever, 1.0 + 2.0 * lever, -lever], axis=1) * standing[:, None]
    bands = np.zeros((4, frames))
    bands[0] = KEEP
    _add_rows(bands, moved, -1)
    _add_rows(bands, np.tile(np.sqrt(ROUGH) * fps**3 * np.array([-1.0, 3.0, -3.0, 1.0]), (frames - 3, 1)), 0)
    pull = moved * standing[:, None]
    right = pull[:, 1, None] * wish
    right[:-1] += pull[1:, 0, None] * wish[1:]
    right[1:] += pull[:-1, 2, None] * wish[:-1]
    return solveh_banded(bands, right - KEEP * before, lower=True)


def before_smoothing(track: np.ndarray, cutoff: float) -> np.ndarray:
    """Track (F, N) that becomes the given one under the solver's acceleration penalty: ``x + D2^T D2 x / cutoff^4``.

    Args:
        track: (F, N) what should come out, F >= 3.
        cutoff: in rad per frame.
    """
    bend = np.pad(np.diff(track, n=2, axis=0), ((2, 2), (0, 0)))
    return track + np.diff(bend, n=2, axis=0) / cutoff**4


def _add_rows(bands: np.ndarray, rows: np.ndarray, start: int) -> None:
    """Add ``R^T R`` of rows (N, W) whose first entry stands in column ``n + start`` to the bands; zeros may overhang."""
    number, width = rows.shape
    for i in range(width):
        for j in range(i, width):
            first = np.arange(number) + start + i
            inside = (first >= 0) & (first + j - i < bands.shape[1])
            bands[j - i, first[inside]] += (rows[:, i] * rows[:, j])[inside]
