"""The policy bundle: a directory with a policy, its observer, its body and motions, that needs nothing of this project."""

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import mujoco
import numpy as np
import torch
from torch import Tensor

from mm_torch import build
from mm_torch.callbacks import checkpoint as ckpt
from mm_torch.evaluation.job import load_agent, thresholds_of
from mm_torch.evaluation.tracker import Tracker, evaluation_recipe
from mm_torch.motion.bank import ReferenceBank
from mm_torch.motion.clip import bind_to_body, load_clip
from mm_torch.motion.resample import resample
from mm_torch.policy.formats import FORMATS, Signature, largest_difference, milliseconds, write_module
from mm_torch.policy.modules import (
    NO_ACTIVATION,
    REFERENCE,
    STATE,
    ExportedObserver,
    PolicyFileError,
    exported_policy,
    sight,
)
from mm_torch.policy.sheet import LICENCES, policy_sheet
from mm_torch.policy.terms import motion_source
from mm_torch.ppo.policy import Agent
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.task.env import MimicEnv
from sim_models.embodiment import Embodiment

SHEET = "policy.json"
TOLERANCE = 1e-5
OBSERVATIONS = 1000
WORLDS, EPISODE_STEPS = 16, 48
Case = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Samples:
    """What the environment saw and did in a rollout of the trained policy: arguments and results of both modules.

    Each entry holds the worlds that still ran in one control step. ``observer`` pairs states of plain MuJoCo with the
    environment's observation, base and joint errors; ``policy`` pairs those with the environment's excitation.
    """

    observer: list[Case]
    policy: list[Case]

    @property
    def count(self) -> int:
        """Observations in all."""
        return sum(len(wanted[0]) for _, wanted in self.observer)


def export_policy(checkpoint: Path | str, out: Path | str, formats: tuple[str, ...], motions: str | None = None) -> Path:
    """Write the bundle of a checkpoint's policy.

    Every file of a format is loaded back and kept only if it gives what the environment saw and did on 1,000 real
    observations, to 1e-5. The policy is evaluated on the bundle's motions, so that ``run_policy.py`` can say whether it
    does the same elsewhere.

    Args:
        checkpoint: checkpoint file or run directory.
        out: directory to make; an earlier bundle there is replaced.
        formats: names of ``FORMATS``.
        motions: directory or file with the clips to put in; None: the built-in ones, which may be passed on.

    Returns:
        ``out``.

    Raises:
        CheckpointError, MotionError: checkpoint or motions cannot be used.
        PolicyFileError: ``out`` cannot be written, or a format differs; nothing is kept.
    """
    out = Path(out)
    _check_target(out)
    recipe, agent = load_agent(checkpoint)
    with _threads() as physics_threads, new_directory(out) as folder:
        recipe = replace(evaluation_recipe(recipe, motions, thresholds_of(recipe)), sim="native")
        body = build.build_body(recipe)
        bank = build.build_bank(recipe, body, torch.device("cpu"))
        tracker = Tracker(recipe, bank, physics_threads)
        results = {r.clip: {"episode_length": r.episode_length, **r.errors} for r in tracker.track(agent)}
        env = build.build_env(recipe, build.build_physics(recipe, body, WORLDS, physics_threads), bank)
        figures = write_formats(folder, formats, agent, env)
        write_body(body, folder / "body.mjb.gz")
        write_clips(body, build.motion_files(recipe, body), bank, folder / "clips")
        shutil.copyfile(Path(__file__).with_name("run_policy.py"), folder / "run_policy.py")
        notice = metadata.distribution("musclemimic-models").read_text("licenses/NOTICE") or ""
        (folder / "NOTICE").write_text("\n".join([*LICENCES, "", "Of the package of the bodies:", "", notice]))
        extra = ckpt.read_checkpoint(checkpoint)[ckpt.KEY]
        sheet = policy_sheet(recipe, env, extra) | {
            "trained_on": motion_source(body.name, extra["recipe"]["motions"]),
            "clips_from": motion_source(body.name, recipe.motions), "formats": figures, "evaluation": results,
        }
        (folder / SHEET).write_text(json.dumps(sheet, indent=1) + "\n")
    return out


def write_formats(folder: Path, formats: tuple[str, ...], agent: Agent, env: MimicEnv) -> dict[str, dict[str, float]]:
    """Write both modules in each format and compare them with the environment.

    Returns:
        Format to largest differences and to milliseconds of one world's step on one thread.

    Raises:
        PolicyFileError: a format differs by more than 1e-5.
    """
    samples, names = collect(agent, env), sight(env.task.action)
    modules = (
        ("observer", ExportedObserver(env.physics.body, env.task).eval(), observer_of(names), samples.observer),
        ("policy", exported_policy(agent, env.task.action, env.drive), policy_of(names), samples.policy),
    )
    figures: dict[str, dict[str, float]] = {}
    torch.set_num_threads(1)
    for kind in formats:
        figures[kind] = {"observations": samples.count}
        for name, module, signature, cases in modules:
            several = _twice(cases[0], signature)  # a graph is recorded with more than one world and frame
            call = write_module(kind, module, several[0], signature, folder / f"{name}{FORMATS[kind].suffix}")
            with torch.no_grad():
                difference = largest_difference(call, (several, *cases))
            if not difference <= TOLERANCE:
                raise PolicyFileError(
                    f"{kind}: the exported {name} differs from the trained one by {difference:.2g} (at most {TOLERANCE:g} "
                    "passes); nothing was kept"
                )
            single = tuple(x[:1] if signature.sizes[n] == "N" else x
                           for n, x in zip(signature.inputs, cases[0][0], strict=True))
            figures[kind] |= {f"{name}_difference": difference, f"{name}_ms": milliseconds(call, single)}
    return figures


def observer_of(names: tuple[str, ...]) -> Signature:
    """Arguments and results of an observer that returns ``names``."""
    return Signature(
        (*STATE, *REFERENCE, "frame"), names, dict.fromkeys((*STATE, "frame"), "N") | dict.fromkeys(REFERENCE, "F")
    )


def policy_of(names: tuple[str, ...]) -> Signature:
    """Arguments and results of a policy that takes ``names``."""
    return Signature((*names, "noise"), ("ctrl",), dict.fromkeys((*names, "noise"), "N"))


def _twice(case: Case, signature: Signature) -> Case:
    """The same worlds twice."""
    inputs, wanted = case
    worlds = [signature.sizes[name] == "N" for name in signature.inputs]
    return (
        tuple(torch.cat([x, x]) if of_world else x.clone() for x, of_world in zip(inputs, worlds, strict=True)),
        tuple(torch.cat([y, y]) for y in wanted),
    )


@torch.no_grad()
def collect(agent: Agent, env: MimicEnv) -> Samples:
    """Roll the trained policy out and, beside it, the same worlds one by one in plain MuJoCo.

    Args:
        agent: networks; their mean action drives the rollout.
        env: environment on the native back end.

    Returns:
        At least ``OBSERVATIONS`` observations.
    """
    samples, model = Samples([], []), env.physics.body.model
    env.use_reflexes(agent.reflexes)
    width = agent.nets.log_std.numel()
    while samples.count < OBSERVATIONS:
        env.reset()
        worlds = [_begin(model, env, n) for n in range(WORLDS)]
        running = torch.ones(WORLDS, dtype=torch.bool)
        for step in range(EPISODE_STEPS):
            rows = running.nonzero().flatten().tolist()
            if not rows:
                break
            if step % env.task.action.hold_steps == 0:
                seen = env.current_observation.clone()
                action = agent.mean_action(seen)
                samples.observer.extend(_observed(env, worlds, rows))
            inputs = policy_inputs(env)
            taken = env.advance(action, running)
            excitation = env.context().excitation.clone()
            samples.policy.append((
                (seen[rows], *(x[rows] for x in inputs), torch.zeros(len(rows), width)), (excitation[rows],)
            ))
            for n in rows:
                _advance(model, worlds[n], excitation[n].double().numpy(), env.physics.body.substeps)
            running = running & ~(taken.terminated | taken.truncated)
    return samples


def policy_inputs(env: MimicEnv) -> tuple[Tensor, ...]:
    """Base (N, M) and joint errors (N, D) of the coming control step; balance (N, 14) where the policy has reflexes."""
    base = env.action_base()
    base = base.clone() if isinstance(base, Tensor) else torch.full_like(env.context().excitation, base)
    return base, *env.joint_errors(), *(() if env.balance is None else (env.balance_now.clone(),))


def _begin(model: mujoco.MjModel, env: MimicEnv, world: int) -> mujoco.MjData:
    data, state = mujoco.MjData(model), env.physics.state
    data.qpos[:], data.qvel[:] = state.qpos[world].numpy(), state.qvel[world].numpy()
    data.act[:] = data.ctrl[:] = state.act[world].numpy()
    mujoco.mj_forward(model, data)
    return data


def _advance(model: mujoco.MjModel, data: mujoco.MjData, ctrl: np.ndarray, substeps: int) -> None:
    data.ctrl[:] = ctrl
    mujoco.mj_step(model, data, nstep=substeps)
    mujoco.mj_fwdPosition(model, data)
    mujoco.mj_fwdVelocity(model, data)


def _observed(env: MimicEnv, worlds: list[mujoco.MjData], rows: list[int]) -> Iterator[Case]:
    """One case a clip: the observer takes one reference for all its worlds."""
    sight = (env.current_observation, *policy_inputs(env))
    for clip in env.clip[rows].unique().tolist():
        same = [n for n in rows if env.clip[n] == clip]
        for group in ([[n] for n in same] if env.body_tensors.free_root else [same]):  # origins are one a world
            state = tuple(
                torch.from_numpy(np.stack([getattr(worlds[n], name) for n in group]).astype(np.float32)) for name in STATE
            )
            reference = reference_arrays(env.bank, clip, env.origin[group[0]], env.physics.body.model.nu)
            yield (*state, *reference, env.frame[group].clone()), tuple(x[group].clone() for x in sight)


def reference_arrays(bank: ReferenceBank, clip: int, origin: Tensor, muscles: int) -> tuple[Tensor, ...]:
    """The arrays ``REFERENCE`` of a clip, shifted by ``-origin`` (3,)."""
    rows, frames = _rows(bank, clip), bank.frames
    qpos = frames.qpos[rows].clone()
    if origin.any():  # only a free root has one
        qpos[:, :3] -= origin
    act = torch.full((len(qpos), muscles), NO_ACTIVATION) if bank.act is None else bank.act[rows].float()
    return (qpos, frames.qvel[rows], frames.site_xpos[rows] - origin, frames.site_xquat[rows], frames.site_xvel[rows], act)


def write_body(body: Embodiment, path: Path) -> None:
    """Write the compiled model, compressed; meshes that touch nothing lose their ray-casting boxes, which fill megabytes."""
    model = copy.copy(body.model)
    meshes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)
    collides = (model.geom_contype[meshes] | model.geom_conaffinity[meshes]).any()
    if not collides and not np.isin(meshes, (model.pair_geom1, model.pair_geom2)).any():
        for start, count in zip(model.mesh_bvhadr, model.mesh_bvhnum, strict=True):
            model.bvh_aabb[start : start + count] = 0.0
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "body.mjb"
        mujoco.mj_saveModel(model, str(plain))
        path.write_bytes(gzip.compress(plain.read_bytes(), 6, mtime=0))


def write_clips(body: Embodiment, paths: list[Path], bank: ReferenceBank, folder: Path) -> None:
    """Write the motions of a bank as ``qpos`` at the control rate and the activations that fit them."""
    folder.mkdir()
    index = {name: i for i, name in enumerate(bank.names)}
    for path in [p for p in paths if p.stem in index]:
        clip, i = load_clip(path), index[path.stem]
        act = {} if bank.act is None else {"act": bank.act[_rows(bank, i)].numpy()}
        qpos = resample(body, bind_to_body(clip, body), clip.fps, bank.fps)
        np.savez_compressed(folder / f"{clip.name}.npz", qpos=qpos, **act)


def _rows(bank: ReferenceBank, clip: int) -> slice:
    start = int(bank.offsets[clip])
    return slice(start, start + int(bank.lengths[clip]))


@contextmanager
def _threads() -> Iterator[int]:
    """Threads of the physics; torch gets its share and, in the end, what it had."""
    before, budget = torch.get_num_threads(), budget_threads()
    apply(budget)
    try:
        yield budget.physics
    finally:
        torch.set_num_threads(before)


def _check_target(out: Path) -> None:
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / SHEET).is_file())):
        raise PolicyFileError(f"out={out}: exists and is no policy bundle; name a new directory")


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory beside ``out`` that takes its place in the end, and is removed after an error."""
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    except OSError as error:
        raise PolicyFileError(f"out={out}: cannot be written ({error.strerror}); name a directory that can") from None
    try:
        yield folder
        folder.chmod(0o755)
        if out.exists():
            old = folder.with_name(folder.name + ".old")
            os.replace(out, old)
            os.replace(folder, out)
            shutil.rmtree(old)
        else:
            os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
