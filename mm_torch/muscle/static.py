"""Activations that fit a reference motion: static optimisation, all frames batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mm_torch.muscle.box_qp import solve_box_least_squares
from mm_torch.muscle.equations import Reference, differentiate, edge_forces, equations_of_motion, smooth
from mm_torch.muscle.forces import MuscleForces
from mm_torch.muscle.soles import SolePoints
from sim_models.embodiment import Embodiment

SOLVE_RATE = 50.0  # 1/s
ACCELERATION_SMOOTHING_S = 0.015  # standard deviation: about a 9 Hz low-pass
ACTIVATION_SMOOTHING_S = 0.010
JOINT_TOLERANCE = 1.0  # Nm (N at a slide), the unit of residual
ROOT_TOLERANCE = np.array([10.0, 10.0, 10.0, 5.0, 5.0, 5.0])  # N, Nm
RIDGE = 0.1  # charge of one muscle at full activation, in squared units of residual
FLOOR_RIDGE = 0.1  # charge of one muscle at full activation, in squared units of residual
FLOOR_LIMIT = 2.0  # body weights along one edge
SOLVER_TOLERANCE = 1e-7
SATURATED = 0.98  # of full activation
FEASIBLE_FORCE, FEASIBLE_MOMENT, FEASIBLE_JOINTS = 0.05, 30.0, 1.0  # body weights and Nm at the root; Nm, RMS over joints
LONGEST_SMOOTHING = 0.1  # s
_CHUNK = 16  # frames solved at once: their matrices stay in the cache
_PASSES, _SETTLED = 60, 5e-3  # of reweighting and of the sweeps over time; largest change of an activation at the end
_LEAST = 0.02  # activation below which a muscle is weighted as there


class Effort(NamedTuple):
    """Effort of a muscle, ``weight * act ** exponent``: the weight is one, or its volume over the mean one."""

    exponent: int
    by_volume: bool


EFFORTS = {"square": Effort(2, False), "cube": Effort(3, False), "volume": Effort(2, True)}


@dataclass(frozen=True, eq=False)
class ActivationSolution:
    """Activations along a motion, and what holds of the forces at the frames' states.

    ================ =================================================================== ========= ======
    act              activations                                                         (F, M)    [0, 1]
    joint_residual   RMS generalised force over the independent joints, root left out    (F,)      Nm
    root_residual    force and moment that nothing supplies at a free root               (F, 6)    N, Nm
    foot_force       force of the floor on each foot, world axes                         (F, L, 3) N
    foot_centre      where it acts; NaN without force                                    (F, L, 3) m
    foot_names       feet                                                                (L,)
    weight           of the body                                                         float     N
    ================ =================================================================== ========= ======

    All but the activations are those of the solved frames, interpolated; a fixed root has no residual.
    """

    act: np.ndarray
    joint_residual: np.ndarray
    root_residual: np.ndarray
    foot_force: np.ndarray
    foot_centre: np.ndarray
    foot_names: tuple[str, ...]
    weight: float

    @property
    def saturation(self) -> np.ndarray:
        """(F,) share of the muscles that are saturated."""
        return (self.act > SATURATED).mean(axis=1).astype(np.float32)

    @property
    def feasible(self) -> np.ndarray:
        """(F,) bool: residuals of root and joints are small enough."""
        force, moment = (np.linalg.norm(self.root_residual[:, part], axis=1) for part in (slice(0, 3), slice(3, 6)))
        return (
            (force < FEASIBLE_FORCE * self.weight) & (moment < FEASIBLE_MOMENT) & (self.joint_residual < FEASIBLE_JOINTS)
        )


def solve_activations(
    body: Embodiment, qpos: np.ndarray, fps: float, *, effort: str = "square", smoothness: float = 0.0,
    stride: int | None = None,
) -> ActivationSolution:
    """Activations with which the muscles (and the floor) produce a motion, least effort among all that do.

    At a fixed state the force of a muscle is linear in its activation, so each frame is a box-constrained least-squares
    problem: residual generalised force of the independent dofs, plus a small charge for effort and floor force. The
    dynamics of activation is not part of it; ``ActivationDynamics`` gives the excitations that follow. Another effort than
    the square is approached by reweighted squares, halfway at a time. Smoothness over a time s adds
    ``s^2 (d act / dt)^2`` to squared effort and ties the frames together: even and odd ones are solved in turn, each with
    its neighbours fixed.

    Args:
        body: embodiment.
        qpos: (F, Q) reference with exact couplings, F >= 3.
        fps: frames per second.
        effort: one of ``EFFORTS``.
        smoothness: time in s, 0 to 0.1; 0 leaves the frames apart.
        stride: solve every so-manyth frame and interpolate; ``None`` solves at about 50 Hz.

    Returns:
        Solution of F frames, single precision.

    Raises:
        ValueError: fewer than three frames, or an effort or smoothness that there is not.
        ArithmeticError: the problem could not be solved.

    Source: static optimisation after Crowninshield & Brand (1981), J. Biomech. 14:793, with exponent 2 or theirs, 3; soft
    equations of motion and free floor forces instead of measured ones are ours.
    """
    if len(qpos) < 3:
        raise ValueError(f"{len(qpos)} frames: accelerations need at least 3; give a longer motion")
    if effort not in EFFORTS:
        raise ValueError(f"effort={effort}: choose one of {', '.join(EFFORTS)}")
    if not 0.0 <= smoothness <= LONGEST_SMOOTHING:
        raise ValueError(f"smoothness={smoothness:g}: 0 to {LONGEST_SMOOTHING:g} s are possible")
    stride = max(1, round(fps / SOLVE_RATE)) if stride is None else stride
    reference = differentiate(body, qpos, fps, ACCELERATION_SMOOTHING_S)
    rows = np.unique(np.append(np.arange(0, len(qpos), stride), len(qpos) - 1))
    soles, kind = SolePoints.of(body), EFFORTS[effort]
    charge = RIDGE * torch.from_numpy(relative_volumes(body) if kind.by_volume else np.ones(body.model.nu))
    tie = charge * (smoothness * fps / stride) ** 2
    parts, kept = [], []
    for start in range(0, len(rows), _CHUNK):
        frames = pose_problems(body, Reference(*(a[rows[start : start + _CHUNK]] for a in reference)), soles)
        x = _least_effort(frames, charge, kind.exponent)
        if smoothness:
            kept.append((frames, x))
        else:
            parts.append(_outcome(body, soles, frames, x))
    if smoothness:
        _smooth_over_time(kept, charge, kind.exponent, tie)
        parts = [_outcome(body, soles, *pair) for pair in kept]
    act, residual, force, moment = (
        _interpolate(np.concatenate(column), rows, len(qpos)) for column in zip(*parts, strict=True)
    )
    root, joints = np.split(residual, [6 * body.free_root], axis=1)
    with np.errstate(invalid="ignore"):
        centre = np.where(force[..., 2:] > 0.0, moment / force[..., 2:], np.nan)
    return ActivationSolution(*(a.astype(np.float32) for a in (
        smooth(act, ACTIVATION_SMOOTHING_S * fps).clip(0.0, 1.0), np.sqrt((joints**2).mean(axis=1)),
        root if body.free_root else np.zeros((len(qpos), 6)), force, centre,
    )), tuple(body.feet), body_weight(body))


class FrameProblems(NamedTuple):
    """Problems of F frames: ``|matrix x - target|^2`` in units of tolerated residual, x the activations, then floor forces.

    ========= =============================================================== ================
    matrix    what activations and floor forces supply                        (F, D, M + 4P)
    target    what is asked for                                               (F, D)
    floor     charge for floor force                                          (F, 4P)
    points    where it acts                                                   (F, P, 3) m
    ========= =============================================================== ================
    """

    matrix: Tensor
    target: Tensor
    floor: Tensor
    points: Tensor

    def solve(self, charge: Tensor, centre: Tensor) -> Tensor:
        """Unknowns x (F, M + 4P) for a quadratic effort, charge and centre (F, M) of the activations."""
        return solve_box_least_squares(
            self.matrix, self.target, torch.cat([charge, self.floor], dim=1),
            torch.cat([centre, torch.zeros_like(self.floor)], dim=1), tolerance=SOLVER_TOLERANCE,
        )

    def at(self, rows: slice) -> FrameProblems:
        """Some of the frames."""
        return FrameProblems(*(a[rows] for a in self))


def pose_problems(body: Embodiment, reference: Reference, soles: SolePoints) -> FrameProblems:
    """The problems at the frames of a reference."""
    equations = equations_of_motion(body, reference, soles)
    weight = torch.from_numpy(1.0 / _tolerance(body))
    possible = equations.effort.isfinite()
    floor = torch.where(possible[:, None, :], equations.floor * _floor_unit(body), 0.0)
    return FrameProblems(
        torch.cat([equations.muscle, floor], dim=2) * weight[:, None], equations.load * weight,
        FLOOR_RIDGE * torch.where(possible, equations.effort, 1.0), equations.points,
    )


def relative_volumes(body: Embodiment) -> np.ndarray:
    """(M,) volume of each muscle, peak force times optimal fibre length, over the mean."""
    forces = MuscleForces.from_body(body)
    volume = (forces.peak * forces.optimal).numpy()
    return volume / volume.mean()


def body_weight(body: Embodiment) -> float:
    """N."""
    return float(body.model.body_mass.sum() * np.linalg.norm(body.model.opt.gravity))


def _least_effort(frames: FrameProblems, charge: Tensor, exponent: int) -> Tensor:
    """Unknowns x of frames that know nothing of each other."""
    whole = charge.expand(len(frames.target), -1)
    x = frames.solve(whole, torch.zeros_like(whole))
    if exponent == 2:
        return x
    for _ in range(_PASSES):
        before = x
        reweighted = _quadratic(before[:, : len(charge)], charge, exponent)
        x = torch.lerp(before, frames.solve(reweighted, torch.zeros_like(reweighted)), 1.0 / (exponent - 1))
        if float((x - before)[:, : len(charge)].abs().amax()) < _SETTLED:
            return x
    raise ArithmeticError(f"effort of exponent {exponent} has not settled within {_PASSES} reweightings; use effort=square")


def _quadratic(act: Tensor, charge: Tensor, exponent: int) -> Tensor:
    """Charge (F, M) of the parabola around 0 whose slope at the activations is that of ``charge act^exponent``."""
    return 0.5 * exponent * charge * act.clamp_min(_LEAST) ** (exponent - 2)


def _smooth_over_time(
    kept: Sequence[tuple[FrameProblems, Tensor]], charge: Tensor, exponent: int, tie: Tensor
) -> None:
    """Sweep over even and odd frames, neighbours fixed, until nothing moves; the x are changed in place."""
    muscles = len(charge)
    act = torch.cat([x[:, :muscles] for _, x in kept])
    for _ in range(_PASSES):
        before = act.clone()
        for parity in (0, 1):
            first = 0
            for frames, x in kept:
                own = slice((parity - first) % 2, None, 2)
                at = torch.arange(first, first + len(x))[own]
                first += len(x)
                left, right = (at - 1).clamp_min(0), (at + 1).clamp_max(len(act) - 1)
                ties = ((left < at).double() + (right > at).double())[:, None] * tie
                pull = ((left < at).double()[:, None] * act[left] + (right > at).double()[:, None] * act[right]) * tie
                total = _quadratic(act[at], charge, exponent) + ties
                x[own] = torch.lerp(x[own], frames.at(own).solve(total, pull / total), 1.0 / (exponent - 1))
                act[at] = x[own, :muscles]
        if float((act - before).abs().amax()) < _SETTLED:
            return
    raise ArithmeticError(f"smoothness has not settled within {_PASSES} sweeps; take a smaller one")


def _outcome(body: Embodiment, soles: SolePoints, frames: FrameProblems, x: Tensor) -> tuple[np.ndarray, ...]:
    """Activations (F, M), residuals (F, D), force on each foot and that times its height-free place (F, L, 3)."""
    residual = (frames.target - torch.bmm(frames.matrix, x[:, :, None])[:, :, 0]) * torch.from_numpy(_tolerance(body))
    touching = frames.matrix[:, :, body.model.nu :].any(dim=1)  # elsewhere x is as small as the tolerance, but not zero
    force = edge_forces(x[:, body.model.nu :] * touching * _floor_unit(body))
    moment = force[..., 2:] * frames.points
    own = torch.from_numpy(np.array([np.isin(soles.geom, ids) for ids in body.foot_geom_ids.values()]).reshape(
        len(body.feet), len(soles.geom)).astype(float))
    return tuple(a.numpy() for a in (
        x[:, : body.model.nu], residual, torch.einsum("lp,fpx->flx", own, force), torch.einsum("lp,fpx->flx", own, moment)
    ))


def _tolerance(body: Embodiment) -> np.ndarray:
    """(D,) residual force that counts as one."""
    tolerance = np.full(len(body.couplings.independent_dof), JOINT_TOLERANCE)
    if body.free_root:
        tolerance[:6] = ROOT_TOLERANCE
    return tolerance


def _floor_unit(body: Embodiment) -> float:
    """Force in N along an edge at x = 1."""
    return FLOOR_LIMIT * body_weight(body)


def _interpolate(values: np.ndarray, frames: np.ndarray, count: int) -> np.ndarray:
    """Rows (S, ...) given at frame numbers (S,), linear in between, for frames 0 to count - 1."""
    wanted = np.arange(count)
    high = np.clip(np.searchsorted(frames, wanted), 1, len(frames) - 1)
    low = high - 1
    t = ((wanted - frames[low]) / (frames[high] - frames[low])).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1.0 - t) + values[high] * t
