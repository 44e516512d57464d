"""Moment arms over a joint's range beside published tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from tools.validation.findings import Finding
from tools.validation.subject import Subject

TABLES = Path(__file__).with_name("moment_arms.yaml")


@dataclass(frozen=True, eq=False)
class Published:
    """A published curve.

    ======== ======================================= =======
    joint    the model's joint
    muscle   the model's muscle
    angle    joint angles                            (n,) deg
    arm      moment arms, + turns the joint upwards  (n,) mm
    source   where it comes from
    ======== ======================================= =======
    """

    joint: str
    muscle: str
    angle: np.ndarray
    arm: np.ndarray
    source: str


@cache
def published() -> tuple[Published, ...]:
    """All curves of the tables."""
    rows = yaml.safe_load(TABLES.read_text())
    return tuple(Published(row["joint"], muscle, np.array(row["angle"], float), np.array(arm, float), row["source"])
                 for row in rows for muscle, arm in row["muscles"].items())


def model_arms(subject: Subject, curve: Published) -> tuple[np.ndarray, np.ndarray] | None:
    """The model's curve over the whole range: angles (n,) in deg and arms (n,) in mm; None where it lacks joint or muscle."""
    joints = {subject.model.joint(j).name: j for j in subject.joints}
    tendons = dict(zip((subject.muscle_name(m) for m in subject.muscles), subject.tendon_of, strict=True))
    if curve.joint not in joints or curve.muscle not in tendons:
        return None
    sweep, tendon = subject.sweeps[joints[curve.joint]], tendons[curve.muscle]
    return np.degrees(sweep.grid), -1e3 * sweep.slope[:, tendon]


def compare(subject: Subject) -> Iterator[Finding]:
    """Root mean square difference and correlation of each published curve with the model's, where the angles overlap."""
    for curve in published():
        found = model_arms(subject, curve)
        if found is None:
            continue
        inside = (curve.angle >= found[0][0] - 0.5) & (curve.angle <= found[0][-1] + 0.5)
        ours, theirs = np.interp(curve.angle[inside], *found), curve.arm[inside]
        rmse, r = float(np.sqrt(np.mean((ours - theirs) ** 2))), float(np.corrcoef(ours, theirs)[0, 1])
        yield Finding("INFO", "moment_arm.published", f"{curve.muscle} at {curve.joint}", rmse, "mm",
                      f"root mean square difference {rmse:.1f} mm, mean difference {np.mean(ours - theirs):+.1f} mm, r "
                      f"{r:.2f} against {curve.source}")
