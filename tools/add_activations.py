"""Solve the activations of clips: ``python tools/add_activations.py PATH [PATH ...] [force=true]``.

Each path is a clip or a directory of clips. Every clip is rewritten in place (temporary file, then rename) with the
activations of least effort that produce its motion, so that episodes can start with the muscles already pulling. One
line a clip states its length, the mean activation, the mean joint residual, for a free root the mean force and moment
that neither muscles nor floor supply, and the time taken per frame. Clips that have activations are left alone unless
``force=true``. Exits with 1 when a clip could not be solved.

Example: python tools/add_activations.py clips force=true
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.motion.bank import find_clips
from mm_torch.motion.clip import Clip, bind_to_body, load_clip
from mm_torch.muscle.static import ActivationSolution, solve_activations
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body


def with_activations(body: Embodiment, clip: Clip) -> tuple[Clip, ActivationSolution]:
    """The clip with solved activations, and the solution they come from."""
    solution = solve_activations(body, bind_to_body(clip, body), clip.fps)
    return replace(clip, act=solution.act, muscle_names=body.muscle_names), solution


def add_activations(path: Path, force: bool) -> str:
    """Solve one clip and rewrite it; returns its line of figures.

    Raises:
        ValueError: the file is no clip, names no known body or is too short.
        ArithmeticError: the solver did not converge.
    """
    clip = load_clip(path)
    if clip.act.size and not force:
        return "has activations; force=true solves again"
    body = load_body(clip.body)
    start = time.perf_counter()
    clip, solution = with_activations(body, clip)
    spent = 1e3 * (time.perf_counter() - start) / len(clip.qpos)
    clip.save(path)
    root = solution.root_residual.mean(axis=0)
    return (
        f"{clip.duration:.2f} s  activation {solution.act.mean():.3f}  residual {solution.residual.mean():.4f} Nm"
        + (f"  root {root[0]:.1f} N {root[1]:.1f} Nm" if body.free_root else "")
        + f"  {spent:.2f} ms/frame"
    )


def main(arguments: list[str]) -> int:
    """Solve all clips named on the command line; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    paths = [a for a in arguments if "=" not in a]
    settings = [a for a in arguments if "=" in a]
    unknown = [s for s in settings if s not in ("force=true", "force=false")]
    if unknown or not paths:
        wrong = f"unknown argument {unknown[0]!r}" if unknown else "no clip given"
        print(f"{wrong}: use add_activations.py PATH [PATH ...] [force=true]", file=sys.stderr)
        return 2
    bad = 0
    for path in (clip for given in paths for clip in find_clips(given)):
        try:
            print(f"{path}  {add_activations(path, force='force=true' in settings)}", flush=True)
        except (ValueError, ArithmeticError) as error:
            bad += 1
            print(f"{path}  failed: {error}", file=sys.stderr, flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
