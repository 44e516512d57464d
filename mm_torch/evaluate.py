"""``python -m mm_torch.evaluate checkpoint=CKPT[,CKPT...] [motions=DIR] [out=DIR]``: track every clip once.

checkpoint  .ckpt files or run directories, separated by commas; the others are compared with the first, clip by clip;
            the word control among them stands for computed muscle control, which has learned nothing, the word box
            for the policy of the arms that comes with the installation
motions     directory or file with clips; default: the motions of the first checkpoint's recipe
out         directory for summary.json, per_clip.csv, report.{json,csv,md} and TensorBoard events; default: evaluation
format      what is printed: text (default), json, csv or md
threads     CPU threads of a process; default: its share of the cores
worlds      clips that run at the same time, 1 to 64 (default); the results do not depend on it
relative_site_deviation, root_position, absolute_site_deviation
            thresholds in m that end a clip early; default: the first recipe's (paper: 0.3 and 0.5, the last off)
rollouts    true: write out/rollouts/CLIP.npz with states, muscle forces, joint moments and floor forces
evalkit     true: write out/mm_evalkit.npz, the rollout file of mm-evalkit 0.1.0
strength    force that muscles keep, for example soleus:0.5,right_leg:0.8 (a muscle on both sides, a group)
push        impulse in N s of pushes from random directions; push_every: seconds between them (default 1);
            push_site: the mimic site that is pushed (default: the main site)
baseline    true: the first checkpoint runs unpushed and unweakened, too, and the others are compared with that
sampled     true: draw actions from the policy as in training; default: its mean
seed        of pushes and sampled actions; default: 0
seeds       number of seeds to run, from seed on; default: 1

checkpoint and motions may lie on the Hugging Face Hub: hf://user/repo[/file][@revision] (extra hub).

With torchrun --nproc_per_node=N -m mm_torch.evaluate, or srun, several processes share the clips (docs/scaling.md).

Example: python -m mm_torch.evaluate checkpoint=runs/toy out=runs/toy/evaluation
         python -m mm_torch.evaluate checkpoint=runs/arms,box,control push=5 seeds=3 format=md
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.evaluation.job import THRESHOLDS, Plan, evaluate
from mm_torch.evaluation.perturbation import Push, read_strength
from mm_torch.evaluation.report import FORMATS, render, write_results
from mm_torch.evaluation.tracker import ROWS, Conditions
from mm_torch.maths.ranks import is_first
from mm_torch.policy.box import named_checkpoint
from mm_torch.processes import SHARED_WORK, together

OPTIONS: dict[str, Any] = {
    "checkpoint": "", "motions": None, "out": "evaluation", "format": "text", "threads": 0, "worlds": ROWS,
    "rollouts": False, "evalkit": False, "strength": "", "push": float, "push_every": 1.0, "push_site": None,
    "baseline": False, "sampled": False, "seed": 0, "seeds": 1,
} | dict.fromkeys(THRESHOLDS, float)


def main(arguments: list[str]) -> None:
    """Entry point."""
    plan, kind = plan_from(arguments)
    with together("start the same command again", SHARED_WORK) as found:
        candidates = evaluate(plan, found)
        if is_first():
            write_results(plan, candidates)
            print(render(plan, candidates, kind), end="")


def plan_from(arguments: list[str]) -> tuple[Plan, str]:
    """The plan that command-line words ask for, and what to print.

    Raises:
        RecipeError: a word is unknown or a value cannot be used.
    """
    o = read_options(arguments, OPTIONS)
    checkpoints = tuple(named_checkpoint(name) for name in o["checkpoint"].split(",") if name)
    if not checkpoints:
        raise RecipeError("checkpoint=CKPT is missing; give a .ckpt file or a run directory")
    if o["format"] not in FORMATS:
        raise RecipeError(f"format={o['format']}: choose one of {', '.join(FORMATS)}")
    if o["push"] is not None and not o["push"] > 0:
        raise RecipeError(f"push={o['push']:g}: must be greater than 0 N s; leave it out for no pushes")
    push = None if o["push"] is None else Push(o["push"], o["push_every"], o["push_site"])
    conditions = Conditions(
        seed=o["seed"], sampled=o["sampled"], push=push, strength=read_strength(o["strength"]), worlds=o["worlds"]
    )
    return Plan(
        checkpoints=checkpoints, motions=o["motions"], out=Path(o["out"]), threads=o["threads"],
        thresholds=tuple((name, o[name]) for name in THRESHOLDS if o[name] is not None), conditions=conditions,
        seeds=o["seeds"], baseline=o["baseline"], rollouts=o["rollouts"], evalkit=o["evalkit"],
    ), o["format"]


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
