"""Accelerations of the independent dofs at given states, linear in activations, contact and joint-limit forces."""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from mm_torch.muscle.forces import MuscleForces
from sim_models.embodiment import Embodiment

_LIMITS = (mujoco.mjtConstraint.mjCNSTR_LIMIT_JOINT, mujoco.mjtConstraint.mjCNSTR_LIMIT_TENDON)
_CONTACTS = (mujoco.mjtConstraint.mjCNSTR_CONTACT_FRICTIONLESS, mujoco.mjtConstraint.mjCNSTR_CONTACT_PYRAMIDAL)


class Dynamics(NamedTuple):
    """Dynamics of N states over a control step, ``mass @ acc = muscle @ act + rows' @ force + load``.

    The constraint rows ask for ``rows @ acc * stiffening + regulariser * force = wanted`` with ``force >= 0``: contacts
    (edges of friction pyramids) and joint limits that MuJoCo finds at work. Rows that a state has not are zero.

    =========== ================================================================================ ========= =========
    mass        inertia, with the damping that acts over the step                                (N, D, D) kg, kg m²
    muscle      generalised force of full activation less that of none                           (N, D, M) N, Nm
    load        bias, passive and coupling forces                                                (N, D)    N, Nm
    rows        Jacobian of the constraints                                                      (N, K, D)
    stiffening  by how much the constraint's own stiffness and damping oppose the acceleration   (N, K)
    regulariser softness of the constraint                                                       (N, K)    1/kg
    wanted      acceleration that the constraint asks for                                        (N, K)    m/s²
    geom        geom that touches what does not move; -1 where the row is something else          (N, K) int
    =========== ================================================================================ ========= =========
    """

    mass: Tensor
    muscle: Tensor
    load: Tensor
    rows: Tensor
    stiffening: Tensor
    regulariser: Tensor
    wanted: Tensor
    geom: Tensor


class Linearisation:
    """Linear dynamics of single states by MuJoCo's own stages.

    Args:
        body: embodiment.
        horizon_s: time over which joint damping, muscle damping and the constraints' own damping and stiffness respond to
            the acceleration that is being chosen (implicit in it).
    """

    def __init__(self, body: Embodiment, horizon_s: float) -> None:
        self.body, self.horizon = body, horizon_s
        self._data = mujoco.MjData(body.model)
        self._forces = MuscleForces.from_body(body)
        self._damping = body.model.dof_damping
        self._orders = np.arange(2, body.couplings.poly.shape[1])

    def __call__(self, qpos: np.ndarray, qvel: np.ndarray, act: np.ndarray) -> Dynamics:
        """Dynamics at states qpos (N, Q), qvel (N, V) with present activations (N, M)."""
        return _stack([self._at(*state) for state in zip(qpos, qvel, act, strict=True)])

    def _at(self, qpos: np.ndarray, qvel: np.ndarray, act: np.ndarray) -> tuple[np.ndarray, ...]:
        body, data = self.body, self._data
        model, couplings = body.model, body.couplings
        data.qpos[:], data.qvel[:], data.act[:] = qpos, qvel, act
        mujoco.mj_forward(model, data)
        span = couplings.jacobian(data.qpos)  # (V, D)
        inertia, moment = np.empty((model.nv, model.nv)), np.empty((model.nu, model.nv))
        mujoco.mj_fullM(model, data, inertia)
        mujoco.mju_sparse2dense(moment, data.actuator_moment, data.moment_rownnz, data.moment_rowadr, data.moment_colind)
        arms = moment @ span  # (M, D)
        force = self._forces(torch.from_numpy(data.actuator_length)[None], torch.from_numpy(data.actuator_velocity)[None])
        passive, active, slope = (f[0].numpy() for f in force)
        damping = (arms.T * -(slope * act)) @ arms + (span.T * self._damping) @ span
        load = data.qfrc_passive - data.qfrc_bias - inertia @ self._coupling_acceleration()
        return (
            span.T @ inertia @ span + self.horizon * damping, arms.T * active, span.T @ load + arms.T @ passive,
            *self._constraints(span),
        )

    def _coupling_acceleration(self) -> np.ndarray:
        """(V,) acceleration of the dependent dofs at constant velocities of their drivers."""
        couplings, data = self.body.couplings, self._data
        out = np.zeros(self.body.model.nv)
        driven = couplings.driver_dof >= 0
        x = data.qpos[couplings.driver_qpos[driven]]
        k = self._orders
        curvature = (couplings.poly[driven][:, 2:] * k * (k - 1) * x[:, None] ** (k - 2)).sum(axis=1)
        out[couplings.dependent_dof[driven]] = curvature * data.qvel[couplings.driver_dof[driven]] ** 2
        return out

    def _constraints(self, span: np.ndarray) -> tuple[np.ndarray, ...]:
        model, data, h = self.body.model, self._data, self.horizon
        kind, force = data.efc_type, data.efc_force
        contact = np.isin(kind, _CONTACTS)
        at_work = np.isin(kind, _LIMITS) & (force > 0.0)
        # efc_id of a contact row is its contact: all edges of a contact that carries any force are free to carry it,
        # and those of the soles on the ground also where they carry none yet
        loaded = np.unique(data.efc_id[contact & (force > 0.0)])
        fixed = model.body_weldid[model.geom_bodyid[data.contact.geom]] == 0 if data.ncon else np.zeros((0, 2), dtype=bool)
        standing = np.flatnonzero(fixed.any(axis=1))
        at_work |= contact & np.isin(data.efc_id, np.union1d(loaded, standing))
        chosen = np.flatnonzero(at_work)
        rows = _dense_rows(model, data)[chosen] @ span
        stiffness, damping, impedance = data.efc_KBIP[chosen, :3].T
        spring = stiffness * impedance
        wanted = data.efc_aref[chosen] - h * spring * data.efc_vel[chosen]
        geom = np.full(len(chosen), -1)
        ground = contact[chosen]
        ids = data.efc_id[chosen[ground]]
        if len(ids):
            still = fixed[ids]
            touching = np.where(still[:, 0], data.contact.geom[ids, 1], data.contact.geom[ids, 0])
            geom[ground] = np.where(still.any(axis=1), touching, -1)
        return rows, 1.0 + h * damping + 0.5 * h**2 * spring, data.efc_R[chosen], wanted, geom


def _dense_rows(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Constraint Jacobian (nefc, V)."""
    if not mujoco.mj_isSparse(model):
        return data.efc_J[: data.nefc * model.nv].reshape(data.nefc, model.nv)
    dense = np.empty((data.nefc, model.nv))
    mujoco.mju_sparse2dense(dense, data.efc_J, data.efc_J_rownnz, data.efc_J_rowadr, data.efc_J_colind)
    return dense


def _stack(parts: list[tuple[np.ndarray, ...]]) -> Dynamics:
    most = max(len(part[3]) for part in parts)

    def column(index: int, fill: float = 0) -> Tensor:
        arrays = [part[index] for part in parts]
        if index >= 3:
            arrays = [np.pad(a, ((0, most - len(a)), *[(0, 0)] * (a.ndim - 1)), constant_values=fill) for a in arrays]
        return torch.from_numpy(np.stack(arrays))

    return Dynamics(*(column(i) for i in range(4)), column(4, 1.0), column(5, 1.0), column(6), column(7, -1))
