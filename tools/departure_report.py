"""Departure report: ``python tools/departure_report.py ROLLOUT... [out=DIR] [limit=METRES]``.

At which event of the stride does a walking policy leave its reference, and with which part first? ROLLOUT are files of
``python -m mm_torch.evaluate rollouts=true``, or directories of them. Errors are distances of the mimic sites from the
reference, relative to the main site; the phase of the stride is that of the reference (soles that are low and slow). A
rollout leaves where its error exceeds the limit and never comes back. Writes ``out/departures.csv`` (a row a rollout),
``out/phases.csv`` (a row a phase, frames before the departures) and ``out/departures.png``, and prints both tables.

Exit status: 0 written, 2 a file or an option cannot be used.

Settings:
  out=DIR
      directory of the report, made where it is missing (default departures)
  limit=METRES
      mean error beyond which a body is away from its reference (default 0.1)

Example:
  python -m mm_torch.evaluate checkpoint=runs/walks motions=clips rollouts=true out=evaluation
  python tools/departure_report.py evaluation/rollouts out=departures
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

from mm_torch.config.load import RecipeError
from mm_torch.config.options import read_options
from mm_torch.motion.bank import find_clips
from mm_torch.motion.clip import MotionError
from sim_models.registry import BodyError
from tools.analysis.departures import PARTS, PHASES, Departure, departure
from tools.analysis.norm_tables import GaitError
from tools.analysis.trial import read_trials
from tools.retargeting.atomic import replacing, write_csv
from tools.retargeting.skeleton import CaptureError

OPTIONS = {"out": "departures", "limit": 0.1}
CLIP_COLUMNS = ("clip", "frames", "seconds", "error_m", "leaves_s", "phase", "error_before_m", "what")
PART_COLUMNS = tuple(f"{part.replace(' ', '_')}_m" for part in PARTS)
PHASE_COLUMNS = ("phase", "frames", "error_m", *PART_COLUMNS, "departures")
COLOURS = ("#f4e2d8", "#d98c6a", "#dbe6f3", "#6f9bd1", "#eeeeee")  # of the phases


def clip_row(d: Departure) -> dict[str, Any]:
    """One row of departures.csv."""
    row = {"clip": d.clip, "frames": len(d.error), "seconds": len(d.error) / d.rate, "error_m": float(d.error.mean()),
           "what": d.told}
    if d.leaves:
        row |= {"leaves_s": d.frame / d.rate, "phase": PHASES[d.phase[d.frame]]}
    if d.frame:
        row["error_before_m"] = float(d.error[: d.frame].mean())
    return row


def phase_rows(departures: Sequence[Departure]) -> list[dict[str, Any]]:
    """Rows of phases.csv: errors over the frames of all rollouts before they leave, and how many leave in that phase."""
    phase, error, parts = (
        np.concatenate([getattr(d, name)[: d.frame] for d in departures]) for name in ("phase", "error", "parts")
    )
    ends = [d.phase[d.frame] for d in departures if d.leaves]
    rows = []
    for k, name in enumerate(PHASES):
        here = phase == k
        row = {"phase": name, "frames": int(here.sum()), "departures": ends.count(k)}
        if here.any():
            row |= {"error_m": float(error[here].mean())}
            row |= dict(zip(PART_COLUMNS, map(float, parts[here].mean(axis=0)), strict=True))
        if row["frames"] or row["departures"]:
            rows.append(row)
    return rows


def draw(path: Path, departures: Sequence[Departure], limit: float) -> None:
    """Error of each part over time, a panel a rollout, on the phases of the reference."""
    size = (9, 1.7 * len(departures) + 0.6)
    figure, axes = plt.subplots(len(departures), 1, figsize=size, squeeze=False, layout="constrained")
    for axis, d in zip(axes[:, 0], departures, strict=True):
        time = np.arange(len(d.error)) / d.rate
        starts = [0, *(np.flatnonzero(np.diff(d.phase)) + 1), len(d.phase)]
        for start, stop in pairwise(starts):
            axis.axvspan(start / d.rate, stop / d.rate, color=COLOURS[d.phase[start]], lw=0)
        for part, values in zip(PARTS, d.parts.T, strict=True):
            axis.plot(time, 100 * values, lw=1.2, label=part)
        axis.axhline(100 * limit, color="black", lw=0.6, ls=":")
        if d.leaves:
            axis.axvline(d.frame / d.rate, color="black", lw=1.2)
        axis.set(xlim=(0, max(time[-1], 1.0 / d.rate)), ylim=(0, 400 * limit), ylabel="error, cm")
        axis.set_title(f"{d.clip}: {d.told}", fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("time, s")
    handles = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, PHASES, strict=True)]
    handles += axes[0, 0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=8)
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)


def _cm(row: Mapping[str, Any], column: str) -> str:
    return f"{100 * row[column]:.1f}" if column in row else "-"


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    try:
        options = read_options([a for a in arguments if "=" in a], OPTIONS)
        if options["limit"] <= 0.0:
            raise RecipeError(f"limit={options['limit']:g}: must be positive, in m")
        files = [file for a in arguments if "=" not in a for file in find_clips(Path(a))]
        if not files:
            raise RecipeError("no rollout given: python tools/departure_report.py ROLLOUT... [out=DIR] [limit=METRES]")
        trials = read_trials(files)
        if replays := [t.name for t in trials if t.rollout.kind != "rollout"]:
            raise GaitError(f"{replays[0]}: a motion without physics leaves nothing; give files of evaluate rollouts=true")
    except (RecipeError, MotionError, CaptureError, BodyError, GaitError) as error:
        print(f"departure_report: {error}", file=sys.stderr)
        return 2
    departures = [departure(t.rollout, t.body, options["limit"]) for t in trials]
    out, clips, stride = Path(options["out"]), [clip_row(d) for d in departures], phase_rows(departures)
    write_csv(out / "departures.csv", CLIP_COLUMNS, clips)
    write_csv(out / "phases.csv", PHASE_COLUMNS, stride)
    draw(out / "departures.png", departures, options["limit"])
    for row in clips:
        before = f"{_cm(row, 'error_m')} cm, before it leaves {_cm(row, 'error_before_m')} cm"
        print(f"{row['clip']}: {row['seconds']:.2f} s, {before}; {row['what']}")
    for row in stride:
        told = ", ".join(f"{part} {_cm(row, column)}" for part, column in zip(PARTS, PART_COLUMNS, strict=True))
        print(f"{row['phase']}: {row['frames']} frames, {_cm(row, 'error_m')} cm ({told}), {row['departures']} leave here")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
