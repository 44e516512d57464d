"""``python -m mm_torch.track body=NAME [motions=DIR] [out=DIR]``: track clips with muscles and no learned part.

body        a body (python -m mm_torch.bodies lists them)
motions     directory or file with clips; built-in (default): the motions that come with the body
fingers     true: the fingers move
out         directory for summary.json, per_clip.csv, report.{json,csv,md} and TensorBoard events; default: tracking
format      what is printed: text (default), json, csv or md
video       .mp4 to write: the body, its muscles coloured by activation, and the reference as a ghost
seconds     most seconds to film; default: 20
threads     CPU threads in all; default: all cores
worlds      clips that run at the same time, 1 to 64 (default)
rollouts    true: write out/rollouts/CLIP.npz with states, muscle forces, joint moments and floor forces
strength    force that muscles keep, for example soleus:0.5,right_leg:0.8; the controller does not know of it
push        impulse in N s of pushes from random directions; push_every: seconds between them (default 1);
            push_site: the mimic site that is pushed (default: the main site)
seed        of the pushes; default: 0
relative_site_deviation, root_position, absolute_site_deviation
            thresholds in m that end a clip early; default: 0.15 absolute on a fixed root, 0.3 and 0.5 on a free one

The controller (computed muscle control) chooses in each control step the activations, and with them the contact forces,
whose accelerations come nearest to the reference's with feedback. It is the baseline that policies are compared with.
motions may lie on the Hugging Face Hub: hf://user/repo[/file][@revision] (extra hub).

Example: python -m mm_torch.track body=myo_bimanual out=tracking video=arms.mp4
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.evaluation.control_job import Tracking, track, write_tracking
from mm_torch.evaluation.job import THRESHOLDS
from mm_torch.evaluation.perturbation import Push, read_strength
from mm_torch.evaluation.report import FORMATS, render
from mm_torch.evaluation.tracker import ROWS, Conditions

OPTIONS: dict[str, Any] = {
    "body": "", "motions": "built-in", "fingers": False, "out": "tracking", "format": "text", "video": None,
    "seconds": 20.0, "threads": 0, "worlds": ROWS, "rollouts": False, "strength": "", "push": float, "push_every": 1.0,
    "push_site": None, "seed": 0,
} | dict.fromkeys(THRESHOLDS, float)


def main(arguments: list[str]) -> None:
    """Entry point."""
    job, kind = tracking_from(arguments)
    outcome = track(job)
    plan, candidate = write_tracking(job, outcome)
    print(render(plan, [candidate], kind), end="")
    if kind == "text":
        print(outcome.describe())


def tracking_from(arguments: list[str]) -> tuple[Tracking, str]:
    """What command-line words ask for, and what to print.

    Raises:
        RecipeError: a word is unknown or a value cannot be used.
    """
    o = read_options(arguments, OPTIONS)
    if o["format"] not in FORMATS:
        raise RecipeError(f"format={o['format']}: choose one of {', '.join(FORMATS)}")
    if o["push"] is not None and not o["push"] > 0:
        raise RecipeError(f"push={o['push']:g}: must be greater than 0 N s; leave it out for no pushes")
    if not o["seconds"] > 0:
        raise RecipeError(f"seconds={o['seconds']:g}: must be greater than 0")
    push = None if o["push"] is None else Push(o["push"], o["push_every"], o["push_site"])
    conditions = Conditions(seed=o["seed"], push=push, strength=read_strength(o["strength"]), worlds=o["worlds"])
    return Tracking(
        body=o["body"], fingers=o["fingers"], motions=None if o["motions"] == "built-in" else o["motions"],
        out=Path(o["out"]), threads=o["threads"], conditions=conditions, rollouts=o["rollouts"],
        video=None if o["video"] is None else Path(o["video"]), seconds=o["seconds"],
        thresholds=tuple((name, o[name]) for name in THRESHOLDS if o[name] is not None),
    ), o["format"]


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
