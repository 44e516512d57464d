"""Evaluation: every clip once from its first frame, deterministic, with the thresholds of the paper."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mm_torch import build
from mm_torch.callbacks import checkpoint as ckpt
from mm_torch.config.load import to_recipe
from mm_torch.config.schema import Recipe
from mm_torch.motion.bank import ReferenceBank
from mm_torch.motion.splits import leakage, motions_of
from mm_torch.ppo.policy import Agent
from mm_torch.report import table
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.task.env import MimicEnv
from mm_torch.task.metrics import tracking_errors

log = logging.getLogger(__name__)

ERRORS = (
    "joint_position_error", "joint_velocity_error", "root_position_error", "root_yaw_error", "relative_site_error",
    "absolute_site_error",
)
THRESHOLDS = ("relative_site_deviation", "root_position", "absolute_site_deviation")
MAX_WORLDS = 64


@dataclass(frozen=True)
class ClipResult:
    """One clip: frames tracked of frames to track, how it ended, return, and mean errors over the tracked frames."""

    clip: str
    frames: int
    episode_length: int
    early_termination: bool
    episode_return: float
    errors: dict[str, float]

    @property
    def frame_coverage(self) -> float:
        """Share of the clip's control steps that were tracked; 1 for a clip played to its end."""
        return self.episode_length / self.frames

    def row(self) -> dict[str, float | str]:
        """Columns of ``per_clip.csv``; the same names as the summary's."""
        return {
            "clip": self.clip, "early_termination_rate": float(self.early_termination),
            "frame_coverage": self.frame_coverage, **self.errors,
            "episode_length": self.episode_length, "episode_return": self.episode_return,
        }


def load_agent(path: Path | str) -> tuple[Recipe, Agent]:
    """Recipe and networks of a checkpoint, for running the policy.

    Raises:
        CheckpointError: the file cannot be used.
    """
    checkpoint = ckpt.read_checkpoint(path)
    recipe = to_recipe(checkpoint[ckpt.KEY]["recipe"])
    body = build.build_body(recipe)
    ckpt.check_compatible(path, checkpoint, body, checkpoint[ckpt.KEY]["layout"])
    actions = checkpoint["state_dict"]["agent.nets.log_std"].numel()
    agent = Agent(checkpoint[ckpt.KEY]["layout"][-1][2], actions, recipe.net)
    ckpt.load_weights(path, agent, checkpoint)
    return recipe, agent.eval()


def evaluation_recipe(recipe: Recipe, motions: str | None, thresholds: Mapping[str, float]) -> Recipe:
    """The recipe with the evaluation's thresholds (replaced by those given), without horizon, on given motions."""
    limits = vars(recipe.evaluation) | dict(thresholds)
    return replace(recipe, motions=motions, task=replace(recipe.task, termination=limits, horizon_steps=2**31))


@torch.no_grad()
def evaluate_bank(recipe: Recipe, agent: Agent, bank: ReferenceBank, threads: int = 0) -> list[ClipResult]:
    """Run the deterministic policy over every clip of a bank from frame 0.

    Args:
        recipe: as made by ``evaluation_recipe``.
        agent: networks.
        bank: clips.
        threads: of the physics pool.

    Returns:
        One result a clip, in the bank's order.
    """
    worlds = min(bank.num_clips, MAX_WORLDS)
    body = build.build_body(recipe)
    physics = build.build_physics(recipe, body, worlds, threads)
    env = build.build_env(recipe, physics, bank)
    agent = agent.to(env.device)
    results: list[ClipResult] = []
    for start in range(0, bank.num_clips, worlds):
        clips = (start + torch.arange(worlds, device=env.device)).clamp_max(bank.num_clips - 1)
        results += _run_clips(env, agent, clips)[: bank.num_clips - start]
    return results


def _run_clips(env: MimicEnv, agent: Agent, clips: Tensor) -> list[ClipResult]:
    env.assign(clips, torch.zeros_like(clips))
    env.reset()
    alive = torch.ones(len(clips), dtype=torch.bool, device=env.device)
    length, total = torch.zeros_like(clips), torch.zeros(len(clips), device=env.device)
    early = torch.zeros_like(alive)
    sums = {name: torch.zeros_like(total) for name in ERRORS}
    for step in itertools.count():
        if not alive.any():
            break
        if step % env.task.action.hold_steps == 0:
            action = agent.mean_action(env.current_observation)
        taken = env.advance(action, alive)
        tracked = alive & ~env.physics.state.failed
        length += alive
        total += taken.reward
        for name, value in tracking_errors(env.context()).items():
            sums[name] += torch.where(tracked, value, 0.0)
        early |= taken.terminated
        alive = alive & ~(taken.terminated | taken.truncated)
    frames = (env.bank.lengths[clips] - 1).tolist()
    steps = length.tolist()
    return [
        ClipResult(
            clip=env.bank.names[clip], frames=frames[i], episode_length=steps[i], early_termination=bool(early[i]),
            episode_return=total[i].item(), errors={n: s[i].item() / max(steps[i], 1) for n, s in sums.items()},
        )
        for i, clip in enumerate(clips.tolist())
    ]


def summarise(results: list[ClipResult]) -> dict[str, float]:
    """Means over clips; frame coverage and errors are weighted by frames, so that every tracked frame counts once."""
    steps = sum(r.episode_length for r in results)
    errors = {n: sum(r.errors[n] * r.episode_length for r in results) / steps for n in ERRORS}
    return {
        "clips": len(results),
        "early_termination_rate": sum(r.early_termination for r in results) / len(results),
        "frame_coverage": steps / sum(r.frames for r in results),
        **errors,
        "episode_length": steps / len(results),
        "episode_return": sum(r.episode_return for r in results) / len(results),
    }


def evaluate(
    checkpoint: str, motions: str | None, out: str, threads: int = 0, thresholds: Mapping[str, float] = MappingProxyType({})
) -> dict[str, float]:
    """Evaluate a checkpoint and write ``summary.json``, ``per_clip.csv`` and TensorBoard events.

    Args:
        checkpoint: checkpoint file or run directory.
        motions: directory with clips; None: those of the checkpoint's recipe.
        out: directory to write to.
        threads: CPU threads in all; 0: all cores.
        thresholds: deviation (one of ``THRESHOLDS``) to the value in m that ends a clip early, where not the recipe's.

    Returns:
        The summary, SI units.
    """
    budget = budget_threads(threads or None)
    apply(budget)
    recipe, agent = load_agent(checkpoint)
    warn_of_leakage(recipe.motions, motions)
    recipe = evaluation_recipe(recipe, motions if motions is not None else recipe.motions, thresholds)
    body = build.build_body(recipe)
    bank = build.build_bank(recipe, body, torch.device("cuda" if build.backend(recipe) == "warp" and
                                                       torch.cuda.is_available() else "cpu"))
    results = evaluate_bank(recipe, agent, bank, budget.physics)
    summary = summarise(results)
    _write(Path(out), results, summary)
    _print(results, summary)
    return summary


def warn_of_leakage(trained: str | None, tested: str | None) -> None:
    """Say which motions of a test the policy was trained on; a test on the training motions themselves is no mistake.

    Args:
        trained: ``motions`` of the training; nothing is known where its directory is not on this machine.
        tested: ``motions`` of the test; None: those of the training.
    """
    if trained is None or tested is None or not (Path(trained).is_dir() and Path(tested).is_dir()):
        return
    if Path(trained).resolve() == Path(tested).resolve():
        return
    shared = leakage(motions_of(tested), motions_of(trained))
    if shared:
        log.warning(
            "%d of the motions in %s were trained on, e.g. %s: this is no test of them", len(shared), tested, shared[0]
        )


def _write(out: Path, results: list[ClipResult], summary: dict[str, float]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / ".summary.json.tmp"
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(temporary, out / "summary.json")
    rows = [r.row() for r in results]
    with (out / "per_clip.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with SummaryWriter(str(out / "tensorboard")) as writer:
        for name, value in summary.items():
            writer.add_scalar(f"evaluation/{name}", value, 0)


def _print(results: list[ClipResult], summary: dict[str, float]) -> None:
    header = ("clip", "tracked", "of", "early", "joints rad", "root cm", "yaw rad", "sites cm", "return")
    rows = [
        (r.clip, str(r.episode_length), str(r.frames), "yes" if r.early_termination else "",
         f"{r.errors['joint_position_error']:.3f}", f"{100 * r.errors['root_position_error']:.1f}",
         f"{r.errors['root_yaw_error']:.3f}", f"{100 * r.errors['relative_site_error']:.1f}", f"{r.episode_return:.1f}")
        for r in results
    ]
    print(table("Clips", [header, *rows]))
    print(table("Summary", [(name, f"{value:.4g}") for name, value in summary.items()]))
