"""Evaluation of checkpoints: every clip once from its first frame, with the thresholds of the paper, side by side."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mm_torch import build
from mm_torch.callbacks import checkpoint as ckpt
from mm_torch.config.load import RecipeError, to_recipe
from mm_torch.config.schema import Recipe
from mm_torch.evaluation.control import ControlTracker, Unlearned, control_recipe
from mm_torch.evaluation.evalkit import KitWriter
from mm_torch.evaluation.recording import rollout_of, rollout_writer
from mm_torch.evaluation.tracker import (
    UNCHANGED,
    ClipResult,
    Conditions,
    Trace,
    Tracker,
    evaluation_recipe,
    track_together,
)
from mm_torch.hub.download import local_path
from mm_torch.maths import ranks
from mm_torch.motion.bank import ReferenceBank
from mm_torch.motion.splits import leakage, motions_of
from mm_torch.ppo.policy import Agent
from mm_torch.processes import ALONE, Processes
from mm_torch.sim.threads import apply

log = logging.getLogger(__name__)

CONTROL = "control"  # stands for computed muscle control among the checkpoints
THRESHOLDS = ("relative_site_deviation", "root_position", "absolute_site_deviation")


@dataclass(frozen=True)
class Plan:
    """What to evaluate.

    ============ ==================================================================================
    checkpoints  checkpoint files, run directories or ``CONTROL``; the first is what the others are compared with
    motions      directory with clips; None: those of the first checkpoint's recipe
    out          directory that everything is written to
    threads      CPU threads of this process; 0: all cores, or its share where several processes run
    thresholds   deviation (one of ``THRESHOLDS``) to the value in m that ends a clip early; where not given, those of the
                 first checkpoint's recipe
    conditions   perturbations, the same for all
    seeds        how many seeds, from that of the conditions on
    baseline     the first checkpoint runs without push and weakness, too, and is what all are compared with
    rollouts     write a rollout file a clip
    evalkit      write the file that mm-evalkit 0.1.0 reads
    ============ ==================================================================================
    """

    checkpoints: tuple[str, ...]
    motions: str | None
    out: Path
    threads: int = 0
    thresholds: tuple[tuple[str, float], ...] = ()
    conditions: Conditions = UNCHANGED
    seeds: int = 1
    baseline: bool = False
    rollouts: bool = False
    evalkit: bool = False


@dataclass(frozen=True)
class Candidate:
    """One evaluated checkpoint: short unique name, file or run directory, results of all clips, seed after seed."""

    name: str
    checkpoint: str
    results: list[ClipResult]


def load_agent(path: Path | str) -> tuple[Recipe, Agent]:
    """Recipe and networks of a checkpoint, for running the policy.

    Raises:
        CheckpointError: the file cannot be used.
    """
    checkpoint = ckpt.read_checkpoint(path)
    weights, layout = checkpoint["state_dict"], checkpoint[ckpt.KEY]["layout"]
    recipe = to_recipe(checkpoint[ckpt.KEY]["recipe"])
    body = build.build_body(recipe)
    ckpt.check_compatible(path, checkpoint, body, layout)
    terms, own = [name for name, *_ in layout], list(recipe.task.observation)
    if terms != own:
        raise ckpt.CheckpointError(f"{path}: its weights were trained on the observation {terms}, its recipe asks for {own}; "
                                   "use the file as it was written")
    odd = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if odd or "agent.nets.log_std" not in weights:
        wrong = f"{odd[0]} is not finite" if odd else "agent.nets.log_std is missing"
        raise ckpt.CheckpointError(f"{path}: {wrong}; use another checkpoint of the run")
    agent = Agent.of(recipe, body, layout, weights["agent.nets.log_std"].numel())
    ckpt.load_weights(path, agent, checkpoint)
    return recipe, agent.eval()


def thresholds_of(recipe: Recipe) -> dict[str, float | None]:
    """Deviations that end a clip early in an evaluation of a recipe's policy."""
    return {name: getattr(recipe.evaluation, name) for name in THRESHOLDS}


def evaluation_device(recipe: Recipe) -> torch.device:
    """Where the clips of an evaluation live."""
    return torch.device("cuda" if build.backend(recipe) == "warp" and torch.cuda.is_available() else "cpu")


def evaluate(plan: Plan, found: Processes = ALONE) -> list[Candidate]:
    """Evaluate checkpoints on the same clips under the same conditions.

    Args:
        plan: which, on what, and how.
        found: the processes that share the clips.

    Returns:
        Results of each checkpoint, on ranks after the first empty; rollouts are written on the way.

    Raises:
        CheckpointError, MotionError: a file cannot be used.
        RecipeError: checkpoints of different bodies, conditions that the body cannot meet, or processes that were started
            with different words.
    """
    _check(plan)
    budget = found.threads(plan.threads)
    apply(budget)
    loaded = {path: load_agent(path) for path in plan.checkpoints if path != CONTROL}
    first = loaded[plan.checkpoints[0]][0]
    for path, (recipe, _) in loaded.items():
        if recipe.body != first.body:
            raise RecipeError(
                f"{path}: a policy of {recipe.body.name} (fingers={recipe.body.fingers}), {plan.checkpoints[0]} of "
                f"{first.body.name} (fingers={first.body.fingers}); compare checkpoints of one body"
            )
    motions = plan.motions if plan.motions is not None else first.motions
    limits = thresholds_of(first) | dict(plan.thresholds)
    bank = build.build_bank(replace(first, motions=motions), build.build_body(first), evaluation_device(first))
    _check_agreement(plan, bank)
    for trained in {recipe.motions for recipe, _ in loaded.values()}:
        warn_of_leakage(trained, motions)
    runs = _runs(plan)
    candidates = []
    for name, path, conditions in runs:
        if path == CONTROL:
            tracker, agent = control_tracker(first, bank, limits, budget.physics, conditions), Unlearned()
        else:
            recipe, agent = loaded[path]
            tracker = Tracker(evaluation_recipe(recipe, motions, limits), bank, budget.physics, conditions)
        folder = plan.out if len(runs) == 1 else plan.out / name
        candidates.append(Candidate(name, path, _run(plan, tracker, agent, folder, path)))
    return candidates


def _check_agreement(plan: Plan, bank: ReferenceBank) -> None:
    """Refuse processes that were started with different words or see different clips."""
    content = repr((plan, bank.names, bank.lengths.tolist()))
    if not ranks.agreed(hashlib.sha256(content.encode()).hexdigest()):
        raise RecipeError("the processes of this evaluation see different options or clips; start all with the same words, "
                          "on a disk that all machines see")


def _runs(plan: Plan) -> list[tuple[str, str, Conditions]]:
    """Name, checkpoint and conditions of each candidate, that which the others are compared with first."""
    runs = [(n, p, plan.conditions) for n, p in zip(candidate_names(plan.checkpoints), plan.checkpoints, strict=True)]
    if plan.baseline:
        name, path, conditions = runs[0]
        runs.insert(0, (f"{name}-unperturbed", path, replace(conditions, push=None, strength=())))
    return runs


def control_tracker(
    recipe: Recipe, bank: ReferenceBank, limits: dict[str, float | None], threads: int, conditions: Conditions
) -> ControlTracker:
    """The model-based controller under the rewards and thresholds of a policy's recipe."""
    own = control_recipe(recipe.body.name, recipe.body.fingers, recipe.motions, limits)
    own = replace(own, body=recipe.body, task=replace(own.task, reward=recipe.task.reward, penalty=recipe.task.penalty))
    return ControlTracker(own, bank, threads=threads, conditions=conditions)


def _check(plan: Plan) -> None:
    conditions = plan.conditions
    if plan.checkpoints[0] == CONTROL:
        raise RecipeError(f"checkpoint={CONTROL}: it stands in for a policy of the first checkpoint's body; name that first, "
                          f"for example checkpoint=runs/RUN,{CONTROL}")
    if plan.baseline and conditions.push is None and not conditions.strength:
        raise RecipeError("baseline=true: nothing is pushed or weakened; add push=IMPULSE or strength=NAME:FACTOR")
    if plan.seeds < 1:
        raise RecipeError(f"seeds={plan.seeds}: must be 1 or more")
    if plan.seeds > 1 and conditions.push is None and not conditions.sampled:
        raise RecipeError(
            f"seeds={plan.seeds}: nothing is random here, every seed would give the same; add push=IMPULSE or sampled=true"
        )


def _run(plan: Plan, tracker: Tracker, agent: Agent | Unlearned, folder: Path, path: str) -> list[ClipResult]:
    results: list[ClipResult] = []
    conditions = tracker.conditions
    first, random = conditions.seed, conditions.sampled or conditions.push is not None
    for seed in range(first, first + (plan.seeds if random else 1)):
        suffix = f"-seed{seed}" if plan.seeds > 1 and random else ""
        source = " · ".join([Path(path).name, *describe(conditions), *([f"seed {seed}"] if random else [])])
        kit = KitWriter(tracker.simulated, tracker.bank) if plan.evalkit else None
        record = _recorder(tracker, folder / f"rollouts{suffix}" if plan.rollouts else None, kit, source)
        results += track_together(tracker, agent, seed, record)  # type: ignore[arg-type]
        if kit is not None:
            kit.write(folder / f"mm_evalkit{suffix}.npz")
    return results if random else results * plan.seeds


def _recorder(
    tracker: Tracker, folder: Path | None, kit: KitWriter | None, source: str
) -> Callable[[Trace], None] | None:
    """What takes the trace of each clip; None where nothing wants them."""
    if kit is None:
        return None if folder is None else rollout_writer(tracker.simulated, tracker.bank.names, folder, source)
    write = None if folder is None else rollout_writer(tracker.simulated, tracker.bank.names, folder, source)

    def record(trace: Trace) -> None:
        kit.add(trace.number, rollout_of(tracker.simulated, trace, source))
        if write is not None:
            write(trace)

    return record


def describe(conditions: Conditions) -> list[str]:
    """What an evaluation changes, in words; nothing where it changes nothing."""
    words = [f"{name} at {factor:g} of its force" for name, factor in conditions.strength]
    if conditions.push is not None:
        push = conditions.push
        words.append(f"pushes of {push.impulse:g} N s every {push.every:g} s on {push.site or 'the main site'}")
    if conditions.sampled:
        words.append("sampled actions")
    return words


def candidate_names(paths: Sequence[str]) -> list[str]:
    """Short names: the run directory's; with the file's name and a number where that is not enough to tell them apart."""
    def run_name(path: str) -> str:
        place = Path(path).resolve()
        if place.suffix != ".ckpt":
            return place.name
        return place.parent.parent.name if place.parent.name == "checkpoints" else place.stem

    names = [run_name(path) for path in paths]
    names = [n if names.count(n) == 1 else f"{n}-{Path(p).stem if p.endswith('.ckpt') else 'last'}"
             for n, p in zip(names, paths, strict=True)]
    return [n if names.count(n) == 1 else f"{n}-{i + 1}" for i, n in enumerate(names)]


def warn_of_leakage(trained: str | None, tested: str | None) -> None:
    """Say which motions of a test the policy was trained on; a test on the training motions themselves is no mistake.

    Args:
        trained: ``motions`` of the training; nothing is known where its directory is not on this machine.
        tested: ``motions`` of the test; None: those of the training.
    """
    if trained is None or tested is None or not (Path(trained).is_dir() and local_path(tested, ".npz").is_dir()):
        return
    if Path(trained).resolve() == Path(tested).resolve():
        return
    shared = leakage(motions_of(tested), motions_of(trained))
    if shared:
        log.warning(
            "%d of the motions in %s were trained on, e.g. %s: this is no test of them", len(shared), tested, shared[0]
        )
