"""An evolution strategy on the gains of the reflexes: antithetic pairs, one world a candidate."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mm_torch.config.schema import EvolutionConfig
from mm_torch.motion.sampling import draw_frames
from mm_torch.ppo.policy import Agent
from mm_torch.task.env import MimicEnv
from mm_torch.task.reflex import Reflexes

LARGEST = 0.7  # of the log ratio of a pair's returns that counts
MOMENTUM, DECAY = 0.8, 0.004
AVERAGE = 0.85  # what the averaged gains keep in a generation
STATE = ("gains", "averaged", "velocity")


class SearchError(ValueError):
    """A saved search cannot be used; the message names the file and the remedy."""


class Generation(NamedTuple):
    """What one generation's candidates did.

    =================== ======================================
    generation          its number, from 1
    control_steps       of the search so far
    episode_length      mean, control steps
    episode_return      mean
    relative_site_error mean over its control steps, m
    contrast            mean absolute log ratio of the pairs
    =================== ======================================
    """

    generation: int
    control_steps: int
    episode_length: float
    episode_return: float
    relative_site_error: float
    contrast: float


class Search:
    """Improve the reflexes' gains by what episodes with slightly other gains earn.

    In each generation half of the worlds get the gains plus noise, the others the same noise subtracted; the two of a pair
    follow the same clip from the same frame. The gains follow the noise weighted by the log ratio of the pairs' returns. The
    result is their running average. Generations depend on seed and number alone, so that an interrupted search goes on as if
    it had not been.

    Args:
        agent: its policy acts, its reflexes are improved.
        env: environment with an even number of worlds; its running episodes end.
        config: settings.
        seed: of noise, clips and frames.

    Source: Salimans et al. (2017), Evolution strategies as a scalable alternative to reinforcement learning; pairs: Mania,
        Guy & Recht (2018), Simple random search of static linear policies.
    """

    def __init__(self, agent: Agent, env: MimicEnv, config: EvolutionConfig, seed: int) -> None:
        assert agent.reflexes is not None
        self.agent, self.env, self.config, self.seed = agent, env, config, seed
        self.gains = agent.reflexes.vector()
        self.averaged, self.velocity = self.gains.clone(), torch.zeros_like(self.gains)
        self.generation = self.control_steps = 0
        self._candidates = Reflexes(env.physics.body, env.task.action).to(env.device)

    def run(self, report: Callable[[Generation], None], stop: Callable[[], bool]) -> None:
        """Generation by generation, until the control steps are used up or ``stop`` says so; sets the agent's reflexes."""
        self.env.use_reflexes(self._candidates)
        while self.control_steps < self.config.steps and not stop():
            report(self._improve())
            self.agent.reflexes.set_vector(self.averaged)  # type: ignore[union-attr]
        self.env.use_reflexes(self.agent.reflexes)

    @torch.no_grad()
    def _improve(self) -> Generation:
        config, pairs = self.config, self.env.batch_size[0] // 2
        generator = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + self.generation)
        noise = torch.randn(pairs, len(self.gains), generator=generator).to(self.gains)
        self._candidates.set_vector(self.gains + config.sigma * torch.cat([noise, -noise]))
        returns, lengths = self._episodes(*(x.repeat(2) for x in self._starts(pairs, generator)))
        score = returns.clamp_min(1.0).log()
        contrast = (score[:pairs] - score[pairs:]).clamp(-LARGEST, LARGEST)
        slope = (contrast[:, None] * noise).mean(dim=0) / contrast.square().mean().sqrt().clamp_min(1e-6)
        share = min(1.0, self.control_steps / config.steps)
        self.velocity = MOMENTUM * self.velocity + slope
        self.gains = (1.0 - DECAY) * self.gains + (config.lr + (config.last_lr - config.lr) * share) * self.velocity
        self.averaged = AVERAGE * self.averaged + (1.0 - AVERAGE) * self.gains
        self.generation += 1
        self.control_steps += int(lengths.sum())
        error = self.env.statistics.read().get("relative_site_error", float("nan"))
        self.env.statistics.clear()
        return Generation(self.generation, self.control_steps, lengths.float().mean().item(), returns.mean().item(), error,
                          contrast.abs().mean().item())

    def _starts(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clips (count,), as evenly spread as can be, and first frames (count,): 0 or any."""
        clips, bank = self.env.bank.num_clips, self.env.bank
        rounds = [torch.randperm(clips, generator=generator) for _ in range(-(-count // clips))]
        clip = torch.cat(rounds)[:count]
        frame = draw_frames(clip, bank.lengths.cpu(), self.env.task.min_episode_steps + 1, generator)
        first = torch.rand(count, generator=generator) < self.config.first_frame_share
        return clip, torch.where(first, 0, frame)

    def _episodes(self, clip: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (N,) and lengths (N,) of one episode a world with the candidates' gains."""
        env, hold = self.env, self.env.task.action.hold_steps
        env.assign(clip, frame)
        env.reset()
        running = torch.ones(env.batch_size, dtype=torch.bool, device=env.device)
        returns = torch.zeros(env.batch_size, device=env.device)
        lengths = torch.zeros(env.batch_size, dtype=torch.long, device=env.device)
        for step in range(self.config.episode_steps):
            if step % hold == 0:
                action = self.agent.mean_action(env.current_observation)
            taken = env.advance(action, running, observed=step % hold == hold - 1)
            returns += taken.reward
            lengths += running
            running = running & ~(taken.terminated | taken.truncated)
            if not running.any():
                break
        return returns, lengths

    # -- on disk ------------------------------------------------------------------------------------------------------
    def save(self, path: Path) -> None:
        """Write the state of the search, atomically."""
        temporary = path.with_name(f".{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self, name).cpu().numpy() for name in STATE}
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, generation=self.generation, control_steps=self.control_steps, **arrays)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            SearchError: it is damaged or of other reflexes.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]).to(self.gains) for name in STATE}
                counts = [int(file[name]) for name in ("generation", "control_steps")]
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SearchError(f"{path}: no readable state of a search ({reason}); delete it to search anew") from None
        if any(x.shape != self.gains.shape or not x.isfinite().all() for x in arrays.values()) or min(counts) < 0:
            raise SearchError(f"{path}: a search of other reflexes; delete it to search anew")
        for name, value in arrays.items():
            setattr(self, name, value)
        self.generation, self.control_steps = counts
        self.agent.reflexes.set_vector(self.averaged)  # type: ignore[union-attr]
