"""Computed muscle control: excitations that track a reference through the equations of motion, without learning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from mm_torch.muscle.activation import ActivationDynamics
from mm_torch.muscle.box_qp import Coupled, approach_box_least_squares
from mm_torch.muscle.dynamics import Dynamics, Linearisation
from sim_models.embodiment import Embodiment

FORCE_LIMIT = 2.0  # body weights in one constraint row
FORCE_CHARGE = 1e-3  # of a row at that limit
LOOSE_CHARGE = 10.0  # the same where the row may let go
SLACK_LIMIT = 100.0  # m/s², acceleration by which a row that may let go can exceed what it asks for
SLACK_CHARGE = 1e-3  # of a row at that limit
TOLERANCE = 1e-4  # mean complementarity accepted of the solver, (rad/s²)²


@dataclass(frozen=True)
class ControlSettings:
    """Gains and weights of the controller.

    ============= ======================================================================================== ==========
    stiffness     acceleration asked for by rad off the reference                                          1/s²
    damping       acceleration asked for by rad/s off the reference                                        1/s
    root          the same pair for a free root
    effort        charge of one muscle at full activation                                                  (rad/s²)²
    horizon_s     time over which damping responds to the acceleration that is chosen                      s
    root_weights  weight of an acceleration off the wanted one, three linear and three angular             s²/m, s²/rad
    joint_weights the same for joints whose name a pattern matches; 1 elsewhere                            s²/rad
    contact       weight of a constraint's acceleration off what it asks for                               s²/m
    most_feedback greatest acceleration that feedback asks for; a hopeless joint is not to cost the others m, rad/s²
    ============= ======================================================================================== ==========
    """

    stiffness: float = 400.0
    damping: float = 40.0
    root: tuple[float, float] = (100.0, 20.0)
    effort: float = 0.3
    horizon_s: float = 0.005
    root_weights: tuple[float, ...] = (2.0, 2.0, 3.0, 8.0, 8.0, 8.0)
    joint_weights: tuple[tuple[str, float], ...] = ()
    contact: float = 10.0
    most_feedback: float = 1000.0


# Bodies that take other settings. On a free root: softer feedback; a firm trunk, or it becomes the counterweight of the
# pelvis; arms and toes count for less, the plane of elevation, which no muscle turns when the arm hangs, for next to nothing.
SETTINGS = {
    "myo_fullbody": ControlSettings(
        stiffness=100.0, damping=20.0, horizon_s=0.015, contact=0.3, most_feedback=50.0, joint_weights=(
            ("flex_extension|lat_bending|axial_rotation", 4.0), ("mtp_angle", 0.3), ("elv_angle", 0.05),
            ("shoulder_elv|shoulder_rot|elbow_flex|pro_sup|deviation|flexion_[rl]", 0.3),
        ),
    ),
}


class Target(NamedTuple):
    """Reference that is due at the beginning of a control step: qpos (N, Q), qvel (N, V), mean qacc in it (N, V).

    ``support`` (N, geoms) is false for geoms whose contact with the ground may let go; None: none may.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    qacc: np.ndarray
    support: np.ndarray | None = None


class Plan(NamedTuple):
    """What the controller decided for a control step.

    ============ ============================================================ =======
    excitation   to be held                                                   (N, M)
    act          activation wanted at the end of the step                     (N, M)
    acc          acceleration of the independent dofs that is expected        (N, D)
    force        contact and limit forces that are expected                   (N, K)
    unsolved     problems that were not solved to tolerance                   int
    ============ ============================================================ =======
    """

    excitation: Tensor
    act: Tensor
    acc: Tensor
    force: Tensor
    unsolved: int


class ComputedMuscleControl:
    """Tracks a reference by solving, in each control step and for all worlds at once, a box-constrained problem.

    Feedback makes the acceleration that is asked for, ``acc* = acc_ref + stiffness (q_ref - q) + damping (v_ref - v)``.
    The activations at the end of the step, within what one control step can reach, and the forces of contacts and joint
    limits minimise ``|W (acc - acc*)|² + contact |rows acc + R force - wanted|² + effort |act|²`` under the dynamics; the
    excitation is that which reaches the activations.

    Args:
        body: embodiment.
        settings: gains and weights; None: those of the body.

    Source: computed muscle control after Thelen & Anderson (2006), J. Biomech. 39:1107; excitations by the inverse of the
    activation dynamics in place of their feedback, and contact forces as unknowns, are ours.
    """

    def __init__(self, body: Embodiment, settings: ControlSettings | None = None) -> None:
        self.body, self.settings = body, settings or SETTINGS.get(body.name, ControlSettings())
        self._linearise = Linearisation(body, self.settings.horizon_s)
        self._activation = ActivationDynamics.from_body(body, dtype=torch.float64)
        self._weights = torch.from_numpy(acceleration_weights(body, self.settings))
        self._force_unit = FORCE_LIMIT * float(body.model.body_mass.sum() * np.linalg.norm(body.model.opt.gravity))
        dofs = len(body.couplings.independent_dof)
        stiffness, damping = np.full(dofs, self.settings.stiffness), np.full(dofs, self.settings.damping)
        if body.free_root:
            stiffness[:6], damping[:6] = self.settings.root
        self._gains = stiffness, damping

    def __call__(self, qpos: np.ndarray, qvel: np.ndarray, act: np.ndarray, target: Target) -> Plan:
        """Excitations for the coming control step.

        Args:
            qpos: (N, Q) present state, double precision.
            qvel: (N, V).
            act: (N, M).
            target: reference.
        """
        dynamics = self._linearise(qpos, qvel, act)
        kept = torch.ones_like(dynamics.geom, dtype=torch.bool)
        if target.support is not None:
            kept = (dynamics.geom < 0) | torch.from_numpy(target.support).gather(1, dynamics.geom.clamp_min(0))
        return self.decide(dynamics, torch.from_numpy(act), torch.from_numpy(self.wanted(qpos, qvel, target)), kept)

    def wanted(self, qpos: np.ndarray, qvel: np.ndarray, target: Target) -> np.ndarray:
        """Acceleration (N, D) of the independent dofs that feedback asks for."""
        offset = np.empty_like(qvel)
        for row, ours, due in zip(offset, qpos, target.qpos, strict=True):
            mujoco.mj_differentiatePos(self.body.model, row, 1.0, ours, due)
        dofs = self.body.couplings.independent_dof
        stiffness, damping = self._gains
        feedback = stiffness * offset[:, dofs] + damping * (target.qvel - qvel)[:, dofs]
        return target.qacc[:, dofs] + feedback.clip(-self.settings.most_feedback, self.settings.most_feedback)

    def decide(self, dynamics: Dynamics, act: Tensor, wanted: Tensor, kept: Tensor) -> Plan:
        """Solve the problems of N worlds.

        Args:
            dynamics: at the present states.
            act: (N, M) present activations.
            wanted: (N, D) accelerations.
            kept: (N, K) rows that do not let go.
        """
        low, high = (self._activation.advance(act, torch.full_like(act, u)) for u in (0.0, 1.0))
        reach, muscles, rows = high - low, act.shape[1], dynamics.rows.shape[1]
        sources = torch.cat([dynamics.muscle * reach[:, None], dynamics.rows.mT * self._force_unit], dim=2)
        start = dynamics.load + torch.bmm(dynamics.muscle, low[:, :, None])[:, :, 0]
        factor = torch.linalg.cholesky(dynamics.mass)
        solved = torch.cholesky_solve(torch.cat([sources, start[:, :, None]], dim=2), factor)
        response, idle = solved[:, :, :-1], solved[:, :, -1]  # acceleration = response @ x + idle
        seen = dynamics.rows * dynamics.stiffening[:, :, None]
        real = (dynamics.rows.abs().amax(dim=2) > 0.0).double()
        loose = real * ~kept
        weight = self.settings.contact * real
        matrix = Coupled(
            response, self._weights.expand(wanted.shape), seen * weight[:, :, None],
            weight * dynamics.regulariser * self._force_unit, weight * SLACK_LIMIT * loose,
        )
        contact_error = dynamics.wanted - torch.bmm(seen, idle[:, :, None])[:, :, 0]
        error = torch.cat([(wanted - idle) * self._weights, contact_error * weight], dim=1)
        ridge = torch.cat([
            self.settings.effort * reach.square(), FORCE_CHARGE + LOOSE_CHARGE * loose, torch.full_like(real, SLACK_CHARGE)
        ], dim=1)
        centre = torch.cat([-low / reach, torch.zeros_like(real), torch.zeros_like(real)], dim=1)
        x, gap = approach_box_least_squares(matrix, error, ridge, centre, tolerance=TOLERANCE)
        target = low + reach * x[:, :muscles]
        force = x[:, muscles : muscles + rows]
        acc = torch.bmm(response, x[:, : muscles + rows, None])[:, :, 0] + idle
        return Plan(
            self._activation.excitation_for(act, target), target, acc, force * self._force_unit,
            int((gap > TOLERANCE).sum()),
        )


def acceleration_weights(body: Embodiment, settings: ControlSettings) -> np.ndarray:
    """(D,) weights of the independent dofs."""
    weights = np.ones(len(body.couplings.independent_dof))
    names = [body.joint_names[body.model.dof_jntid[dof]] for dof in body.couplings.independent_dof]
    for pattern, weight in settings.joint_weights:
        weights[[re.match(pattern, name) is not None for name in names]] = weight
    if body.free_root:
        weights[:6] = settings.root_weights
    return weights
