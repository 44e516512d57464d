"""Damped Gauss-Newton inverse kinematics over independent joints, couplings included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment


@dataclass(frozen=True)
class Goal:
    """Where a point of a body, and how its frame, should be.

    ============ ===================================================== =======
    body         MuJoCo body id                                        int
    position     wanted world position of the body's origin, m         (3,)
    rotation     wanted world orientation                              (3, 3)
    weight       weight of position rows, 1/m                          float
    turn_weight  weight of the rows about world x, y, z, 1/rad         (3,)
    ============ ===================================================== =======
    """

    body: int
    position: np.ndarray
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    weight: float = 1.0
    turn_weight: np.ndarray = field(default_factory=lambda: np.zeros(3))


def _goal_rows(model: mujoco.MjModel, data: mujoco.MjData, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
    jac_p, jac_r = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    mujoco.mj_jacBody(model, data, jac_p, jac_r, goal.body)
    turn = goal.rotation @ data.xmat[goal.body].reshape(3, 3).T
    quat, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quat, turn.ravel())
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    error = np.concatenate([goal.weight * (goal.position - data.xpos[goal.body]), goal.turn_weight * vector])
    return error, np.concatenate([goal.weight * jac_p, goal.turn_weight[:, None] * jac_r])


def solve(
    body: Embodiment,
    qpos: np.ndarray,
    joints: np.ndarray,
    goals: Sequence[Goal],
    rest: np.ndarray,
    rest_weight: np.ndarray | float,
    iterations: int = 20,
    margin: float = 0.0,
) -> np.ndarray:
    """Pose whose joints reach the goals in the least-squares sense and stay near a rest posture.

    Minimises ``sum |goal rows|^2 + |rest_weight (q - rest)|^2``; a joint at its limit is held there for the step.

    Args:
        body: embodiment.
        qpos: (Q,) start; everything but ``joints`` and what is coupled to them stays.
        joints: (n,) ids of independent scalar joints to move.
        goals: what to reach.
        rest: (n,) rad, posture the solution is drawn to.
        rest_weight: weight of that pull, 1/rad.
        iterations: Gauss-Newton steps (the loop ends when a step is below 1e-8 rad).
        margin: distance in rad to keep from the joint limits.

    Returns:
        (Q,).
    """
    model, data = body.model, mujoco.MjData(body.model)
    adr, dof = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
    low, high = body.joint_ranges[joints, 0] + margin, body.joint_ranges[joints, 1] - margin
    column = np.searchsorted(body.couplings.independent_dof, dof)
    pull = np.broadcast_to(np.asarray(rest_weight, dtype=float), rest.shape)
    qpos = qpos.copy()
    qpos[adr] = np.clip(qpos[adr], low, high)
    for _ in range(iterations):
        qpos = body.couplings.enforce(qpos)
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        errors, jacobians = zip(*(_goal_rows(model, data, g) for g in goals), strict=True)
        tangent = body.couplings.jacobian(qpos)[:, column]
        error = np.concatenate([*errors, pull * (rest - qpos[adr])])
        jac = np.concatenate([np.concatenate(jacobians) @ tangent, np.diag(pull)])
        gradient = jac.T @ error
        free = ~((qpos[adr] <= low) & (gradient < 0) | (qpos[adr] >= high) & (gradient > 0))
        step = np.zeros(len(joints))
        step[free] = np.linalg.lstsq(jac[:, free], error, rcond=None)[0]
        step *= min(1.0, 0.4 / max(np.abs(step).max(), 1e-12))
        qpos[adr] = np.clip(qpos[adr] + step, low, high)
        if np.abs(step).max() < 1e-8:
            break
    return body.couplings.enforce(qpos)
