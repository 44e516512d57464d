"""Make the policy in the box from a run: ``python tools/make_box.py checkpoint=RUN [out=FILE]``.

Keeps what running and fine-tuning need, the weights in half precision, and leaves out what only resuming needs. The run
must have trained on the built-in motions, so that the file means the same everywhere.

checkpoint  a .ckpt file or a run directory
out         file to write, replaced in one step; default: mm_torch/policy/box.ckpt

Example: python tools/make_box.py checkpoint=runs/arms
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.callbacks.checkpoint import KEY, read_checkpoint
from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.policy.box import BOX

KEPT = ("format", "layout", "body", "model_hash", "muscles", "clips", "versions", "iteration", "control_steps", "seconds")
OF_THE_RUN = {"run_dir": None, "resume": None, "init_from": None, "max_minutes": None}  # where and how long it ran


def pack(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that a policy consists of; single precision becomes half.

    Raises:
        RecipeError: trained on other motions than the built-in ones.
    """
    extra = checkpoint[KEY]
    if extra["recipe"]["motions"] is not None:
        raise RecipeError(f"motions={extra['recipe']['motions']}: the box takes a policy of the built-in motions; train "
                          "without motions=")
    weights = {k: v.half() if v.dtype == torch.float32 else v for k, v in checkpoint["state_dict"].items()
               if k.startswith("agent.")}
    return {"state_dict": weights, KEY: {k: extra[k] for k in KEPT} | {"recipe": extra["recipe"] | OF_THE_RUN}}


def main(arguments: list[str]) -> None:
    """Entry point."""
    o = read_options(arguments, {"checkpoint": "", "out": str(BOX)})
    if not o["checkpoint"]:
        raise RecipeError("checkpoint=RUN is missing; give a .ckpt file or a run directory")
    checkpoint, out = read_checkpoint(o["checkpoint"]), Path(o["out"])
    packed = io.BytesIO()
    torch.save(pack(checkpoint), packed)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_bytes(packed.getvalue())
    os.replace(temporary, out)
    extra = checkpoint[KEY]
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {extra['recipe']['recipe']}, seed {extra['recipe']['seed']}, "
          f"{extra['control_steps']:,} control steps in {extra['seconds'] / 60:.0f} min")


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
