from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mm_torch.ppo.loss import (
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    normalise_advantage,
    ppo_loss,
)


def arguments(batch: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("log_prob", "old_log_prob", "advantage", "value", "old_value", "target")
    return {name: torch.randn(batch, generator=generator) for name in names}


def loss_of(data: dict[str, Tensor], **more: Tensor) -> Tensor:
    return ppo_loss(
        **data, entropy=torch.tensor(2.0), clip=0.2, value_clip=0.2, value_weight=0.5, entropy_weight=0.1, **more
    )


def test_a_column_against_a_row_is_refused() -> None:
    for name in arguments():
        data = arguments()
        data[name] = data[name].unsqueeze(-1)
        with pytest.raises(ValueError, match=rf"{name} \(8, 1\).*squeeze or view"):
            loss_of(data)


def test_total_is_the_weighted_sum_of_its_parts() -> None:
    loss = loss_of(arguments(), auxiliary=torch.tensor(0.25))
    expected = loss.policy + 0.5 * loss.value - 0.1 * loss.entropy + 0.25
    torch.testing.assert_close(loss.total, expected)
    assert not any(part.requires_grad for part in loss[1:])


def test_gains_beyond_the_range_earn_no_gradient() -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5], requires_grad=True)
    clipped_surrogate(ratio, torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2).backward()
    assert ratio.grad.tolist() == [0.0, -0.25, 0.25, 0.0]


def test_value_clip_takes_the_larger_error() -> None:
    value, old, target = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0])
    assert clipped_value_loss(value, old, target, None).item() == 0.0
    assert clipped_value_loss(value, old, target, 0.2).item() == pytest.approx(0.5 * 0.8**2)


def test_advantages_come_out_with_zero_mean_and_unit_deviation() -> None:
    a = normalise_advantage(torch.randn(64) * 3.0 + 5.0)
    assert a.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert a.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert normalise_advantage(torch.ones(4)).tolist() == [0.0] * 4


def test_explained_variance() -> None:
    target = torch.randn(100)
    assert explained_variance(target, target).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros(100), target).item() == pytest.approx(0.0, abs=1e-5)
