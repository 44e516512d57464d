"""Learning-rate schedules over updates, and a rate that follows the policy's divergence."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["constant", "linear", "warmup_cosine"]

WARMUP_FRACTION = 0.1


def learning_rate(
    schedule: Schedule,
    lr: float,
    update: int,
    total_updates: int,
    *,
    warmup_updates: int | None = None,
    min_ratio: float = 0.1,
) -> float:
    """Learning rate of one update (one rollout), never below zero.

    ``constant``: ``lr``. ``linear``: ``lr max(0, 1 - u / U)``. ``warmup_cosine``: ``lr u / W`` for ``u < W``, then a
    half cosine from ``lr`` to ``min_ratio lr`` at ``U``, where it stays.

    Args:
        schedule: Name of the schedule.
        lr: Peak learning rate.
        update: Update index u, from 0.
        total_updates: Updates U of the whole run.
        warmup_updates: Updates W of linear warm-up; None means a tenth of the run.
        min_ratio: Final rate as a fraction of the peak.

    Returns:
        The learning rate.

    Raises:
        ValueError: The schedule is unknown or ``total_updates`` is not positive.

    Source: Loshchilov and Hutter (2017) for the cosine. The original's linear schedule turns negative beyond U.
    """
    if total_updates <= 0:
        raise ValueError(f"total_updates is {total_updates}; a schedule needs at least one update")
    if schedule == "constant":
        return lr
    if schedule == "linear":
        return lr * max(0.0, 1.0 - update / total_updates)
    if schedule == "warmup_cosine":
        warmup = int(total_updates * WARMUP_FRACTION) if warmup_updates is None else warmup_updates
        if update < warmup:
            return lr * update / warmup
        progress = min(1.0, (update - warmup) / max(1, total_updates - warmup))
        return lr * (min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress)))
    raise ValueError(f"schedule {schedule!r} is not known; choose constant, linear or warmup_cosine")


def kl_adaptive_rate(
    lr: Tensor,
    kl: Tensor,
    target_kl: float,
    *,
    factor: float = 1.5,
    minimum: float = 1e-5,
    maximum: float = 1e-2,
) -> Tensor:
    """Next learning rate: divided by ``factor`` above twice the target, multiplied below half of it.

    The rate itself changes. (Scaling gradients instead, as the original does, has no effect behind Muon and Adam,
    which are invariant to the gradient's scale.) Nothing is read back from the device.

    Args:
        lr: Learning rate now, ().
        kl: Divergence measured in the last update, (); not finite or not positive leaves or lowers the rate.
        target_kl: Wanted divergence.
        factor: Step of the adaptation.
        minimum: Lower bound of the rate.
        maximum: Upper bound of the rate.

    Returns:
        New learning rate, ().

    Source: Schulman et al. (2017), section 4, with the constants of RSL-RL and MuscleMimic.
    """
    slower = kl > 2.0 * target_kl
    faster = (kl > 0.0) & (kl < 0.5 * target_kl)
    adapted = torch.where(slower, lr / factor, torch.where(faster, lr * factor, lr))
    return adapted.clamp(minimum, maximum)
