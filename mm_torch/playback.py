"""Where takes come from: a policy's rollouts, reference motions by themselves, or rollout files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from mm_torch import build
from mm_torch.callbacks.checkpoint import CheckpointError
from mm_torch.config.load import RecipeError
from mm_torch.config.schema import Recipe
from mm_torch.evaluation.job import candidate_names, load_agent
from mm_torch.evaluation.recording import record_states
from mm_torch.evaluation.rollout_file import Rollout, RolloutError, read_rollout
from mm_torch.motion.bank import find_clips, load_bank
from mm_torch.motion.clip import MotionError, load_clip
from mm_torch.motion.library import library_clips
from mm_torch.ppo.policy import Agent
from mm_torch.sim.physics import PhysicsError
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.task.env import MimicEnv
from mm_torch.task.metrics import tracking_errors
from mm_torch.viewer.take import Performer, Programme, Take, ViewerError
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body

REFERENCE = "reference"


def policy_programme(checkpoints: Sequence[str], motions: str | None) -> Programme:
    """Deterministic rollouts of policies from the first frame of each clip (a fall does not end them), and the reference.

    Args:
        checkpoints: files, or run directories: all their checkpoints, the latest first.
        motions: directory or file with clips; None: those of the first checkpoint's recipe.

    Raises:
        CheckpointError: the first checkpoint cannot be used.
        MotionError: no clips.
    """
    paths = [path for named in checkpoints for path in checkpoints_in(named)]
    recipe, _ = load = load_agent(paths[0])
    body = build.build_body(recipe)
    clips = _clips(body.name, recipe.motions if motions is None else motions)
    agents = [lambda load=load: load, *(cache(partial(load_agent, path)) for path in paths[1:])]
    names = candidate_names(paths)
    performers = {name: _told(partial(_roll, agent, body, clips)) for name, agent in zip(names, agents, strict=True)}
    return Programme(body, tuple(clips), performers | {REFERENCE: _told(partial(_replay, body, clips))})


def reference_programme(body_name: str | None, fingers: bool, motions: str | None) -> Programme:
    """Reference motions without physics, muscles coloured by the clips' activations where they have any.

    Args:
        body_name: body; None: that of the first clip.
        fingers: whether its fingers move.
        motions: directory or file with clips; None: the built-in ones.

    Raises:
        RecipeError: no such body, or none is named and no clip either.
        MotionError: no clips.
    """
    if body_name is None:
        if motions is None:
            raise RecipeError("show=reference: whose motions? add body=NAME, motions=DIR or both")
        body_name = load_clip(find_clips(motions)[0]).body
    try:
        body = load_body(body_name, fingers)
    except ValueError as error:
        raise RecipeError(f"body={body_name}: {error}") from None
    clips = _clips(body_name, motions)
    return Programme(body, tuple(clips), {REFERENCE: _told(partial(_replay, body, clips))})


def rollout_programme(path: Path | str) -> Programme:
    """Rollouts that ``mm_torch.evaluate rollouts=true`` wrote: a file, or a directory of one body's.

    Raises:
        RolloutError: no such file, or no rollout.
    """
    path = Path(path)
    files = {p.stem: p for p in (sorted(path.glob("*.npz")) if path.is_dir() else [path])}
    if not files:
        raise RolloutError(f"rollout={path}: no file *.npz there; python -m mm_torch.evaluate rollouts=true makes some")
    first = read_rollout(next(iter(files.values())))
    body = load_body(first.body, first.fingers)

    def perform(clip: str, seconds: float) -> Take:
        rollout = read_rollout(files[clip])
        if (rollout.body, rollout.fingers) != (body.name, body.fingers):
            raise ViewerError(f"{files[clip]}: a rollout of {rollout.body} (fingers={rollout.fingers}), the first one is of "
                              f"{body.name} (fingers={body.fingers}); show one body at a time")
        return take_of(rollout, body).cut(seconds)

    return Programme(body, tuple(files), {"rollout": _told(perform)})


def take_of(rollout: Rollout, body: Embodiment, note: str = "") -> Take:
    """What a rollout shows.

    Raises:
        ViewerError: the rollout belongs to another version of the body.
    """
    joints = tuple(body.joint_names[j] for j in body.hinge_ids)
    if (rollout.qpos.shape[1], rollout.joint_names, rollout.muscle_names) != (body.model.nq, joints, body.muscle_names):
        raise ViewerError(f"{rollout.clip}: this rollout has other joints or muscles than {body.name} of this version; make "
                          "it again with python -m mm_torch.evaluate rollouts=true")
    replayed = rollout.kind == "replay"
    return Take(rollout.clip, rollout.control_rate, rollout.qpos, rollout.activation, None if replayed else rollout.ref_qpos,
                rollout.foot_force, rollout.foot_centre_of_pressure, note or rollout.source)


def checkpoints_in(named: str) -> list[str]:
    """A checkpoint file itself; of a run directory the directory (its latest checkpoint), then its other files."""
    others = sorted(Path(named).glob("checkpoints/*.ckpt")) if Path(named).is_dir() else []
    return [named, *(str(p) for p in others if p.name != "last.ckpt")]


def _clips(body_name: str, motions: str | None) -> dict[str, Path]:
    """Clip files by name."""
    return {p.stem: p for p in (library_clips(body_name) if motions is None else find_clips(motions))}


def _told(perform: Performer) -> Performer:
    """A performer whose foreseen errors are a viewer's."""

    def told(clip: str, seconds: float) -> Take:
        try:
            return perform(clip, seconds)
        except (MotionError, CheckpointError, PhysicsError) as error:
            raise ViewerError(str(error)) from error

    return told


def _replay(body: Embodiment, clips: dict[str, Path], clip: str, seconds: float) -> Take:
    bank = load_bank(body, [clips[clip]])
    act = None if bank.act is None else bank.act.double().numpy()
    return Take(clip, bank.fps, bank.frames.qpos.double().numpy(), act, note="the reference, without physics").cut(seconds)


def _roll(
    load: Callable[[], tuple[Recipe, Agent]], body: Embodiment, clips: dict[str, Path], clip: str, seconds: float
) -> Take:
    recipe, agent = load()
    if (recipe.body.name, recipe.body.fingers) != (body.name, body.fingers):
        raise ViewerError(f"a policy of {recipe.body.name} (fingers={recipe.body.fingers}), the first checkpoint is of "
                          f"{body.name} (fingers={body.fingers}); show one body at a time")
    bank = load_bank(body, [clips[clip]])
    budget = budget_threads()
    apply(budget)
    recipe = replace(recipe, sim="native", task=replace(recipe.task, termination={}, horizon_steps=2**31))
    env = build.build_env(recipe, build.build_physics(recipe, body, 1, budget.physics), bank)
    return _track(env, body, agent, min(int(bank.lengths[0]) - 1, round(seconds * bank.fps)))


@torch.no_grad()
def _track(env: MimicEnv, body: Embodiment, agent: Agent, steps: int) -> Take:
    env.use_reflexes(agent.reflexes)
    env.assign(torch.tensor([0]), torch.tensor([0]))
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
    mean = 100 * sum(errors) / max(len(errors), 1)
    note = (f"{(len(rows) - 1) / env.bank.fps:.2f} s, sites {mean:.1f} cm from the reference on average"
            f"{'' if len(rows) > steps else '; the simulation failed there'}")
    qpos, qvel, act, ref_qpos = (torch.cat(column).double().numpy() for column in zip(*rows, strict=True))
    name = env.bank.names[0]
    rollout = record_states(body, qpos, qvel, clip=name, source="policy", activation=act, ref_qpos=ref_qpos)
    return take_of(rollout, body, note)


def _row(env: MimicEnv) -> tuple[torch.Tensor, ...]:
    state = env.physics.state
    return state.qpos.clone(), state.qvel.clone(), state.act.clone(), env.context().ref_qpos.clone()


