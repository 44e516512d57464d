"""Laws that generalised advantage estimation must obey for any rollout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mm_torch.ppo.advantage import generalised_advantage


def rollout(seed: int, steps: int, envs: int) -> dict[str, Tensor]:
    """A random rollout in which about a third of the steps end an episode, half of those by failure."""
    generator = torch.Generator().manual_seed(seed)
    reward, value, following = torch.randn(3, steps, envs, generator=generator, dtype=torch.float64)
    done = torch.rand(steps, envs, generator=generator) < 0.3
    terminated = done & (torch.rand(steps, envs, generator=generator) < 0.5)
    return {"reward": reward, "value": value, "next_value": following, "terminated": terminated, "done": done}


def summed(data: dict[str, Tensor], gamma: float, lam: float) -> Tensor:
    """The definition: each advantage is the discounted sum of the residuals up to the end of its episode."""
    bootstrap = data["next_value"] * ~data["terminated"]
    delta = data["reward"] + gamma * bootstrap - data["value"]
    steps, envs = delta.shape
    total = torch.zeros_like(delta)
    for env in range(envs):
        for t in range(steps):
            factor = 1.0
            for k in range(t, steps):
                total[t, env] += factor * delta[k, env]
                if data["done"][k, env]:
                    break
                factor *= gamma * lam
    return total


rollouts = st.tuples(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 3))


@settings(max_examples=40, deadline=None)
@given(rollouts, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_equals_its_quadratic_sum(shape: tuple[int, int, int], gamma: float, lam: float) -> None:
    data = rollout(*shape)
    result = generalised_advantage(**data, gamma=gamma, lam=lam)
    torch.testing.assert_close(result.advantage, summed(data, gamma, lam))
    torch.testing.assert_close(result.target, result.advantage + data["value"])


@settings(max_examples=40, deadline=None)
@given(rollouts, st.integers(0, 11))
def test_ignores_what_follows_a_done(shape: tuple[int, int, int], cut: int) -> None:
    data = rollout(*shape)
    cut = min(cut, shape[1] - 1)
    data["done"][cut] = True
    before = generalised_advantage(**data, gamma=0.99, lam=0.95).advantage[: cut + 1]
    for name in ("reward", "value", "next_value"):
        data[name][cut + 1 :] = torch.nan
    after = generalised_advantage(**data, gamma=0.99, lam=0.95).advantage[: cut + 1]
    assert torch.equal(before, after)


@settings(max_examples=40, deadline=None)
@given(rollouts)
def test_ignores_the_value_behind_a_failure(shape: tuple[int, int, int]) -> None:
    data = rollout(*shape)
    before = generalised_advantage(**data, gamma=0.99, lam=0.95).advantage
    data["next_value"] = torch.where(data["terminated"], torch.inf, data["next_value"])
    assert torch.equal(before, generalised_advantage(**data, gamma=0.99, lam=0.95).advantage)


def endless(truncation_value: float, terminated: bool) -> Tensor:
    """Reward 1 for ever, V = 1 / (1 - 0.99) = 100, one clip end at step 19: the exact advantage is 0 everywhere."""
    ones = torch.ones(20, 1)
    ends = torch.zeros(20, 1, dtype=torch.bool)
    ends[-1] = True
    following = 100.0 * ones
    following[-1] = truncation_value
    return generalised_advantage(
        ones, 100.0 * ones, following, ends & terminated, ends, gamma=0.99, lam=0.95
    ).advantage.squeeze(-1)


def test_truncation_bootstraps_from_the_true_last_observation() -> None:
    torch.testing.assert_close(endless(100.0, terminated=False), torch.zeros(20), atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    ("value", "terminated", "at_end", "ten_earlier"), [(100.0, True, -99.0, -53.6), (50.0, False, -49.5, -26.8)]
)
def test_what_a_wrong_clip_end_costs(value: float, terminated: bool, at_end: float, ten_earlier: float) -> None:
    advantage = endless(value, terminated)
    assert advantage[-1].item() == pytest.approx(at_end, abs=0.05)
    assert advantage[-11].item() == pytest.approx(ten_earlier, abs=0.05)


def test_refuses_mixed_shapes() -> None:
    data = rollout(0, 4, 2)
    data["value"] = data["value"].unsqueeze(-1)
    with pytest.raises(ValueError, match="must be one"):
        generalised_advantage(**data, gamma=0.99, lam=0.95)
