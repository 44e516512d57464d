"""The figures of a report as tables; each is shown on the page and written as a CSV file beside it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim_models.embodiment import Embodiment
from tools.report.measure import Collection, Measured
from tools.retargeting.atomic import replacing

NAN = float("nan")
MEAN, EVERY = "mean", "every clip"
MOST_TENDONS = 20


@dataclass(frozen=True)
class Figure:
    """One figure of a clip.

    ========== ==================================================================================
    name       column of the manifest
    label      what it is, with its unit as shown
    factor     from SI to the unit shown
    read       its value in SI from a measured clip, nan where it does not exist
    bound      what this project allows at most, SI; nan where nothing is set
    holds_for  what the bound holds for: the mean over clips, or every clip
    published  what the original reports of itself (GMR-Fit), SI; nan where it reports nothing
    least      whether the smallest value is the worst
    ========== ==================================================================================
    """

    name: str
    label: str
    factor: float
    read: Callable[[Measured], float]
    bound: float = NAN
    holds_for: str = EVERY
    published: float = NAN
    least: bool = False

    def values(self, clips: Sequence[Measured]) -> np.ndarray:
        """(C,) values in the unit shown, nan where a clip has none."""
        return self.factor * np.array([self.read(clip) for clip in clips])


@dataclass(frozen=True)
class Table:
    """Rows under a title; ``name`` is part of the CSV file's name."""

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def _row(name: str) -> Callable[[Measured], float]:
    return lambda clip: float(clip.row.get(name) or NAN)


def _most(values: np.ndarray) -> float:
    return float(values.max()) if values.size else NAN


def _given(name: str, label: str, factor: float = 1.0, **more: Any) -> Figure:
    """A figure that only the retargeting knows: read from the manifest."""
    return Figure(name, label, factor, lambda clip: float(clip.row.get(name) or NAN), **more)


def _most(values: np.ndarray) -> float:
    return float(values.max()) if values.size else NAN


FIGURES = (
    Figure("rmse_m", "fit, mm", 1e3, lambda c: float(np.sqrt((c.fit**2).mean())) if c.fit.size else NAN, 0.020, MEAN, 0.025),
    Figure("limit_pct", "outside joint limits, %", 1.0, lambda c: 100 * float(c.outside.mean()), 0.05, MEAN, 0.27),
    _given("limit_pct_independent", "outside, independent joints, %", bound=0.0),
    Figure("coupler_max", "coupling residual, rad", 1.0, lambda c: _most(c.coupler), 1e-6, EVERY, 3e-3),
    Figure("penetration_pct", "frames > 1 mm in the floor, %", 1.0, lambda c: 100 * float((c.floor_depth > 1e-3).mean()),
           0.2, EVERY, 0.24),
    Figure("penetration_max_m", "deepest in the floor, mm", 1e3, lambda c: _most(c.floor_depth), 0.002, EVERY, 0.001),
    Figure("float_max_m", "least height of the soles, mm", 1e3,
           lambda c: max(0.0, float(c.sole_height.min())) if c.sole_height.size else NAN),
    _given("slip_median", "slip, median, cm/s", 1e2, bound=0.02, holds_for=MEAN),
    _given("slip_p95", "slip, 95 %, cm/s", 1e2, bound=0.10, holds_for=MEAN),
    Figure("tendon_jump_max", "tendon jump, %", 1e2, lambda c: _most(c.jump), 0.05),
    Figure("self_collision_max_m", "deepest in itself, mm", 1e3, lambda c: _most(c.self_depth), 0.002),
    _given("zmp_outside_mean_m", "zero-moment point outside, mm", 1e3, bound=0.010, holds_for=MEAN),
    Figure("qvel_error", "velocity error, relative", 1.0, lambda c: c.qvel_error, 1e-6, EVERY, 0.036),
    Figure("max_speed", "fastest joint, rad/s", 1.0, lambda c: _most(c.speed)),
    Figure("jerk_p95", "joint jerk, 95 %, rad/s\N{SUPERSCRIPT THREE}", 1.0,
           lambda c: float(np.percentile(c.jerk, 95)) if c.jerk.size else NAN),
    _given("elevation_min_rad", "least shoulder elevation, rad", least=True),
    _given("gimbal_range_rad", "plane of elevation, turn in 1 s, rad"),
    _given("gimbal_p95_nm", "moment about it, 95 %, Nm"),
    _given("trunk_yaw_max_nm", "trunk yaw moment, Nm"),
    _given("tilt_deg", "floor tilt taken out, \N{DEGREE SIGN}"),
    _given("widened_m", "feet moved outwards, mm", 1e3),
    Figure("activation", "mean activation", 1.0, lambda c: float(c.act.mean()) if c.act.size else NAN),
    _given("muscle_residual_nm", "moment left by muscles, Nm"),
    _given("ms_per_frame", "time, ms/frame", bound=2.0, holds_for=MEAN, published=113.0),
)


def summary(clips: Sequence[Measured]) -> Table:
    """Mean, median and worst of every figure over clips, beside its bound."""
    rows = []
    for figure in FIGURES:
        values, bound = figure.values(clips), figure.factor * figure.bound
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            continue
        worst = int(known[values[known].argmin() if figure.least else values[known].argmax()])
        set_ = bound == bound
        rows.append((
            figure.label, float(values[known].mean()), float(np.median(values[known])), float(values[worst]),
            clips[worst].name, bound, figure.holds_for if set_ else "",
            int((values[known] > bound * (1 + 1e-9)).sum()) if set_ else "", figure.factor * figure.published,
        ))
    columns = ("figure", "mean", "median", "worst", "worst clip", "bound", "holds for", "clips over it", "published original")
    return Table("summary", "Over all clips", "What lies over the bound is red.", columns, tuple(rows))


def by_clip(clips: Sequence[Measured]) -> Table:
    """Every figure of every clip."""
    shown = [f for f in FIGURES if np.isfinite(f.values(clips)).any()]
    columns = ("clip", "frames", "s", *(f.label for f in shown))
    rows = [(c.name, c.frames, (c.frames - 1) / c.fps, *(f.factor * f.read(c) for f in shown)) for c in clips]
    return Table("clips", "By clip", "Click on a heading to sort.", columns, tuple(rows))


def site_errors(body: Embodiment, clips: Sequence[Measured]) -> Table:
    """Fit of every site: mean over clips and worst clip, and the same of its mirror partner."""
    errors = 1e3 * np.array([c.site_rmse for c in clips if len(c.site_rmse)]).reshape(-1, len(body.site_names))
    named = [c.name for c in clips if len(c.site_rmse)]
    rows = [
        (_short(name), float(column.mean()), float(column.max()), named[int(column.argmax())])
        for name, column in zip(body.site_names, errors.T, strict=True) if named
    ]
    return Table("sites", "Fit by site", "Root mean square distance from the scaled target, mm.",
                 ("site", "mean over clips", "worst", "worst clip"), tuple(rows))


def joint_figures(body: Embodiment, clips: Sequence[Measured]) -> Table:
    """Speed and jerk percentiles, range of motion and limits of every scalar joint."""
    speed, jerk = np.concatenate([c.speed for c in clips]), np.concatenate([c.jerk for c in clips])
    outside = 100 * np.average([c.outside for c in clips], axis=0, weights=[c.frames for c in clips])
    span = np.max([c.span for c in clips], axis=0)
    column = {int(joint): d for d, joint in enumerate(body.independent_hinges)}
    rows = []
    for j, joint in enumerate(body.hinge_ids):
        d = column.get(int(joint))
        moving = (np.percentile(speed[:, d], (50, 95, 99)), np.percentile(jerk[:, d], (50, 95, 99))) if d is not None else ()
        rows.append((
            body.joint_names[joint], "coupled" if d is None else "free", float(span[j]), float(outside[j]),
            *(float(v) for v in (np.concatenate(moving) if moving else np.full(6, NAN))),
        ))
    columns = ("joint", "kind", "range of motion", "outside limits, %", "speed 50 %", "speed 95 %", "speed 99 %",
               "jerk 50 %", "jerk 95 %", "jerk 99 %")
    return Table("joints", "By joint", "rad (m for translations), rad/s, rad/s\N{SUPERSCRIPT THREE}; all frames.",
                 columns, tuple(rows))


def tendon_figures(body: Embodiment, clips: Sequence[Measured]) -> Table:
    """Tendons with the largest jumps."""
    jumps = 100 * np.array([c.tendon_jump for c in clips])
    rows = []
    for tendon in np.argsort(-jumps.max(axis=0, initial=0.0), kind="stable")[:MOST_TENDONS]:
        worst = int(jumps[:, tendon].argmax())
        if jumps[worst, tendon] > 0:
            rows.append((
                body.model.tendon(int(tendon)).name, float(jumps[worst, tendon]), clips[worst].name,
                int(clips[worst].tendon_jump_frame[tendon]), int((jumps[:, tendon] > 0).sum()),
                int((jumps[:, tendon] > 5).sum()), clips[worst].row.get("tendon_jump_cause", ""),
            ))
    return Table("tendons", "Tendon-length jumps", "Changes in one frame, % of the rest length, that exceed 0.1 % and ten "
                 "times their running mean.", ("tendon", "largest, %", "clip", "frame", "clips with a jump",
                                                "clips over 5 %", "cause in that clip"), tuple(rows))


def sides(body: Embodiment, clips: Sequence[Measured]) -> Table:
    """Left against right: fit of sites, range of motion of joints, activations."""
    rows: list[tuple[Any, ...]] = []
    sites = {_short(n): i for i, n in enumerate(body.site_names)}
    fit = [c.site_rmse for c in clips if len(c.site_rmse)]
    if fit:
        mean = 1e3 * np.mean(fit, axis=0)
        rows += [("fit, mm", n.removeprefix("left_"), float(mean[i]), float(mean[sites[f"right_{n[5:]}"]]))
                 for n, i in sites.items() if n.startswith("left_")]
    names = [body.joint_names[j] for j in body.hinge_ids]
    span = np.mean([c.span for c in clips], axis=0)
    free = {body.joint_names[j] for j in body.independent_hinges}
    rows += [("range of motion, rad", n[:-2], float(span[names.index(n)]), float(span[names.index(f"{n[:-2]}_r")]))
             for n in names if n in free and n.endswith("_l") and f"{n[:-2]}_r" in names]
    act = [c.act for c in clips if c.act.size]
    if act:
        partner, mean = body.mirror_muscles, np.mean(act, axis=0)
        left = [i for i, n in enumerate(body.muscle_names) if partner[i] != i and n.endswith(("_l", "_left"))]
        rows.append(("mean activation", f"{len(left)} muscles", float(mean[left].mean()), float(mean[partner[left]].mean())))
    shown = tuple((*row, row[2] - row[3]) for row in rows)
    return Table("sides", "Left and right", "Mean over clips; the motions themselves need not be symmetric.",
                 ("figure", "of", "left", "right", "left - right"), shown)


def failures(collection: Collection) -> Table:
    """Captures that became no clip."""
    rows = tuple((row["clip"], row["source"], row["reason"]) for row in collection.failed)
    return Table("failed", "Failed", "", ("clip", "source", "reason"), rows)


def _short(site: str) -> str:
    return site.removesuffix("_mimic")


def all_tables(collection: Collection) -> list[Table]:
    """Every table of a report that has rows."""
    body, clips = collection.body, collection.clips
    tables = [summary(clips), site_errors(body, clips), sides(body, clips), joint_figures(body, clips),
              tendon_figures(body, clips), by_clip(clips), failures(collection)]
    return [table for table in tables if table.rows]


def write_csv(table: Table, page: Path) -> Path:
    """Write a table beside the page: ``report.html`` gives ``report_NAME.csv``."""
    path = page.with_name(f"{page.stem}_{table.name}.csv")
    with replacing(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows([[f"{v:.6g}" if isinstance(v, float) and v == v else "" if v != v else v for v in row]
                          for row in table.rows])
    return path
