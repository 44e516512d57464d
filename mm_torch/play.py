"""``python -m mm_torch.play [checkpoint=CKPT] [viewer=video|window|web]``: look at a policy, at motions or at rollouts.

checkpoint  .ckpt files or run directories, separated by commas; default: the policy of the arms that comes with mm_torch
show        policy, or reference: the motions by themselves, without physics; default: policy (reference with body=)
body        a body (python -m mm_torch.bodies lists them) whose motions are shown; default: that of the clips
fingers     true: its fingers move; only with show=reference
rollout     a file, or a directory with files, of mm_torch.evaluate rollouts=true, to be shown instead
motions     directory or file with clips; default: the motions of the checkpoint's recipe, or the built-in ones
clip        name of one clip; default: clips in order until the time is filled; the web page starts with it
seconds     most seconds to show, of the web page of each clip; default: 20
viewer      video: a file (default); window: MuJoCo's viewer, needs a display; web: a page for a browser
video       file to write (.mp4, 50 frames per second); default: play.mp4
width       pixels of the video; default: 640
height      pixels of the video; default: 480
port        port of the page; default: 8080
host        address that the page is served on; default: 127.0.0.1, this machine only

Example: python -m mm_torch.play viewer=web
         python -m mm_torch.play checkpoint=runs/toy clip=reach video=reach.mp4
         python -m mm_torch.play body=myo_bimanual clip=wave_right video=wave.mp4
         python -m mm_torch.play rollout=evaluation/rollouts/walk.npz viewer=window
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.playback import REFERENCE, policy_programme, reference_programme, rollout_programme
from mm_torch.policy.box import named_checkpoint
from mm_torch.video import write_video
from mm_torch.viewer.take import Programme, Take
from mm_torch.viewer.web import serve
from mm_torch.viewer.window import open_window

OPTIONS = {
    "checkpoint": None, "show": None, "body": None, "fingers": False, "rollout": None, "motions": None, "clip": None,
    "seconds": 20.0, "viewer": "video", "video": "play.mp4", "width": 640, "height": 480, "port": 8080, "host": "127.0.0.1",
}
Options = Mapping[str, Any]


def film(programme: Programme, o: Options) -> None:
    """Write a video."""
    count = write_video(programme.body, _named(programme.takes(o["clip"], o["seconds"])), o["video"], o["width"], o["height"])
    print(f"{o['video']}: {count} frames")


OUTPUTS: dict[str, Callable[[Programme, Options], None]] = {
    "video": film,
    "window": lambda programme, o: open_window(programme.body, list(_named(programme.takes(o["clip"], o["seconds"])))),
    "web": lambda programme, o: serve(programme, o["clip"], o["seconds"], o["host"], o["port"]),
}


def choose_programme(o: Options) -> Programme:
    """Rollouts, reference motions or policies.

    Raises:
        RecipeError: options that do not go together.
    """
    show = o["show"] or (REFERENCE if o["body"] else "rollout" if o["rollout"] else "policy")
    foreign = {"policy": ("body", "fingers", "rollout"), REFERENCE: ("checkpoint", "rollout"),
               "rollout": ("checkpoint", "body", "fingers", "motions")}
    if show not in foreign or (show == "rollout" and not o["rollout"]):
        raise RecipeError(f"show={show}: choose policy or {REFERENCE}, or give rollout=FILE")
    for key in foreign[show]:
        if o[key]:
            raise RecipeError(f"{key}={o[key]}: does not go with showing a {show}; leave one of them out")
    if show == "rollout":
        return rollout_programme(o["rollout"])
    if show == REFERENCE:
        return reference_programme(o["body"], o["fingers"], o["motions"])
    return policy_programme([named_checkpoint(name) for name in (o["checkpoint"] or "box").split(",")], o["motions"])


def _named(takes: Iterator[Take]) -> Iterator[Take]:
    for take in takes:
        print(f"{take.name}: {take.note}", flush=True)
        yield take


def main(arguments: list[str]) -> None:
    """Entry point."""
    o = read_options(arguments, OPTIONS)
    if o["viewer"] not in OUTPUTS:
        raise RecipeError(f"viewer={o['viewer']}: choose from {', '.join(OUTPUTS)}")
    if not o["seconds"] > 0:
        raise RecipeError(f"seconds={o['seconds']:g}: must be greater than 0")
    programme = choose_programme(o)
    if o["clip"] is not None:
        programme.from_clip(o["clip"])
    OUTPUTS[o["viewer"]](programme, o)


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
