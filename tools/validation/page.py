"""The report of a validation: one HTML file with verdicts, curves and tables, and its JSON twin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from tools.report.page import SORT, STYLE
from tools.report.plots import BLUE, RED, close
from tools.retargeting.atomic import replacing
from tools.validation.findings import LEVELS, Finding
from tools.validation.jumps import is_finger
from tools.validation.moment_arms import model_arms, published
from tools.validation.strength import curve
from tools.validation.subject import Subject

COLOUR = {"ERROR": "#b3261e", "WARN": "#b26a00", "INFO": "#555"}


def summary(subject: Subject, fixes: Sequence[str], findings: Sequence[Finding]) -> dict[str, Any]:
    """What the JSON file holds."""
    m = subject.model
    return {
        "schema": 1,
        "body": subject.name,
        "fixes": list(fixes),
        "mass_kg": round(float(m.body_mass.sum()), 6),
        "model_hash": subject.body.model_hash,
        "counts": {"joints": m.njnt, "muscles": m.nu, "tendons": m.ntendon, "bodies": m.nbody, "pairs": m.npair},
        "verdicts": {level: sum(f.level == level for f in findings) for level in LEVELS},
        "findings": [asdict(f) for f in findings],
    }


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write the JSON file, atomically."""
    with replacing(path, "w") as file:
        file.write(json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_page(subject: Subject, content: dict[str, Any], findings: Sequence[Finding], path: Path) -> None:
    """Write the HTML page, atomically."""
    counts = ", ".join(f"{content['verdicts'][level]} {level}" for level in LEVELS)
    told = ", ".join(content["fixes"]) or "none, the published model"
    parts = [
        f"<h1>Model validation: {escape(subject.name)}</h1>\n<p>{counts}. Mass {content['mass_kg']:.3f} kg; fixes: "
        f"{escape(told)}; model {content['model_hash']}.</p>",
        _jump_figure(subject, findings), _arm_figure(subject), _strength_figure(subject),
    ]
    parts += [_table(level, [f for f in findings if f.level == level]) for level in LEVELS]
    with replacing(path, "w") as file:
        file.write(f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>Model validation: "
                   f"{escape(subject.name)}</title>\n<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts)
                   + f"\n<script>{SORT}</script>\n</body></html>\n")


def _table(level: str, findings: Sequence[Finding]) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(f.check)}</td><td>{escape(f.element)}</td><td class='n' data-v='{f.value!r}'>{f.value:.4g}</td>"
        f"<td>{escape(f.unit)}</td><td>{escape(f.text)}</td></tr>" for f in findings)
    return (f"<h2 style='color:{COLOUR[level]}'>{level} ({len(findings)})</h2>\n<div class='wide'><table><thead><tr>"
            "<th>check</th><th>element</th><th>value</th><th>unit</th><th>finding</th></tr></thead><tbody>\n"
            f"{rows}\n</tbody></table></div>")


def _figure(address: str, caption: str) -> str:
    return f"<figure style='margin:0'><img alt='{escape(caption)}' src='{address}'><figcaption>{escape(caption)}" \
           "</figcaption></figure>"


def _jump_figure(subject: Subject, findings: Sequence[Finding]) -> str:
    names = [f.element for f in findings if f.check == "jump.neutral"]
    if not names:
        return "<p class='note'>No muscle jumps at the neutral posture.</p>"
    tendons = {subject.tendon_name(t): t for t in range(subject.model.ntendon)}
    drawing, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), layout="constrained", squeeze=False)
    for axis, name in zip(axes.flat, names, strict=True):
        column = tendons[name]
        sweep = max(subject.sweeps.values(), key=lambda s, c=column: np.abs(np.diff(s.length[:, c])).max())
        axis.plot(np.degrees(sweep.grid), 1e3 * sweep.length[:, column], color=BLUE, marker=".", markersize=2)
        axis.set(title=name, xlabel=f"{subject.model.joint(sweep.joint).name} (deg)", ylabel="length (mm)")
    return "<h2>Jumps at the neutral posture</h2>\n" + _figure(close(drawing), "Muscle length over the joint's range.")


def _strength_figure(subject: Subject) -> str:
    sweeps = [s for s in subject.sweeps.values() if not is_finger(subject.model.joint(s.joint).name)]
    if not sweeps:
        return ""
    columns = 5
    drawing, axes = plt.subplots(-(-len(sweeps) // columns), columns, figsize=(16, 2.4 * -(-len(sweeps) // columns)),
                                 layout="constrained", squeeze=False)
    for axis in axes.flat[len(sweeps):]:
        axis.axis("off")
    for axis, sweep in zip(axes.flat, sweeps, strict=False):
        grid, up, down = curve(subject, sweep, every=6)
        axis.plot(np.degrees(grid), up, color=RED)
        axis.plot(np.degrees(grid), down, color=BLUE)
        axis.axhline(0, color="#bbb", linewidth=0.6)
        axis.set_title(subject.model.joint(sweep.joint).name, fontsize=9)
        axis.tick_params(labelsize=7)
    drawing.supxlabel("joint position (deg)")
    drawing.supylabel("moment (Nm)")
    return "<h2>Isometric strength</h2>\n" + _figure(
        close(drawing), "All muscles fully active at rest, from neutral: sum of those that pull up (red) and down (blue).")


def _arm_figure(subject: Subject) -> str:
    found = [(c, arms) for c in published() if (arms := model_arms(subject, c)) is not None]
    if not found:
        return ""
    columns = 4
    drawing, axes = plt.subplots(-(-len(found) // columns), columns, figsize=(14, 2.8 * -(-len(found) // columns)),
                                 layout="constrained", squeeze=False)
    for axis in axes.flat[len(found):]:
        axis.axis("off")
    for axis, (known, (angle, arm)) in zip(axes.flat, found, strict=False):
        axis.plot(angle, arm, color=BLUE, label="model")
        axis.plot(known.angle, known.arm, color=RED, marker="o", markersize=3, label="published")
        axis.axhline(0, color="#bbb", linewidth=0.6)
        axis.set_title(f"{known.muscle} at {known.joint}", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    drawing.supxlabel("joint position (deg)")
    drawing.supylabel("moment arm (mm)")
    sources = "; ".join(dict.fromkeys(known.source for known, _ in found))
    return "<h2>Moment arms beside published ones</h2>\n" + _figure(
        close(drawing), f"Coupled joints move along; positive turns the joint upwards. Published: {sources}.")
