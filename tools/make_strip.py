"""Frames of motions side by side: ``python tools/make_strip.py out=FILE.png [key=value ...]``.

Draws one row for each motion, like the paper's Figure 5: frames at equal distances in time, muscles coloured by the
activations stored in the clip. The motions are played as they are, without physics.

Settings:
  out=FILE.png
      picture to write (default strip.png)
  body=NAME
      body whose built-in motions are drawn (default myo_bimanual)
  clips=NAME,...
      motions, one row each (default lift_box,push,wave_right,drink_right)
  frames=N
      frames a row (default 6)

Exit status: 0 written, 2 an option cannot be used.

Example: python tools/make_strip.py out=docs/images/arms_strip.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
matplotlib.use("Agg")
from matplotlib import pyplot as plt

from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.motion.clip import Clip, MotionError, load_clip
from mm_torch.motion.library import library_clips
from mm_torch.video import Stage, VideoError
from sim_models.registry import BodyError, load_body

OPTIONS = {"out": "strip.png", "body": "myo_bimanual", "clips": "lift_box,push,wave_right,drink_right", "frames": 6}
SIZE = (320, 300)  # pixels of a frame


def chosen(body: str, names: str) -> list[Clip]:
    """Built-in motions by name.

    Raises:
        RecipeError: the body has none of that name.
    """
    paths = {path.stem: path for path in library_clips(body)}
    unknown = [name for name in names.split(",") if name not in paths]
    if unknown:
        raise RecipeError(f"clips={unknown[0]}: no built-in motion of {body}; choose from {', '.join(paths)}")
    return [load_clip(paths[name]) for name in names.split(",")]


def strip(clips: list[Clip], stage: Stage, frames: int) -> plt.Figure:
    """One row for each clip: ``frames`` instants, evenly from 8 to 92 % of its time."""
    figure, axes = plt.subplots(len(clips), frames, figsize=(2.1 * frames, 2.05 * len(clips)), squeeze=False,
                                layout="constrained")
    for row, clip in zip(axes, clips, strict=True):
        for axis, f in zip(row, np.linspace(0.08, 0.92, frames), strict=True):
            at = round(f * (len(clip.qpos) - 1))
            axis.imshow(stage.frame(clip.qpos[at], clip.act[at] if clip.act.size else None))
            axis.set_title(f"{at / clip.fps:.2f} s", fontsize=8)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(clip.name.replace("_", " "))
    return figure


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    try:
        options = read_options(arguments, OPTIONS)
        if options["frames"] < 1:
            raise RecipeError(f"frames={options['frames']}: give at least 1")
        clips = chosen(options["body"], options["clips"])
        with Stage(load_body(options["body"]), *SIZE) as stage:
            figure = strip(clips, stage, options["frames"])
    except (RecipeError, MotionError, BodyError, VideoError) as error:
        print(f"make_strip: {error}", file=sys.stderr)
        return 2
    Path(options["out"]).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options["out"], dpi=80)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
