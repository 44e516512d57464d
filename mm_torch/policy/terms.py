"""Whose motions a policy learned from and takes along, and under which terms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mm_torch.hub.download import PREFIX, HubError
from mm_torch.motion.bank import find_clips
from mm_torch.motion.clip import MotionError
from mm_torch.motion.library import library_clips
from mm_torch.motion.npz import NpzError, as_text, read_npz

BUILT_IN = "the built-in library"
# terms of sources that do not write them into their files
KNOWN = {"AMASS": "Max Planck Institute, non-commercial scientific research only; the motions may not be passed on"}


def source_name(motions: str | None) -> str:
    """What ``motions=`` says to others: the built-in library, a place on the hub, or the last part of a path."""
    return BUILT_IN if motions is None else motions if motions.startswith(PREFIX) else Path(motions).name


def motion_source(body_name: str, motions: str | None) -> dict[str, Any]:
    """Where motions come from, how many there are, and the terms that their files state.

    Args:
        body_name: body, for its built-in motions.
        motions: directory, file or place on the hub; None: the built-in library.

    Returns:
        ``from``, ``clips`` (None where they are out of reach) and ``terms``, a sentence for each source.
    """
    name = source_name(motions)
    try:
        paths = library_clips(body_name) if motions is None else find_clips(motions)
    except (MotionError, HubError):
        return {"from": name, "clips": None, "terms": ["out of reach when this was written; ask the owner of the motions"]}
    return {"from": name, "clips": len(paths), "terms": sorted({clip_terms(path) for path in paths})}


def clip_terms(path: Path) -> str:
    """Source, licence and acknowledgement that a clip's file states."""
    try:
        says = json.loads(as_text(read_npz(path, ["provenance"])["provenance"], str(path)))
    except (NpzError, KeyError, ValueError):
        says = {}
    source = says.get("source") or says.get("format") or "unknown source"
    known = next((terms for name, terms in KNOWN.items() if source.startswith(name)), "terms not stated in the files")
    doi = f"doi {says['doi']}" if "doi" in says else ""
    return "; ".join(filter(None, [source, doi, says.get("licence", known), says.get("acknowledgement")]))
