"""The tables of a gait report, for the page, CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mm_torch.evaluation.rollout_file import FEET
from tools.analysis.norm_tables import citation, table
from tools.analysis.quantities import QUANTITIES
from tools.analysis.spatiotemporal import COLUMNS, norm_rows
from tools.analysis.study import Study
from tools.report.tables import Table

NOTES = {
    "agreement": "Mean over the strides of both feet against the norm's mean. RMSE and offset are in the quantity's unit; "
    "the RMSE of the form is without the mean difference (the zero of hip and pelvis depends on how a pelvis is defined). "
    "Lag: % of the cycle by which the curve comes later, where r is largest. Rows of a speed more than 0.2 m/s off do not "
    "count in the mean of r.",
    "muscles": "r: with the window taken as 0 and 1, or with a measured envelope; best r within \N{PLUS-MINUS SIGN}150 ms, + "
    "where the excitation comes later than the EMG. On: above 25 % between the cycle's least and largest excitation, bursts "
    "and gaps of less than 5 % of the cycle closed. Overlap: on in both over on in either. Onset and end: % of the cycle too "
    "late.",
    "checks": "The first row holds for any steady gait, the second for any motion; the others are what comfortable walking "
    "usually does.",
}
AGREEMENT = {
    "file": "file", "quantity": "quantity", "strides": "strides", "r": "r", "r_right": "r right", "r_left": "r left",
    "rmse": "RMSE", "rmse_shape": "RMSE of the form", "offset": "offset", "unit": "unit", "within_1sd": "inside 1 SD, %",
    "within_2sd": "inside 2 SD, %", "cosine": "cosine", "vaf": "VAF", "lag": "lag, %", "r_lag": "r at lag", "note": "note",
}  # fmt: skip
MUSCLES = {
    "file": "file", "muscle": "muscle", "against": "against", "strides": "strides", "mean": "mean excitation", "peak": "peak",
    "r": "r", "r_lag": "best r", "lag_ms": "at lag, ms", "overlap": "overlap, %", "precision": "precision, %",
    "recall": "recall, %", "onset": "onset, %", "end": "end, %", "note": "note",
}  # fmt: skip
SHARES = ("within_1sd", "within_2sd", "overlap", "precision", "recall")


def all_tables(study: Study) -> list[Table]:
    """Tables that have rows: spatiotemporal, agreement, muscles, checks."""
    tables = [
        _spatiotemporal(study),
        Table("agreement", f"Agreement with published {study.gait}", NOTES["agreement"], tuple(AGREEMENT.values()),
              tuple(_row(row, AGREEMENT) for row in study.comparison)),
        Table("checks", "Floor forces", NOTES["checks"], ("file", "check", "value", "least", "most", "unit", "within"),
              tuple((r.trial.name, c["check"], c["value"], c["least"], c["most"], c["unit"], "yes" if c["ok"] else "no")
                    for r in study.results for c in r.checks)),
        Table("muscles", "Excitations and EMG", NOTES["muscles"], tuple(MUSCLES.values()),
              tuple(_row(row, MUSCLES) for row in study.muscle_rows)),
    ]  # fmt: skip
    return [t for t in tables if t.rows]


def _row(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Any, ...]:
    values = []
    for name in columns:
        value = row[name]
        if name == "quantity":
            value = QUANTITIES[value].label
        values.append(100.0 * value if name in SHARES else value)
    return tuple(values)


def _spatiotemporal(study: Study) -> Table:
    rows: list[tuple[Any, ...]] = []
    for r in study.results:
        strides = " + ".join(str(sum(s.side == k for s in r.strides)) for k in range(len(FEET)))
        rows.append((r.trial.name, strides, *(r.figures[c] for c in COLUMNS), r.trial.contact_from))
    for name, values in norm_rows(study.gait).items():
        label = f"published {name}" if study.gait == "walking" else f"published {name} m/s"
        rows.append((label, "", *values.values(), ""))
    source = spatiotemporal_citation(study.gait)
    note = f"Means over strides. Published: {source}. Strides: right + left; events: what tells when a foot stands."
    columns = ("file", "strides", *COLUMNS.values(), "events from")
    return Table("spatiotemporal", "Time and distance", note, columns, tuple(rows))


def spatiotemporal_citation(gait: str) -> str:
    """One line on the published figures of a gait."""
    row = table("spatiotemporal")[gait]
    return citation(row, speed=float("nan"), condition="means of each speed", confidence="high").line


def curve_table(study: Study) -> Table:
    """Every curve in long form: file, side, quantity, % of the cycle, mean, SD, norm's mean and SD."""
    rows = []
    for r in study.results:
        for name, sides in [*r.curves.items(), *((f"excitation {m}", s) for m, s in r.excitations.items())]:
            band = study.bands.get(name)
            for side, curve in sides.items():
                mean = np.full(101, np.nan) if band is None else band.mean
                sd = np.full(101, np.nan) if band is None or band.sd is None else band.sd
                rows += [(r.trial.name, side, name, k, float(curve.mean[k]), float(curve.sd[k]), float(mean[k]), float(sd[k]))
                         for k in range(101)]
    columns = ("file", "side", "quantity", "percent", "mean", "sd", "norm_mean", "norm_sd")
    return Table("curves", "Curves", "", columns, tuple(rows))


def as_json(study: Study) -> dict[str, Any]:
    """Everything that the report says, for machines; what is not there is null."""
    return {
        "gait": study.gait,
        "mean_r": study.mean_r,
        "files": [
            {
                "name": r.trial.name, "body": r.trial.body.name, "kind": r.trial.rollout.kind, "clip": r.trial.rollout.clip,
                "source": r.trial.rollout.source, "mass_kg": r.trial.rollout.mass_kg, "gait": r.gait, "events_from":
                r.trial.contact_from, "figures": dict(r.figures), "checks": list(r.checks),
                "strides": [{"side": FEET[s.side], "start_s": s.start / r.trial.rollout.control_rate,
                             "stop_s": s.stop / r.trial.rollout.control_rate,
                             "toe_off_s": s.toe_off / r.trial.rollout.control_rate} for s in r.strides],
            }
            for r in study.results
        ],
        "agreement": list(study.comparison),
        "muscles": list(study.muscle_rows),
        "left_out": list(study.left_out),
        "norms": {name: vars(band.citation) for name, band in study.bands.items() if name in study.quantities},
    }  # fmt: skip


def finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, so that it is valid JSON."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
