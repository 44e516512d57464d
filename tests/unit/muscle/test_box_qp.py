from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mm_torch.muscle.box_qp import Coupled, solve_box_least_squares


def _problems(batch: int, rows: int, unknowns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    matrix = 3.0 * torch.randn(batch, rows, unknowns, generator=generator, dtype=torch.float64)
    target = 8.0 * torch.randn(batch, rows, generator=generator, dtype=torch.float64)
    return matrix, target, torch.full((batch, unknowns), 0.01, dtype=torch.float64)


def _brute_force(matrix: np.ndarray, target: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Best of all choices of unknowns held at 0, held at 1 and free, among the feasible ones."""
    hessian, linear = matrix.T @ matrix + np.diag(ridge), matrix.T @ target
    best, least = np.zeros(len(ridge)), np.inf
    for choice in itertools.product((0, 1, None), repeat=len(ridge)):
        x = np.array([0.0 if c is None else float(c) for c in choice])
        free = np.array([c is None for c in choice])
        x[free] = np.linalg.solve(hessian[np.ix_(free, free)], (linear - hessian @ x)[free])
        value = 0.5 * x @ hessian @ x - linear @ x
        if (x >= 0).all() and (x <= 1).all() and value < least:
            best, least = x, value
    return best


def test_equals_brute_force_over_active_sets() -> None:
    matrix, target, ridge = _problems(8, 2, 5)
    x = solve_box_least_squares(matrix, target, ridge, tolerance=1e-11)
    expected = np.stack([_brute_force(*(a.numpy() for a in p)) for p in zip(matrix, target, ridge, strict=True)])
    np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=1e-5)
    assert (expected == 0).any() and (expected == 1).any() and ((expected > 0) & (expected < 1)).any()


def test_optimality_conditions_hold_for_many_unknowns() -> None:
    matrix, target, ridge = _problems(16, 12, 80, seed=1)
    x = solve_box_least_squares(matrix, target, ridge, tolerance=1e-10)
    assert bool(((x > 0) & (x < 1)).all())
    gradient = torch.einsum("brn,br->bn", matrix, torch.einsum("brn,bn->br", matrix, x) - target) + ridge * x
    inside = (x > 1e-3) & (x < 1 - 1e-3)
    assert gradient[inside].abs().max() < 1e-4
    assert gradient[x <= 1e-3].min() > -1e-4 and gradient[x >= 1 - 1e-3].max() < 1e-4
    assert bool((x <= 1e-3).any())


def test_a_problem_does_not_depend_on_its_batch() -> None:
    matrix, target, ridge = _problems(6, 4, 20, seed=2)
    together = solve_box_least_squares(matrix, target, ridge)
    alone = solve_box_least_squares(matrix[3:4], target[3:4], ridge[3:4])
    torch.testing.assert_close(together[3:4], alone, rtol=0, atol=1e-4)


def test_too_few_iterations_are_an_error() -> None:
    with pytest.raises(ArithmeticError, match="after 2 iterations"):
        solve_box_least_squares(*_problems(2, 3, 6), max_iterations=2)


def test_floor_forces_do_not_make_the_iterates_cycle() -> None:
    """Friction pyramids with charges over four decades, of which one in thousands of draws once went round in circles."""
    random = torch.Generator().manual_seed(10)
    batch, rows, muscles, points = 8, 10, 30, 6
    muscle = 20.0 * torch.randn(batch, rows, muscles, generator=random, dtype=torch.float64)
    muscle[:, :3] = 0.0
    jacobian = 150.0 * torch.randn(batch, rows, points, 3, generator=random, dtype=torch.float64)
    x, y, z = (jacobian[..., axis] for axis in range(3))
    matrix = torch.cat([muscle, z + 0.8 * x, z - 0.8 * x, z + 0.8 * y, z - 0.8 * y], dim=2)
    target = 100.0 * torch.randn(batch, rows, generator=random, dtype=torch.float64)
    charge = 0.1 * torch.exp(10.0 * torch.rand(batch, points, generator=random, dtype=torch.float64))
    ridge = torch.cat([torch.full((batch, muscles), 0.1, dtype=torch.float64), charge.repeat(1, 4)], dim=1)
    solution = solve_box_least_squares(matrix, target, ridge, tolerance=1e-7)
    assert ((solution > 0.0) & (solution < 1.0)).all()


def _coupled(batch: int, dofs: int, muscles: int, rows: int) -> tuple[Coupled, Tensor]:
    """A structured A, and the same without structure."""
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=random, dtype=torch.float64)

    a = Coupled(draw(dofs, muscles + rows), draw(dofs).abs() + 0.2, draw(rows, dofs), draw(rows), draw(rows).clamp_min(0.0))
    top = torch.cat([a.response * a.weight[:, :, None], a.response.new_zeros(batch, dofs, rows)], dim=2)
    below = torch.bmm(a.couple, a.response)
    below[:, :, muscles:] += torch.diag_embed(a.own)
    return a, torch.cat([top, torch.cat([below, -torch.diag_embed(a.slack)], dim=2)], dim=1)


@pytest.mark.parametrize("rows", [0, 6])
def test_structure_changes_the_arithmetic_and_not_the_solution(rows: int) -> None:
    structured, dense = _coupled(5, 4, 20, rows)
    target = 5.0 * torch.randn(5, 4 + rows, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    ridge = torch.full((5, dense.shape[2]), 0.05, dtype=torch.float64)
    found, expected = (solve_box_least_squares(a, target, ridge, ridge - 0.3, tolerance=1e-9) for a in (structured, dense))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(structured.times(found), torch.bmm(dense, found[:, :, None])[:, :, 0])
    torch.testing.assert_close(structured.back(target), torch.bmm(dense.mT, target[:, :, None])[:, :, 0])
