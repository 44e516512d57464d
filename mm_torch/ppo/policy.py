"""The networks as one module: normaliser, actor and critic; and the policy that a collector runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from mm_torch.config.schema import NetConfig, Recipe
from mm_torch.maths.reflection import Reflection
from mm_torch.nets.heads import ActorCritic, Evaluation, log_prob
from mm_torch.nets.moe import MixtureOptions
from mm_torch.nets.normaliser import ObservationNormaliser
from mm_torch.nets.symmetry import SymmetricTower
from mm_torch.task.mirror import mirror_action, mirror_observation
from mm_torch.task.reflex import Reflexes
from sim_models.embodiment import Embodiment


class Agent(nn.Module):
    """Normaliser, actor and critic of one observation and action size.

    Args:
        observation_size: O.
        action_size: M.
        config: network settings.
        symmetry: mirror images of observation and action, where ``config.symmetric``.
        reflexes: gains that belong to the policy, if it has any; who lets it act says ``env.use_reflexes(agent.reflexes)``.
    """

    def __init__(
        self, observation_size: int, action_size: int, config: NetConfig,
        symmetry: tuple[Reflection, Reflection] | None = None, reflexes: Reflexes | None = None,
    ) -> None:
        super().__init__()
        moe = config.moe
        mixture = MixtureOptions(
            experts=moe.experts, layers=tuple(moe.layers), temperature=moe.temperature, balance_weight=moe.loss_weight
        )
        self.reflexes = reflexes
        self.normaliser = ObservationNormaliser(observation_size, clip=config.observation_clip)
        self.nets = ActorCritic(
            observation_size, action_size, kind=config.kind, hidden=config.hidden, init_std=config.init_std,  # type: ignore[arg-type]
            learnable_std=config.learnable_std, mixture=mixture if config.kind == "moe" else None,
            symmetry=symmetry,
        )

    @classmethod
    def of(cls, recipe: Recipe, body: Embodiment, layout: Sequence[tuple[str, int, int]], actions: int) -> Self:
        """Fresh networks of a recipe.

        Args:
            recipe: resolved recipe.
            body: its body.
            layout: name, first and last column (exclusive) of each observation term.
            actions: A.

        Raises:
            RecipeError: the networks are to be symmetric and an observation term has no mirror image.
        """
        symmetry = None
        if recipe.net.symmetric:
            symmetry = mirror_observation(body, layout), mirror_action(body, recipe.task.action.space)
        reflexes = Reflexes(body, recipe.task.action) if recipe.task.action.reflexes else None
        return cls(layout[-1][2], actions, recipe.net, symmetry, reflexes)

    def take_in(self, observation: Tensor) -> None:
        """Update the normaliser's statistics with raw observations (..., O), and with their mirror images if symmetric."""
        self.normaliser.update(observation)
        if isinstance(self.nets.critic, SymmetricTower):
            self.normaliser.update(self.nets.critic.mirrored(observation))

    def mean_action(self, observation: Tensor) -> Tensor:
        """Deterministic action (N, M) for raw observations (N, O)."""
        return self.nets.policy(self.normaliser(observation))[0]

    def value(self, observation: Tensor) -> Tensor:
        """State value (...,) for raw observations (..., O)."""
        return self.nets.value(self.normaliser(observation))

    def evaluate(self, observation: Tensor) -> Evaluation:
        """Everything a loss needs, for raw observations (B, O)."""
        return self.nets.evaluate(self.normaliser(observation))


class UpstreamAgent(Agent):
    """As the original: each forward pass first merges its batch into the statistics; only rollouts keep the merge."""

    def value(self, observation: Tensor) -> Tensor:
        """See ``Agent.value``."""
        return self.nets.value(self._transient(observation))

    def evaluate(self, observation: Tensor) -> Evaluation:
        """See ``Agent.evaluate``."""
        return self.nets.evaluate(self._transient(observation))

    def _transient(self, observation: Tensor) -> Tensor:
        buffers = tuple(self.normaliser.buffers())
        saved = [b.clone() for b in buffers]
        normalised = self.normaliser.upstream_forward(observation)
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)
        return normalised


class RolloutPolicy(TensorDictModuleBase):
    """Sample actions for a collector: reads ``observation``, writes ``action`` and ``log_prob`` (N,).

    Args:
        agent: networks, shared with the learner.
        upstream: update the normaliser in every step, as the original does.
    """

    in_keys = ["observation"]
    out_keys = ["action", "log_prob"]

    def __init__(self, agent: Agent, upstream: bool = False) -> None:
        super().__init__()
        self.agent, self.upstream = agent, upstream

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write a sampled action and its log density."""
        normaliser = self.agent.normaliser
        normalise = normaliser.upstream_forward if self.upstream else normaliser
        mean, log_std = self.agent.nets.policy(normalise(tensordict["observation"]))
        action = mean + log_std.exp() * torch.randn_like(mean)
        return tensordict.set("action", action).set("log_prob", log_prob(mean, log_std, action))
