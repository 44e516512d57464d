"""The pictures of a gait report, as PNG files: curves over the cycle on the published bands, muscles on their EMG windows."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mm_torch.evaluation.rollout_file import FEET
from tools.analysis.quantities import QUANTITIES
from tools.analysis.study import BOTH, Curve, Result, Study, gate
from tools.report.plots import BLUE, RED

PERCENT = np.arange(101)
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
LEAST_SPAN = {"angles": 5.0, "forces": 5.0, "moments": 0.1}  # of a vertical axis
BAND = "#9a9a9a"
ON = "#f2c879"
SIDE_COLOURS = dict(zip(FEET, (RED, BLUE), strict=True))
DPI = 110
COLUMNS = 4
FILE_COLOURS = tuple(matplotlib.colormaps["tab10"].colors)


def counted(strides: int) -> str:
    """A number of strides in words."""
    return f"{strides} stride{'s' if strides != 1 else ''}"


def _spread(strides: int) -> str:
    return "1 stride" if strides == 1 else f"mean {PLUS_MINUS} SD of {counted(strides)}"


def png(drawing: Figure) -> bytes:
    """The drawing as a PNG file; frees it."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, dpi=DPI, metadata={"Software": None})
    plt.close(drawing)
    return buffer.getvalue()


def curves(study: Study, part: str) -> bytes | None:
    """All quantities of a part (angles, forces, moments) over the cycle; None where no input holds any."""
    names = [q for q in study.quantities if QUANTITIES[q].part == part]
    if not names:
        return None
    drawing, axes = _panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        quantity, band = QUANTITIES[name], study.bands.get(name)
        if band is not None:
            if band.sd is not None:
                for k, alpha in ((2, 0.18), (1, 0.28)):
                    axis.fill_between(PERCENT, band.mean - k * band.sd, band.mean + k * band.sd, color=BAND, alpha=alpha,
                                      linewidth=0)
            axis.plot(PERCENT, band.mean, color="#555555", linewidth=1.2, linestyle="--")
        for k, result in enumerate(r for r in study.results if name in r.curves):
            _lines(axis, result.curves[name], k, len(study.results))
        axis.axhline(0.0, color="#bbbbbb", linewidth=0.6, zorder=0)
        mismatch = band is not None and not all(gate(r.speed, band.citation) for r in study.results if name in r.curves)
        note = " (no norm)" if band is None else " (speed mismatch)" if mismatch else ""
        low, high = axis.get_ylim()
        if high - low < LEAST_SPAN[part]:
            axis.set_ylim(0.5 * (low + high - LEAST_SPAN[part]), 0.5 * (low + high + LEAST_SPAN[part]))
        _label(axis, f"{quantity.label}{note}", f"{quantity.unit}, {quantity.positive}")
    _toe_off(axes, study.results)
    spread = "one person, no SD" if part == "moments" else f"{PLUS_MINUS}1 and {PLUS_MINUS}2 SD where published"
    _legend(drawing, study, f"norm: mean, {spread}" if any(n in study.bands for n in names) else "")
    return png(drawing)


def muscle_curves(study: Study) -> bytes | None:
    """Excitations on the EMG windows; None where no input holds any."""
    names = list(dict.fromkeys(m for r in study.results for m in r.excitations))
    if not names:
        return None
    drawing, axes = _panels(len(names), height=1.9)
    for axis, name in zip(axes, names, strict=True):
        window, measured = study.windows.get(name), study.envelopes.get(name)
        for k, result in enumerate(r for r in study.results if name in r.excitations):
            _lines(axis, result.excitations[name], k, len(study.results))
        top = max(0.05, 1.08 * axis.dataLim.ymax)
        if window is not None:
            axis.fill_between(np.arange(101), 0, top, where=np.append(window.mask, window.mask[0]), step="post", color=ON,
                              alpha=0.55 if window.scored else 0.22, linewidth=0, zorder=0)
        if measured is not None:
            scale = 0.9 * top / max(float(measured.mean.max()), 1e-9)
            axis.plot(PERCENT, scale * measured.mean, color="#555555", linestyle="--", linewidth=1.2)
        axis.set_ylim(0.0, top)
        note = "" if window is not None and window.scored else " (no window)" if window is None else " (window: hint)"
        _label(axis, f"{name}{note}", "excitation")
    _toe_off(axes, study.results)
    measured_too = "; measured EMG, scaled" if study.envelopes else ""
    _legend(drawing, study, measured_too.removeprefix("; "), window="EMG is on (pale: a hint only)")
    return png(drawing)


def _panels(count: int, height: float = 2.4) -> tuple[Figure, list[Axes]]:
    rows = -(-count // COLUMNS)
    drawing, grid = plt.subplots(rows, COLUMNS, figsize=(14, height * rows + 0.6), layout="constrained", squeeze=False)
    for axis in grid.flat[count:]:
        axis.axis("off")
    return drawing, list(grid.flat[:count])


def _lines(axis: Axes, sides: dict[str, Curve], number: int, files: int) -> None:
    """Right and left with their SD where there is one file; the mean of both sides of each where there are several."""
    shown = [side for side in FEET if side in sides] if files == 1 else [BOTH]
    for side in shown:
        curve = sides[side]
        colour = SIDE_COLOURS[side] if files == 1 else FILE_COLOURS[number % len(FILE_COLOURS)]
        axis.fill_between(PERCENT, curve.mean - curve.sd, curve.mean + curve.sd, color=colour, alpha=0.2, linewidth=0)
        axis.plot(PERCENT, curve.mean, color=colour, linewidth=1.6)


def _label(axis: Axes, title: str, unit: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_ylabel(unit, fontsize=8)
    axis.set_xlabel("gait cycle, %", fontsize=8)
    axis.set_xlim(0, 100)
    axis.set_xticks(range(0, 101, 20))
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _toe_off(axes: Sequence[Axes], results: Sequence[Result]) -> None:
    """A line where the foot leaves the floor, in the mean over all files."""
    stance = [r.figures[f"stance_{side}"] for r in results for side in FEET]
    for axis in axes:
        axis.axvline(float(np.nanmean(stance)), color="#777777", linewidth=0.8, linestyle=":")


def _legend(drawing: Figure, study: Study, norm: str, window: str = "") -> None:
    if len(study.results) == 1:
        strides = {side: sum(s.side == k for s in study.results[0].strides) for k, side in enumerate(FEET)}
        entries = [(f"{side}, {_spread(n)}", SIDE_COLOURS[side], "-")
                   for side, n in strides.items() if n]
    else:
        entries = [(f"{r.trial.name}, both sides, {counted(len(r.strides))}", FILE_COLOURS[k % len(FILE_COLOURS)], "-")
                   for k, r in enumerate(study.results)]
    entries += [(norm, "#555555", "--")] * bool(norm) + [("toe-off", "#777777", ":")]
    handles = [plt.Line2D([], [], color=colour, linestyle=style, label=text) for text, colour, style in entries]
    if window:
        handles.append(plt.Rectangle((0, 0), 1, 1, color=ON, alpha=0.55, label=window))
    drawing.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4), fontsize=9, frameon=False)
