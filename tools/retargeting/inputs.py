"""Which files a command names, and the name of the clip that each becomes."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

# What lies beside motions in published data sets: shapes without poses (AMASS), errors of a retargeting (MuscleMimic).
NO_MOTION = ("shape.npz", "*_stagei.npz", "*_analysis.npz")


class UsageError(ValueError):
    """The command line is wrong; the message says how to put it right."""


@dataclass(frozen=True)
class Source:
    """A capture to retarget.

    ====== ========================================================================
    path   the file
    name   of its clip: path below the input that named it, without the suffix
    ====== ========================================================================
    """

    path: Path
    name: str


def find_sources(inputs: Sequence[str], suffixes: Collection[str], leave_out: Path) -> list[Source]:
    """Captures named by files, directories (searched through) and patterns, each file once, in order.

    A directory's files keep their folders below it, a pattern's below its last folder without a wildcard, and a file
    named by itself keeps none.

    Args:
        inputs: paths and patterns.
        suffixes: lower-case suffixes of captures, for the search through directories.
        leave_out: directory whose files are no captures: the one that clips are written to.

    Raises:
        UsageError: an input names nothing, or two captures would be written to one clip.
    """
    found: dict[Path, Source] = {}
    own = leave_out.resolve()
    for item in inputs:
        sources = [s for s in _expand(item, suffixes) if own not in s.path.resolve().parents]
        if not sources:
            raise UsageError(
                f"{item}: no motion capture found there ({', '.join(sorted(suffixes))}); check the path, and put a "
                "pattern in quotes"
            )
        for source in sources:
            found.setdefault(source.path.resolve(), source)
    if not found:
        raise UsageError("no inputs: python tools/retarget.py INPUTS... body=NAME out=DIRECTORY (--help explains)")
    _check_names(found.values())
    return list(found.values())


def _expand(item: str, suffixes: Collection[str]) -> list[Source]:
    path = Path(item)
    if path.is_file():
        return [Source(path, path.stem)]
    if path.is_dir():
        root, paths = path, [p for p in path.rglob("*") if p.suffix.lower() in suffixes]
    else:
        root = _fixed_part(path)
        paths = [Path(p) for p in glob.glob(item, recursive=True) if Path(p).is_file()]
    captures = [p for p in paths if not p.name.startswith(".") and not any(fnmatch(p.name, n) for n in NO_MOTION)]
    return [Source(p, p.relative_to(root).with_suffix("").as_posix()) for p in sorted(captures)]


def _fixed_part(pattern: Path) -> Path:
    """Folders of a pattern before the first that holds a wildcard."""
    parts = pattern.parts[:-1]
    wild = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:wild])


def _check_names(sources: Iterable[Source]) -> None:
    first: dict[str, Path] = {}
    for source in sources:
        other = first.setdefault(source.name, source.path)
        if other != source.path:
            raise UsageError(
                f"{other} and {source.path} would both be written to {source.name}.npz: give the directory that holds "
                "both, so that folders are kept, or make them in two calls with different out="
            )
