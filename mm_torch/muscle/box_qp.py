"""Batched box-constrained least squares with few rows and many unknowns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def solve_box_least_squares(
    matrix: Tensor, target: Tensor, ridge: Tensor, centre: Tensor | None = None, *, tolerance: float = 1e-8,
    max_iterations: int = 40,
) -> Tensor:
    """Minimise ``1/2 |A x - b|^2 + 1/2 sum_i ridge_i (x_i - c_i)^2`` subject to ``0 <= x <= 1``, for a batch of problems.

    Primal-dual interior point with Mehrotra's predictor and corrector. The start is dual feasible and primal and dual
    take steps of one length, so only complementarity remains to be driven to zero. The Newton matrix ``A'A + diag`` has
    R rows of structure, so each iteration factors ``I + A diag^-1 A'`` (R, R) by Woodbury's identity and never an
    (n, n) matrix.

    Args:
        matrix: A (B, R, n), double precision.
        target: b (B, R).
        ridge: (B, n), positive.
        centre: c (B, n), anywhere; None: zero.
        tolerance: largest mean complementarity (objective units) accepted in any problem.
        max_iterations: cap on Newton steps; a convex problem of this kind takes 10 to 20.

    Returns:
        x (B, n), strictly inside the box.

    Raises:
        ArithmeticError: some problem has not converged within the cap.

    Source: Nocedal & Wright (2006), Numerical Optimization, ch. 16.6; the normal equations as in their eq. 16.58; the
    corrector weighted as in Colombo & Gondzio (2008), Comput. Optim. Appl. 41:277.
    """
    x, gap = approach_box_least_squares(matrix, target, ridge, centre, tolerance=tolerance, max_iterations=max_iterations)
    if bool((gap > tolerance).any()):
        raise ArithmeticError(
            f"box least squares: mean complementarity {float(gap.max()):.1e} after {max_iterations} iterations, "
            f"wanted {tolerance:.1e}; scale the rows of the problem"
        )
    return x


def approach_box_least_squares(
    matrix: Tensor, target: Tensor, ridge: Tensor, centre: Tensor | None = None, *, tolerance: float = 1e-8,
    max_iterations: int = 40,
) -> tuple[Tensor, Tensor]:
    """As ``solve_box_least_squares``, without an error: x (B, n) inside the box, and its mean complementarity (B,)."""
    centre = torch.zeros_like(ridge) if centre is None else centre
    point, error = _start(matrix, target, ridge, centre)  # error: A x - b, carried along without further products
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    scaled = torch.empty_like(matrix)  # reused: a fresh one each iteration costs more than the arithmetic
    for _ in range(max_iterations):
        gap = point.gap()
        if bool((gap <= tolerance).all()):
            break
        inverse = (ridge + point.lower / point.x + point.upper / point.slack).reciprocal()
        torch.mul(matrix, inverse[:, None, :], out=scaled)
        factor = torch.linalg.cholesky(torch.baddbmm(identity, scaled, matrix.mT))
        system = _System(scaled, factor, inverse, ridge, centre)
        predictor, _ = system.step(point, error, torch.zeros_like(gap), torch.zeros_like(gap))
        reach = point.longest(predictor)
        goal = (point.moved(predictor, reach).gap() / gap).pow(3) * gap
        # A predictor that reaches nowhere says nothing of second order: taken in full it can make the iterates cycle.
        corrector, change = system.step(
            point, error, goal - reach * predictor.x * predictor.lower, goal - reach * predictor.slack * predictor.upper
        )
        length = torch.where(gap <= tolerance, 0.0, 0.995 * point.longest(corrector))  # solved problems rest
        point, error = point.moved(corrector, length), error + length * change
    return point.x, point.gap()[:, 0]


class _Point(NamedTuple):
    """Unknowns x, slacks 1 - x (kept apart from their rounding) and multipliers of both bounds; or a step in them."""

    x: Tensor
    slack: Tensor
    lower: Tensor
    upper: Tensor

    def gap(self) -> Tensor:
        """Mean complementarity, (B, 1)."""
        return (self.x * self.lower + self.slack * self.upper).mean(dim=1, keepdim=True) / 2.0

    def moved(self, step: _Point, length: Tensor) -> _Point:
        """The point after a step of the given length (B, 1)."""
        return _Point(*(value + length * change for value, change in zip(self, step, strict=True)))

    def longest(self, step: _Point) -> Tensor:
        """Length (B, 1) in (0, 1] up to which everything stays positive."""
        ratio = torch.stack([-change / value for value, change in zip(self, step, strict=True)]).amax(dim=(0, 2))
        return 1.0 / ratio.clamp_min(1.0)[:, None]


class _System(NamedTuple):
    """Newton system at a point: S = A diag^-1, the factor of G = I + S A', diag^-1, the ridge and its centre."""

    scaled: Tensor
    factor: Tensor
    inverse: Tensor
    ridge: Tensor
    centre: Tensor

    def step(self, point: _Point, error: Tensor, want_lower: Tensor, want_upper: Tensor) -> tuple[_Point, Tensor]:
        """Step towards ``x lower = want_lower`` and ``slack upper = want_upper``, and its change of ``A x - b``.

        With the error e and ``h = want_lower / x - want_upper / slack - ridge (x - c)`` the Newton equation reads
        ``diag dx + A' (e + A dx) = h``. The error after a full step is ``w = G^-1 (S h + e)``, and ``dx = diag^-1 h - S' w``.
        """
        h = want_lower / point.x - want_upper / point.slack - self.ridge * (point.x - self.centre)
        w = torch.cholesky_solve(torch.bmm(self.scaled, h[:, :, None]) + error[:, :, None], self.factor)
        dx = h * self.inverse - torch.bmm(self.scaled.mT, w)[:, :, 0]
        step = _Point(
            dx, -dx, (want_lower - point.lower * dx) / point.x - point.lower,
            (want_upper + point.upper * dx) / point.slack - point.upper,
        )
        return step, w[:, :, 0] - error


def _start(matrix: Tensor, target: Tensor, ridge: Tensor, centre: Tensor) -> tuple[_Point, Tensor]:
    """Middle of the box with multipliers that make it dual feasible, and the error A x - b there."""
    middle = torch.full_like(ridge, 0.5)
    error = torch.bmm(matrix, middle[:, :, None]) - target[:, :, None]
    gradient = torch.bmm(matrix.mT, error)[:, :, 0] + ridge * (middle - centre)
    offset = gradient.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
    return _Point(middle, middle, gradient.clamp_min(0.0) + offset, (-gradient).clamp_min(0.0) + offset), error[:, :, 0]
