"""``python -m mm_torch.play checkpoint=CKPT video=out.mp4 [clip=NAME] [seconds=S]``: film a policy and its reference.

checkpoint  a .ckpt file or a run directory; without one, the motions of body= are shown by themselves
video       file to write (.mp4, 50 frames per second); default: play.mp4
motions     directory or file with clips; default: the motions of the checkpoint's recipe, or the built-in ones
clip        name of one clip; default: clips in order until the time is filled
seconds     most seconds to show; default: 20
body        a body (python -m mm_torch.bodies lists them); only without a checkpoint
fingers     true: its fingers move; only without a checkpoint
width       pixels; default: 640
height      pixels; default: 480

Example: python -m mm_torch.play checkpoint=runs/toy clip=reach video=reach.mp4
         python -m mm_torch.play body=myo_bimanual clip=wave_right video=wave.mp4
"""

from __future__ import annotations

import sys

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.playback import policy_takes, reference_takes
from mm_torch.video import write_video

OPTIONS = {
    "checkpoint": None, "video": "play.mp4", "motions": None, "clip": None, "seconds": 20.0, "body": None,
    "fingers": False, "width": 640, "height": 480,
}


def main(arguments: list[str]) -> None:
    """Entry point."""
    o = read_options(arguments, OPTIONS)
    if (o["checkpoint"] is None) == (o["body"] is None):
        raise RecipeError("give checkpoint=CKPT to show a policy, or body=NAME to show motions: one of the two")
    if not o["seconds"] > 0:
        raise RecipeError(f"seconds={o['seconds']:g}: must be greater than 0")
    shown = (o["motions"], o["clip"], o["seconds"])
    if o["checkpoint"] is not None:
        body, takes = policy_takes(o["checkpoint"], *shown)
    else:
        body, takes = reference_takes(o["body"], o["fingers"], *shown)
    count = write_video(body, takes, o["video"], o["width"], o["height"])
    print(f"{o['video']}: {count} frames of {', '.join(take.name for take in takes)}")


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
