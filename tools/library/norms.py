"""Published mean joint angles of walking and running as smooth periodic curves."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tools.library.curves import Periodic

HARMONICS = 12


@cache
def norms() -> dict[str, Any]:
    """The tables of ``norms.json``: angles in degrees over one cycle, with source, DOI and licence."""
    return json.loads(Path(__file__).with_name("norms.json").read_text(encoding="utf-8"))


def curve(gait: str, name: str, harmonics: int = HARMONICS) -> Periodic:
    """Mean curve of an angle in rad over the phase in cycles (0: heel strike)."""
    return Periodic(np.deg2rad(norms()[gait][name]), harmonics)
