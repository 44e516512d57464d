"""Learning curves of runs: ``python tools/plot_run.py RUN [RUN ...] out=FILE.png``.

Draws reward, episode length, early-termination rate and relative site error over control steps or minutes from each run's
metrics.csv, as measured (thin) and as a moving average over 20 iterations; before them, if there was one, the search for
reflexes (evolution.csv), whose rows are generations of candidates.

RUN  run directory (the one that run_dir= named)
out  picture to write (.png, .svg or .pdf)
x    steps (default) or minutes, those of distillation included

Exit status: 0 written, 2 a run or out is missing.

Example: python tools/plot_run.py runs/toy runs/arms out=curves.png
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CURVES = {
    "reward": ("mean reward a step", 1.0),
    "episode_length": ("episode length in control steps", 1.0),
    "early_termination_rate": ("early terminations in %", 100.0),
    "relative_site_error": ("relative site error in cm", 100.0),
}
AXES = {"steps": ("control_steps", "million control steps", 1e6), "minutes": ("seconds", "minutes", 60.0)}
WINDOW = 20


def read(run: Path) -> dict[str, np.ndarray]:
    """Columns of a run's search and metrics, one after the other; empty cells are nan."""
    searched = [r | {"reward": float(r["episode_return"]) / float(r["episode_length"])} for r in _rows(run / "evolution.csv")]
    spent = int(searched[-1]["control_steps"]) if searched else 0
    learned = [r | {"control_steps": int(r["control_steps"]) + spent} for r in _rows(run / "metrics.csv")]
    rows = [*searched, *learned]
    return {name: np.array([float(r.get(name) or "nan") for r in rows]) for name in ("control_steps", "seconds", *CURVES)}


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean of the last ``WINDOW`` finite values at each point."""
    windows = [values[max(0, i - WINDOW + 1) : i + 1] for i in range(len(values))]
    return np.array([w[np.isfinite(w)].mean() if np.isfinite(w).any() else np.nan for w in windows])


def plot(runs: list[Path], out: Path, x: str = "steps") -> None:
    """Draw the four curves of all runs into one picture, over what ``AXES`` names ``x``."""
    column, title, unit = AXES[x]
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
    for run in runs:
        columns = read(run)
        place = columns[column] / unit
        for axis, (name, (label, factor)) in zip(axes.flat, CURVES.items(), strict=True):
            (line,) = axis.plot(place, factor * smooth(columns[name]), label=run.name)
            axis.plot(place, factor * columns[name], color=line.get_color(), alpha=0.25, linewidth=0.5)
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel(title)
    axes[0, 0].legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main(arguments: list[str]) -> int:
    """Read the command line; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    runs = [Path(a) for a in arguments if "=" not in a]
    out = next((a.removeprefix("out=") for a in arguments if a.startswith("out=")), "")
    x = next((a.removeprefix("x=") for a in arguments if a.startswith("x=")), "steps")
    missing = [run for run in runs if not any((run / name).is_file() for name in ("metrics.csv", "evolution.csv"))]
    if not runs or not out or missing:
        print(f"{missing[0]}: no metrics.csv in it" if missing else __doc__, file=sys.stderr)
        return 2
    if x not in AXES:
        print(f"x={x}: choose one of {', '.join(AXES)}", file=sys.stderr)
        return 2
    plot(runs, Path(out), x)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
