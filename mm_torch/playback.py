"""What a video shows: rollouts of a trained policy, or reference motions by themselves."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import torch

from mm_torch import build
from mm_torch.config.load import RecipeError
from mm_torch.config.schema import Recipe
from mm_torch.evaluation.job import load_agent
from mm_torch.motion.bank import ReferenceBank, find_clips, load_bank
from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_clips
from mm_torch.ppo.policy import Agent
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.task.env import MimicEnv
from mm_torch.task.metrics import tracking_errors
from mm_torch.video import Take
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body


def choose_clips(body_name: str, motions: str | None, clip: str | None, seconds: float) -> list[Path]:
    """Files to play: the clip of that name, or clips in order until the time is filled.

    Args:
        body_name: body whose built-in motions are used where ``motions`` is None.
        motions: directory or file with clips.
        clip: name of a clip (its file name without ``.npz``).
        seconds: time to fill.

    Raises:
        RecipeError: no clip of that name.
        MotionError: no clips at all.
    """
    paths = library_clips(body_name) if motions is None else find_clips(motions)
    if clip is not None:
        names = [p.stem for p in paths]
        if clip not in names:
            near = get_close_matches(clip, names, n=3) or names[:8]
            raise RecipeError(f"clip={clip}: no such motion among {len(names)}; near it: {', '.join(near)}")
        return [paths[names.index(clip)]]
    chosen: list[Path] = []
    while paths and seconds > 0:
        chosen.append(paths.pop(0))
        seconds -= load_clip(chosen[-1]).duration
    return chosen


def policy_takes(
    checkpoint: Path | str, motions: str | None, clip: str | None, seconds: float
) -> tuple[Embodiment, list[Take]]:
    """Deterministic rollouts of a checkpoint's policy from the first frame of each clip; a fall does not end them.

    Args:
        checkpoint: checkpoint file or run directory.
        motions: directory or file with clips; None: those of the checkpoint's recipe.
        clip: one clip; None: clips in order.
        seconds: total time.
    """
    recipe, agent = load_agent(checkpoint)
    body = build.build_body(recipe)
    paths = choose_clips(body.name, recipe.motions if motions is None else motions, clip, seconds)
    bank = load_bank(body, paths)
    env = _env(recipe, body, bank)
    takes: list[Take] = []
    for index in range(bank.num_clips):
        left = seconds - sum(len(t.qpos) - 1 for t in takes) / bank.fps
        steps = min(int(bank.lengths[index]) - 1, round(left * bank.fps))
        if steps > 0:
            takes.append(_roll(env, agent, index, steps))
    return body, takes


def _env(recipe: Recipe, body: Embodiment, bank: ReferenceBank) -> MimicEnv:
    budget = budget_threads()
    apply(budget)
    recipe = replace(recipe, sim="native", task=replace(recipe.task, termination={}, horizon_steps=2**31))
    return build.build_env(recipe, build.build_physics(recipe, body, 1, budget.physics), bank)


@torch.no_grad()
def _roll(env: MimicEnv, agent: Agent, clip: int, steps: int) -> Take:
    env.assign(torch.tensor([clip]), torch.tensor([0]))
    env.reset()
    rows = [_row(env)]
    errors: list[float] = []
    for step in range(steps):
        if step % env.task.action.hold_steps == 0:
            action = agent.mean_action(env.current_observation)
        env.advance(action, torch.ones_like(env.clip, dtype=torch.bool))
        if env.physics.state.failed.any():
            break
        rows.append(_row(env))
        errors.append(tracking_errors(env.context())["absolute_site_error"].item())
    name, mean = env.bank.names[clip], 100 * sum(errors) / max(len(errors), 1)
    print(f"{name}: {(len(rows) - 1) / env.bank.fps:.2f} s, sites {mean:.1f} cm from the reference on average"
          f"{'' if len(rows) > steps else '; the simulation failed there'}")
    qpos, act, ref_qpos = (torch.cat(column).double().numpy() for column in zip(*rows, strict=True))
    return Take(name=name, fps=env.bank.fps, qpos=qpos, act=act, ref_qpos=ref_qpos)


def _row(env: MimicEnv) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    state = env.physics.state
    return state.qpos.clone(), state.act.clone(), env.context().ref_qpos.clone()


def reference_takes(
    body_name: str, fingers: bool, motions: str | None, clip: str | None, seconds: float
) -> tuple[Embodiment, list[Take]]:
    """Reference motions without physics, muscles coloured by the clips' activations where they have any.

    Args:
        body_name: body.
        fingers: whether its fingers move.
        motions: directory or file with clips; None: the built-in ones.
        clip: one clip; None: clips in order.
        seconds: total time.

    Raises:
        RecipeError: no such body.
    """
    try:
        body = load_body(body_name, fingers)
    except ValueError as error:
        raise RecipeError(f"body={body_name}: {error}") from None
    bank = load_bank(body, choose_clips(body_name, motions, clip, seconds))
    act = None if bank.act is None else bank.act.double().numpy()
    takes: list[Take] = []
    for name, start, length in zip(bank.names, bank.offsets.tolist(), bank.lengths.tolist(), strict=True):
        left = seconds - sum(len(t.qpos) - 1 for t in takes) / bank.fps
        rows = slice(start, start + min(length, round(left * bank.fps) + 1))
        qpos = bank.frames.qpos[rows].double().numpy()
        takes.append(Take(name=name, fps=bank.fps, qpos=qpos, act=None if act is None else act[rows]))
    return body, takes
