"""``python -m mm_torch.export checkpoint=CKPT [out=DIR] [formats=LIST]``: a policy that runs without this project.

checkpoint  a .ckpt file or a run directory; box: the policy of the arms that comes with the installation
out         directory to make; an earlier bundle there is replaced; default: policy
formats     torchscript, pt2 (torch.export), onnx (extra onnx), separated by commas; default: torchscript,pt2
motions     directory or file with clips to put in; default: the built-in motions, which may be passed on

checkpoint and motions may lie on the Hugging Face Hub: hf://user/repo[/file][@revision] (extra hub).

The directory holds, a file a format, ``policy`` and ``observer`` (what the policy sees, from MuJoCo's state and a motion);
``policy.json``, which names every number; ``body.mjb.gz``; ``clips/``; and ``run_policy.py``, which needs mujoco, numpy and
torch or onnxruntime, tracks the clips and says whether the result is that of the evaluation. Every format is compared with
the environment on 1,000 observations before it is kept.

Example: python -m mm_torch.export checkpoint=runs/toy out=toy_policy formats=torchscript,onnx
         python toy_policy/run_policy.py --format onnx
"""

from __future__ import annotations

import json
import sys

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.policy.box import named_checkpoint
from mm_torch.policy.bundle import SHEET, export_policy
from mm_torch.policy.formats import read_formats

OPTIONS = {"checkpoint": "", "out": "policy", "formats": "torchscript,pt2", "motions": None}


def main(arguments: list[str]) -> None:
    """Entry point."""
    o = read_options(arguments, OPTIONS)
    if not o["checkpoint"]:
        raise RecipeError("checkpoint=CKPT is missing; give a .ckpt file or a run directory")
    out = export_policy(named_checkpoint(o["checkpoint"]), o["out"], read_formats(o["formats"]), o["motions"])
    for kind, figures in json.loads((out / SHEET).read_text())["formats"].items():
        print(
            f"{kind}: equal to the trained policy on {figures['observations']} observations (policy to "
            f"{figures['policy_difference']:.1e}, observer to {figures['observer_difference']:.1e}); policy "
            f"{figures['policy_ms']:.3f} ms, observer {figures['observer_ms']:.3f} ms a step on one core"
        )
    print(f"{out}: try python {out}/run_policy.py")


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
