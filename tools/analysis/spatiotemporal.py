"""Speed, cadence, step lengths and times of a trial, and what its floor forces must add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mm_torch.evaluation.rollout_file import FEET
from tools.analysis.contacts import GRAVITY
from tools.analysis.norm_tables import table
from tools.analysis.quantities import Signals
from tools.analysis.strides import Stride
from tools.analysis.trial import Trial

NAN = float("nan")
COLUMNS = {  # figure to its heading
    "speed": "speed, m/s", "cadence": "cadence, steps/min", "stride_time": "stride time, s",
    "stride_length": "stride length, m", "step_length_right": "step length right, m",
    "step_length_left": "step length left, m", "step_width": "step width, m",
    "stance_right": "stance right, %", "stance_left": "stance left, %",
    "double_support": "double support, %", "flight": "flight, %", "peak_knee": "peak knee flexion, deg",
    "com_excursion": "vertical way of the centre of mass, mm",
}  # fmt: skip
WEIGHT_TOLERANCE = 0.03  # of body weight: mean vertical force over a stride
IMPULSE_TOLERANCE = 0.15  # braking against propelling impulse in steady walking


def figures(trial: Trial, strides: Sequence[Stride]) -> dict[str, float]:
    """The figures of ``COLUMNS``, means over strides; nan where a trial has none."""
    rollout, rate = trial.rollout, trial.rollout.control_rate
    ways = [rollout.com[s.stop] - rollout.com[s.start] for s in strides]
    times = np.array([(s.stop - s.start) / rate for s in strides])
    lengths = np.array([w @ s.forward for w, s in zip(ways, strides, strict=True)])
    sided = {side: [s for s in strides if s.side == k] for k, side in enumerate(FEET)}
    steps = [_steps(trial, s) for s in strides if s.other_strike is not None]
    contact = [trial.contact[s.start : s.stop] for s in strides]
    knee = [np.degrees(rollout.joint_position[s.frames, rollout.joint_names.index(f"knee_angle_{'rl'[s.side]}")]).max()
            for s in strides]
    found = {
        "speed": lengths.sum() / times.sum(),
        "cadence": 120.0 / times.mean(),
        "stride_time": times.mean(),
        "stride_length": lengths.mean(),
        "step_width": _mean([width for _, width in steps]),
        "double_support": 100 * _mean([c.all(axis=1).mean() for c in contact]),
        "flight": 100 * _mean([(~c.any(axis=1)).mean() for c in contact]),
        "peak_knee": _mean(knee),
        "com_excursion": 1e3 * _mean([np.ptp(rollout.com[s.frames, 2]) for s in strides]),
    }
    for side in FEET:
        found[f"stance_{side}"] = 100 * _mean([(s.toe_off - s.start) / (s.stop - s.start) for s in sided[side]])
        found[f"step_length_{side}"] = _mean([row[side] for row, _ in steps])
    return {name: float(found[name]) for name in COLUMNS}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else NAN


def _steps(trial: Trial, stride: Stride) -> tuple[dict[str, float], float]:
    """Length in m of the step onto either foot within a stride, and the step width: of the ankles at heel strikes."""
    ankles = [trial.rollout.site_position[:, trial.rollout.site_names.index(f"{side}_ankle_mimic")] for side in FEET]
    assert stride.other_strike is not None
    mine = ankles[stride.side][[stride.start, stride.stop]]
    other = ankles[1 - stride.side][stride.other_strike]
    lengths = {
        FEET[1 - stride.side]: float((other - mine[0]) @ stride.forward),
        FEET[stride.side]: float((mine[1] - other) @ stride.forward),
    }
    width = (mine.mean(axis=0) - other) @ stride.left * (1.0 if stride.side == 1 else -1.0)
    return lengths, float(width)


def norm_rows(gait: str) -> dict[str, dict[str, float]]:
    """Published rows of a gait in the units of ``COLUMNS``, by name."""
    percent = {"stance": 100.0, "double_support": 100.0}
    rows = {}
    for name, row in table("spatiotemporal")[gait].items():
        if isinstance(row, dict):
            values = {k: percent.get(k, 1.0) * v for k, v in row.items() if not k.endswith("_sd")}
            stance, step = values.pop("stance", NAN), values.pop("step_length", NAN)
            values |= {f"stance_{side}": stance for side in FEET} | {f"step_length_{side}": step for side in FEET}
            values["stride_time"] = 120.0 / values["cadence"]
            rows[name] = {column: float(values.get(column, NAN)) for column in COLUMNS}
    return rows


def force_checks(signals: Signals, strides: Sequence[Stride], gait: str) -> list[dict[str, Any]]:
    """What floor forces must be: weight over a stride always, balanced impulses and usual peaks in walking.

    Returns:
        Rows: name, value, least, most, unit, ok; empty without forces.
    """
    if signals.force is None:
        return []
    both = [signals.force[s.start : s.stop].sum(axis=1) for s in strides]  # % of weight
    weight = float(np.mean([f[:, 2].mean() for f in both])) / 100.0
    gained = float(np.mean([_gained(signals, s) for s in strides]))
    limits = (1 - WEIGHT_TOLERANCE, 1 + WEIGHT_TOLERANCE, "body weights")
    rows = [_row("mean vertical force of both feet over strides", weight, *limits),
            _row("the same less the change of the centre of mass's speed", weight - gained, *limits)]
    if gait != "walking":
        return rows
    ahead = np.concatenate([signals.force[s.start : s.stop, s.side] @ s.forward for s in strides])
    braking, driving = -ahead[ahead < 0].sum(), ahead[ahead > 0].sum()
    rows.append(_row("propelling over braking impulse", float(driving / braking) if braking > 0 else NAN,
                     1 - IMPULSE_TOLERANCE, 1 + IMPULSE_TOLERANCE, "1"))
    curves = [signals.of_stride(s) for s in strides]
    for check in table("spatiotemporal")["checks"]:
        mean = np.mean([c[check["of"]] for c in curves], axis=0)[check["from"] : check["to"] + 1]
        value = float(mean.max() if check["take"] == "max" else mean.min())
        name = f"{check['name']}, {check['from']} to {check['to']} % of the cycle"
        rows.append(_row(name, value, check["least"], check["most"], "% of weight"))
    return rows


def _gained(signals: Signals, stride: Stride) -> float:
    """Mean vertical acceleration of the centre of mass over a stride, over that of gravity."""
    rate = signals.rollout.control_rate
    speed = np.gradient(signals.rollout.com[:, 2].astype(float), 1.0 / rate)
    return float((speed[stride.stop] - speed[stride.start]) * rate / (stride.stop - stride.start)) / GRAVITY


def _row(name: str, value: float, least: float, most: float, unit: str) -> dict[str, Any]:
    return {"check": name, "value": value, "least": least, "most": most, "unit": unit, "ok": bool(least <= value <= most)}
