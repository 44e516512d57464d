from __future__ import annotations

import pytest
import torch

from mm_torch.nets.normaliser import BATCH_VARIANCE_FLOOR, ObservationNormaliser, RewardNormaliser


def test_statistics_of_batches_equal_those_of_all_samples() -> None:
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 5.0 + 1000.0
    normaliser = ObservationNormaliser(3, clip=None)
    for part in x.split([7, 1, 300, 192]):
        normaliser.update(part)
    torch.testing.assert_close(normaliser.mean, x.double().mean(0), rtol=1e-7, atol=0.0)
    expected = x.double().var(0, correction=0) + BATCH_VARIANCE_FLOOR
    torch.testing.assert_close(normaliser.var, expected, rtol=1e-3, atol=0.0)  # the first mean moved by 1e3 from 0
    assert normaliser.count.item() == pytest.approx(500.0)


def test_forward_reads_and_update_writes() -> None:
    normaliser = ObservationNormaliser(2, clip=None)
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    normaliser(x)
    assert normaliser.count.item() == pytest.approx(1e-6)
    normaliser.update(x)
    torch.testing.assert_close(normaliser(x), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), rtol=1e-4, atol=1e-4)


def test_non_finite_rows_are_left_out_and_counted() -> None:
    clean, dirty = ObservationNormaliser(2, clip=None), ObservationNormaliser(2, clip=None)
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    clean.update(x)
    dirty.update(torch.cat([x, torch.tensor([[torch.nan, 0.0], [0.0, torch.inf]])]))
    for name in ("mean", "var", "count"):
        assert torch.equal(getattr(clean, name), getattr(dirty, name))
    assert dirty.rejected.item() == 2
    dirty.update(torch.full((4, 2), torch.nan))
    assert torch.equal(clean.mean, dirty.mean)
    torch.testing.assert_close(clean.var, dirty.var)
    assert dirty.rejected.item() == 6


def test_clip_bounds_the_output() -> None:
    normaliser = ObservationNormaliser(1, clip=5.0)
    normaliser.update(torch.zeros(8, 1))
    assert normaliser(torch.tensor([[1.0], [-1.0]])).tolist() == [[5.0], [-5.0]]
    with pytest.raises(ValueError, match=r"clip is 0\.0"):
        ObservationNormaliser(1, clip=0.0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("clip", [None, 3.0])
def test_scripted_forward_equals_eager(clip: float | None) -> None:
    normaliser = ObservationNormaliser(4, clip=clip)
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1)) * 4.0
    normaliser.update(x[:8])
    scripted = torch.jit.script(normaliser)
    torch.testing.assert_close(scripted(x), normaliser(x), rtol=0.0, atol=0.0)


def test_state_survives_a_round_trip_in_double_precision() -> None:
    source, target = ObservationNormaliser(2, clip=None), ObservationNormaliser(2, clip=None)
    source.update(torch.randn(64, 2))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source.var, target.var) and target.var.dtype is torch.float64


def test_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="3 entries, the normaliser 2"):
        ObservationNormaliser(2, clip=None).update(torch.zeros(5, 3))


def discounted(upstream: bool) -> torch.Tensor:
    normaliser = RewardNormaliser(1, 0.5, upstream=upstream)
    for reward, done in ((1.0, False), (4.0, True), (1.0, False)):
        normaliser.update(torch.tensor([reward]), torch.tensor([done]))
    return normaliser.returns


def test_terminal_reward_does_not_leak_into_the_next_episode() -> None:
    assert discounted(upstream=False).item() == 1.0
    assert discounted(upstream=True).item() == 3.0  # 0.5 * 4 + 1: the last reward of the finished episode is in it


def test_reward_scale_is_the_deviation_of_the_return() -> None:
    normaliser = RewardNormaliser(2, 0.9)
    generator = torch.Generator().manual_seed(2)
    history, running = [], torch.zeros(2, dtype=torch.float64)
    for t in range(200):
        reward = torch.randn(2, generator=generator)
        done = torch.tensor([t % 7 == 6, t % 11 == 10])
        normaliser.update(reward, done)
        running = 0.9 * running + reward
        history.append(running)
        running = torch.where(done, 0.0, running)
    expected = torch.stack(history).std(correction=0)
    torch.testing.assert_close(normaliser(torch.ones(1))[0].double(), 1.0 / expected, rtol=1e-4, atol=0.0)


def test_masked_and_non_finite_rewards_stay_out() -> None:
    clean, dirty = RewardNormaliser(3, 0.9), RewardNormaliser(3, 0.9)
    running = torch.zeros(3, dtype=torch.bool)
    mask = torch.tensor([True, False, True])
    clean.update(torch.tensor([1.0, 0.0, 0.0]), running, torch.tensor([True, False, False]))
    dirty.update(torch.tensor([1.0, torch.nan, torch.nan]), running, mask)
    for name in ("mean", "var", "count", "returns"):
        assert torch.equal(getattr(clean, name), getattr(dirty, name))
    assert dirty.rejected.item() == 1
