"""Throughput: ``python tools/benchmark.py [key=value ...]``. All rates in control steps of worlds a second.

Ratios (nothing else asked for): environment with random actions, raw mujoco.batch through the same states and excitations,
and training iterations of the body's cpu recipe, alternated within seconds in one process; medians of paired ratios.
  body        myo_fullbody, myo_bimanual or toy_arm; default myo_fullbody
  num_envs    worlds; default 64
  rounds      training iterations; default 8
  steps       control steps of environment and raw physics after each; default 16
  json        file for the figures
Sweep: training iterations at the paper's settings, with the time of each part, for several numbers of worlds.
  sweep       worlds, as 1,16,256, or paper (16 to 8,192)
  sim         native or warp; default native
  profile     cpu or cuda profile of the recipe; default cpu
  substeps    physics steps of a control step; default 5
  threads     cores to use; default all
  rollout_steps, minibatches   default 50 and 32, the paper's
  seconds     an iteration's time at most: a longer one is shortened in proportion; default 10
  memory_gb   worlds that would take more are left out; default 20
Others:
  against     a git revision: its ratios and ours in turn, repeats= times (default 3)
  myosuite    python of an environment with myosuite==3.0.0: its environment of that body, one process a core, and our ratios
  memory      worlds: predicted memory of the cuda profile on a GPU
  plot        picture of the history's newest sweeps
  history     file that every case is appended to, one JSON object a line; default runs/benchmarks.jsonl

Example: python tools/benchmark.py sweep=1,4,16,64,256 body=myo_fullbody plot=sweep.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from sim_models.embodiment import SUBSTEPS
from tools.benchmarks import against, history, ratios
from tools.benchmarks.iteration import Case
from tools.benchmarks.setup import prepare
from tools.benchmarks.sweep import PAPER, PAPER_WORLDS, sweep

KNOWN = {
    "body": "myo_fullbody", "num_envs": 64, "rounds": 8, "steps": 16, "json": "", "sweep": "", "sim": "native",
    "profile": "cpu", "substeps": SUBSTEPS, "threads": 0, **PAPER, "seconds": 10.0, "memory_gb": 20.0, "against": "",
    "repeats": 3, "myosuite": "", "memory": 0, "plot": "", "history": "runs/benchmarks.jsonl",
}


def main(arguments: list[str]) -> None:
    """Entry point."""
    options = read_options(arguments, KNOWN)
    book = Path(options["history"])
    if options["sweep"]:
        for figures in _sweep(options):
            _report(figures, book)
    elif options["against"]:
        names = ("against", "body", "num_envs", "rounds", "steps", "repeats")
        _report(against.against_revision(*(options[n] for n in names)), book)
    elif options["myosuite"]:
        names = ("myosuite", "body", "seconds", "num_envs", "rounds", "steps")
        _report(against.against_myosuite(*(options[n] for n in names)), book)
    elif options["memory"]:
        from tools.benchmarks.memory import predict

        _report(predict(options["body"], options["memory"], []), book)
    elif not options["plot"]:
        figures = ratios.run(*(options[n] for n in ("body", "num_envs", "rounds", "steps")))
        _report(figures, book)
        if options["json"]:
            Path(options["json"]).write_text(json.dumps(figures | history.surroundings(), indent=2) + "\n")
    if options["plot"]:
        from tools.benchmarks.plots import draw

        draw(history.read(book), Path(options["plot"]))


def _sweep(options: Mapping[str, Any]) -> Any:
    try:
        worlds = PAPER_WORLDS if options["sweep"] == "paper" else [int(n) for n in options["sweep"].split(",")]
    except ValueError:
        raise RecipeError(f"sweep={options['sweep']}: give numbers of worlds, as 1,16,256, or paper") from None
    if min(worlds) < 1:
        raise RecipeError(f"sweep={options['sweep']}: at least one world")
    names = ("body", "sim", "substeps", "threads", "profile", "rollout_steps", "minibatches")
    case = Case(worlds=1, **{n: options[n] for n in names})
    hold = prepare(case.body, [f"sim={case.sim}", f"profile={case.profile}"])[0].task.action.hold_steps
    return sweep(case, worlds, hold, options["seconds"], options["memory_gb"])


def _report(figures: Mapping[str, Any], book: Path) -> None:
    """Print a case and append it to the history."""
    for name, value in figures.items():
        print(f"{name:26} {value:,.3f}" if isinstance(value, float) else f"{name:26} {value}", flush=True)
    print()
    history.append(book, figures)


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
