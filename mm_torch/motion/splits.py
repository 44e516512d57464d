"""Lists of motions that belong together: which to train on, which to test on.

``python -m mm_torch.motion.splits TRAIN TEST`` says which motions two splits share; each is a split file or a directory
of clips. Exit status: 0 none, 1 some, 2 the command is wrong.

Example: python -m mm_torch.motion.splits recipes/splits/kit_kinesis_train.txt recipes/splits/kit_kinesis_test.txt
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from mm_torch.hub.download import local_path
from mm_torch.motion.clip import clip_files

# Folders that AMASS has given one data set: of its site and of its archives.
RELEASES = {
    "BMLrub": "BioMotionLab_NTroje", "DFaust": "DFaust_67", "EyesJapanDataset": "Eyes_Japan_Dataset", "HDM05": "MPI_HDM05",
    "MoSh": "MPI_mosh", "PosePrior": "MPI_Limits", "SSM": "SSM_synced", "TCDHands": "TCD_handMocap",
    "Transitions": "Transitions_mocap",
}  # fmt: skip


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

    A file belongs to an id when its path without suffix ends with the id's folders and name. Two names of one data set
    count as one (``BMLrub``, ``BioMotionLab_NTroje``), and so does a folder in itself (``EKUT/EKUT``) with the folder.

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
        *folders, last = PurePosixPath(name).parts
        place = _place(folders)
        # Path.stem and not with_suffix(""): names hold dots of their own
        fitting = [p for p in by_name[last] if _ends_with(_place(p.parts[:-1]), place)]
        if len(fitting) > 1:
            raise SplitError(f"{fitting[0]} and {fitting[1]} both fit {name!r}; name one copy of the data set as input")
        if fitting:
            found.append(fitting[0])
        else:
            missing.append(name)
    return found, missing


def leakage(a: Iterable[str], b: Iterable[str]) -> list[str]:
    """Motions that two splits share, in the order of the first.

    Ids name the same motion when one ends with the folders and name of the other. The kind of release does not count:
    ``_poses`` and ``_stageii`` end the names of one capture in the SMPL+H and the SMPL-X release of AMASS, which also
    writes spaces as ``_``, and data sets changed their names (``RELEASES``).
    """
    theirs: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name in b:
        *place, capture = _capture(name)
        theirs[capture].append(tuple(place))
    shared = []
    for name in a:
        *place, capture = _capture(name)
        if any(_ends_with(place, other) or _ends_with(other, place) for other in theirs.get(capture, ())):
            shared.append(name)
    return shared


def check_disjoint(train: Iterable[str], test: Iterable[str]) -> None:
    """Raise where a motion is both trained on and tested on.

    Raises:
        SplitError: names the shared motions.
    """
    if shared := leakage(train, test):
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise SplitError(
            f"the splits share {len(shared)} motions: {', '.join(shared[:3])}{more}; take them out of the training split"
        )


def motions_of(path: Path | str) -> tuple[str, ...]:
    """Ids of a split file, or of the clips in a directory (or on the hub): their paths below it, without suffix.

    Raises:
        SplitError: the split file cannot be used, or the directory holds no clip.
        HubError: they are on the hub and cannot be had.
    """
    path = local_path(path, ".npz")
    if not path.is_dir():
        return read_split(path)
    clips = clip_files(path)
    if not clips:
        raise SplitError(f"{path}: no clip (*.npz) in that directory; make some with tools/retarget.py")
    return tuple(p.relative_to(path).with_name(p.stem).as_posix() for p in clips)


def _place(folders: Iterable[str]) -> tuple[str, ...]:
    """Folders under the names of the archives, those that repeat the one before left out."""
    names = [RELEASES.get(folder, folder) for folder in folders]
    return tuple(name for k, name in enumerate(names) if k == 0 or name != names[k - 1])


def _capture(name: str) -> tuple[str, ...]:
    *folders, last = PurePosixPath(name.replace(" ", "_")).parts
    return *_place(folders), last.removesuffix("_poses").removesuffix("_stageii")


def _ends_with(whole: Sequence[str], part: Sequence[str]) -> bool:
    return len(part) <= len(whole) and tuple(whole[len(whole) - len(part) :]) == tuple(part)


def main(arguments: list[str]) -> int:
    """Compare two splits; returns the exit status."""
    if {"-h", "--help"} & set(arguments) or len(arguments) != 2:
        asked = bool({"-h", "--help"} & set(arguments))
        print((__doc__ or "").strip(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        train, test = (motions_of(path) for path in arguments)
    except SplitError as error:
        print(f"splits: {error}", file=sys.stderr)
        return 2
    if shared := leakage(train, test):
        print("\n".join(shared))
        print(f"{len(shared)} of {len(train)} motions of {arguments[0]} are also in {arguments[1]}", file=sys.stderr)
        return 1
    print(f"no motion of {arguments[0]} ({len(train)}) is in {arguments[1]} ({len(test)})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
