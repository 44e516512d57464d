"""Solve the activations of clips: ``python tools/solve_activations.py CLIPS... [body=NAME] [key=value ...]``.

CLIPS are clips or directories of clips. Every clip is rewritten in place (temporary file, then rename) with the
activations of least effort that produce its motion, the floor's force on each foot, what neither muscles nor floor supply
at the root, the share of saturated muscles and a verdict of feasibility for each frame. A line a clip states the figures,
and a CSV holds them all. A clip that cannot be solved is listed with its reason and the others are solved all the same.

Exit status: 0 all solved, 1 some failed, 2 the command is wrong.

Settings:
  body=NAME
      body that the clips must be of; otherwise each clip's own
  fixes=NAME,...
      repairs of the body (docs/model_validation.md), the same as in the recipe that will use the clips
  effort=square|cube|volume
      what is least: squares (default) or cubes of the activations, or squares weighted by the muscles' volumes
  smoothness=SECONDS
      0 (default) to 0.1: time over which changes of an activation count as its effort does
  force=true
      solve clips again that have activations; otherwise they are left alone
  report=FILE
      CSV to write (default activations.csv beside the first clip, or in the first directory)

Examples:
  python tools/solve_activations.py clips body=myo_fullbody
  python tools/solve_activations.py clips/07_01.npz effort=cube smoothness=0.03 force=true
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.motion.bank import find_clips
from mm_torch.motion.clip import Clip, MotionError, bind_to_body, load_clip
from mm_torch.muscle.static import EFFORTS, LONGEST_SMOOTHING, ActivationSolution, solve_activations
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.retargeting.atomic import write_csv

OPTIONS = {"body": "", "fixes": "", "effort": "square", "smoothness": 0.0, "force": False, "report": ""}
COLUMNS = (
    "clip", "status", "reason", "frames", "activation", "saturated_pct", "muscle_residual_nm", "root_residual_n",
    "root_residual_nm", "root_residual_p95_n", "root_residual_p95_nm", "vertical_force_bw", "feasible_pct", "ms_per_frame",
)


def with_activations(
    body: Embodiment, clip: Clip, effort: str = "square", smoothness: float = 0.0
) -> tuple[Clip, ActivationSolution]:
    """The clip with solved activations and what they say of forces, and the solution."""
    s = solve_activations(body, bind_to_body(clip, body), clip.fps, effort=effort, smoothness=smoothness)
    solved = {"effort": effort, "smoothness_s": smoothness, "fixes": list(body.fixes)}
    return replace(
        clip, act=s.act, muscle_names=body.muscle_names, foot_names=s.foot_names, foot_force=s.foot_force,
        foot_centre_of_pressure=s.foot_centre, root_residual=s.root_residual, joint_residual=s.joint_residual,
        saturation=s.saturation, feasible=s.feasible, provenance=clip.provenance | {"activations": solved},
    ), s


def figures(solution: ActivationSolution) -> dict[str, float]:
    """Figures of a solution by column."""
    root = solution.root_residual
    force, moment = np.linalg.norm(root[:, :3], axis=1), np.linalg.norm(root[:, 3:], axis=1)
    return {
        "activation": float(solution.act.mean()), "saturated_pct": 100.0 * float(solution.saturation.mean()),
        "muscle_residual_nm": float(solution.joint_residual.mean()), "root_residual_n": float(force.mean()),
        "root_residual_nm": float(moment.mean()), "root_residual_p95_n": float(np.percentile(force, 95)),
        "root_residual_p95_nm": float(np.percentile(moment, 95)),
        "vertical_force_bw": float(solution.foot_force[..., 2].sum(axis=1).mean() / solution.weight),
        "feasible_pct": 100.0 * float(solution.feasible.mean()),
    }


def solve_clip(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Solve one clip and rewrite it; returns its row of the report.

    Raises:
        ValueError: the file is no clip, names no known body or another than asked for, or is too short.
        ArithmeticError: the solver did not converge.
    """
    clip = load_clip(path)
    if not clip.body:
        raise MotionError(f"{path}: names no body, as Trajectory files do; make a clip of it with tools/retarget.py first")
    if clip.act.size and not options["force"]:
        return {"status": "left alone", "reason": "has activations; force=true solves again"}
    body = load_body(options["body"] or clip.body, fixes=filter(None, options["fixes"].split(",")))
    start = time.perf_counter()
    clip, solution = with_activations(body, clip, options["effort"], options["smoothness"])
    spent = 1e3 * (time.perf_counter() - start) / len(clip.qpos)
    clip.save(path)
    return {"status": "ok", "frames": len(clip.qpos)} | figures(solution) | {"ms_per_frame": spent}


def line(row: Mapping[str, Any]) -> str:
    """A row as a line of text."""
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    return (
        f"activation {row['activation']:.3f} ({row['saturated_pct']:.1f} % saturated)"
        f"  joints {row['muscle_residual_nm']:.3f} Nm"
        f"  root {row['root_residual_n']:.1f} N {row['root_residual_nm']:.1f} Nm  floor {row['vertical_force_bw']:.3f} BW"
        f"  feasible {row['feasible_pct']:.0f} %  {row['ms_per_frame']:.1f} ms/frame"
    )


def main(arguments: list[str]) -> int:
    """Solve all clips named on the command line; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    given = [Path(a) for a in arguments if "=" not in a]
    try:
        options = read_options([a for a in arguments if "=" in a], OPTIONS)
        if not given:
            raise RecipeError("no clip given: python tools/solve_activations.py CLIPS... [body=NAME] [key=value ...]")
        if options["effort"] not in EFFORTS:
            raise RecipeError(f"effort={options['effort']}: choose one of {', '.join(EFFORTS)}")
        if not 0.0 <= options["smoothness"] <= LONGEST_SMOOTHING:
            raise RecipeError(f"smoothness={options['smoothness']:g}: 0 to {LONGEST_SMOOTHING:g} s are possible")
        clips = [clip for path in given for clip in find_clips(path)]
    except (RecipeError, MotionError) as error:
        print(f"solve_activations: {error}", file=sys.stderr)
        return 2
    report = Path(options["report"] or (given[0] if given[0].is_dir() else given[0].parent) / "activations.csv")
    rows: list[dict[str, Any]] = []
    for path in clips:
        try:
            row = solve_clip(path, options)
        except (ValueError, ArithmeticError, OSError) as error:
            row = {"status": "failed", "reason": " ".join(str(error).split())}
        rows.append({"clip": str(path)} | row)
        print(f"{path}  {line(row)}", file=sys.stderr if row["status"] == "failed" else sys.stdout, flush=True)
        write_csv(report, COLUMNS, rows)
    return int(any(row["status"] == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
