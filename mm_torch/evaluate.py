"""``python -m mm_torch.evaluate checkpoint=CKPT [motions=DIR] [out=DIR] [threads=N]``: track every clip once.

checkpoint  a .ckpt file or a run directory
motions     directory with clips; default: the motions of the checkpoint's recipe
out         directory for summary.json, per_clip.csv and TensorBoard events; default: evaluation
threads     CPU threads in all; default: all cores
"""

from __future__ import annotations

import sys

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.evaluation import evaluate


def main(arguments: list[str]) -> None:
    """Entry point."""
    options = read_options(arguments, {"checkpoint": "", "motions": "", "out": "evaluation", "threads": 0})
    if not options["checkpoint"]:
        raise RecipeError("checkpoint=CKPT is missing; give a .ckpt file or a run directory")
    evaluate(options["checkpoint"], options["motions"] or None, options["out"], options["threads"])


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
