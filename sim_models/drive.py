"""Which muscles turn a joint: activation patterns of least effort, one an independent joint."""

from __future__ import annotations

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment

AWAY = 0.1  # share of a joint's range that the posture keeps from its ends, where moment arms vanish
STIFFNESS = 1e4  # charge of a moment that misses by the joint's whole capacity, in squared activations
STEPS = 60


def joint_drive(body: Embodiment) -> np.ndarray:
    """Activation patterns (D_j, M) that turn one independent joint each and leave the others alone.

    Row d is ``p+ - p-``: ``p+`` the non-negative activations of least squared sum whose moment about joint d is half of
    the joint's capacity and zero about every other joint, ``p-`` the same backwards. Added to activations, the row drives
    the joint forwards with its agonists and relaxes their antagonists. The capacity is the smaller of the moments that
    all muscles together exert forwards and backwards.

    Args:
        body: embodiment; moment arms and peak forces are taken at its neutral pose, kept away from the ends of ranges.

    Source: least-effort sharing after Crowninshield & Brand (1981), J. Biomech. 14:793, with exponent 2.
    """
    moments = peak_moments(body)
    capacity = np.minimum(moments.clip(min=0.0).sum(axis=1), (-moments).clip(min=0.0).sum(axis=1))
    share = moments / np.maximum(capacity, 1e-9)[:, None]
    half = 0.5 * np.eye(len(share))
    return np.stack([_least_effort(share, target) - _least_effort(share, -target) for target in half])


def peak_moments(body: Embodiment) -> np.ndarray:
    """Moments (D_j, M) Nm about the independent joints of each muscle at its peak isometric force."""
    model, data = body.model, mujoco.MjData(body.model)
    joints = body.independent_hinges
    address, (low, high) = model.jnt_qposadr[joints], body.joint_ranges[joints].T
    margin = np.where(np.isfinite(high - low), AWAY * (high - low), 0.0)
    qpos = body.neutral_qpos.copy()
    qpos[address] = np.clip(qpos[address], low + margin, high - margin)
    data.qpos[:] = body.couplings.enforce(qpos)
    mujoco.mj_fwdPosition(model, data)
    moment = np.zeros((model.nu, model.nv))
    mujoco.mju_sparse2dense(moment, data.actuator_moment, data.moment_rownnz, data.moment_rowadr, data.moment_colind)
    reduced = moment @ body.couplings.jacobian(data.qpos)
    columns = np.searchsorted(body.couplings.independent_dof, model.jnt_dofadr[joints])
    return -(reduced[:, columns] * body.peak_force[:, None]).T


def _least_effort(share: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Minimise ``|x|^2 + STIFFNESS |share x - target|^2`` over ``x >= 0``.

    The dual ``|y|^2 / STIFFNESS - 2 target.y + |max(share' y, 0)|^2`` is convex and piecewise quadratic in the few rows:
    Newton steps with halving find it, and ``x = max(share' y, 0)``.
    """
    dual, identity = np.zeros(len(target)), np.eye(len(target)) / STIFFNESS

    def value(y: np.ndarray) -> float:
        return float(y @ identity @ y - 2.0 * target @ y + ((share.T @ y).clip(min=0.0) ** 2).sum())

    for _ in range(STEPS):
        active = share[:, share.T @ dual > 0.0]
        hessian = identity + active @ active.T
        step = np.linalg.solve(hessian, target - hessian @ dual)
        length = 1.0
        while value(dual + length * step) > value(dual) and length > 1e-6:
            length *= 0.5
        dual = dual + length * step
        if np.abs(step).max() <= 1e-9 * (1.0 + np.abs(dual).max()):
            break
    return (share.T @ dual).clip(min=0.0)
