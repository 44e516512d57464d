"""Policy and value: two separate towers and a state-independent log standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mm_torch.maths.reflection import Reflection
from mm_torch.nets.mlp import Activation, PlainTower, ResidualTower
from mm_torch.nets.moe import MixtureOptions, MixtureReport, MixtureTower, mixture_report
from mm_torch.nets.symmetry import SymmetricTower

TowerKind = Literal["plain", "residual", "moe"]

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Evaluation(NamedTuple):
    """Everything one loss evaluation needs from the networks.

    ==================  ========================================================  ======
    ``mean``            action mean                                               (B, A)
    ``log_std``         log standard deviation                                    (A,)
    ``value``           state value                                               (B,)
    ``auxiliary_loss``  sum of the towers' balance losses, 0 without mixtures     ()
    ``mixtures``        gate figures by tower ("actor", "critic"), may be empty   dict
    ==================  ========================================================  ======
    """

    mean: Tensor
    log_std: Tensor
    value: Tensor
    auxiliary_loss: Tensor
    mixtures: dict[str, MixtureReport]


def log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """Log density of unbounded actions under a diagonal Gaussian, summed over action entries.

    ``sum_a -((a - mean) / std)^2 / 2 - log std - log(2 pi) / 2``

    Args:
        mean: (..., A).
        log_std: (A,).
        action: (..., A), as sampled, before any clipping.

    Returns:
        (...,) nat.

    Raises:
        ValueError: ``action`` and ``mean`` differ in shape.
    """
    if mean.shape != action.shape:
        raise ValueError(f"action {tuple(action.shape)} and mean {tuple(mean.shape)} differ in shape")
    scaled = (action - mean) * torch.exp(-log_std)
    return (-0.5 * scaled.square() - log_std - HALF_LOG_TWO_PI).sum(-1)


def entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian, summed over the last axis: ``sum log std + (1 + log 2 pi) / 2``, nat."""
    return (log_std + 0.5 + HALF_LOG_TWO_PI).sum(-1)


def build_tower(
    kind: TowerKind,
    in_dim: int,
    hidden: Sequence[int],
    out_dim: int,
    *,
    activation: Activation,
    layer_norm: bool,
    gate_init: float,
    mixture: MixtureOptions | None,
) -> nn.Module:
    """One tower of the given kind.

    Raises:
        ValueError: The kind is unknown, there is no hidden layer, or ``mixture`` does not fit the kind.
    """
    if not hidden:
        raise ValueError("hidden is empty; give at least one layer width")
    if (kind == "moe") != (mixture is not None):
        raise ValueError(f"kind {kind!r} with mixture options {mixture}: give options for 'moe', and only for it")
    if kind == "plain":
        return PlainTower(in_dim, hidden, out_dim, activation=activation, layer_norm=layer_norm)
    if kind == "residual":
        return ResidualTower(in_dim, hidden, out_dim, activation=activation, layer_norm=layer_norm, gate_init=gate_init)
    if kind == "moe" and mixture is not None:
        return MixtureTower(in_dim, hidden, out_dim, options=mixture, activation=activation, layer_norm=layer_norm)
    raise ValueError(f"network kind {kind!r} is not known; choose plain, residual or moe")


class ActorCritic(nn.Module):
    """Gaussian policy and state value over normalised observations, without a shared trunk.

    Args:
        obs_dim: Observation length O.
        act_dim: Action length A.
        kind: Tower kind of both towers.
        hidden: Hidden widths of the actor.
        critic_hidden: Hidden widths of the critic; None means those of the actor.
        init_std: Initial standard deviation of every action entry.
        learnable_std: Whether ``log_std`` is trained.
        activation: Activation name.
        layer_norm: Whether layer norms follow the hidden layers.
        gate_init: Initial gate of residual blocks, before the sigmoid.
        mixture: Mixture settings, for kind "moe" only.
        symmetry: Mirror images of observation and action; both towers become symmetric. None: they are free.

    Source: MuscleMimic ``ActorCritic`` and ``SoftMoEActorCritic``. Here the mixture honours ``critic_hidden``.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        *,
        kind: TowerKind,
        hidden: Sequence[int],
        critic_hidden: Sequence[int] | None = None,
        init_std: float,
        learnable_std: bool = True,
        activation: Activation = "silu",
        layer_norm: bool = True,
        gate_init: float = -2.0,
        mixture: MixtureOptions | None = None,
        symmetry: tuple[Reflection, Reflection] | None = None,
    ) -> None:
        super().__init__()
        if symmetry is not None and mixture is not None:
            raise ValueError("symmetry with a mixture of experts: choose one of the two")
        if init_std <= 0.0:
            raise ValueError(f"init_std is {init_std}; give a positive standard deviation")
        style = {"activation": activation, "layer_norm": layer_norm, "gate_init": gate_init, "mixture": mixture}
        self.actor = build_tower(kind, obs_dim, hidden, act_dim, **style)
        self.critic = build_tower(kind, obs_dim, hidden if critic_hidden is None else critic_hidden, 1, **style)
        if symmetry is not None:
            seen, done = symmetry
            self.actor, self.critic = SymmetricTower(self.actor, seen, done), SymmetricTower(self.critic, seen, None)
        self.log_std = nn.Parameter(torch.full((act_dim,), math.log(init_std)), requires_grad=learnable_std)
        self.balance_weight = 0.0 if mixture is None else mixture.balance_weight

    def policy(self, obs_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Action mean (..., A) and log standard deviation (A,) for normalised observations (..., O)."""
        return self.actor(obs_norm), self.log_std

    def value(self, obs_norm: Tensor) -> Tensor:
        """State value (...,) for normalised observations (..., O)."""
        return self.critic(obs_norm).squeeze(-1)

    def log_prob(self, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        """Log density (...,) of actions (..., A); see ``log_prob`` of this module."""
        return log_prob(mean, log_std, action)

    def entropy(self, log_std: Tensor) -> Tensor:
        """Entropy () of the policy; see ``entropy`` of this module."""
        return entropy(log_std)

    def evaluate(self, obs_norm: Tensor) -> Evaluation:
        """Both towers once, with the balance loss of their mixtures.

        Args:
            obs_norm: Normalised observations, (B, O).

        Returns:
            The evaluation; ``auxiliary_loss`` is to be added to the total loss as it is.
        """
        outputs: dict[str, Tensor] = {}
        mixtures: dict[str, MixtureReport] = {}
        for name, tower in (("actor", self.actor), ("critic", self.critic)):
            if isinstance(tower, MixtureTower):
                outputs[name], gates = tower.forward_with_gates(obs_norm)
                mixtures[name] = mixture_report(gates, self.balance_weight)
            else:
                outputs[name] = tower(obs_norm)
        auxiliary = sum((report.balance_loss for report in mixtures.values()), obs_norm.new_zeros(()))
        return Evaluation(outputs["actor"], self.log_std, outputs["critic"].squeeze(-1), auxiliary, mixtures)
