"""``python -m mm_torch.export checkpoint=CKPT [out=policy.pt]``: write a policy that runs with torch alone.

checkpoint  a .ckpt file or a run directory
out         TorchScript file; a sheet of names, slices and rates is written beside it as .json; default: policy.pt
"""

from __future__ import annotations

import sys

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.policy_file import export_policy


def main(arguments: list[str]) -> None:
    """Entry point."""
    options = read_options(arguments, {"checkpoint": "", "out": "policy.pt"})
    if not options["checkpoint"]:
        raise RecipeError("checkpoint=CKPT is missing; give a .ckpt file or a run directory")
    out = export_policy(options["checkpoint"], options["out"])
    print(f"{out} and {out.with_suffix('.json')}: equal to the trained policy on a rollout")


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
