"""Lists of motions that belong together: which to train on, which to test on."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath


class SplitError(ValueError):
    """A split cannot be used; the message names the file, what is wrong and the remedy."""


def read_split(path: Path | str) -> tuple[str, ...]:
    """Ids of a split file, in its order.

    A line holds one id: the path of a motion below the root of its data set, without suffix (``KIT/3/walk_poses``). Blank
    lines and lines that begin with ``#`` are skipped; spaces inside an id belong to it.

    Raises:
        SplitError: the file is missing, is no text, names nothing, or names an id twice or in a form that is none.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SplitError(f"{path}: {error.strerror}; check the path, recipes/splits/ holds the shipped splits") from None
    except UnicodeDecodeError:
        raise SplitError(f"{path}: is no text file; a split holds one id a line") from None
    ids: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or name.endswith((".npz", "/")):
            raise SplitError(f"{path}:{number}: {name!r} is no id; write the path below the data set, without suffix, with /")
        if name in ids:
            raise SplitError(f"{path}:{number}: {name!r} stands already in line {ids[name]}; remove one")
        ids[name] = number
    if not ids:
        raise SplitError(f"{path}: names no motion; a split holds one id a line")
    return tuple(ids)


def select(paths: list[Path], ids: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Files of a split.

    A file belongs to an id when its path without suffix ends with the id's folders and name.

    Args:
        paths: files, wherever the data set lies.
        ids: of the split.

    Returns:
        The files in the order of their ids, and the ids without a file.

    Raises:
        SplitError: two files fit one id.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_name[path.stem].append(path)
    found, missing = [], []
    for name in ids:
        parts = PurePosixPath(name).parts
        # Path.stem and not with_suffix(""): names hold dots of their own
        fitting = [p for p in by_name[parts[-1]] if (*p.parts[:-1], p.stem)[-len(parts) :] == parts]
        if len(fitting) > 1:
            raise SplitError(f"{fitting[0]} and {fitting[1]} both fit {name!r}; name one copy of the data set as input")
        if fitting:
            found.append(fitting[0])
        else:
            missing.append(name)
    return found, missing


def leakage(a: tuple[str, ...], b: tuple[str, ...]) -> list[str]:
    """Motions that two splits share, in the order of the first.

    Ids that differ only in the kind of release count as the same motion: the suffixes ``_poses`` and ``_stageii`` are
    those of one capture in the SMPL+H and in the SMPL-X release of AMASS.
    """
    theirs = {_capture(name) for name in b}
    return [name for name in a if _capture(name) in theirs]


def check_disjoint(train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Raise where a motion is both trained on and tested on.

    Raises:
        SplitError: names the shared motions.
    """
    if shared := leakage(train, test):
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise SplitError(
            f"the splits share {len(shared)} motions: {', '.join(shared[:3])}{more}; take them out of the training split"
        )


def _capture(name: str) -> str:
    return name.removesuffix("_poses").removesuffix("_stageii")
