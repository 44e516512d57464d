"""Damaged files and wrong words: whatever comes in, a reader gives a motion or its documented error, soon and in bounds."""

from __future__ import annotations

import io
import os
import pickle
import signal
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.property.fuzzing import CASES, SHAPE, damage_bytes, damage_npz, damage_text, header, npy

PATIENCE = 5.0  # s: no damaged file may keep a reader busy for longer
LITTLE = 80e6  # bytes that a file of a few kB may make a reader allocate
FAST, MANY = 25, 850  # mutants a reader; the twelve readers together get 10,000
ARRAYS = [name for name, case in CASES.items() if case.suffix == ".npz"]


class TooSlow(BaseException):
    """No reader may take this for an error of the file."""


@contextmanager
def hurry(seconds: float = PATIENCE) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@cache
def sound(name: str) -> bytes:
    """A valid file of a reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sound{CASES[name].suffix}"
        CASES[name].write(path)
        return path.read_bytes()


def mutant(name: str, seed: int) -> bytes:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    damage = damage_npz if CASES[name].suffix == ".npz" else damage_text
    content = damage(rng, sound(name))
    return damage_bytes(rng, content) if content and rng.random() < 0.1 else content


def outcome(name: str, path: Path, content: bytes) -> str:
    """``read`` or ``refused``; anything else that leaves the reader fails the test."""
    path.write_bytes(content)
    with hurry(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that overflow before they are refused
        try:
            CASES[name].read(path)
        except CASES[name].error as error:
            assert type(error).__module__.startswith(("mm_torch", "tools")) and str(error).strip()
            return "refused"
    return "read"


def run(name: str, seeds: range, folder: Path) -> Counter[str]:
    path, counts = folder / f"x_01{CASES[name].suffix}", Counter()
    for seed in seeds:
        content = mutant(name, seed)
        try:
            counts[outcome(name, path, content)] += 1
        except BaseException as error:
            error.add_note(f"mutant({name!r}, {seed})")
            raise
    assert not list(folder.parent.rglob("mark*")), "something was written from a damaged file"
    return counts


@pytest.mark.parametrize("name", CASES)
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    assert outcome(name, tmp_path / f"x_01{CASES[name].suffix}", sound(name)) == "read"


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_gives_a_motion_or_the_documented_error(name: str, tmp_path: Path) -> None:
    counts = run(name, range(FAST), tmp_path)
    assert counts["refused"] > FAST // 10, counts


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_thousands_of_damaged_files(name: str, tmp_path: Path) -> None:
    counts = run(name, range(FAST, FAST + MANY), tmp_path)
    assert counts["refused"] > MANY // 10 and counts["read"] > MANY // 100, counts
    print(name, dict(counts))


# -- what would grow ----------------------------------------------------------------------------------------------------
def packed(entries: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def claiming(content: bytes, offset: int, value: int) -> bytes:
    """An archive whose directory says something else of its first entry, at an offset of its record there."""
    start = content.index(b"PK\x01\x02") + offset
    return content[:start] + struct.pack("<I", value) + content[start + 4 :]


def great_dictionary() -> bytes:
    content = bytearray(packed({"qpos": npy(np.zeros(9))}, zipfile.ZIP_LZMA))
    start = content.index(b"qpos.npy") + len(b"qpos.npy") + 5
    content[start : start + 4] = b"\xff" * 4
    return bytes(content)


def more_than_it_says(how: int) -> bytes:
    return claiming(packed({"qpos": npy(np.zeros(12_000_000))}, how), 24, 30_000)


def told(shape: str) -> bytes:
    return packed({"qpos": header(SHAPE.format("<f8", False, shape)) + bytes(64)})


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "header claims 8 TB": lambda: told("(1000000000000,)"),
    "header claims 800 MB": lambda: told("(100000000,)"),
    "directory claims 1 GB": lambda: claiming(packed({"qpos": npy(np.zeros(9))}), 24, 1 << 30),
    "directory claims 4 GB": lambda: claiming(packed({"qpos": npy(np.zeros(9))}), 24, (1 << 32) - 2),
    "more than it says, deflated": lambda: more_than_it_says(zipfile.ZIP_DEFLATED),
    "more than it says, LZMA": lambda: more_than_it_says(zipfile.ZIP_LZMA),
    "LZMA dictionary of 4 GB": great_dictionary,
}


@cache
def archive_bomb(bomb: str) -> bytes:
    return ARCHIVES[bomb]()


@pytest.mark.parametrize("bomb", [pytest.param(b, marks=[pytest.mark.slow] * b.endswith("LZMA")) for b in ARCHIVES])
@pytest.mark.parametrize("name", ARRAYS)
def test_no_archive_makes_a_reader_allocate_what_it_claims(name: str, bomb: str, tmp_path: Path) -> None:
    path, content = tmp_path / "bomb.npz", archive_bomb(bomb)
    tracemalloc.start()
    try:
        assert outcome(name, path, content) == "refused"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LITTLE


LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}, *a{k - 1}]" for k in range(1, 18))]) + "\n"
TEXT_BOMBS = {
    "frames": ("BVH", lambda text: text.replace("Frames: 6", "Frames: 99999999999999")),
    "channels": ("BVH", lambda text: text.replace("CHANNELS 3", "CHANNELS 99999999999", 1)),
    "channels that lead back": ("BVH", lambda text: text.replace("CHANNELS 3", "CHANNELS -2", 1)),
    "braces": ("BVH", lambda text: text.replace("{", "{ " * 30_000, 1)),
    "rows": ("OpenSim", lambda text: text.replace("nRows=6", "nRows=" + "9" * 5000)),
    "frame rate": ("OpenSim", lambda text: "\n".join(
        line.replace("0.0", "1e-30", 1) if line[:3] == "0.0" else line for line in text.split("\n"))),
    "bones in a ring": ("ASF", lambda text: text.replace("lfemur ltibia", "ltibia lfemur")),
    "aliases": ("recipe", lambda text: LAUGHS + text),
    "aliases of a mapping": ("BVH mapping", lambda text: LAUGHS + text),
    "nesting": ("recipe", lambda text: text + "run_dir:\n  " + "- " * 20_000),
    "an alias of itself": ("recipe", lambda text: text + "motions: &m [*m]"),
    "a long number": ("recipe", lambda text: text.replace("16", "0x" + "f" * 5000)),
    "an endless base": ("recipe", lambda text: text.replace("toy_arm", "x" * 5000)),
    "a key without end": ("command line", lambda text: text + " a" + ".a" * 5000 + "=1"),
    "brackets": ("command line", lambda text: text + " run_dir=" + "[" * 500),
    "aliases of a word": ("command line", lambda text: text + " a=[&a[1],*a,*b]"),
    "a section in a list": ("recipe", lambda text: text.replace("[32, 32]", "[32, net: 32]")),
    "the environment": ("recipe", lambda text: text + "run_dir: ${oc.env:HOME}"),
    "the environment in a word": ("command line", lambda text: text + " run_dir=${oc.env:HOME}"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", TEXT_BOMBS)
def test_no_text_makes_a_reader_run_or_allocate_without_end(bomb: str, tmp_path: Path) -> None:
    name, change = TEXT_BOMBS[bomb]
    text = sound(name).decode()
    assert change(text) != text
    tracemalloc.start()
    try:
        assert outcome(name, tmp_path / f"x_01{CASES[name].suffix}", change(text).encode()) == "refused"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LITTLE


class Trap:
    """Would leave a mark if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ARRAYS)
def test_no_entry_is_unpickled(name: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "trap.npz"
    with np.load(io.BytesIO(sound(name))) as file:
        arrays = {key: file[key] for key in file.files}
    for key in arrays:
        np.savez(path, **(arrays | {key: np.array([Trap(mark)], dtype=object)}))
        outcome(name, path, path.read_bytes())
    assert outcome(name, path, pickle.dumps(Trap(mark))) == "refused"
    assert not mark.exists()
