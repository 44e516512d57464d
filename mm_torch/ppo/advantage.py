"""Generalised advantage estimation with exact clip ends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Advantage(NamedTuple):
    """Advantages and value targets of a rollout.

    ==============  ===================================  ======
    ``advantage``   A, not normalised                    (T, N)
    ``target``      A + V, what the critic regresses to  (T, N)
    ==============  ===================================  ======
    """

    advantage: Tensor
    target: Tensor


def generalised_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    lam: float,
) -> Advantage:
    """Advantages of a time-major rollout in which episodes may end at any step.

    ``delta_t = r_t + gamma (1 - terminated_t) V'_t - V_t``; ``A_t = delta_t + gamma lam (1 - done_t) A_{t+1}``.
    ``V'_t`` is the value of the true next observation, so an episode that was only cut off (the clip ended) bootstraps
    from its own last observation and not from the state it was reset to. Values behind a cut are ignored even where
    they are not finite.

    Args:
        reward: Reward of step t, (T, N).
        value: Value of the observation before step t, (T, N).
        next_value: Value of the observation after step t and before any reset, (T, N).
        terminated: The episode failed at step t, (T, N) bool; cuts the bootstrap.
        done: The episode ended at step t for any reason, (T, N) bool; cuts the trace.
        gamma: Discount per control step.
        lam: Trace decay.

    Returns:
        Advantage and value target, each (T, N), without gradient.

    Raises:
        ValueError: The inputs are not all of one (T, N) shape.

    Source: Schulman et al. (2016), equation 16. The original bootstraps a truncation from the reset state; its numbers
        come out for ``next_value[t] = value[t + 1]``.
    """
    shapes = {tuple(x.shape) for x in (reward, value, next_value, terminated, done)}
    if len(shapes) != 1 or reward.dim() != 2:
        raise ValueError(f"advantage inputs have shapes {sorted(shapes)}; all five must be one (T, N)")
    with torch.no_grad():
        zero = torch.zeros_like(reward)
        delta = reward + gamma * torch.where(terminated, zero, next_value) - value
        advantage = torch.empty_like(delta)
        trace = zero[0]
        for t in range(reward.shape[0] - 1, -1, -1):
            trace = delta[t] + gamma * lam * torch.where(done[t], zero[0], trace)
            advantage[t] = trace
        return Advantage(advantage, advantage + value)
