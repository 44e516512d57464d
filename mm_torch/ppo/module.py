"""Proximal policy optimisation as a LightningModule with manual optimisation."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from mm_torch.config.schema import Recipe
from mm_torch.maths import ranks
from mm_torch.maths.replay import Replay
from mm_torch.nets.normaliser import RewardNormaliser
from mm_torch.ppo.advantage import Advantage, generalised_advantage
from mm_torch.ppo.curriculum import RewardCurriculum, TerminationCurriculum
from mm_torch.ppo.loss import PpoLoss, explained_variance, normalise_advantage, ppo_loss
from mm_torch.ppo.optim import (
    ClipReport,
    GradientError,
    build_optimiser,
    consecutive_skips,
    guarded_step,
    set_learning_rate,
    skipped_steps,
)
from mm_torch.ppo.policy import Agent, UpstreamAgent
from mm_torch.ppo.schedule import learning_rate
from mm_torch.task.env import MimicEnv

log = logging.getLogger(__name__)

DUMPED_ROWS = 4096
"""Rows of a minibatch that a dump holds at most."""
RANK_BUFFERS = ("agent.normaliser.rejected", "reward_normaliser.returns", "reward_normaliser.rejected")
"""Buffers that differ between ranks; all others are the same everywhere."""


class PpoModule(lightning.LightningModule):
    """The learner: one rollout in, one update out; ``training_step`` reads top to bottom.

    Observation statistics stay frozen from the rollout to the end of its update and take in the rollout afterwards.

    ============= ==========================================================
    agent         normaliser, actor, critic
    iteration     updates made so far, over all resumptions
    metrics       figures of the last iteration by name, see docs/metrics.md
    ============= ==========================================================

    Args:
        recipe: resolved recipe.
        env: the training environment; sampler and curricula act on it.
    """

    def __init__(self, recipe: Recipe, env: MimicEnv) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.set_float32_matmul_precision(recipe.ppo.matmul)
        self.recipe, self.config = recipe, recipe.ppo
        self.env = env
        kind = UpstreamAgent if self.config.upstream else Agent
        layout = [(s.name, s.start, s.end) for s in env.layout]
        self.agent = kind.of(recipe, env.physics.body, layout, env.action_spec.shape[-1])
        self.reward_normaliser = RewardNormaliser(
            recipe.num_envs, self.config.gamma, upstream=self.config.upstream
        )
        self.iteration = 0
        self._captures = env.device.type == "cuda" and ranks.world_size() == 1  # several ranks meet within a step
        self._steps = {
            actor: Replay(lambda learns=actor: self._step_work(learns), self._captures) for actor in (False, True)
        }
        self._batch: dict[str, Tensor] = {}
        self._skipped = 0  # optimiser steps left out one after the other up to now
        self._diverged = 0  # iterations one after the other whose KL divergence passed ppo.max_kl
        self.metrics: dict[str, float] = {}
        self.batch_size = recipe.num_envs * self.config.rollout_steps
        self.batch_control_steps = self.batch_size * recipe.task.action.hold_steps * ranks.world_size()
        self.total_iterations = max(1, -(-recipe.total_steps // self.batch_control_steps))
        curriculum = recipe.curriculum
        self.termination_curriculum = (
            TerminationCurriculum(initial=1.0, minimum=curriculum.termination_min, device=env.device)
            if curriculum.termination
            else None
        )
        weights = {name: recipe.task.reward[name].weight for name in curriculum.reward_terms}  # type: ignore[union-attr]
        self.reward_curriculum = (
            RewardCurriculum(weights, {n: w * curriculum.reward_max for n, w in weights.items()}, device=env.device)
            if curriculum.reward
            else None
        )
        self.to(env.device)
        env.use_reflexes(self.agent.reflexes)

    @property
    def control_steps(self) -> int:
        """Control steps that the updates so far were made from."""
        return self.iteration * self.batch_control_steps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """See Lightning."""
        optimiser = self.config.optimiser
        return build_optimiser(
            self.agent, kind=optimiser.kind, lr=optimiser.lr, weight_decay=optimiser.weight_decay,  # type: ignore[arg-type]
            ns_dtype=optimiser.ns_dtype,  # type: ignore[arg-type]
        )

    # -- one iteration ------------------------------------------------------------------------------------------------
    def training_step(self, rollout: TensorDict, batch_idx: int) -> None:
        """Learn from one rollout.

        Args:
            rollout: (N, T) with observation, action, log_prob and next (observation, reward, done, terminated).
            batch_idx: unused.

        Raises:
            GradientError: ``ppo.max_skipped_steps`` steps in a row had gradients that are not finite, or
                ``ppo.max_kl_iterations`` iterations in a row a KL divergence above ``ppo.max_kl``.
        """
        observation, action = rollout["observation"], rollout["action"]
        value, advantage = self._advantages(rollout)
        samples = {
            "observation": observation.flatten(0, 1),
            "action": action.flatten(0, 1),
            "log_prob": rollout["log_prob"].flatten(),
            "value": value.flatten(),
            "advantage": advantage.advantage.flatten(),
            "target": advantage.target.flatten(),
        }
        optimiser = self.optimizers()
        rate = self._learning_rate()
        set_learning_rate(optimiser, rate)  # type: ignore[arg-type]
        losses, clips = [], []
        for _ in range(self.config.epochs):
            order = torch.randperm(self.batch_size, device=observation.device).view(self.config.minibatches, -1)
            normalised = normalise_advantage(samples["advantage"][order])
            for rows, advantages in zip(order, normalised, strict=True):
                batch = {name: x[rows] for name, x in samples.items()} | {"advantage": advantages}
                loss, clip = self._update(batch)
                losses.append(loss), clips.append(clip)
        if not self.config.upstream and not self.recipe.distillation.labels:  # what was distilled rests on its statistics
            self.agent.take_in(observation)
        self.env.statistics.pool()
        self._adapt()
        self.iteration += 1
        self.metrics = self._figures(losses, clips, samples, rate)
        self._stop_if_skipping(losses, clips, batch)
        self._stop_if_diverging(losses, clips, batch)
        self.env.statistics.clear()
        self.env.physics.check()
        self.env.dump_failures()

    @torch.no_grad()
    def _advantages(self, rollout: TensorDict) -> tuple[Tensor, Advantage]:
        """Values (N, T) and advantages (N, T); truncations bootstrap from the true last observation."""
        following = rollout["next"]
        reward = following["reward"].squeeze(-1).T
        done, terminated = following["done"].squeeze(-1).T, following["terminated"].squeeze(-1).T
        if self.config.normalise_reward:
            for reward_t, done_t in zip(reward, done, strict=True):
                self.reward_normaliser.update(reward_t, done_t)
            reward = self.reward_normaliser(reward)
        value = self.agent.value(rollout["observation"].flatten(0, 1)).view(rollout.shape).T
        if self.config.upstream:  # the next row's value, which after a truncation is that of the reset state
            last = self.agent.value(self.env.current_observation)
            next_value = torch.cat([value[1:], last[None]])
        else:
            next_value = self.agent.value(following["observation"].flatten(0, 1)).view(rollout.shape).T
        result = generalised_advantage(reward, value, next_value, terminated, done, self.config.gamma, self.config.lam)
        return value.T, Advantage(*(x.T for x in result))

    def _update(self, batch: dict[str, Tensor]) -> tuple[PpoLoss, ClipReport]:
        """One optimiser step; on one GPU its kernels are replayed as a graph."""
        if self._captures:
            for name, x in batch.items():
                self._batch.setdefault(name, torch.empty_like(x)).copy_(x)
        else:
            self._batch = batch
        *loss, norm, finite = self._steps[self.iteration >= self.config.value_warmup]().clone().unbind()
        return PpoLoss(*loss), ClipReport(norm, finite > 0)

    def _step_work(self, actor: bool) -> Tensor:
        """Loss of the minibatch, its gradient and the optimiser's step; terms of the loss, norm and finite flag (F,)."""
        loss, optimiser = self._loss(self._batch, actor), self.optimizers()
        optimiser.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        self.manual_backward(loss.total)
        clip = guarded_step(optimiser, self.config.max_grad_norm)  # type: ignore[arg-type]
        return torch.stack([x.detach().float() for x in (*loss, *clip)])

    def _loss(self, batch: dict[str, Tensor], actor: bool) -> PpoLoss:
        nets, config = self.agent.nets, self.config
        out = self.agent.evaluate(batch["observation"])
        return ppo_loss(
            log_prob=nets.log_prob(out.mean, out.log_std, batch["action"]), old_log_prob=batch["log_prob"],
            advantage=batch["advantage"], value=out.value, old_value=batch["value"],
            target=batch["target"], entropy=nets.entropy(out.log_std), auxiliary=out.auxiliary_loss,
            clip=config.clip, value_clip=config.value_clip, value_weight=config.value_weight,
            entropy_weight=config.entropy_weight, actor=actor,
        )

    def _learning_rate(self) -> float:
        optimiser = self.config.optimiser
        return learning_rate(
            optimiser.schedule, optimiser.lr, self.iteration, self.total_iterations,  # type: ignore[arg-type]
            warmup_updates=int(self.total_iterations * optimiser.warmup), min_ratio=optimiser.min_ratio,
        )

    def _adapt(self) -> None:
        """Let sampler and curricula see the episodes of this iteration."""
        statistics = self.env.statistics
        if self.recipe.sampling.adaptive:
            self.env.sampler.update(statistics.clip_done, statistics.clip_early)
        early, done = statistics.clip_early.sum(), statistics.clip_done.sum()
        if self.termination_curriculum is not None:
            self.termination_curriculum.update(early, done)
            self.env.threshold_scale.copy_(self.termination_curriculum.threshold)
        if self.reward_curriculum is not None:
            self.reward_curriculum.update(early, done)
            for name in self.reward_curriculum.names:
                self.env.reward_weights[name].copy_(self.reward_curriculum.weight(name))

    def _figures(
        self, losses: list[PpoLoss], clips: list[ClipReport], samples: dict[str, Tensor], rate: float
    ) -> dict[str, float]:
        means = {name: torch.stack([getattr(loss, name) for loss in losses]).mean() for name in PpoLoss._fields}
        kl = ranks.sum_over_ranks(torch.stack([loss.kl.double() for loss in losses])) / ranks.world_size()
        averaged = {
            "kl": kl.mean(),
            "kl_max": kl.max(),
            "policy_std": self.agent.nets.log_std.exp().mean(),
            "policy_loss": means["policy"],
            "value_loss": means["value"],
            "entropy": means["entropy"],
            "clip_fraction": means["clip_fraction"],
            "explained_variance": explained_variance(samples["value"], samples["target"]),
            "gradient_norm": torch.stack([clip.norm for clip in clips]).mean(),
            "skipped_steps": skipped_steps(self.optimizers()),  # type: ignore[arg-type]
            "reward_scale": self.reward_normaliser.var.sqrt().squeeze(),
            "action_saturation": (samples["action"].abs() > 1.0).float().mean(),
            "threshold_scale": self.env.threshold_scale,
        }
        largest = {"ratio_max": torch.stack([loss.ratio_max for loss in losses]).max()}
        summed = {"rejected_observations": self.agent.normaliser.rejected}
        values = torch.cat([
            ranks.sum_over_ranks(_column(averaged)) / ranks.world_size(), ranks.largest_over_ranks(_column(largest)),
            ranks.sum_over_ranks(_column(summed)),
        ]).tolist()
        names = [*averaged, *largest, *summed]
        return self.env.statistics.read() | dict(zip(names, values, strict=True)) | {"learning_rate": rate}

    def _stop_if_skipping(self, losses: list[PpoLoss], clips: list[ClipReport], batch: dict[str, Tensor]) -> None:
        """Give up once too many steps in a row were left out."""
        finite = torch.stack([clip.finite for clip in clips]).tolist()
        longest, self._skipped = consecutive_skips(finite, self._skipped)
        if longest < self.config.max_skipped_steps:
            return
        odd = [n for n in PpoLoss._fields if not all(bool(getattr(loss, n).isfinite()) for loss in losses)]
        raise GradientError(
            f"{longest} optimiser steps in a row had gradients that are not finite (ppo.max_skipped_steps="
            f"{self.config.max_skipped_steps}, iteration {self.iteration}; loss terms not finite: {', '.join(odd) or 'none'})"
            f"{self._dump('failed_gradients', losses, clips, batch)}; none of them changed a weight: go on with resume= and "
            "a smaller ppo.optimiser.lr or other loss weights"
        )

    def _stop_if_diverging(self, losses: list[PpoLoss], clips: list[ClipReport], batch: dict[str, Tensor]) -> None:
        """Sound the alarm where the policy leaves the one that collected, and give up where it keeps doing so."""
        limit, patience, kl = self.config.max_kl, self.config.max_kl_iterations, self.metrics["kl_max"]
        if limit is None or kl <= limit:  # false where it is not a number
            self._diverged = 0
            return
        self._diverged += 1
        alarm = f"KL divergence {kl:.3g} above ppo.max_kl={limit:g} in iteration {self.iteration}"
        if patience and self._diverged >= patience:
            raise GradientError(
                f"{alarm}, for ppo.max_kl_iterations={patience} in a row{self._dump('divergence', losses, clips, batch)}; "
                "go on with resume= and a smaller ppo.optimiser.lr, ppo.epochs=1 or more ppo.minibatches"
            )
        if self._diverged == 1 and ranks.is_first():
            log.warning("%s; if it stays so, lower ppo.optimiser.lr or ppo.epochs", alarm)

    def _dump(self, name: str, losses: list[PpoLoss], clips: list[ClipReport], batch: dict[str, Tensor]) -> str:
        """Loss terms and norms of the iteration's minibatches, weights, and rows of the last minibatch as npz; of each rank.

        Returns:
            Where it is, for a message; nothing for a trainer without a run directory.
        """
        if self.trainer.logger is None or self.trainer.logger.save_dir is None:
            return ""
        terms = {n: torch.stack([getattr(loss, n).detach() for loss in losses]) for n in PpoLoss._fields}
        terms["norm"] = torch.stack([clip.norm for clip in clips])
        folder = Path(self.trainer.logger.save_dir) / name
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.iteration:06}" + (f"-rank{ranks.rank()}" if ranks.world_size() > 1 else "")
        path, temporary = folder / f"{stem}.npz", folder / f".{stem}.tmp"
        weights = {n: x for n, x in self.agent.state_dict().items() if isinstance(x, Tensor)}
        groups = {"loss": terms, "weights": weights, "minibatch": {n: x[:DUMPED_ROWS] for n, x in batch.items()}}
        arrays = {f"{group}/{n}": x.detach().cpu().numpy() for group, xs in groups.items() for n, x in xs.items()}
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
        return f"; dump in {path}"

    # -- checkpoint ---------------------------------------------------------------------------------------------------
    def curriculum_state(self) -> dict[str, dict[str, Tensor]]:
        """State of the curricula that are on."""
        both = {"termination": self.termination_curriculum, "reward": self.reward_curriculum}
        return {name: curriculum.state_dict() for name, curriculum in both.items() if curriculum is not None}

    def load_curriculum_state(self, state: dict[str, Any]) -> None:
        """Restore ``curriculum_state``."""
        for name, curriculum in (("termination", self.termination_curriculum), ("reward", self.reward_curriculum)):
            if curriculum is not None and name in state:
                curriculum.load_state_dict(state[name])

    def rank_state(self) -> dict[str, Any]:
        """What each rank has for its own: worlds, generators, returns and counts of its worlds."""
        generators = {"cpu": torch.get_rng_state()}
        if self.env.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.env.device)
        buffers = dict(self.named_buffers())
        return {
            "simulation": self.env.simulation_state(), "rng": generators,
            "buffers": {name: buffers[name].clone() for name in RANK_BUFFERS},
        }

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Restore ``rank_state`` but for torch's generators, which building a collector would disturb."""
        self.env.load_simulation_state(state["simulation"])
        buffers = dict(self.named_buffers())
        for name, value in state.get("buffers", {}).items():
            buffers[name].copy_(value)


def _column(figures: dict[str, Tensor]) -> Tensor:
    return torch.stack([figure.detach().double() for figure in figures.values()])
