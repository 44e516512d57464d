"""Pictures of a sweep: rates over worlds (log-log, as the paper's Figure 2) and where an iteration's time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from mm_torch.config.load import RecipeError
from tools.benchmarks.iteration import PARTS, RATES

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHADES = ("#3b6fb6", "#d9822b", "#8c6bb1", "#c44e52", "#4c9f70", "#222222", "#999999")
COLOURS = dict(zip(dict.fromkeys([*PARTS, *RATES, "raw"]), SHADES, strict=True))


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the newest measurement of each number of worlds and body.

    Args:
        records: lines of a history; those of other cases are passed over.
        path: picture to write.

    Raises:
        RecipeError: no iteration among the records.
    """
    newest = {(r["body"], r["worlds"]): r for r in records if r.get("case") == "iteration"}
    if not newest:
        raise RecipeError("the history holds no sweep; run one with sweep=1,4,16,64")
    bodies = list(dict.fromkeys(body for body, _ in newest))
    figure, axes = plt.subplots(2, len(bodies), figsize=(5.6 * len(bodies), 8.4), squeeze=False, layout="constrained")
    for (top, bottom), body in zip(axes.T, bodies, strict=True):
        rows = [newest[key] for key in sorted(newest) if key[0] == body]
        _rates(top, body, rows)
        _shares(bottom, rows)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _rates(axis: plt.Axes, body: str, rows: list[dict[str, Any]]) -> None:
    worlds = [r["worlds"] for r in rows]
    for name in [*RATES, *(["raw"] if all("raw_steps_per_s" in r for r in rows) else [])]:
        axis.plot(worlds, [r[f"{name}_steps_per_s"] for r in rows], "o-", color=COLOURS[name], label=name,
                  linewidth=2.4 if name == "training" else 1.2, markersize=4)
    axis.set(xscale="log", yscale="log", xlabel="worlds", ylabel="control steps / s",
             title=f"{body}, {rows[-1]['sim']}, {rows[-1]['device']}")
    axis.set_xticks(worlds, [f"{n:,}" for n in worlds], rotation=45)
    axis.minorticks_off()
    axis.grid(True, which="both", alpha=0.25)
    axis.legend(fontsize=8)


def _shares(axis: plt.Axes, rows: list[dict[str, Any]]) -> None:
    at, bottom = np.arange(len(rows)), np.zeros(len(rows))
    for name in PARTS:
        share = np.array([100 * r[f"{name}_share"] for r in rows])
        axis.bar(at, share, bottom=bottom, color=COLOURS[name], label=name)
        bottom += share
    axis.set_xticks(at, [f"{r['worlds']:,}" for r in rows], rotation=45)
    axis.set(xlabel="worlds", ylabel="% of an iteration", ylim=(0, 100), title="where an iteration's time goes")
    axis.legend(fontsize=8, loc="lower right")
