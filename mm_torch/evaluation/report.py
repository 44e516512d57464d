"""Results of an evaluation as files and tables: summary, clips, intervals, differences."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from mm_torch.evaluation.comparison import LEVEL, METRICS, Estimate, intervals, paired_differences, summarise
from mm_torch.evaluation.job import Candidate, Plan, describe
from mm_torch.evaluation.tracker import ClipResult
from mm_torch.report import table

Estimates = dict[str, Estimate]
FORMATS = ("text", "json", "csv", "md")
UNITS = {
    "joint_position_error": "rad", "joint_velocity_error": "rad/s", "root_position_error": "m", "root_yaw_error": "rad",
    "relative_site_error": "m", "absolute_site_error": "m", "episode_length": "steps",
}


def write_results(plan: Plan, candidates: Sequence[Candidate]) -> None:
    """Write ``summary.json``, ``per_clip.csv`` and TensorBoard events of each checkpoint, and ``report.{json,csv,md}``.

    Args:
        plan: what was evaluated; with several checkpoints each has its own folder in ``plan.out``.
        candidates: results.
    """
    for candidate in candidates:
        folder = plan.out if len(candidates) == 1 else plan.out / candidate.name
        summary = summarise(candidate.results, plan.seeds)
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_text(folder / "per_clip.csv", to_csv(clip_rows(candidate.results, plan.seeds, plan.conditions.seed)))
        with SummaryWriter(str(folder / "tensorboard")) as writer:
            for name, value in summary.items():
                writer.add_scalar(f"evaluation/{name}", value, 0)
    for kind in FORMATS[1:]:
        write_text(plan.out / f"report.{kind}", render(plan, candidates, kind))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def clip_rows(results: Sequence[ClipResult], seeds: int, first_seed: int) -> list[dict[str, Any]]:
    """Rows of ``per_clip.csv``; a column for the seed only where there are several."""
    if seeds == 1:
        return [r.row() for r in results]
    clips = len(results) // seeds
    return [r.row() | {"seed": first_seed + i // clips} for i, r in enumerate(results)]


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def render(plan: Plan, candidates: Sequence[Candidate], kind: str) -> str:
    """The report as text, json, csv or md (one of ``FORMATS``)."""
    return {"text": _text, "json": _json, "csv": _csv, "md": _markdown}[kind](plan, candidates)


def _estimates(plan: Plan, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Estimates, Estimates]]:
    """Each checkpoint with its metrics and what they are above the first one's; nothing for the first itself."""
    first = candidates[0].results
    return [
        (c, intervals(c.results, plan.seeds), paired_differences(first, c.results, plan.seeds) if i else {})
        for i, c in enumerate(candidates)
    ]


def _json(plan: Plan, candidates: Sequence[Candidate]) -> str:
    def plain(estimates: dict[str, Estimate]) -> dict[str, dict[str, float | None]]:
        return {m: {k: v if math.isfinite(v) else None for k, v in e._asdict().items()} for m, e in estimates.items()}

    return json.dumps({
        "conditions": describe(plan.conditions),
        "baseline": candidates[0].name if plan.baseline else None,
        "seeds": plan.seeds,
        "motions": plan.motions,
        "clips": len(candidates[0].results) // plan.seeds,
        "interval": LEVEL,
        "checkpoints": [
            {"name": c.name, "checkpoint": c.checkpoint, "metrics": plain(own),
             **({"minus_first": plain(less)} if less else {})}
            for c, own, less in _estimates(plan, candidates)
        ],
    }, indent=2) + "\n"


def _csv(plan: Plan, candidates: Sequence[Candidate]) -> str:
    rows = []
    for candidate, own, less in _estimates(plan, candidates):
        for metric, estimate in own.items():
            difference = less.get(metric, Estimate(0.0, 0.0, 0.0))
            rows.append({"checkpoint": candidate.name, "metric": metric, "unit": UNITS.get(metric, "")} | estimate._asdict()
                        | {f"minus_first_{k}": v for k, v in difference._asdict().items()})
    return to_csv([{k: _blank(v) for k, v in row.items()} for row in rows])


def _blank(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _figure(estimate: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if math.isnan(estimate.low):
        return f"{estimate.value:{sign}.4g}"
    return f"{estimate.value:{sign}.4g} [{estimate.low:{sign}.4g}, {estimate.high:{sign}.4g}]"


def _clear(estimate: Estimate) -> str:
    """A star where the interval of a difference leaves out zero."""
    return "*" if estimate.low > 0 or estimate.high < 0 else ""


def _comparison(plan: Plan, candidates: Sequence[Candidate]) -> list[tuple[str, ...]]:
    estimates = _estimates(plan, candidates)
    header = ["metric", "unit", *(c.name for c in candidates), *(f"{c.name} - {candidates[0].name}" for c in candidates[1:])]
    rows: list[tuple[str, ...]] = [tuple(header)]
    for metric in METRICS:
        own = [_figure(e[metric]) for _, e, _ in estimates]
        less = [_figure(d[metric], signed=True) + _clear(d[metric]) for _, _, d in estimates[1:]]
        rows.append((metric, UNITS.get(metric, ""), *own, *less))
    return rows


def _note(plan: Plan, candidates: Sequence[Candidate]) -> str:
    clips = len(candidates[0].results) // plan.seeds
    changed = describe(plan.conditions)
    if plan.baseline:
        changed.append(f"none of that in {candidates[0].name}")
    seeds = [f"{plan.seeds} seeds from {plan.conditions.seed} on"] if plan.seeds > 1 else []
    words = [f"{clips} clips from their first frame", *seeds, *changed]
    brackets = "in brackets 95 % bootstrap intervals over clips" + (" and seeds" if plan.seeds > 1 else "")
    star = "; * a paired difference whose interval leaves out zero" if len(candidates) > 1 else ""
    return f"{', '.join(words)}; {brackets}{star}."


def _markdown(plan: Plan, candidates: Sequence[Candidate]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    header, *rows = _comparison(plan, candidates)
    lines = [line(header), line(["---"] * len(header)), *map(line, rows)]
    return "\n".join([*lines, "", _note(plan, candidates)]) + "\n"


def _text(plan: Plan, candidates: Sequence[Candidate]) -> str:
    clips = [clip_table(c.results, f"Clips, {c.name}" if len(candidates) > 1 else "Clips") for c in candidates]
    return "\n".join([*clips, table("Summary", _comparison(plan, candidates)), _note(plan, candidates)]) + "\n"


def clip_table(results: Sequence[ClipResult], title: str) -> str:
    """One aligned line a clip."""
    header = ("clip", "tracked", "of", "early", "joints rad", "root cm", "yaw rad", "sites cm", "return")
    rows = [
        (r.clip, str(r.episode_length), str(r.frames), "yes" if r.early_termination else "",
         f"{r.errors['joint_position_error']:.3f}", f"{100 * r.errors['root_position_error']:.1f}",
         f"{r.errors['root_yaw_error']:.3f}", f"{100 * r.errors['relative_site_error']:.1f}", f"{r.episode_return:.1f}")
        for r in results
    ]
    return table(title, [header, *rows])
