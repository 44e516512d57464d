"""Published norms of gait, read from the tables in ``norms/``: bands over the cycle, spatiotemporal figures, EMG windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.interpolate import PchipInterpolator

FOLDER = Path(__file__).with_name("norms")
GAITS = ("walking", "running")
POINTS = 101  # of a cycle, 0 to 100 % with both ends


class GaitError(ValueError):
    """A gait report cannot be made; the message names the file or key, the value and the remedy."""


@dataclass(frozen=True)
class Citation:
    """Where numbers come from: source, DOI, licence, number of people, speed in m/s, condition, confidence."""

    source: str
    doi: str
    licence: str
    people: str
    speed: float
    condition: str
    confidence: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        person = "1 person" if self.people == "1" else f"{self.people} people"
        speed = f", {self.speed:g} m/s" if np.isfinite(self.speed) else ""
        return (f"{self.source}; n = {person}{speed}, {self.condition}; doi {self.doi}; {self.licence} "
                f"(confidence {self.confidence})")


@dataclass(frozen=True, eq=False)
class Band:
    """A published curve over the cycle.

    ========= =================================================== ============= ===========================
    name      quantity that it is the norm of
    mean      0 to 100 % of the cycle                             (101,)        deg, % of weight, Nm/kg
    sd        standard deviation; None where none is published    (101,)        the same
    citation  where it comes from
    ========= =================================================== ============= ===========================
    """

    name: str
    mean: np.ndarray
    sd: np.ndarray | None
    citation: Citation


@dataclass(frozen=True)
class Window:
    """When a muscle's EMG is on: parts (start, stop) of the cycle in %, stop beyond 100 where it goes round."""

    muscle: str
    active: tuple[tuple[float, float], ...]
    scored: bool
    citation: Citation

    @property
    def mask(self) -> np.ndarray:
        """(100,) bool: on at 0, 1, ... 99 %."""
        percent = np.arange(100)
        return np.any([(percent - start) % 100 <= stop - start for start, stop in self.active], axis=0)


@cache
def table(name: str) -> Any:
    """A table of ``norms/NAME.yaml`` as it stands there."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def over_cycle(values: np.ndarray) -> np.ndarray:
    """Values spread evenly over the cycle, both ends included, at 101 points; monotone between the given ones."""
    values = np.asarray(values, dtype=float)
    if values.ndim == 0:
        return np.full(POINTS, float(values))
    return PchipInterpolator(np.linspace(0.0, 100.0, len(values)), values)(np.arange(POINTS))


def citation(row: Mapping[str, Any], **more: Any) -> Citation:
    """The citation of a row of a table, completed by ``more``."""
    row = {**more, **row}
    return Citation(
        str(row["source"]), str(row["doi"]), str(row["licence"]), str(row["people"]), float(row["speed"]),
        str(row["condition"]), str(row["confidence"]),
    )


@cache
def bands(gait: str) -> dict[str, Band]:
    """Bands of a gait by quantity: angles in deg, forces in % of body weight, moments in Nm/kg.

    Where a quantity stands in several tables the first, of most people, is taken.

    Raises:
        GaitError: no such gait.
    """
    if gait not in GAITS:
        raise GaitError(f"norm={gait}: must be one of {', '.join(GAITS)}")
    found: dict[str, Band] = {}
    for row in (row for name in ("angles", "forces", "moments") for row in table(name) if row["gait"] == gait):
        mass = float(row.get("mass_kg", 1.0))
        for quantity, values in row["mean"].items():
            sd = row["sd"].get(quantity)
            spread = None if sd is None else over_cycle(np.asarray(sd, dtype=float)) / mass
            found.setdefault(quantity, Band(quantity, over_cycle(values) / mass, spread, citation(row)))
    return found


@cache
def windows(gait: str) -> dict[str, Window]:
    """EMG windows of a gait by muscle."""
    rows = table("emg")[gait]
    common = {k: rows[k] for k in ("speed", "people", "condition")}
    sources = {name: citation(source, **common) for name, source in rows["sources"].items()}
    return {
        muscle: Window(muscle, tuple((float(a), float(b)) for a, b in row["active"]), row.get("scored", True),
                       sources[row["from"]])
        for muscle, row in rows["windows"].items()
    }
