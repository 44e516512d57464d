"""Batched box-constrained least squares with few rows and many unknowns."""

from __future__ import annotations

import torch
from torch import Tensor


def solve_box_least_squares(
    matrix: Tensor, target: Tensor, ridge: Tensor, *, tolerance: float = 1e-8, max_iterations: int = 40
) -> Tensor:
    """Minimise ``1/2 |A x - b|^2 + 1/2 sum_i ridge_i x_i^2`` subject to ``0 <= x <= 1``, for a batch of problems.

    Primal-dual interior point with Mehrotra's predictor and corrector. The start is dual feasible and primal and dual
    take steps of one length, so only complementarity remains to be driven to zero. The Newton matrix ``A'A + diag`` has
    R rows of structure, so each iteration factors ``I + A diag^-1 A'`` (R, R) by Woodbury's identity and never an
    (n, n) matrix.

    Args:
        matrix: A (B, R, n), double precision.
        target: b (B, R).
        ridge: (B, n), positive.
        tolerance: largest mean complementarity (objective units) accepted in any problem.
        max_iterations: cap on Newton steps; a convex problem of this kind takes 10 to 20.

    Returns:
        x (B, n), strictly inside the box.

    Raises:
        ArithmeticError: some problem has not converged within the cap.

    Source: Nocedal & Wright (2006), Numerical Optimization, ch. 16.6; the normal equations as in their eq. 16.58.
    """
    x = torch.full_like(ridge, 0.5)
    gradient = _gradient(matrix, target, ridge, x)
    offset = gradient.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
    lower, upper = gradient.clamp_min(0.0) + offset, (-gradient).clamp_min(0.0) + offset
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(max_iterations):
        gap = _gap(x, lower, upper)
        if bool((gap <= tolerance).all()):
            return x
        residual = lower - upper - _gradient(matrix, target, ridge, x)  # stays at rounding level
        diagonal = ridge + lower / x + upper / (1.0 - x)
        scaled = matrix / diagonal[:, None, :]
        factor = torch.linalg.cholesky(torch.baddbmm(identity, scaled, matrix.mT))

        def newton(
            wanted_lower: Tensor, wanted_upper: Tensor, x: Tensor = x, lower: Tensor = lower, upper: Tensor = upper,
            residual: Tensor = residual, diagonal: Tensor = diagonal, scaled: Tensor = scaled, factor: Tensor = factor,
        ) -> tuple[Tensor, Tensor, Tensor]:
            """Step towards ``x lower = wanted_lower`` and ``(1 - x) upper = wanted_upper``."""
            rhs = residual + wanted_lower / x - lower - wanted_upper / (1.0 - x) + upper
            inner = torch.cholesky_solve(torch.bmm(scaled, rhs[:, :, None]), factor)
            dx = rhs / diagonal - torch.bmm(scaled.mT, inner)[:, :, 0]
            return dx, (wanted_lower - lower * dx) / x - lower, (wanted_upper + upper * dx) / (1.0 - x) - upper

        zero = torch.zeros_like(x)
        dx, dl, du = newton(zero, zero)
        length = _step_length(x, lower, upper, dx, dl, du)
        after = _gap(x + length * dx, lower + length * dl, upper + length * du)
        centre = (after / gap).pow(3) * gap
        dx, dl, du = newton(centre - dx * dl, centre + dx * du)
        length = 0.995 * _step_length(x, lower, upper, dx, dl, du)
        x, lower, upper = x + length * dx, lower + length * dl, upper + length * du
    raise ArithmeticError(
        f"box least squares: mean complementarity {float(_gap(x, lower, upper).max()):.1e} after {max_iterations} "
        f"iterations, wanted {tolerance:.1e}; scale the rows of the problem"
    )


def _gradient(matrix: Tensor, target: Tensor, ridge: Tensor, x: Tensor) -> Tensor:
    """Gradient of the objective, (B, n)."""
    error = torch.bmm(matrix, x[:, :, None]) - target[:, :, None]
    return torch.bmm(matrix.mT, error)[:, :, 0] + ridge * x


def _gap(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Mean complementarity, (B, 1)."""
    return (x * lower + (1.0 - x) * upper).mean(dim=1, keepdim=True) / 2.0


def _step_length(x: Tensor, lower: Tensor, upper: Tensor, dx: Tensor, dl: Tensor, du: Tensor) -> Tensor:
    """Longest step in (0, 1] that keeps unknowns and multipliers positive, (B, 1)."""
    ratio = torch.stack([-dx / x, dx / (1.0 - x), -dl / lower, -du / upper]).amax(dim=(0, 2))
    return 1.0 / ratio.clamp_min(1.0)[:, None]
