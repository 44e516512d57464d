"""Inverse kinematics of a whole motion at once: Gauss-Newton within limits, couplings eliminated, smooth by a penalty.

Minimises ``sum_t |r(q_t)|^2 + sum_t |K_t (q_{t+1} - q_t)|^2 + sum_td k_d (q_{t+1} - 2 q_t + q_{t-1})_d^2`` over all
frames. The last term is a low-pass without phase: at the cut-off ``f_c`` its weight ``k_d = h_d / (2 pi f_c dt)^4`` equals
the stiffness ``h_d`` with which the data hold dof d. Noise and badly observed moments (an arm hanging straight down has
no elevation plane) are bridged, while contacts are met by the motion that comes out: nothing is filtered, and so
spoiled, afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.linalg.lapack import dpbsv
from torch import Tensor

from tools.retargeting.kinematics import MotionKinematics, Pose, Runs

FIRST_DAMPING = 0.1  # of the median stiffness; freer first steps overshoot into postures that a frame does not leave
# m^2: a dof that the data hold less (twist of a straight arm, wrist, toes) is smoothed as if they held it so much; its
# cut-off is lower by the fourth root of the ratio.
SOFTEST = 0.1
ATTEMPTS = 6  # damped steps that are tried before a solution is taken as final


@dataclass(eq=False)
class Normal:
    """Normal equations of F frames in D dofs: those of a window of all.

    ========= ================================================================== =============
    hessian   ``sum J^T J`` of rows that belong to a frame                       (F, D, D)
    coupling  block of frame t with frame t + 1, from rows on their difference   (F - 1, D, D)
    gradient  ``sum J^T r``                                                      (F, D)
    cost      ``sum r^2``; rows between frames count half for either             (F,)
    window    dofs that are solved for; rows' derivatives by others are dropped  slice
    ========= ================================================================== =============
    """

    hessian: Tensor
    coupling: Tensor
    gradient: Tensor
    cost: Tensor
    window: slice
    coupled: bool = False

    @classmethod
    def zeros(cls, frames: int, kinematics: MotionKinematics, window: slice | None = None) -> Normal:
        """Of no rows, by default in all dofs."""
        new = lambda *shape: torch.zeros(*shape, dtype=torch.float64, device=kinematics.device)  # noqa: E731
        window = slice(0, kinematics.dofs) if window is None else window
        d = window.stop - window.start
        return cls(new(frames, d, d), new(frames - 1, d, d), new(frames, d), new(frames), window)

    def inside(self, runs: Runs) -> Runs:
        """The part of some runs of dofs that is in the window, as runs of its own dofs."""
        out = []
        for dofs, own in runs:
            start, stop = max(dofs.start, self.window.start), min(dofs.stop, self.window.stop)
            if start < stop:
                first = own.start + start - dofs.start
                out.append((slice(start - self.window.start, stop - self.window.start), slice(first, first + stop - start)))
        return tuple(out)

    def rows(self, value: Tensor, jacobian: Tensor, runs: Runs) -> None:
        """Add rows (F, R) with derivatives (F, R, C) by the dofs of some runs."""
        runs, jacobian = self._crop(runs, jacobian)
        across = jacobian.transpose(1, 2)
        _add(self.hessian, across @ jacobian, runs)
        pull = (across @ value[:, :, None]).squeeze(2)
        for dofs, own in runs:
            self.gradient[:, dofs] += pull[:, own]
        self.cost += (value**2).sum(1)

    def scattered(self, frame: Tensor, value: Tensor, jacobian: Tensor, runs: Runs) -> None:
        """Add single rows (E,) at frames (E,) with derivatives (E, C) by the dofs of some runs."""
        runs, jacobian = self._crop(runs, jacobian)
        frames, columns = len(self.cost), jacobian.shape[1]
        square, pull = value.new_zeros(frames, columns, columns), value.new_zeros(frames, columns)
        square.index_add_(0, frame, jacobian[:, :, None] * jacobian[:, None])
        pull.index_add_(0, frame, jacobian * value[:, None])
        _add(self.hessian, square, runs)
        for dofs, own in runs:
            self.gradient[:, dofs] += pull[:, own]
        self.cost.index_add_(0, frame, value**2)

    def between(self, jacobian: Tensor, step: Tensor, runs: Runs) -> None:
        """Add rows ``K_t (q_{t+1} - q_t)``: K (F - 1, R, C), the steps taken (F - 1, all dofs), dofs of K's columns."""
        taken = torch.cat([step[:, dofs] for dofs, _ in runs], dim=1)
        value = (jacobian @ taken[:, :, None]).squeeze(2)
        runs, jacobian = self._crop(runs, jacobian)
        square = jacobian.transpose(1, 2) @ jacobian
        pull = (jacobian.transpose(1, 2) @ value[:, :, None]).squeeze(2)
        _add(self.hessian[1:], square, runs)
        _add(self.hessian[:-1], square, runs)
        _add(self.coupling, square, runs, -1)
        for dofs, own in runs:
            self.gradient[1:, dofs] += pull[:, own]
            self.gradient[:-1, dofs] -= pull[:, own]
        cost = 0.5 * (value**2).sum(1)
        self.cost[1:] += cost
        self.cost[:-1] += cost
        self.coupled = True

    def _crop(self, runs: Runs, jacobian: Tensor) -> tuple[Runs, Tensor]:
        """Runs in the window and the columns that belong to them."""
        inside = self.inside(runs)
        if sum(own.stop - own.start for _, own in inside) == jacobian.shape[-1]:
            return inside, jacobian
        kept = torch.cat([jacobian[..., own] for _, own in inside], dim=-1)
        ends = np.cumsum([0, *(own.stop - own.start for _, own in inside)])
        return tuple((dofs, slice(int(a), int(b))) for (dofs, _), a, b in zip(inside, ends, ends[1:], strict=False)), kept


def _add(whole: Tensor, part: Tensor, runs: Runs, sign: int = 1) -> None:
    for rows, own_rows in runs:
        for columns, own_columns in runs:
            whole[:, rows, columns].add_(part[:, own_rows, own_columns], alpha=sign)


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
    problem = _Problem(kinematics, terms, smoothness, window)
    normal = problem.evaluate(qpos)
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
            result = problem.evaluate(trial)
            # Frames that got worse are damped more, also where the step as a whole is good: they hold up no others.
            worse = result.cost > normal.cost + 1e-9
            damped = torch.where(worse, damped.clamp_min(1e-3) * 10.0, damped * 0.3).clamp(1e-7, 1e6)
            before, after = float(normal.cost.sum()), float(result.cost.sum())
            if after < before:
                break
            retried = True
        else:
            return qpos
        smooth_so_far = not retried
        qpos, normal = trial, result
        if 1.0 - after / max(before, 1e-30) < tolerance:
            break
    return qpos


class _Problem:
    def __init__(
        self, kinematics: MotionKinematics, terms: list[Term], smoothness: Smoothness, window: slice
    ) -> None:
        self.kinematics, self.terms, self.smoothness, self.window = kinematics, terms, smoothness, window
        self.weights: Tensor | None = None

    def evaluate(self, qpos: Tensor) -> Normal:
        """Normal equations at positions (F, Q), smoothness in gradient and cost only: its Hessian is banded."""
        pose = self.kinematics.pose(qpos)
        normal = Normal.zeros(len(qpos), self.kinematics, self.window)
        for k, term in enumerate(self.terms):
            term(pose, normal)
            if k == 0 and self.weights is None:
                self.weights = self.smoothness.weights(normal)
        bend = self.kinematics.tangent(qpos)[:, self.window].diff(dim=0)
        pull = self.weights * bend
        normal.cost[1:-1] += (pull * bend).sum(1)
        normal.gradient[:-2] += pull
        normal.gradient[1:-1] -= 2.0 * pull
        normal.gradient[2:] += pull
        return normal


def solve_smooth(normal: Normal, damping: Tensor, weights: Tensor, right: Tensor, free: Tensor) -> Tensor:
    """Solve ``(H + damping + D2^T diag(k) D2) x = b`` with some entries of x held at zero.

    The matrix is banded with 2 D entries beside the diagonal; Cholesky's method on the band costs O(F D^3).

    Args:
        normal: its Hessian (F, D, D) and coupling of neighbouring frames (F - 1, D, D).
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
    main, first, second = (band.to(right.device)[:, None] * weights for band in second_difference(frames))
    wide = right.new_zeros(frames, dofs, 3 * dofs)  # rows of a frame by the columns of itself and the next two
    keep = right.new_zeros(frames + 2, dofs)
    keep[:frames] = free.to(right.dtype)
    diagonal = wide.diagonal(dim1=1, dim2=2)
    wide[:, :, :dofs] = normal.hessian
    diagonal += main + damping
    if normal.coupled:
        wide[:-1, :, dofs : 2 * dofs] = normal.coupling
    wide[:-1].diagonal(dofs, 1, 2).add_(first)
    wide[:-2].diagonal(2 * dofs, 1, 2).copy_(second)
    wide *= keep[:frames, :, None]
    wide *= keep.unfold(0, 3, 1).transpose(1, 2).reshape(frames, 1, 3 * dofs)
    diagonal += 1.0 - keep[:frames]
    # Row d of a frame from its diagonal on: a column of the lower band, as LAPACK stores it.
    band = wide.as_strided((frames, dofs, 2 * dofs + 1), (3 * dofs**2, 3 * dofs + 1, 1)).reshape(frames * dofs, -1)
    _, x, failed = dpbsv(band.cpu().numpy().T, (right * keep[:frames]).reshape(-1).cpu().numpy(), lower=1, overwrite_ab=1)
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
