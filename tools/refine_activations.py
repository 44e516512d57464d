"""Activations that carry motions: ``python tools/refine_activations.py MOTIONS... checkpoint=CKPT out=DIR [key=value ...]``.

MOTIONS are clips with activations, or directories of them, of a body that walks. Static optimisation gives activations for a
body that is exactly on the reference; here worlds simulate the checkpoint's policy and reflexes on top of them and search for
those with which the body follows the whole motion (beam search, mm_torch/evolution/beam.py). Every clip is written to
out=DIR with its motion as it was and the activations that were found; clips that are there already with the same source,
policy and settings are left alone. A line a clip states how far the policy gets before and after, from the first frame on
under the thresholds of the evaluation, and refined.csv holds the lines of all runs.

Exit status: 0 all clips are there, 1 some failed, 2 the command is wrong.

Settings:
  checkpoint=CKPT
      run directory or checkpoint, with task.action.reflexes and task.action.base=reference
  out=DIR
      where the clips go
  worlds=128
      worlds that try
  window=16, horizon=32, elites=16, sigma=0.4, keep=0.8, memory=0.8, seed=0
      of the search: see mm_torch/evolution/beam.py
  threads=0
      CPU threads of the physics; 0: all cores

Example:
  python tools/refine_activations.py clips checkpoint=runs/walks/checkpoints/evolved.ckpt out=refined
  python -m mm_torch.evaluate checkpoint=runs/walks/checkpoints/evolved.ckpt motions=refined
"""

from __future__ import annotations

import csv
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from mm_torch import build
from mm_torch.callbacks.checkpoint import CheckpointError, open_checkpoint
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.config.schema import Recipe
from mm_torch.evaluation.job import load_agent, thresholds_of
from mm_torch.evaluation.tracker import ClipResult, Tracker, evaluation_recipe
from mm_torch.evolution.beam import Beam, BeamSettings, BeamWorlds, Window
from mm_torch.hub.download import HubError
from mm_torch.motion.bank import ReferenceBank, find_clips
from mm_torch.motion.clip import Clip, MotionError, bind_to_body, load_clip
from mm_torch.ppo.policy import Agent
from mm_torch.sim.threads import apply, budget_threads
from sim_models.embodiment import Embodiment
from tools.retargeting.atomic import write_csv

OPTIONS: dict[str, Any] = {
    "checkpoint": "", "out": "", "worlds": 128, "threads": 0, **asdict(BeamSettings()),
}
SOLVED = ("foot_force", "foot_centre_of_pressure", "root_residual", "joint_residual", "saturation")
COLUMNS = (
    "clip", "status", "reason", "frames", "length_before", "length", "relative_site_error_before", "relative_site_error",
    "root_position_error", "control_steps", "seconds",
)


@dataclass(frozen=True)
class Source:
    """A clip to refine: its file, where the result goes, and what tells one result from another."""

    path: Path
    out: Path
    clip: Clip
    key: str


class Refiner:
    """Worlds for the search and a tracker that judges, on the clips of one bank."""

    def __init__(self, options: dict[str, Any], recipe: Recipe, agent: Agent, sources: Sequence[Source]) -> None:
        budget = budget_threads(options["threads"] or None)
        apply(budget)
        recipe = evaluation_recipe(recipe, None, thresholds_of(recipe))
        body = build.build_body(recipe)
        physics = build.build_physics(recipe, body, options["worlds"], budget.physics)
        self.bank = ReferenceBank.build(body, [source.clip for source in sources], physics.device)
        self.settings = BeamSettings(**{name: options[name] for name in asdict(BeamSettings())})
        self.muscles = body.muscle_names
        self.agent = agent.to(physics.device)
        self.worlds = BeamWorlds(physics, self.bank, recipe.task)
        self.tracker = Tracker(recipe, self.bank, budget.physics)

    def judge(self, number: int) -> ClipResult:
        """How far the policy follows a clip with its present activations."""
        return self.tracker.track(self.agent, clips=[number])[0]

    def __call__(self, number: int, tell: Any) -> tuple[np.ndarray, ClipResult, ClipResult, int]:
        """Activations (F, M) of a clip, results before and after, control steps it took."""
        first = int(self.bank.offsets[number])
        act = self.bank.act[first : first + int(self.bank.lengths[number])]  # type: ignore[index]
        before, kept = self.judge(number), act.clone()
        beam = Beam(self.agent, self.worlds, self.settings)
        act.copy_(beam.refine(number, tell)[0])
        after = self.judge(number)
        if after.episode_return <= before.episode_return:
            act.copy_(kept)
            after = before
        return act.cpu().numpy(), before, after, beam.control_steps


def check(recipe: Recipe, options: dict[str, Any]) -> None:
    """Refuse what the search cannot work with.

    Raises:
        RecipeError: names the key, its value and the remedy.
    """
    action, name = recipe.task.action, options["checkpoint"]
    for key, value, wanted in (("reflexes", action.reflexes, True), ("base", action.base, "reference")):
        if value != wanted:
            raise RecipeError(f"checkpoint={name}: task.action.{key}={value}, must be {str(wanted).lower()}; train with that "
                              "first, for example recipe=fullbody_guided")
    worlds, elites, window = (options[key] for key in ("worlds", "elites", "window"))
    if not 1 <= elites <= worlds // 2:
        raise RecipeError(f"elites={elites}: must lie between 1 and half of worlds={worlds}")
    if window < 1 or window % action.hold_steps:
        raise RecipeError(f"window={window}: must be a multiple of task.action.hold_steps={action.hold_steps}")
    if "ref_activation" in recipe.task.observation:
        raise RecipeError(f"checkpoint={name}: its policy sees the activations that are searched for; use one "
                          "without ref_activation in task.observation")
    for key, low, high in (("horizon", window, 1000), ("sigma", 1e-6, 10.0), ("keep", 0.0, 1.0), ("memory", 0.0, 1.0)):
        if not low <= options[key] <= high:
            raise RecipeError(f"{key}={options[key]:g}: must lie between {low:g} and {high:g}")


def sources(
    given: Sequence[Path], options: dict[str, Any], body: Embodiment
) -> tuple[list[Source], list[dict[str, Any]]]:
    """Clips that are to be refined, and rows of those that need not or cannot be."""
    policy = hashlib.sha256(open_checkpoint(options["checkpoint"])[0].read_bytes()).hexdigest()
    settings = {k: v for k, v in sorted(options.items()) if k not in ("checkpoint", "out", "threads")}
    wanted, rows = [], []
    for place in given:
        for path in find_clips(place):
            out = Path(options["out"]) / (path.relative_to(place) if place.is_dir() else path.name)
            try:
                clip = usable(path, body)
                key = hashlib.sha256(path.read_bytes() + f"{policy}{settings}".encode()).hexdigest()
                if out.exists() and load_clip(out).provenance.get("refined", {}).get("key") == key:
                    rows.append({"clip": str(path), "status": "left alone", "reason": f"{out} is up to date"})
                    continue
                wanted.append(Source(path, out, clip, key))
            except (MotionError, OSError) as error:
                rows.append({"clip": str(path), "status": "failed", "reason": " ".join(str(error).split())})
    return wanted, rows


def usable(path: Path, body: Embodiment) -> Clip:
    """A clip that can be refined.

    Raises:
        MotionError: it cannot be read, is of another body or rate, or has no activations.
    """
    clip = load_clip(path)
    if not clip.act.size:
        raise MotionError(f"{path}: has no activations to begin with; add them with tools/solve_activations.py")
    bind_to_body(clip, body)
    if abs(clip.fps * body.control_dt - 1.0) > 1e-9:
        raise MotionError(f"{path}: {clip.fps:g} frames a second, must be {1.0 / body.control_dt:g}; make it with "
                          "tools/retarget.py")
    return clip


def refined(source: Source, act: np.ndarray, muscles: Sequence[str]) -> Clip:
    """The clip with other activations; what static optimisation said of forces belonged to its own and is left out."""
    clip = source.clip
    empty = {name: np.zeros(0) for name in SOLVED}
    return replace(
        clip, act=act, muscle_names=tuple(muscles), foot_names=(), feasible=np.zeros(0, dtype=bool), **empty,
        provenance=clip.provenance | {"refined": {"key": source.key}},
    )


def line(row: dict[str, Any]) -> str:
    """A row as a line of text."""
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    return (
        f"{row['frames']} frames  followed {row['length_before']} -> {row['length']}  relative sites "
        f"{100 * row['relative_site_error_before']:.1f} -> {100 * row['relative_site_error']:.1f} cm  root "
        f"{100 * row['root_position_error']:.1f} cm  ({row['seconds']:.0f} s)"
    )


def main(arguments: list[str]) -> int:
    """Refine all clips named on the command line; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    given = [Path(a) for a in arguments if "=" not in a]
    try:
        options = read_options([a for a in arguments if "=" in a], OPTIONS)
        if not given or not options["checkpoint"] or not options["out"]:
            raise RecipeError("python tools/refine_activations.py MOTIONS... checkpoint=CKPT out=DIR [key=value ...]")
        recipe, agent = load_agent(options["checkpoint"])
        check(recipe, options)
        wanted, rows = sources(given, options, build.build_body(recipe))
        refiner = Refiner(options, recipe, agent, wanted) if wanted else None
    except (RecipeError, MotionError, CheckpointError, HubError) as error:
        print(f"refine_activations: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(f"{row['clip']}  {line(row)}", file=sys.stderr if row["status"] == "failed" else sys.stdout)
    table = Path(options["out"]) / "refined.csv"
    for number, source in enumerate(wanted):
        assert refiner is not None
        row = {"clip": str(source.path)} | refine(refiner, source, number)
        rows.append(row)
        print(f"\r{row['clip']}  {line(row)}\033[K" if sys.stdout.isatty() else f"{row['clip']}  {line(row)}", flush=True)
        write_csv(table, COLUMNS, with_others(table, rows))
    return int(any(row["status"] == "failed" for row in rows))


def with_others(table: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of this run and those of other clips, or of clips that were left alone, that a table has from earlier runs."""
    kept: dict[str, dict[str, Any]] = {}
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            kept = {row["clip"]: row for row in csv.DictReader(file)}
    news = {row["clip"]: row for row in rows if row["status"] != "left alone" or row["clip"] not in kept}
    return list((kept | news).values())


def refine(refiner: Refiner, source: Source, number: int) -> dict[str, Any]:
    """Refine one clip and write it; returns its row."""
    def tell(window: Window) -> None:
        if sys.stdout.isatty():
            print(f"\r{source.path}  frame {window.frame} of {window.frames}\033[K", end="", flush=True)

    start = time.perf_counter()
    try:
        act, before, after, steps = refiner(number, tell)
        refined(source, act, refiner.muscles).save(source.out)
    except OSError as error:
        return {"status": "failed", "reason": " ".join(str(error).split())}
    return {
        "status": "ok", "frames": after.frames, "length_before": before.episode_length, "length": after.episode_length,
        "relative_site_error_before": before.errors["relative_site_error"],
        "relative_site_error": after.errors["relative_site_error"],
        "root_position_error": after.errors["root_position_error"], "control_steps": steps,
        "seconds": time.perf_counter() - start,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
