"""Activations that carry a motion: beam search over what is added to the reference's, with the policy in the loop.

Static optimisation gives activations for a body that is exactly on the reference. A simulated one never is, and what it lacks
early makes it fall half a second later. So worlds try offsets, constant over a window longer than that; the best go on.

Source: Liu, Yin, van de Panne, Shao & Xu (2010), Sampling-based contact-rich motion control, ACM TOG 29(4):128; the feedback
in the loop, offsets of activations instead of target poses, and one window for trying and keeping are ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm

from mm_torch.ppo.policy import Agent
from mm_torch.task.action import spread
from mm_torch.task.context import StepContext
from mm_torch.task.env import MimicEnv

SHARES = (1.0,) * 6 + (0.6, 0.3, 0.3, 0.3)  # of the standard deviation of the offsets, by group: legs; trunk; arms; rest
LEAST = -1.0  # log10 of the share of sigma with which the most timid world tries
SIZE_COST = 0.02  # of an offset of one standard deviation
LAST_COUNTS = 3.0  # weight of a trial's last control step against its first
FALL_COST = 30.0  # of a control step on the ground


@dataclass(frozen=True)
class BeamSettings:
    """How the search goes.

    ======= ============================================================================
    window  control steps over which an offset stays; a multiple of the action's hold
    horizon control steps for which it is tried, at least the window
    elites  worlds that the others go on from; at most half of the worlds
    sigma   standard deviation of the offsets of the legs in the boldest world, in the policy's unit
    keep    share of its offset that a world keeps from one window to the next
    memory  share of a world's cost that counts in the next window
    seed    of the offsets
    ======= ============================================================================
    """

    window: int = 16
    horizon: int = 32
    elites: int = 16
    sigma: float = 0.4
    keep: float = 0.8
    memory: float = 0.8
    seed: int = 0


class Window(NamedTuple):
    """Last frame reached, frames of the clip, worlds that fell, relative site error of the best world in m."""

    frame: int
    frames: int
    fell: int
    relative_site_error: float


class Trial(NamedTuple):
    """What N worlds did in a trial.

    ===== ========================================== =====
    cost  mean over the horizon                      (N,)
    error mean relative site error in the window, m  (N,)
    fell  whether they fell in the window            (N,)
    end   simulation state at the end of the window
    ===== ========================================== =====
    """

    cost: Tensor
    error: Tensor
    fell: Tensor
    end: dict[str, dict[str, Any]]


class BeamWorlds(MimicEnv):
    """An environment whose worlds each have an activation of their own in place of the reference's."""

    base: Tensor  # (N, M)

    def action_base(self, row: Tensor | None = None) -> Tensor:
        """See ``MimicEnv``."""
        return self.base


class Beam:
    """Search for the activations of motions, one after the other, all worlds on the same.

    Args:
        agent: its policy and reflexes act on top of the activations.
        env: worlds with ``task.action`` ``space=joint``, ``base=reference`` and reflexes.
        settings: of the search.
    """

    def __init__(self, agent: Agent, env: BeamWorlds, settings: BeamSettings) -> None:
        assert agent.reflexes is not None and env.bank.act is not None
        self.agent, self.env, self.settings = agent, env, settings
        env.use_reflexes(agent.reflexes)
        env.base = torch.zeros(*env.batch_size, env.physics.body.model.nu, device=env.device)
        self._spread = settings.sigma * torch.tensor(SHARES, device=env.device)[agent.reflexes.groups]
        tried = len(env.clip) - settings.elites  # they change by a little up to all of sigma, the best not at all
        self._boldness = torch.cat([torch.zeros(settings.elites), torch.logspace(LEAST, 0.0, tried)]).to(env.device)[:, None]
        self.control_steps = 0

    @torch.no_grad()
    def refine(self, clip: int, report: Callable[[Window], None]) -> tuple[Tensor, int]:
        """Activations of a clip.

        Args:
            clip: its number in the bank.
            report: is told of each window.

        Returns:
            (F, M) half: the clip's own up to the first frame and after the last that was reached, and that frame.
        """
        env, settings, worlds = self.env, self.settings, len(self.env.clip)
        seed = zlib.crc32(env.bank.names[clip].encode()) * 1000 + settings.seed  # whatever else is in the bank
        generator = torch.Generator().manual_seed(seed)
        env.assign(torch.full_like(env.clip, clip), torch.zeros_like(env.frame))
        env.begin_episodes(torch.ones_like(env.clip, dtype=torch.bool))
        last, frame, trail = int(env.bank.lengths[clip]) - 1, 0, []
        offset, score = torch.zeros(worlds, len(self._spread), device=env.device), torch.zeros(worlds, device=env.device)
        rows = torch.arange(worlds, device=env.device)
        while frame < last:
            noise = torch.randn(offset.shape, generator=generator).to(offset)
            offset = settings.keep * offset + self._spread * self._boldness * noise
            trial = self._try(offset, last - frame)
            score = settings.memory * score + trial.cost + SIZE_COST * (offset / self._spread).square().mean(dim=1)
            score = torch.where(trial.fell | ~score.isfinite(), torch.inf, score)
            best = score.argsort()[: settings.elites]
            best = best[score[best].isfinite()]
            if not len(best):
                break
            trail.append((frame, offset, rows))
            rows = best.repeat(-(-worlds // len(best)))[:worlds]
            frame = min(frame + settings.window, last)
            report(Window(frame, last, int(trial.fell.sum()), trial.error[best[0]].item()))
            env.load_simulation_state(_rows(trial.end, rows))
            offset, score = offset[rows], score[rows]
        return self._activations(clip, trail, frame, rows), frame

    def _try(self, offset: Tensor, left: int) -> Trial:
        """Let all worlds go on with offsets (N, D) for a horizon, or what is ``left`` of the clip."""
        env, hold, settings = self.env, self.env.task.action.hold_steps, self.settings
        horizon, window = min(settings.horizon, left), min(settings.window, left)
        running = torch.ones_like(env.clip, dtype=torch.bool)
        cost = error = torch.zeros(len(running), device=env.device)
        weights = 0.0
        for step in range(horizon):
            if step % hold == 0:
                action = self.agent.mean_action(env.current_observation)
            env.base.copy_(self._base(env.clip, env.frame + 1, offset))  # in place: a CUDA graph reads it
            running = running & ~env.advance(action, running, observed=step % hold == hold - 1).terminated
            weight = 1.0 + (LAST_COUNTS - 1.0) * (step + 1) / horizon
            cost, weights = cost + weight * torch.where(running, deviation(env.context()), FALL_COST), weights + weight
            self.control_steps += len(running)
            if step < window:
                error = error + env.context().relative_site_distance / window
            if step == window - 1:
                end, fell = env.simulation_state(), ~running
        return Trial(cost / weights, error, fell, end)

    def _base(self, clip: Tensor, frame: Tensor, offset: Tensor) -> Tensor:
        """Activations (n, M) that offsets (n, D) make of the reference's, rounded as a clip keeps them."""
        action, reference = self.env.task.action, self.env.bank.activations(clip, frame)
        return (reference + action.scale * spread(offset, self.env.drive)).clamp(0.0, 1.0).half().float()

    def _activations(self, clip: int, trail: list[tuple[int, Tensor, Tensor]], frame: int, rows: Tensor) -> Tensor:
        """The clip's activations (F, M) half with those of the best world and its ancestors in place."""
        bank = self.env.bank
        first = int(bank.offsets[clip])
        act = bank.act[first : first + int(bank.lengths[clip])].clone()  # type: ignore[index]
        world, end = int(rows[0]), frame
        for start, offsets, parents in reversed(trail):
            frames = torch.arange(start + 1, end + 1, device=act.device)
            act[start + 1 : end + 1] = self._base(torch.full_like(frames, clip), frames, offsets[world : world + 1]).half()
            world, end = int(parents[world]), start
        return act


def deviation(c: StepContext) -> Tensor:
    """How far off the reference (N,): weighted sum of errors of sites, root, joints and velocities."""
    velocity = vector_norm(c.site_velocity_error[..., 3:], dim=-1)
    return (
        10.0 * c.relative_site_distance + 15.0 * c.site_distance[:, 0] + 3.0 * c.root_angle
        + 2.0 * c.joint_position_deviation.sqrt() + velocity[:, 0] + 0.3 * velocity.mean(dim=-1)
        + 0.3 * vector_norm(c.site_velocity_error[:, 0, :3], dim=-1)
    )


def _rows(state: dict[str, dict[str, Any]], rows: Tensor) -> dict[str, dict[str, Any]]:
    """The state of worlds (N,) in the place of all N."""
    return {part: {name: value[rows] if part in ("physics", "episodes") and value.ndim else value
                   for name, value in tensors.items()} for part, tensors in state.items()}
