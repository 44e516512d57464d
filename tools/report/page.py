"""The page of a report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mm_torch.motion.clip import bind_activations, load_clip
from tools.report import pictures, plots
from tools.report.measure import Collection, Measured
from tools.report.tables import MEAN, Table, all_tables, write_csv
from tools.retargeting.atomic import replacing

POSES = 8  # in a strip
MOST_SUBJECTS = 10  # in the head
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1500px; padding: 0 1.5em; color: #222; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin-top: 2.2em; border-bottom: 1px solid #ddd; padding-bottom: .2em; }
h3 { font-size: 1em; margin: 1.2em 0 .2em; } p.note, figcaption { color: #666; margin: .3em 0; }
table { border-collapse: collapse; font-size: 13px; } div.wide { overflow-x: auto; max-height: 75vh; }
th { position: sticky; top: 0; background: #f3f3f3; text-align: left; cursor: pointer; font-weight: 600; }
td, th { padding: .22em .7em; border-bottom: 1px solid #eee; } td.n { text-align: right; white-space: nowrap; }
tr:hover td { background: #f7fafd; } td.over { color: #b3261e; font-weight: 600; } img { max-width: 100%; display: block; }
"""
SORT = """
document.querySelectorAll('th').forEach(th => th.onclick = () => {
  const body = th.closest('table').tBodies[0], i = th.cellIndex, up = th.dataset.up = th.dataset.up === '1' ? '0' : '1';
  const key = row => { const v = row.cells[i].dataset.v ?? row.cells[i].textContent;
    return v === '' ? -Infinity : isNaN(v) ? v : +v; };
  [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
    return (x > y ? 1 : x < y ? -1 : 0) * (up === '1' ? -1 : 1); }).forEach(row => body.append(row));
});
"""


def write_report(collection: Collection, page: Path, strips: int) -> list[Path]:
    """Write the page and its tables as CSV; returns the files.

    Args:
        collection: measured clips.
        page: HTML file to write.
        strips: most clips to show as strips of frames, those with the worst fit first.
    """
    tables = all_tables(collection)
    content = "\n".join([_head(collection), *_sections(collection, tables), *_strips(collection, strips)])
    with replacing(page, "w") as file:
        file.write(
            f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>Motion report: "
            f"{escape(collection.directory.name)}</title>\n<style>{STYLE}</style></head>\n<body>\n{content}\n"
            f"<script>{SORT}</script>\n</body></html>\n"
        )
    return [page, *(write_csv(table, page) for table in tables)]


def _head(collection: Collection) -> str:
    clips = collection.clips
    seconds = sum((c.frames - 1) / c.fps for c in clips)
    subjects = {c.subject: sum(d.subject == c.subject for d in clips) for c in clips if c.subject}
    most = sorted(subjects.items(), key=lambda item: -item[1])[:MOST_SUBJECTS]
    told = "; ".join([f"{name} ({count} clips)" for name, count in most] + ["..."] * (len(subjects) > MOST_SUBJECTS))
    return (
        f"<h1>Motion report: {escape(str(collection.directory))}</h1>\n<p>Body {escape(collection.body.name)}; "
        f"{len(clips)} clips, {sum(c.frames for c in clips):,} frames, {seconds / 60:.1f} min; "
        f"{len(collection.failed)} captures failed.{f' Proportions: {escape(told)}.' if told else ''}</p>"
    )


def _sections(collection: Collection, tables: Sequence[Table]) -> list[str]:
    body, clips = collection.body, collection.clips
    drawn: dict[str, list[tuple[str | None, str]]] = {  # pictures under a table: address, caption
        "summary": [(plots.over_clips(clips), "Clips sorted by each figure; the three worst are named.")],
        "sites": [
            (plots.fit_by_site(body, clips), "Mean over clips (bar) and every clip (dot); blue left, red right."),
            (plots.site_map(body, clips), f"Every clip by site, worst first, at most {plots.MOST_ROWS}."),
        ],
        "joints": [(plots.joint_percentiles(body, clips), "Independent joints, all frames of all clips.")],
    }
    first = [table for table in tables if table.name in ("failed", "summary")]
    rest = [table for table in tables if table not in first]
    order = sorted(first, key=lambda table: table.name != "failed") + rest
    parts = []
    for table in order:
        parts.append(_table(table))
        parts += [_figure(address, caption) for address, caption in drawn.get(table.name, []) if address]
        if table.name == "summary":
            parts.append("<h2>Worst frames</h2>\n" + _figure(
                plots.worst_frames(body, clips),
                "The worst frame of all clips; orange dots grow with a site's distance from its target."))
    return parts


def _strips(collection: Collection, strips: int) -> list[str]:
    ordered = sorted(collection.clips, key=lambda c: -float((c.fit**2).mean()) if c.fit.size else 0.0)[:strips]
    if not ordered:
        return []
    with pictures.renderer(collection.body) as stage:
        how = "rendered, muscles from blue (relaxed) to red (active) where activations are solved" if stage else (
            "stick figures, because no OpenGL backend works here")
        parts = [f"<h2>Strips</h2>\n<p class='note'>{POSES} frames of each clip, evenly in time, {how}. The worst fit "
                 f"comes first; {len(ordered)} of {len(collection.clips)} clips.</p>"]
        parts += [_strip(collection, clip, stage) for clip in ordered]
    return parts


def _strip(collection: Collection, measured: Measured, stage: pictures.Stage | None) -> str:
    clip, body = load_clip(measured.path), collection.body
    frames = pictures.strip_frames(measured.frames, POSES)
    if stage is None:
        address = plots.stick_strip(body, clip.qpos, frames, clip.fit_error)
    else:
        picture = pictures.rendered_strip(stage, clip.qpos, bind_activations(clip, body), frames)
        address = plots.data_uri(picture, "jpeg")
    fit = f", fit {1e3 * np.sqrt((measured.fit**2).mean()):.1f} mm" if measured.fit.size else ""
    text = f"{measured.frames} frames, {(measured.frames - 1) / measured.fps:.2f} s{fit}"
    return f"<h3>{escape(measured.name)}</h3>\n{_figure(address, text)}"


def _figure(address: str, caption: str) -> str:
    return f"<figure style='margin:0'><img alt='{escape(caption)}' src='{address}'>" \
           f"<figcaption>{escape(caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    over = _over(table)
    rows = "\n".join(
        "<tr>" + "".join(_cell(value, over(row, i)) for i, value in enumerate(row)) + "</tr>" for row in table.rows
    )
    return (
        f"<h2>{escape(table.title)}</h2>\n<p class='note'>{escape(table.note)}</p>\n<div class='wide'><table><thead><tr>"
        f"{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>"
    )


def _over(table: Table) -> Callable[[tuple[Any, ...], int], bool]:
    """Which cells are printed as beyond their bound: the mean or the worst value of a row of the summary."""
    if "bound" not in table.columns:
        return lambda row, column: False
    place = {name: i for i, name in enumerate(table.columns)}

    def over(row: tuple[Any, ...], column: int) -> bool:
        judged = place["mean" if row[place["holds for"]] == MEAN else "worst"]
        return column == judged and row[judged] > row[place["bound"]] * (1 + 1e-9)

    return over


def _cell(value: Any, over: bool) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    if value != value:
        return "<td class='n' data-v=''>\N{EN DASH}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1e3 else f"{value:,.0f}"
    return f"<td class='n{' over' if over else ''}' data-v='{value!r}'>{text}</td>"
