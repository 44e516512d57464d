"""The policy learns what the teacher does in the states that the policy itself gets into (DAgger)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mm_torch.config.schema import ActionConfig, DistillationConfig
from mm_torch.distillation.labels import Batch, Labels
from mm_torch.distillation.teacher import Teacher
from mm_torch.ppo.policy import Agent
from mm_torch.task.env import MimicEnv

NEAR = 1e-3  # an excitation so close to a bound is taken to be at it
TURN = 10  # actions after which it is drawn anew who acts in a world
SETTLED = 0.1  # last learning rate over the first
MAX_NORM = 1.0  # of gradients


class Round(NamedTuple):
    """States labelled so far, mean squared error in excitation, mean length of episodes that ended (NaN: none did)."""

    labels: int
    error: float
    episode_length: float


class Student:
    """Lets policy and teacher act in an environment, labels every state, and fits the policy to the labels.

    At first the teacher acts everywhere; then each world is left to the policy for a while or given to the teacher, by
    lot. Only the actor learns: the critic and the width of the policy stay as they are.

    Args:
        agent: networks.
        env: environment whose actions are those of muscles; its running episodes end.
        labels: what is labelled already, and room for more.
        config: settings.

    Source: dataset aggregation, Ross, Gordon & Bagnell (2011), AISTATS 15:627.
    """

    def __init__(self, agent: Agent, env: MimicEnv, labels: Labels, config: DistillationConfig) -> None:
        self.agent, self.env, self.labels, self.config = agent, env, labels, config
        self._teacher = Teacher(env.physics.body, env.bank)
        self._optimiser = torch.optim.Adam(agent.nets.parameters(), lr=config.lr)
        self._everyone = torch.arange(env.batch_size[0], device=env.device)
        self._led = torch.ones(env.batch_size[0], 1, dtype=torch.bool, device=env.device)
        self._actions = 0

    def learn(self, report: Callable[[Round], None], stop: Callable[[], bool]) -> None:
        """Fit to labels that are there, then label and fit, round by round, until there is no room or ``stop`` says so."""
        for batch in self.labels.rounds():
            self.agent.take_in(batch.observation.to(self.env.device))
            self._fit(self.config.updates)
        self.env.reset()
        while not self.labels.full and not stop():
            length = self._collect(stop)
            report(Round(self.labels.count, self._fit(self.config.updates), length))
        if self.labels.full and not stop():
            report(Round(self.labels.count, self._fit(self.config.last_updates), float("nan")))

    @torch.no_grad()
    def _collect(self, stop: Callable[[], bool]) -> float:
        config, action = self.config, self.env.task.action
        rows, ended = [], []
        for _ in range(config.round_steps):
            if self._actions % TURN == 0:
                share = 1.0 if self.labels.count < config.led_labels else config.led_share
                self._led = torch.rand_like(self._led, dtype=torch.float32) < share
            self._actions += 1
            seen = self.env.current_observation.clone()
            wanted, side = label(self._teacher(self.env, self._everyone).excitation.float().to(seen), self.env, action)
            rows.append(Batch(*(x.cpu() for x in (seen, wanted, side))))
            taken = torch.where(self._led, wanted, self.agent.mean_action(seen))
            ended.append(self._advance(taken + config.noise * torch.randn_like(taken)))
            if stop():
                break
        batch = Batch(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        self.agent.take_in(batch.observation.to(self.env.device))
        self.labels.add(batch)
        return torch.cat(ended).float().mean().item()

    def _advance(self, action: Tensor) -> Tensor:
        """Hold an action.  Returns: lengths of the episodes that ended, in control steps."""
        hold, running = self.env.task.action.hold_steps, torch.ones_like(self._led[:, 0])
        for step in range(hold):
            taken = self.env.advance(action, running, observed=step == hold - 1)
            running = running & ~(taken.terminated | taken.truncated)
        lengths = self.env.steps[~running].clone()
        if len(lengths):
            self.env.begin_episodes(~running)
        return lengths

    def _fit(self, updates: int) -> float:
        """Mean squared error in excitation over the updates."""
        progress = self.labels.count / self.labels.room
        for group in self._optimiser.param_groups:
            group["lr"] = self.config.lr * (1.0 - (1.0 - SETTLED) * progress)
        errors = []
        for _ in range(updates):
            batch = Batch(*(x.to(self.env.device) for x in self.labels.draw(self.config.batch)))
            mean = self.agent.mean_action(batch.observation)
            loss = shortfall(mean, batch).square().mean()
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.agent.nets.parameters(), MAX_NORM)
            self._optimiser.step()
            errors.append(loss.detach())
        return torch.stack(errors).mean().item() * self.env.task.action.scale ** 2


def label(excitation: Tensor, env: MimicEnv, config: ActionConfig) -> tuple[Tensor, Tensor]:
    """Excitations (N, M) as actions (N, M), and which bound they reach (N, M) int8: 1 the upper, -1 the lower, 0 none."""
    side = (excitation > 1.0 - NEAR).to(torch.int8) - (excitation < NEAR).to(torch.int8)
    return (excitation - env.action_base()) / config.scale, side


def shortfall(action: Tensor, batch: Batch) -> Tensor:
    """Error (B, A) of actions; beyond a bound that the teacher's action reaches there is none."""
    error = action - batch.action
    return torch.where(error * batch.side > 0.0, 0.0, error)
