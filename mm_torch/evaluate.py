"""``python -m mm_torch.evaluate checkpoint=CKPT [motions=DIR] [out=DIR] [threads=N]``: track every clip once.

checkpoint  a .ckpt file or a run directory
motions     directory with clips; default: the motions of the checkpoint's recipe
out         directory for summary.json, per_clip.csv and TensorBoard events; default: evaluation
threads     CPU threads in all; default: all cores
relative_site_deviation, root_position, absolute_site_deviation
            thresholds in m that end a clip early; default: the recipe's (paper: 0.3 and 0.5, the last off)
"""

from __future__ import annotations

import sys

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.evaluation import THRESHOLDS, evaluate


def main(arguments: list[str]) -> None:
    """Entry point."""
    known = {"checkpoint": "", "motions": "", "out": "evaluation", "threads": 0} | dict.fromkeys(THRESHOLDS, float)
    options = read_options(arguments, known)
    if not options["checkpoint"]:
        raise RecipeError("checkpoint=CKPT is missing; give a .ckpt file or a run directory")
    evaluate(options["checkpoint"], options["motions"] or None, options["out"], options["threads"],
             {name: options[name] for name in THRESHOLDS if options[name] is not None})


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
