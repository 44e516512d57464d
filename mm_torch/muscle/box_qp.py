"""Batched box-constrained least squares with few rows and many unknowns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_NARROWED = 0.75  # solved problems leave the batch when no more than this share of it is unsolved


def solve_box_least_squares(
    matrix: Rows | Tensor, target: Tensor, ridge: Tensor, centre: Tensor | None = None, *, tolerance: float = 1e-8,
    max_iterations: int = 40,
) -> Tensor:
    """Minimise ``1/2 |A x - b|^2 + 1/2 sum_i ridge_i (x_i - c_i)^2`` subject to ``0 <= x <= 1``, for a batch of problems.

    Primal-dual interior point with Mehrotra's predictor and corrector. The start is dual feasible and primal and dual
    take steps of one length, so only complementarity remains to be driven to zero. The Newton matrix ``A'A + diag`` has
    few rows of structure, so each iteration factors a small matrix by Woodbury's identity and never an (n, n) one.

    Args:
        matrix: A (B, R, n), double precision, or the same with structure (``Coupled``).
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
    matrix: Rows | Tensor, target: Tensor, ridge: Tensor, centre: Tensor | None = None, *, tolerance: float = 1e-8,
    max_iterations: int = 40,
) -> tuple[Tensor, Tensor]:
    """As ``solve_box_least_squares``, without an error: x (B, n) inside the box, and its mean complementarity (B,)."""
    rows = Dense(matrix) if isinstance(matrix, Tensor) else matrix
    centre = torch.zeros_like(ridge) if centre is None else centre
    point, error = _start(rows, target, ridge, centre)  # error: A x - b, carried along without further products
    x, gaps, going = torch.empty_like(ridge), torch.empty_like(ridge[:, 0]), torch.arange(len(ridge), device=ridge.device)
    scratch = torch.empty_like(rows[0])  # reused: a fresh one each iteration costs more than the arithmetic
    for _ in range(max_iterations):
        gap = point.gap()
        unsolved = gap[:, 0] > tolerance
        count = int(unsolved.sum())
        if count <= _NARROWED * len(going):
            x[going], gaps[going] = point.x, gap[:, 0]
            going, error, ridge, centre, gap = (t[unsolved] for t in (going, error, ridge, centre, gap))
            rows, point = type(rows)(*(t[unsolved] for t in rows)), _Point(*(t[unsolved] for t in point))
            scratch = scratch[:count]
        if count == 0:
            break
        inverse = (ridge + point.lower / point.x + point.upper / point.slack).reciprocal()
        system = rows.factor(inverse, error, scratch)
        off = ridge * (point.x - centre)
        predictor, _ = point.step(system, off, torch.zeros_like(gap), torch.zeros_like(gap))
        reach = point.longest(predictor)
        goal = (point.moved(predictor, reach).gap() / gap).pow(3) * gap
        # A predictor that reaches nowhere says nothing of second order: taken in full it can make the iterates cycle.
        corrector, change = point.step(
            system, off, goal - reach * predictor.x * predictor.lower, goal - reach * predictor.slack * predictor.upper
        )
        length = torch.where(gap <= tolerance, 0.0, 0.995 * point.longest(corrector))  # solved problems rest
        point, error = point.moved(corrector, length), error + length * change
    x[going], gaps[going] = point.x, point.gap()[:, 0]
    return x, gaps


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

    def step(self, system: System, off: Tensor, want_lower: Tensor, want_upper: Tensor) -> tuple[_Point, Tensor]:
        """Step towards ``x lower = want_lower`` and ``slack upper = want_upper``, and its change of ``A x - b``."""
        dx, change = system.step(want_lower / self.x - want_upper / self.slack - off)
        return _Point(
            dx, -dx, (want_lower - self.lower * dx) / self.x - self.lower,
            (want_upper + self.upper * dx) / self.slack - self.upper,
        ), change


def _start(rows: Rows, target: Tensor, ridge: Tensor, centre: Tensor) -> tuple[_Point, Tensor]:
    """Middle of the box with multipliers that make it dual feasible, and the error A x - b there."""
    middle = torch.full_like(ridge, 0.5)
    error = rows.times(middle) - target
    gradient = rows.back(error) + ridge * (middle - centre)
    offset = gradient.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
    return _Point(middle, middle, gradient.clamp_min(0.0) + offset, (-gradient).clamp_min(0.0) + offset), error


# -- what is known of A -----------------------------------------------------------------------------------------------
class Dense(NamedTuple):
    """A (B, R, n) of which nothing is known."""

    matrix: Tensor

    def times(self, x: Tensor) -> Tensor:
        """A x, (B, R)."""
        return _apply(self.matrix, x)

    def back(self, error: Tensor) -> Tensor:
        """A' error, (B, n)."""
        return _apply(self.matrix.mT, error)

    def factor(self, inverse: Tensor, error: Tensor, scratch: Tensor) -> DenseSystem:
        """The Newton system with diagonal ``1 / inverse`` at an error ``A x - b``."""
        scaled = torch.mul(self.matrix, inverse[:, None, :], out=scratch)
        identity = torch.eye(scaled.shape[1], dtype=scaled.dtype, device=scaled.device)
        return DenseSystem(scaled, torch.linalg.cholesky(torch.baddbmm(identity, scaled, self.matrix.mT)), inverse, error)


class DenseSystem(NamedTuple):
    """S = A diag^-1, the factor of G = I + S A', diag^-1, and the error."""

    scaled: Tensor
    factor: Tensor
    inverse: Tensor
    error: Tensor

    def step(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Step of ``diag dx + A' (error + A dx) = h``, and A dx.

        The error after a full step is ``w = G^-1 (S h + error)``, and ``dx = diag^-1 h - S' w``.
        """
        w = _solve(self.factor, _apply(self.scaled, h) + self.error)
        return h * self.inverse - _apply(self.scaled.mT, w), w - self.error


class Coupled(NamedTuple):
    """Rows of a body under constraints: forces act on few dofs, ``z = response (x_1, x_2)``, and each constraint row sees z.

    ``A x = (weight z, couple z + own x_2 - slack x_3)``: muscles x_1, one force x_2 and one slack x_3 a constraint row.

    ========= =========================================== ================
    response  what the unknowns do to the dofs            (B, D, n - K)
    weight    of the dofs, not zero                       (B, D)
    couple    what the dofs do to the constraint rows     (B, K, D)
    own       what its own force does to a row            (B, K)
    slack     what its slack takes off a row              (B, K)
    ========= =========================================== ================

    Newton steps need factors of (D, D) matrices alone, however many constraint rows there are.
    """

    response: Tensor
    weight: Tensor
    couple: Tensor
    own: Tensor
    slack: Tensor

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_1 and x_2 together, x_2, x_3."""
        acting = self.response.shape[2]
        return x[:, :acting], x[:, acting - self.own.shape[1] : acting], x[:, acting:]

    def times(self, x: Tensor) -> Tensor:
        """A x, (B, D + K)."""
        return self.seen(_apply(self.response, self.split(x)[0]), x)

    def seen(self, z: Tensor, x: Tensor) -> Tensor:
        """A x, where z = response (x_1, x_2) is known."""
        _, force, slack = self.split(x)
        return torch.cat([self.weight * z, _apply(self.couple, z) + self.own * force - self.slack * slack], dim=1)

    def back(self, error: Tensor) -> Tensor:
        """A' error, (B, n)."""
        dofs, rows = error.split([self.weight.shape[1], self.own.shape[1]], dim=1)
        return self.spread(self.weight * dofs + _apply(self.couple.mT, rows), rows)

    def spread(self, dofs: Tensor, rows: Tensor) -> Tensor:
        """``(response' dofs + (0, own rows), -slack rows)``, (B, n)."""
        x = torch.cat([_apply(self.response.mT, dofs), -self.slack * rows], dim=1)
        self.split(x)[1].addcmul_(self.own, rows)
        return x

    def factor(self, inverse: Tensor, error: Tensor, scratch: Tensor) -> CoupledSystem:
        """The Newton system with diagonal ``1 / inverse`` at an error ``A x - b``."""
        acting, force, slack = self.split(inverse)
        give = (1.0 + self.own.square() * force + self.slack.square() * slack).reciprocal()
        passed = give * self.own * force
        acting = acting.clone()
        acting[:, acting.shape[1] - force.shape[1] :].sub_(passed * self.own * force)
        through = torch.bmm(self.response[:, :, acting.shape[1] - force.shape[1] :] * passed[:, None], self.couple)
        through.diagonal(dim1=1, dim2=2).add_(1.0)
        inner = torch.bmm((self.couple * give[:, :, None]).mT, self.couple)
        inner.diagonal(dim1=1, dim2=2).add_(self.weight.square())
        inner = torch.linalg.cholesky(inner)
        half = torch.linalg.solve_triangular(inner, through.mT, upper=False)
        spread = torch.bmm(torch.mul(self.response, acting[:, None], out=scratch), self.response.mT)
        outer = torch.linalg.cholesky(spread.baddbmm_(half.mT, half))
        return CoupledSystem(self, inverse, give, through, inner, outer, self.back(error))


class CoupledSystem(NamedTuple):
    """Newton system of ``Coupled``: P = B + U' [[Q, I], [I, 0]] U.

    B is the diagonal with each row's own force and slack, E, beside it (``B = diag + E' E``); ``U = (response, couple' E)``
    and ``Q = weight^2 + couple' couple``. By Woodbury, P^-1 needs no more than the factors of ``inner = weight^2 + couple'
    give couple`` and ``outer = response B^-1 response' + through inner^-1 through'``, where ``give = 1 / (1 + E diag^-1 E')``
    and ``through = I + response B^-1 E' couple``.
    """

    rows: Coupled
    inverse: Tensor
    give: Tensor
    through: Tensor
    inner: Tensor
    outer: Tensor
    pull: Tensor

    def step(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Step of ``diag dx + A' (error + A dx) = h``, and A dx."""
        rest = h - self.pull
        idle, met = self._apart(rest)
        known = _solve(self.inner, _apply(self.rows.couple.mT, met))
        a = _solve(self.outer, _apply(self.rows.response, self.rows.split(idle)[0]) + _apply(self.through, known))
        z = _solve(self.inner, _apply(self.through.mT, a)) - known  # response dx
        dx, _ = self._apart(rest - self.rows.spread(a, _apply(self.rows.couple, z)))
        return dx, self.rows.seen(z, dx)

    def _apart(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        """B^-1 rest (B, n), and E of that (B, K)."""
        out = self.inverse * rest
        rows = self.rows
        _, force, slack = rows.split(out)
        met = self.give * (rows.own * force - rows.slack * slack)
        _, inverse_force, inverse_slack = rows.split(self.inverse)
        force.sub_(inverse_force * rows.own * met)
        slack.add_(inverse_slack * rows.slack * met)
        return out, met


Rows = Dense | Coupled
System = DenseSystem | CoupledSystem


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.bmm(matrix, vector[:, :, None])[:, :, 0]


def _solve(factor: Tensor, vector: Tensor) -> Tensor:
    return torch.cholesky_solve(vector[:, :, None], factor)[:, :, 0]
