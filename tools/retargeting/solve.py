"""Inverse kinematics of a whole motion at once: Gauss-Newton within limits, couplings eliminated, smooth by a penalty.

Minimises ``sum_t |r(q_t)|^2 + sum_t |K_t (q_{t+1} - q_t)|^2 + sum_td k_d (q_{t+1} - 2 q_t + q_{t-1})_d^2`` over all
frames. The last term is a low-pass without phase: at the cut-off ``f_c`` its weight ``k_d = h_d / (2 pi f_c dt)^4`` equals
the stiffness ``h_d`` with which the data hold dof d. Noise and badly observed moments (an arm hanging straight down has
no elevation plane) are bridged, while contacts are met by the motion that comes out: nothing is filtered, and so
spoiled, afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.linalg.lapack import dpbsv
from torch import Tensor

from tools.retargeting import kernels
from tools.retargeting.kinematics import MotionKinematics, Pose

FIRST_DAMPING = 0.1  # of the median stiffness; freer first steps overshoot into postures that a frame does not leave
# m^2: a dof that the data hold less (twist of a straight arm, wrist, toes) is smoothed as if they held it so much; its
# cut-off is lower by the fourth root of the ratio.
SOFTEST = 0.1
ATTEMPTS = 8  # damped steps that are tried before a solution is taken as final


@dataclass(eq=False)
class Normal:
    """Normal equations of F frames in D dofs: those of a window of all.

    ========== ================================================================== ===============
    window     dofs that are solved for; rows' derivatives by others are dropped  slice
    hessian    ``sum J^T J``: upper triangles of the blocks on the diagonal       (F, D, D)
    coupling   block of frame t with frame t + 1, from rows on their difference   (F - 1, D, D)
    gradient   ``sum J^T r``                                                      (F, D)
    cost       ``sum r^2``; rows between frames count half for either             (F,)
    load, pull ``sum a a^T`` and ``sum a r`` of rows with wrench a on a link,     (F, L, 6, 6)
               until ``assemble`` makes Hessian and gradient of them              (F, L, 6)
    ========== ================================================================== ===============

    Rows between frames only add to the coupling, until ``close`` adds their part of the diagonal blocks.
    """

    kinematics: MotionKinematics
    window: slice
    hessian: Tensor
    coupling: Tensor
    gradient: Tensor
    cost: Tensor
    load: Tensor
    pull: Tensor

    @classmethod
    def zeros(cls, frames: int, kinematics: MotionKinematics, window: slice | None = None) -> Normal:
        """Of no rows, by default in all dofs."""
        new = lambda *shape: torch.zeros(*shape, dtype=torch.float64, device=kinematics.device)  # noqa: E731
        window = slice(0, kinematics.dofs) if window is None else window
        d, links = window.stop - window.start, kinematics.links
        return cls(kinematics, window, new(frames, d, d), new(frames - 1, d, d), new(frames, d), new(frames),
                   new(frames, links, 6, 6), new(frames, links, 6))

    def twin(self) -> Normal:
        """Normal equations of the same kind, of no rows; room for rows that are not assembled is shared."""
        zero = torch.zeros_like
        return replace(self, hessian=zero(self.hessian), coupling=zero(self.coupling), gradient=zero(self.gradient),
                       cost=zero(self.cost))

    def clear(self) -> None:
        """Of no rows again; those that are not assembled stay."""
        for part in (self.hessian, self.coupling, self.gradient, self.cost):
            part.zero_()

    @property
    def tables(self) -> kernels.Window:
        """The window for kernels."""
        return self.kinematics.window(self.window.start, self.window.stop)

    def assemble(self, pose: Pose) -> Normal:
        """Add what the links' rows make of Hessian and gradient."""
        self.kinematics.launch(kernels.assemble, len(self.cost), self.kinematics.tree, self.tables, pose.screw, self.load,
                               self.pull, self.hessian, self.gradient)
        return self

    def close(self) -> None:
        """Add the diagonal blocks of rows on differences of frames, once all rows are there."""
        self.hessian[1:] -= self.coupling
        self.hessian[:-1] -= self.coupling


Term = Callable[[Pose, Normal], None]


@dataclass(frozen=True)
class Smoothness:
    """The acceleration penalty.

    ====== =============================================================================== ==============
    cutoff frequency up to which dofs follow the data                                      Hz
    fps    frame rate                                                                      Hz
    slower lower cut-offs by column                                                        Hz
    cost   by column, what an acceleration costs at least, however little the data hold    m s^2 / rad
    ====== =============================================================================== ==============
    """

    cutoff: float
    fps: float
    slower: dict[int, float] = field(default_factory=dict)
    cost: dict[int, float] = field(default_factory=dict)

    def weights(self, normal: Normal) -> Tensor:
        """(D,) weights ``k_d`` from the normal equations of the data."""
        stiffness = normal.hessian.diagonal(dim1=1, dim2=2).median(dim=0).values.clamp_min(SOFTEST)
        cutoff = torch.full_like(stiffness, self.cutoff)
        for column, value in self.slower.items():
            if normal.window.start <= column < normal.window.stop:
                cutoff[column - normal.window.start] = min(value, self.cutoff)
        weights = stiffness / (2.0 * torch.pi * cutoff / self.fps) ** 4
        for column, value in self.cost.items():
            if normal.window.start <= column < normal.window.stop:
                weights[column - normal.window.start].clamp_(min=(value * self.fps**2) ** 2)
        return weights


def solve(
    kinematics: MotionKinematics,
    qpos: Tensor,
    terms: list[Term],
    smoothness: Smoothness,
    iterations: int,
    tolerance: float = 1e-4,
    damping: float = FIRST_DAMPING,
    window: slice | None = None,
) -> Tensor:
    """Minimise the terms over a motion.

    Args:
        kinematics: of the body.
        qpos: (F, Q) first guess, F >= 3; put within the limits.
        terms: residuals; the first sets the scale of the smoothness weights.
        smoothness: of the result.
        iterations: at most.
        tolerance: relative decrease of the cost that ends the iterations.
        damping: of the first step, in parts of the median stiffness.
        window: dofs that may change, in one piece; all by default.

    Returns:
        (F, Q) positions within the limits and with exact couplings.
    """
    coordinates = kinematics.coordinates(qpos)
    outside = coordinates.clamp(kinematics.low, kinematics.high) - coordinates
    qpos = kinematics.step(qpos, outside) if bool(outside.any()) else qpos
    window = slice(0, kinematics.dofs) if window is None else window
    low, high = kinematics.low[window], kinematics.high[window]
    problem = _Problem(terms, smoothness)
    normal = Normal.zeros(len(qpos), kinematics, window)
    other = normal.twin()
    problem.evaluate(qpos, normal)
    damped = torch.full((len(qpos),), damping, dtype=torch.float64, device=qpos.device)
    smooth_so_far = True
    for iteration in range(iterations):
        coordinates = kinematics.coordinates(qpos)[:, window]
        at_low, at_high = coordinates <= low + 1e-9, coordinates >= high - 1e-9
        free = ~((at_low & (normal.gradient > 0)) | (at_high & (normal.gradient < 0)))
        scale = normal.hessian.diagonal(dim1=1, dim2=2).median(dim=0).values.clamp_min(1e-8)
        retried = False
        for _ in range(ATTEMPTS):
            delta = solve_smooth(normal, damped[:, None] * scale, problem.weights, -normal.gradient, free)
            move = qpos.new_zeros(len(qpos), kinematics.dofs)
            move[:, window] = (coordinates + delta).clamp(low, high) - coordinates
            trial = kinematics.step(qpos, move)
            if smooth_so_far and iteration == iterations - 1:
                return trial  # no step so far went uphill: this one is not looked at any more
            problem.evaluate(trial, other)
            before, after = float(normal.cost.sum()), float(other.cost.sum())
            # Frames that got worse are damped more, also where the step as a whole is good: they hold up no others.
            worse, better = other.cost > normal.cost + 1e-9, after < before
            more, less = (10.0, 0.3) if better else (100.0, 1.0)
            damped = torch.where(worse, damped.clamp_min(1e-3) * more, damped * less).clamp(1e-7, 1e6)
            if better:
                break
            retried = True
        else:
            return qpos
        smooth_so_far = not retried
        qpos, normal, other = trial, other, normal
        if 1.0 - after / max(before, 1e-30) < tolerance:
            break
    return qpos


class _Problem:
    def __init__(self, terms: list[Term], smoothness: Smoothness) -> None:
        self.terms, self.smoothness = terms, smoothness
        self.weights: Tensor | None = None

    def evaluate(self, qpos: Tensor, normal: Normal) -> None:
        """Normal equations at positions (F, Q), smoothness in gradient and cost only: its Hessian is banded."""
        normal.clear()
        pose = normal.kinematics.pose(qpos)
        for term in self.terms:
            term(pose, normal)
            if self.weights is None:
                self.weights = self.smoothness.weights(normal.assemble(pose))
        normal.assemble(pose).close()
        bend = pose.step[:, normal.window].diff(dim=0)
        pull = self.weights * bend
        normal.cost[1:-1] += (pull * bend).sum(1)
        normal.gradient[:-2] += pull
        normal.gradient[1:-1] -= 2.0 * pull
        normal.gradient[2:] += pull


def solve_smooth(normal: Normal, damping: Tensor, weights: Tensor, right: Tensor, free: Tensor) -> Tensor:
    """Solve ``(H + damping + D2^T diag(k) D2) x = b`` with some entries of x held at zero.

    The matrix is banded with 2 D entries beside the diagonal; Cholesky's method on the band costs O(F D^3).

    Args:
        normal: its Hessian (F, D, D), of which upper triangles are read, and coupling of neighbouring frames (F - 1, D, D).
        damping: (F, D) added to the diagonal.
        weights: (D,) k.
        right: (F, D) b.
        free: (F, D) entries that are not held.

    Returns:
        (F, D) x.

    Raises:
        ArithmeticError: the matrix is not positive definite.
    """
    frames, dofs = right.shape
    band = right.new_empty(frames, dofs, 2 * dofs + 1)
    normal.kinematics.launch(kernels.fill_band, (frames, dofs), normal.hessian, normal.coupling, damping, weights, free, band)
    band = band.view(frames * dofs, -1).cpu().numpy().T
    _, x, failed = dpbsv(band, (right * free).reshape(-1).cpu().numpy(), lower=1, overwrite_ab=1)
    if failed or not np.isfinite(x).all():
        raise ArithmeticError(f"normal equations of {frames} frames are not positive definite: targets or weights are not "
                              "finite")
    return torch.from_numpy(x).view(frames, dofs).to(right.device)


def second_difference(frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonal and the two upper diagonals of ``D2^T D2`` for F >= 3 frames."""
    main, first, second = (torch.zeros(frames - k, dtype=torch.float64) for k in range(3))
    pattern = (1.0, -2.0, 1.0)
    for k in range(3):
        main[k : k + frames - 2] += pattern[k] ** 2
    for k in range(2):
        first[k : k + frames - 2] += pattern[k] * pattern[k + 1]
    second += 1.0
    return main, first, second
