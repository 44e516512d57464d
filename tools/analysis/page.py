"""The page of a gait report and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tools.analysis import plots
from tools.analysis.norm_tables import Citation
from tools.analysis.quantities import QUANTITIES
from tools.analysis.study import HEADLINE, SPEED_GATE, Study
from tools.analysis.tables import all_tables, as_json, curve_table, finite
from tools.report.page import SORT, STYLE
from tools.report.plots import data_uri
from tools.report.tables import Table, write_csv
from tools.retargeting.atomic import replacing

TITLES = {"angles": "Joint and pelvis angles", "forces": "Ground reaction",
          "moments": "Joint moments and powers of the muscles", "muscles": "Muscle excitations"}
UNDER = {"angles": ("agreement",), "forces": ("checks",), "muscles": ("muscles",)}
BAD = "no"


def write_report(study: Study, directory: Path) -> list[Path]:
    """Write ``report.html``, ``report.json``, a CSV for each table and for the curves, a PNG for each figure."""
    pictures = {part: plots.curves(study, part) for part in ("angles", "forces", "moments")}
    pictures["muscles"] = plots.muscle_curves(study)
    tables = {t.name: t for t in all_tables(study)}
    page = directory / "report.html"
    files = [page, directory / "report.json"]
    for part, content in pictures.items():
        if content is None:
            (directory / f"report_{part}.png").unlink(missing_ok=True)  # of an earlier report of other files
            continue
        files.append(directory / f"report_{part}.png")
        with replacing(files[-1]) as file:
            file.write(content)
    files += [write_csv(t, page) for t in (*tables.values(), curve_table(study))]
    with replacing(directory / "report.json", "w") as file:
        json.dump(finite(as_json(study)), file, indent=1, allow_nan=False)
    with replacing(page, "w") as file:
        file.write(_page(study, pictures, tables))
    return files


def _page(study: Study, pictures: dict[str, bytes | None], tables: dict[str, Table]) -> str:
    parts = [_head(study), _table(tables["spatiotemporal"])]
    for part, content in pictures.items():
        if content is None:
            continue
        parts.append(f"<h2>{TITLES[part]}</h2>")
        parts.append(f"<figure style='margin:0'><img alt='{TITLES[part]} over the gait cycle' "
                     f"src='{data_uri(content, 'png')}'><figcaption>{_compared(study, part)}</figcaption></figure>")
        parts += [_table(tables[name], level=3) for name in UNDER.get(part, ()) if name in tables]
    names = ", ".join(escape(r.trial.name) for r in study.results)
    return (f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>Gait report: {names}</title>\n"
            f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + f"\n<script>{SORT}</script>\n</body></html>\n")


def _head(study: Study) -> str:
    shown = len(study.results)
    mean_r = study.mean_r
    labels = ", ".join(QUANTITIES[q].label for q in HEADLINE)
    told = f"Mean Pearson r of {labels}: <b>{mean_r:.3f}</b>" if np.isfinite(mean_r) else (
        f"No mean of r: no file has hip, knee or ankle within {SPEED_GATE:g} m/s of the norm's speed")
    listed = "".join(
        f"<li>{escape(r.trial.name)}: {escape(r.trial.rollout.kind)} of {escape(r.trial.rollout.clip)}, "
        f"{escape(r.trial.rollout.source)}; {r.gait} at {r.speed:.2f} m/s, {plots.counted(len(r.strides))}</li>"
        for r in study.results)
    left_out = "".join(f"<li>{escape(sentence)}</li>" for sentence in study.left_out)
    return (f"<h1>Gait report: {study.gait}</h1>\n<p>{shown} file{'s' if shown > 1 else ''} of body "
            f"{escape(study.results[0].trial.body.name)}. {told}.</p>\n<ul>{listed}</ul>"
            + (f"\n<p>Left out or without a norm:</p><ul>{left_out}</ul>" if left_out else ""))


def _compared(study: Study, part: str) -> str:
    """What the lines of a figure are compared with: one line for each source."""
    speeds = [r.speed for r in study.results]
    mine = f"{min(speeds):.2f} m/s" if len(speeds) == 1 else f"{min(speeds):.2f} to {max(speeds):.2f} m/s"
    if part == "muscles":
        cited = [(m, w.citation) for m, w in study.windows.items()] + [
            (f"measured {m}", b.citation) for m, b in study.envelopes.items()]
    else:
        cited = [(QUANTITIES[q].label, study.bands[q].citation) for q in study.quantities
                 if QUANTITIES[q].part == part and q in study.bands]
    strides = sum(len(r.strides) for r in study.results)
    lines = [f"{plots.counted(strides)} at {mine} against {escape(citation.line)}: {escape(', '.join(names))}."
             for citation, names in _by_citation(cited)]
    if not lines:
        lines = [f"{plots.counted(strides)} at {mine}; no openly licensed norm was found."]
    if part == "moments":
        lines.append("Moments and powers are those of the muscles alone; ligaments, joint limits and floor are not in them. "
                     "Powers have no band.")
    return "<br>".join(lines)


def _by_citation(cited: Iterable[tuple[str, Citation]]) -> list[tuple[Citation, list[str]]]:
    found: dict[Citation, list[str]] = {}
    for name, source in cited:
        found.setdefault(source, []).append(name)
    return list(found.items())


def _table(table: Table, level: int = 2) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in table.columns)
    bad = table.columns.index("within") if "within" in table.columns else -1
    cells = ("".join(_cell(v, k == bad and v == BAD) for k, v in enumerate(row)) for row in table.rows)
    rows = "\n".join(f"<tr>{row}</tr>" for row in cells)
    return (f"<h{level}>{escape(table.title)}</h{level}>\n<p class='note'>{escape(table.note)}</p>\n<div class='wide'><table>"
            f"<thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>")


def _cell(value: Any, bad: bool) -> str:
    if isinstance(value, str):
        return f"<td{' class=over' if bad else ''}>{escape(value)}</td>"
    if value != value:
        return "<td class='n' data-v=''>\N{EN DASH}</td>"
    text = str(value) if isinstance(value, int) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return f"<td class='n' data-v='{value!r}'>{text}</td>"
