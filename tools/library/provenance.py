"""Where a motion of the library comes from, as it is written into its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOOL = "tools/make_library.py"


def own_motion(method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance of a motion composed by this project without measured data."""
    return {
        "source": "composed by this project, no captured motion",
        "method": method,
        "licence": "CC BY 4.0",
        "tool": TOOL,
        "parameters": dict(parameters),
    }


def published_motion(table: Mapping[str, Any], parameters: Mapping[str, Any], nearest: bool) -> dict[str, Any]:
    """Provenance of a motion synthesised from a published table, by ``nearest.py`` or by ``synthesis.py``."""
    how = ("the cycle nearest to them in which the standing foot neither slips nor sinks" if nearest
           else "stance foot rolling without slip, legs by inverse kinematics")
    return {
        "source": table["source"],
        "doi": table["doi"],
        "licence": table["licence"],
        "method": f"mean joint angles of a cycle; {how}; the pelvis' turning, at half size in running, from doi "
        "10.7717/peerj.4640; arms and trunk composed",
        "tool": TOOL,
        "parameters": dict(parameters),
    }
