"""Make the built-in motion library: ``python tools/make_library.py [out=DIRECTORY] [body=NAME]``.

Writes one clip file per motion under ``out/<body>/``, prints one line of figures for each and exits with 1 when a clip
is out of bounds (``tools/library/acceptance.py``). Each clip carries the activations that produce it. Existing files are
replaced.

out   directory; default: mm_torch/motion/data
body  myo_fullbody, myo_bimanual or toy_arm; default: all

Example: python tools/make_library.py body=toy_arm out=library
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.motion.clip import Clip
from mm_torch.motion.library import DATA
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.library.acceptance import measure
from tools.library.bimanual import bimanual_clips
from tools.library.fullbody import fullbody_clips
from tools.library.toy import toy_clips
from tools.solve_activations import with_activations

GENERATORS: dict[str, Callable[[Embodiment], Iterator[Clip]]] = {
    "toy_arm": toy_clips,
    "myo_bimanual": bimanual_clips,
    "myo_fullbody": fullbody_clips,
}


def build_clips(body: Embodiment) -> Iterator[Clip]:
    """All library motions of a body, in the order of their tables.

    Raises:
        ValueError: no motions are made for that body.
    """
    if body.name not in GENERATORS:
        raise ValueError(f"no library motions for body {body.name!r}: choose one of {', '.join(GENERATORS)}")
    return GENERATORS[body.name](body)


def compact(clip: Clip) -> Clip:
    """The clip on binary grids finer than any use of it (6e-8 rad or m, 2e-5 rad/s, 1/128 of activation): it compresses."""
    return replace(
        clip,
        qpos=np.round(clip.qpos * 2**24) / 2**24,
        qvel=np.round(clip.qvel * 2**16) / 2**16,
        site_xpos=np.round(clip.site_xpos * 2**20) / 2**20,
        site_xquat=np.round(clip.site_xquat * 2**20) / 2**20,
        act=np.round(clip.act * 2**7) / 2**7,
        foot_force=np.round(clip.foot_force * 2**2) / 2**2,
        foot_centre_of_pressure=np.round(clip.foot_centre_of_pressure * 2**10) / 2**10,
        root_residual=np.round(clip.root_residual * 2**4) / 2**4,
        joint_residual=np.round(clip.joint_residual * 2**10) / 2**10,
    )


def main(arguments: list[str]) -> int:
    """Write and check the clips; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    settings = {"out": str(DATA), "body": ""}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in settings:
            print(f"unknown argument {argument!r}: use out=DIRECTORY and body=NAME", file=sys.stderr)
            return 2
        settings[key] = value
    bad = 0
    for name in [settings["body"]] if settings["body"] else GENERATORS:
        body = load_body(name)
        for clip in build_clips(body):
            clip, _ = with_activations(body, clip)
            compact(clip).save(Path(settings["out"]) / name / f"{clip.name}.npz")
            figures = measure(body, clip, airborne=bool(clip.provenance["parameters"].get("airborne", False)))
            failures = figures.failures()
            bad += bool(failures)
            verdict = "out of bounds: " + "; ".join(failures) if failures else "ok"
            print(f"{name}/{clip.name}  {figures.line()}  {verdict}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
