"""The clipped objective of proximal policy optimisation as pure functions of one minibatch.

Source: Schulman et al. (2017), "Proximal policy optimization algorithms". Constants and conventions follow MuscleMimic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mm_torch.maths.ranks import pooled
from mm_torch.nets.normaliser import batch_moments

ADVANTAGE_EPSILON = 1e-8


class PpoLoss(NamedTuple):
    """One loss evaluation. Only ``total`` carries a gradient; every entry is a scalar tensor ().

    ======================  ================================================================
    ``total``               policy + value_weight value - entropy_weight entropy + auxiliary, or the value's part alone
    ``policy``              clipped surrogate, to be minimised
    ``value``               (clipped) value loss, before its weight
    ``entropy``             mean policy entropy, nat
    ``auxiliary``           what the networks add, e.g. the balance loss of mixtures
    ``kl``                  ``mean(log_prob_old - log_prob)``, may be negative
    ``ratio_mean``          mean probability ratio
    ``ratio_std``           its population standard deviation
    ``ratio_min``           its smallest value
    ``ratio_max``           its largest value
    ``clip_fraction``       share of samples whose ratio lies outside the clip range
    ======================  ================================================================
    """

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    auxiliary: Tensor
    kl: Tensor
    ratio_mean: Tensor
    ratio_std: Tensor
    ratio_min: Tensor
    ratio_max: Tensor
    clip_fraction: Tensor


def require_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors whose shapes differ, because ``[B]`` against ``[B, 1]`` silently broadcasts to ``[B, B]``.

    Raises:
        ValueError: Two shapes differ.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes differ and would broadcast: {listed}; squeeze or view them to one shape (B,)")


def normalise_advantage(advantage: Tensor) -> Tensor:
    """``(A - mean) / (std + 1e-8)`` with the population standard deviation, over the last axis and over all ranks.

    Args:
        advantage: (B,) or, minibatch by minibatch, (K, B).

    Returns:
        Same shape.
    """
    rows = advantage.reshape(-1, advantage.shape[-1]).T  # (B, K)
    count, mean, squares = pooled(batch_moments(rows, torch.ones_like(rows[:, 0], dtype=torch.bool)))
    std = (squares / count).sqrt().to(rows.dtype)
    return ((rows - mean.to(rows.dtype)) / (std + ADVANTAGE_EPSILON)).T.reshape(advantage.shape)


def probability_ratio(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """``exp(log_prob - old_log_prob)``, shapes (B,)."""
    require_same_shape(log_prob=log_prob, old_log_prob=old_log_prob)
    return torch.exp(log_prob - old_log_prob)


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """Sample mean of ``log_prob_old - log_prob``: unbiased for KL(old, new), can be negative (estimator k1)."""
    require_same_shape(log_prob=log_prob, old_log_prob=old_log_prob)
    return (old_log_prob - log_prob).mean()


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """``-mean(min(r A, clamp(r, 1 - clip, 1 + clip) A))`` for ratios and advantages (B,); equation 7 of the paper."""
    require_same_shape(ratio=ratio, advantage=advantage)
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()


def clipped_value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """``0.5 mean(max((V - R)^2, (V_old + clamp(V - V_old, -clip, clip) - R)^2))``; ``clip`` None keeps the first term.

    Args:
        value: Value now, (B,).
        old_value: Value at collection, (B,).
        target: Value target R, (B,).
        clip: Largest change of the value that still earns a gradient.

    Returns:
        Scalar loss ().
    """
    require_same_shape(value=value, old_value=old_value, target=target)
    squares = (value - target).square()
    if clip is not None:
        clipped = old_value + (value - old_value).clamp(-clip, clip)
        squares = torch.maximum(squares, (clipped - target).square())
    return 0.5 * squares.mean()


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """``1 - var(target - value) / var(target)``, over all entries; 1 is perfect, 0 no better than a constant."""
    require_same_shape(value=value, target=target)
    spread = target.var(correction=0)
    return 1.0 - (target - value).var(correction=0) / (spread + ADVANTAGE_EPSILON)


def ppo_loss(
    *,
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    value: Tensor,
    old_value: Tensor,
    target: Tensor,
    entropy: Tensor,
    auxiliary: Tensor | None = None,
    clip: float,
    value_clip: float | None,
    value_weight: float,
    entropy_weight: float,
    actor: bool = True,
) -> PpoLoss:
    """Total loss of one minibatch and its parts.

    Args:
        log_prob: Log density of the stored actions under the policy now, (B,).
        old_log_prob: The same at collection, (B,).
        advantage: Advantages, normalised by the caller where wanted, (B,).
        value: Value now, (B,).
        old_value: Value at collection, (B,).
        target: Value target, (B,).
        entropy: Policy entropy, any shape; its mean enters.
        auxiliary: Loss added as it is, (); None for none.
        clip: Half-width of the ratio's clip range.
        value_clip: Half-width of the value's clip range; None for no clipping.
        value_weight: Factor of the value loss.
        entropy_weight: Factor of the entropy bonus.
        actor: Whether the actor learns, too; if not, the total is the critic's part.

    Returns:
        The loss and its parts.

    Raises:
        ValueError: Two sample tensors differ in shape.
    """
    require_same_shape(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage, value=value, target=target)
    ratio = probability_ratio(log_prob, old_log_prob)
    policy = clipped_surrogate(ratio, advantage, clip)
    critic = clipped_value_loss(value, old_value, target, value_clip)
    bonus = entropy.mean()
    extra = torch.zeros_like(policy) if auxiliary is None else auxiliary
    total = value_weight * critic
    if actor:
        total = policy + total - entropy_weight * bonus + extra
    seen = ratio.detach()
    return PpoLoss(
        total=total,
        policy=policy.detach(),
        value=critic.detach(),
        entropy=bonus.detach(),
        auxiliary=extra.detach(),
        kl=approximate_kl(log_prob.detach(), old_log_prob),
        ratio_mean=seen.mean(),
        ratio_std=seen.std(correction=0),
        ratio_min=seen.min(),
        ratio_max=seen.max(),
        clip_fraction=((seen - 1.0).abs() > clip).to(seen.dtype).mean(),
    )
