"""Frames of motions side by side: ``python tools/make_strip.py out=FILE.png [key=value ...]``.

Draws one row for each motion, like the paper's Figure 5: frames at equal distances in time, muscles coloured by the
activations that produce the motion. The motions are played as they are, without physics. For the arms there are a throw and
a pour besides the built-in motions (``tools/library/strip.py``).

Settings:
  out=FILE.png
      picture to write (default strip.png)
  body=NAME
      body whose motions are drawn (default myo_bimanual)
  clips=NAME[:FROM-TO],...
      motions, one row each, whole or between two times in s (default
      lift_box:0.5-3,throw_right:0.6-2.1,wave_right:1.1-3.18,pour_right:0.5-3)
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
from sim_models.embodiment import Embodiment
from sim_models.registry import BodyError, load_body
from tools.library.bimanual import perform
from tools.library.strip import STRIP_MOTIONS
from tools.solve_activations import with_activations

CLIPS = "lift_box:0.5-3,throw_right:0.6-2.1,wave_right:1.1-3.18,pour_right:0.5-3"
OPTIONS = {"out": "strip.png", "body": "myo_bimanual", "clips": CLIPS, "frames": 6}
SIZE = (320, 400)  # pixels of a frame
DPI = 85

Row = tuple[Clip, float, float]  # a motion and the times in s it is shown from and to


def chosen(body: Embodiment, text: str) -> list[Row]:
    """The rows that ``clips=`` asks for: built-in motions, and for the arms those of ``STRIP_MOTIONS`` too.

    Raises:
        RecipeError: the body has no motion of that name, or the times are not in it.
    """
    paths = {path.stem: path for path in library_clips(body.name)}
    made = STRIP_MOTIONS if body.name == "myo_bimanual" else {}
    rows = []
    for word in text.split(","):
        name, _, times = word.partition(":")
        if name not in paths and name not in made:
            raise RecipeError(f"clips={word}: no motion of {body.name}; choose from {', '.join([*paths, *made])}")
        clip = load_clip(paths[name]) if name in paths else next(perform(body, {name: made[name]}))
        rows.append((clip, *_times(word, times, clip.duration)))
    return [(clip if clip.act.size else with_activations(body, clip)[0], start, stop) for clip, start, stop in rows]


def _times(word: str, times: str, duration: float) -> tuple[float, float]:
    start, _, stop = (times or f"0-{duration}").partition("-")
    try:
        span = float(start), float(stop)
    except ValueError:
        raise RecipeError(f"clips={word}: write NAME or NAME:FROM-TO with two times in s") from None
    if not 0.0 <= span[0] <= span[1] <= duration:
        raise RecipeError(f"clips={word}: give two times from 0 to {duration:g} s, the earlier first")
    return span


def strip(rows: list[Row], stage: Stage, frames: int) -> plt.Figure:
    """Pictures of ``frames`` instants a row, at equal distances in time, the camera as near as each row allows."""
    figure, axes = plt.subplots(len(rows), frames, figsize=(1.9 * frames, 2.5 * len(rows)), squeeze=False,
                                layout="constrained")
    for line, (clip, start, stop) in zip(axes, rows, strict=True):
        instants = np.rint(np.linspace(start, stop, frames) * clip.fps).astype(int)
        stage.aim(clip.qpos[instants])
        for axis, at in zip(line, instants, strict=True):
            axis.imshow(stage.frame(clip.qpos[at], clip.act[at]))
            axis.set_title(f"{at / clip.fps:.2f} s", fontsize=8)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(clip.name.replace("_", " "))
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
        body = load_body(options["body"])
        rows = chosen(body, options["clips"])
        with Stage(body, *SIZE) as stage:
            figure = strip(rows, stage, options["frames"])
    except (RecipeError, MotionError, BodyError, VideoError) as error:
        print(f"make_strip: {error}", file=sys.stderr)
        return 2
    Path(options["out"]).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options["out"], dpi=DPI)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
