"""Published mean joint angles of walking and running as smooth periodic curves."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tools.analysis.norm_tables import GAITS, table
from tools.library.curves import Periodic

HARMONICS = 12


@cache
def norms() -> dict[str, Any]:
    """By gait: source, DOI, licence and mean angles in degrees over one cycle; and the spatiotemporal figures."""
    rows = {gait: next(row for row in table("angles") if row["gait"] == gait) for gait in GAITS}
    return {gait: row | row["mean"] for gait, row in rows.items()} | {"spatiotemporal": table("spatiotemporal")}


def curve(gait: str, name: str, harmonics: int = HARMONICS) -> Periodic:
    """Mean curve of an angle in rad over the phase in cycles (0: heel strike)."""
    return Periodic(np.deg2rad(norms()[gait][name]), harmonics)
