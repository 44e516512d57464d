"""``manifest.csv``: one row per clip of a directory, and what tells an unchanged clip from one to be made again."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from mm_torch.motion.clip import SCHEMA_VERSION, MotionError, read_arrays
from sim_models.embodiment import Embodiment
from tools.retargeting.atomic import remove_leftovers, replacing
from tools.retargeting.metrics import Metrics

NAME = "manifest.csv"
OK, FAILED = "ok", "failed"
IDENTITY = ("clip", "status", "reason", "source", "source_hash", "config_hash")
FIRST = (
    "frames", "rmse_m", "limit_pct", "limit_pct_independent", "coupler_max", "penetration_pct", "penetration_max_m",
    "float_max_m", "slip_median", "slip_p95", "tendon_jump_max", "qvel_error", "ms_per_frame",
)
FIGURES = (*FIRST, *(f.name for f in fields(Metrics) if f.name not in FIRST))
COLUMNS = (*IDENTITY, *FIGURES, "body", "seconds_spent")

Row = dict[str, str]


class ManifestError(ValueError):
    """A manifest cannot be used; the message names the file, what is wrong and the remedy."""


def file_hash(*paths: Path) -> str:
    """SHA-256 over the contents of files, in the order given; one file's is what ``sha256sum`` prints."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def config_hash(body: Embodiment, settings: Mapping[str, Any]) -> str:
    """Hash of everything besides the source that a clip depends on: settings, model and schema of the clip file.

    Args:
        body: embodiment.
        settings: values that JSON can hold.
    """
    content = {"settings": settings, "body": body.name, "model": body.model_hash, "schema": SCHEMA_VERSION}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stamp(path: Path) -> tuple[str, str] | None:
    """Hashes of source and settings that a clip file carries, or None where there is no whole file that carries them."""
    try:
        provenance = json.loads(str(read_arrays(path).get("provenance", "{}")))
    except (MotionError, json.JSONDecodeError):
        return None
    return (provenance.get("source_hash", ""), provenance.get("config_hash", ""))


def read_manifest(path: Path) -> dict[str, Row]:
    """Rows by clip name; none where there is no file.

    Raises:
        ManifestError: the file is no manifest of this version.
    """
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in IDENTITY if name not in (reader.fieldnames or ())]
        if missing:
            raise ManifestError(f"{path}: no column {missing[0]!r}; move the file away, a rerun makes it again")
        return {row["clip"]: {k: row.get(k) or "" for k in COLUMNS} for row in reader}


def make_row(identity: Mapping[str, str], figures: Mapping[str, Any]) -> Row:
    """A row of text: figures to six digits, empty where there is none.

    Args:
        identity: values of ``IDENTITY`` and further columns that are text.
        figures: values by column; others than the manifest's columns are left out.
    """
    row = dict.fromkeys(COLUMNS, "")
    row |= {k: " ".join(v.split()) for k, v in identity.items()}
    row |= {k: _text(v) for k, v in figures.items() if k in row}
    return row


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return "" if value is None else str(value)


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write rows in the order of their names, atomically."""
    with replacing(path, "w") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["clip"]))


def part(directory: Path, of: int | str) -> Path:
    """Where a rank keeps its rows while several processes make the clips of a directory."""
    return directory / f".{NAME}.rank{of}"


def merge_parts(directory: Path) -> dict[str, Row]:
    """Rows of a directory; those that ranks wrote, be it in a run that died, are taken into the manifest.

    Raises:
        ManifestError: a file is no manifest of this version.
    """
    rows, parts = read_manifest(directory / NAME), sorted(directory.glob(part(directory, "*").name))
    for path in parts:
        rows |= read_manifest(path)
    if parts:
        write_manifest(directory / NAME, rows.values())
    for path in parts:
        path.unlink()
    return rows


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory for one run; the lock ends with the process, however that ends.

    Raises:
        ManifestError: another run holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f".{NAME}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ManifestError(f"out={directory}: another run is writing there; wait for it or choose another") from None
        remove_leftovers(directory / NAME)
        for leftover in directory.glob(f".{part(directory, '*').name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        yield
