from __future__ import annotations

import math

import pytest
import torch

from mm_torch.nets.mlp import PlainTower
from mm_torch.ppo.optim import build_optimiser, guarded_step, set_learning_rate
from mm_torch.ppo.schedule import kl_adaptive_rate, learning_rate


def test_linear_ends_at_zero_and_stays_there() -> None:
    assert [learning_rate("linear", 1.0, u, 4) for u in range(7)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]


def test_cosine_rises_falls_and_stays_at_its_floor() -> None:
    rates = [learning_rate("warmup_cosine", 1.0, u, 100, min_ratio=0.2) for u in range(150)]
    assert rates[0] == 0.0 and rates[10] == max(rates) == 1.0
    assert rates[100:] == pytest.approx([0.2] * 50)
    assert learning_rate("constant", 0.3, 10**9, 4) == 0.3
    assert learning_rate("warmup_cosine", 1.0, 0, 3) == 1.0  # too short for a warm-up


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="schedule 'step'"):
        learning_rate("step", 1.0, 0, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="total_updates is 0"):
        learning_rate("linear", 1.0, 0, 0)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.03, 1 / 1.5), (0.01, 1.0), (0.004, 1.5), (0.0, 1.0), (-0.1, 1.0), (math.nan, 1.0), (math.inf, 1 / 1.5)],
)
def test_rate_follows_the_divergence(kl: float, factor: float) -> None:
    assert kl_adaptive_rate(torch.tensor(1e-3), torch.tensor(kl), 0.01).item() == pytest.approx(1e-3 * factor)


def test_rate_stays_within_its_bounds() -> None:
    assert kl_adaptive_rate(torch.tensor(1e-5), torch.tensor(1.0), 0.01).item() == pytest.approx(1e-5)
    assert kl_adaptive_rate(torch.tensor(1e-2), torch.tensor(1e-4), 0.01).item() == pytest.approx(1e-2)


def step_length(lr: torch.Tensor) -> float:
    """Distance the parameters travel in one clipped Muon step at that rate."""
    torch.manual_seed(0)
    net = PlainTower(4, (8,), 3, activation="silu", layer_norm=True)
    optimiser = build_optimiser(net, kind="muon", lr=1.0)
    set_learning_rate(optimiser, lr)
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    net(torch.ones(2, 4)).sum().backward()
    guarded_step(optimiser, 1.0)
    return (torch.nn.utils.parameters_to_vector(net.parameters()) - before).norm().item()


def test_adapted_rate_changes_the_step_itself() -> None:
    lr = torch.tensor(1e-3)
    lowered = kl_adaptive_rate(lr, torch.tensor(0.5), 0.01)
    assert step_length(lowered) == pytest.approx(step_length(lr) / 1.5, rel=1e-3)
