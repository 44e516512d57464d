"""Activations against EMG: ``python tools/compare_emg.py [GAIT...] [out=DIR] [effort=...] [smoothness=...]``.

GAIT is a clip of the full body that walks, or ``norm:walking``, the published joint angles played on the body; without any,
the built-in walk. Its activations are solved by static optimisation and held against the times when the EMG of each muscle
is on: ``out/emg.csv`` (share of the cycle on in both of what is on in either, precision, recall, lag), ``out/emg.png``, the
floor's forces in ``out/forces.png``, and what they must add up to in ``out/forces.csv``: over a stride, one body weight.

Exit status: 0 written, 2 a file or an option cannot be used.

Settings:
  out=DIR
      directory, made where it is missing (default emg)
  effort=square|cube|volume, smoothness=SECONDS
      as in tools/solve_activations.py

Examples:
  python tools/compare_emg.py out=emg
  python tools/compare_emg.py norm:walking clips/07_01.npz effort=cube
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.evaluation.rollout_file import FEET
from mm_torch.motion.clip import MotionError
from mm_torch.motion.library import library_dir
from mm_torch.muscle.static import solve_activations
from tools.analysis.norm_tables import GaitError
from tools.analysis.plots import curves, muscle_curves
from tools.analysis.study import Study, study
from tools.analysis.trial import USUAL_BODY, Trial, read_trials
from tools.retargeting.atomic import replacing
from tools.retargeting.skeleton import CaptureError
from tools.solve_activations import figures

OPTIONS = {"out": "emg", "effort": "square", "smoothness": 0.0}
SHOWN = ("muscle", "mean", "peak", "overlap", "precision", "recall", "r", "r_lag", "lag_ms", "counts")


def solved(trial: Trial, effort: str, smoothness: float) -> tuple[Trial, dict[str, float]]:
    """The trial with solved activations in the place of excitations and the floor's forces, and figures of the solution."""
    body, rollout = trial.body, trial.rollout
    solution = solve_activations(body, rollout.qpos, rollout.control_rate, effort=effort, smoothness=smoothness)
    order = [solution.foot_names.index(side) for side in FEET]
    rollout = replace(
        rollout, muscle_names=body.muscle_names, excitation=solution.act, foot_force=solution.foot_force[:, order],
        foot_centre_of_pressure=solution.foot_centre[:, order],
    )
    return replace(trial, rollout=rollout), figures(solution)


def write(result: Study, out: Path) -> None:
    """Tables and pictures of a study."""
    checks = [{"file": r.trial.name} | dict(row) for r in result.results for row in r.checks]
    for name, rows in (("emg", result.muscle_rows), ("forces", checks)):
        with replacing(out / f"{name}.csv", "w") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for name, picture in (("emg", muscle_curves(result)), ("forces", curves(result, "forces"))):
        assert picture is not None
        with replacing(out / f"{name}.png") as file:
            file.write(picture)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a table of text, best overlap first."""
    lines = ["  ".join(f"{n:>9s}" for n in SHOWN[1:]) + "  muscle"]
    lines += ["  ".join(f"{float(row[n]):9.2f}" for n in SHOWN[1:]) + f"  {row['muscle']} {row['note']}"
              for row in sorted(rows, key=lambda r: -r["overlap"])]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    try:
        options = read_options([a for a in arguments if "=" in a], OPTIONS)
        gaits = [Path(a) for a in arguments if "=" not in a] or [library_dir(USUAL_BODY) / "walk.npz"]
        pairs = [solved(trial, options["effort"], options["smoothness"]) for trial in read_trials(gaits)]
        result = study([trial for trial, _ in pairs], "walking")
    except (RecipeError, MotionError, CaptureError, GaitError, ValueError, ArithmeticError) as error:
        print(f"compare_emg: {error}", file=sys.stderr)
        return 2
    write(result, Path(options["out"]))
    for (trial, told), found in zip(pairs, result.results, strict=True):
        print(f"{trial.name}: {found.speed:.2f} m/s, {len(found.strides)} strides, " + "  ".join(
            f"{k} {v:.3g}" for k, v in told.items()))
        for row in found.checks[:2]:
            print(f"  {row['check']}: {row['value']:.3f} {row['unit']} ({'ok' if row['ok'] else 'off'})")
        rows = [row for row in result.muscle_rows if row["file"] == trial.name]
        print(table(rows))
        scored = [row["overlap"] for row in rows if row["counts"]]
        print(f"  mean overlap of {len(scored)} muscles: {sum(scored) / max(len(scored), 1):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
