"""Joint couplings: polynomial joint equalities eliminated exactly through the independent joints."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

# A dependent joint may overrun its own range by this much before its driver's range is cut (rad or m). The knee's
# published polynomials overrun by up to 2.4e-4; the shoulder's and spine's by far more, and those are cut.
RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Couplings:
    """Dependent joints as polynomials of driver joints, ``q_dep = sum_k poly[k] * q_driver**k``.

    ================== ============================================== =========
    dependent_qpos     qpos address of each dependent joint           (E,) int
    driver_qpos        qpos address of its driver; -1: constant       (E,) int
    dependent_dof      dof address of each dependent joint            (E,) int
    driver_dof         dof address of its driver; -1: constant        (E,) int
    poly               coefficients, constant first                   (E, 5)
    independent_dof    dofs that no coupling determines (root first)  (D,) int
    nv                 number of dofs of the model                    int
    ================== ============================================== =========

    Source: MuJoCo ``mjEQ_JOINT`` (``y - y0 = poly(x - x0)``); the drivers of these models are independent themselves.
    """

    dependent_qpos: np.ndarray
    driver_qpos: np.ndarray
    dependent_dof: np.ndarray
    driver_dof: np.ndarray
    poly: np.ndarray
    independent_dof: np.ndarray
    nv: int

    @classmethod
    def from_model(cls, model: mujoco.MjModel) -> Couplings:
        """Read all active joint equalities of a compiled model.

        Raises:
            ValueError: an equality is no joint equality, or a driver is itself dependent.
        """
        active = [e for e in range(model.neq) if model.eq_active0[e]]
        if any(model.eq_type[e] != mujoco.mjtEq.mjEQ_JOINT for e in active):
            raise ValueError("only joint equalities can be eliminated; remove the other equalities from the model")
        dependent = np.array([model.eq_obj1id[e] for e in active], dtype=int)
        driver = np.array([model.eq_obj2id[e] for e in active], dtype=int)
        if set(dependent) & (set(driver) - {-1}):
            raise ValueError("a driver joint depends on another joint; chains of couplings are not supported")
        poly = np.array([model.eq_data[e][:5] for e in active]).reshape(-1, 5)
        has_driver = driver >= 0
        poly = np.where(has_driver[:, None], poly, poly * np.eye(5)[0])
        dependent_dof = model.jnt_dofadr[dependent] if len(dependent) else dependent
        return cls(
            dependent_qpos=model.jnt_qposadr[dependent] if len(dependent) else dependent,
            driver_qpos=np.where(has_driver, model.jnt_qposadr[driver], -1),
            dependent_dof=dependent_dof,
            driver_dof=np.where(has_driver, model.jnt_dofadr[driver], -1),
            poly=poly,
            independent_dof=np.setdiff1d(np.arange(model.nv), dependent_dof),
            nv=model.nv,
        )

    def values(self, qpos: np.ndarray) -> np.ndarray:
        """Positions the couplings ask for.  Args: qpos (..., Q).  Returns: (..., E) rad or m."""
        x = np.where(self.driver_qpos >= 0, qpos[..., self.driver_qpos], 0.0)
        return np.polynomial.polynomial.polyval(x, self.poly.T, tensor=False)

    def enforce(self, qpos: np.ndarray) -> np.ndarray:
        """Copy of ``qpos`` (..., Q) whose dependent joints satisfy the couplings exactly."""
        out = np.array(qpos, dtype=float, copy=True)
        out[..., self.dependent_qpos] = self.values(out)
        return out

    def residual(self, qpos: np.ndarray) -> np.ndarray:
        """Violation of each coupling.  Args: qpos (..., Q).  Returns: (..., E) rad or m."""
        return qpos[..., self.dependent_qpos] - self.values(qpos)

    def slopes(self, qpos: np.ndarray) -> np.ndarray:
        """Derivatives dq_dep/dq_driver.  Args: qpos (..., Q).  Returns: (..., E)."""
        x = np.where(self.driver_qpos >= 0, qpos[..., self.driver_qpos], 0.0)
        derivative = self.poly[:, 1:] * np.arange(1, 5)
        return np.polynomial.polynomial.polyval(x, derivative.T, tensor=False)

    def jacobian(self, qpos: np.ndarray) -> np.ndarray:
        """Coupling Jacobian ``T(q) = d qvel / d qvel_independent``.

        Args:
            qpos: (..., Q).

        Returns:
            (..., V, D): ``qvel = T @ qvel[independent_dof]`` is consistent with every coupling.
        """
        column = np.full(self.nv, -1)
        column[self.independent_dof] = np.arange(len(self.independent_dof))
        jac = np.zeros((*qpos.shape[:-1], self.nv, len(self.independent_dof)))
        jac[..., self.independent_dof, np.arange(len(self.independent_dof))] = 1.0
        driven = self.driver_dof >= 0
        jac[..., self.dependent_dof[driven], column[self.driver_dof[driven]]] = self.slopes(qpos)[..., driven]
        return jac

    def enforce_velocity(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Copy of ``qvel`` (..., V) whose dependent dofs follow their drivers at ``qpos`` (..., Q)."""
        out = np.array(qvel, dtype=float, copy=True)
        drive = np.where(self.driver_dof >= 0, out[..., self.driver_dof], 0.0)
        out[..., self.dependent_dof] = self.slopes(qpos) * drive
        return out


def feasible_ranges(model: mujoco.MjModel, couplings: Couplings) -> np.ndarray:
    """Joint ranges in which every dependent joint stays within its own range, too.

    Args:
        model: compiled model.
        couplings: its couplings.

    Returns:
        (njnt, 2) rad or m; infinite for unlimited joints. A driver's interval is the longest part of its range
        over which no dependent joint overruns its range by more than ``RANGE_TOLERANCE``.
    """
    limited = model.jnt_limited.astype(bool)[:, None]
    ranges = np.where(limited, model.jnt_range, [-np.inf, np.inf])
    joint_of_qpos = {int(adr): j for j, adr in enumerate(model.jnt_qposadr)}
    for adr in np.unique(couplings.driver_qpos[couplings.driver_qpos >= 0]):
        joint = joint_of_qpos[int(adr)]
        grid = np.linspace(*model.jnt_range[joint], 4001)
        qpos = np.zeros((len(grid), model.nq))
        qpos[:, adr] = grid
        mine = couplings.driver_qpos == adr
        dependent = [joint_of_qpos[int(a)] for a in couplings.dependent_qpos[mine]]
        values = couplings.values(qpos)[:, mine]
        low, high = ranges[dependent].T
        ok = ((values >= low - RANGE_TOLERANCE) & (values <= high + RANGE_TOLERANCE)).all(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], ok.astype(int), [0]])))
        starts, stops = edges[::2], edges[1::2]
        longest = np.argmax(stops - starts)
        ranges[joint] = grid[starts[longest]], grid[stops[longest] - 1]
    return ranges
