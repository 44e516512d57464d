"""Arrays out of npz files that nobody vouches for: nothing is unpickled, and no more is allocated than the file holds."""

from __future__ import annotations

import io
import lzma
import math
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

MOST_BYTES = 2 << 30  # of all arrays read from one file; an hour of full-body kinematics takes less
# Bytes that one packed byte can stand for, with something to spare for short entries; LZMA (7,000 and more) packs the clips
# of a wheel.
DENSEST = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1100, zipfile.ZIP_LZMA: 100_000}
DICTIONARY = 64 << 20  # bytes that unpacking LZMA may take; its strongest preset asks for as many
_CHUNK = 1 << 12  # bytes read at once: a packed chunk is unpacked whole, however much it claims to be
# What zipfile lets through; RuntimeError: encrypted, or packed in a way that it does not know.
_DAMAGE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ValueError, RuntimeError)
_MAGIC = b"\x93NUMPY"
_LENGTH = {1: "<H", 2: "<I", 3: "<I"}  # of the header, by version of the npy format
_LONGEST = 10_000  # bytes of a header
_KINDS = "?biufcSU"
_DESCR = re.compile(rb"'descr'\s*:\s*'([<>|=]?[?a-zA-Z]\d{0,6})'")
_ORDER = re.compile(rb"'fortran_order'\s*:\s*(True|False)")
_SHAPE = re.compile(rb"'shape'\s*:\s*\(((?:\s*\d{1,15}L?\s*,?){0,8})\s*\)")


class NpzError(ValueError):
    """An npz file or an array of it cannot be used; the message names the file and what is wrong."""


def read_npz(path: Path, keys: Collection[str] | None = None, labels: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of an npz file by name. Names are only looked up, never taken for paths.

    Args:
        path: the file.
        keys: what is read, where the file has it; None: everything.
        labels: entries, among those, that are left out where they are pickled.

    Raises:
        NpzError: no such file, damaged, no npz, an entry that is pickled or no plain array, or more than ``MOST_BYTES``.

    Source: NumPy enhancement proposal 1 (npy format); APPNOTE 6.3 (zip).
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [e for e in archive.infolist() if e.filename.endswith(".npy")]
            entries = {e.filename.removesuffix(".npy"): e for e in listed}
            if len(entries) != len(listed):
                raise ValueError("an array stands there twice")
            wanted = {name: entry for name, entry in entries.items() if keys is None or name in keys}
            _check_sizes(list(wanted.values()), path.stat().st_size)
            for name, entry in wanted.items():
                _check_packing(archive, entry)
                with archive.open(entry) as file:
                    dtype, fortran, shape = _header(file)
                    if dtype.hasobject and name in labels:
                        continue
                    if dtype.hasobject:
                        raise NpzError(f"{path}: not a readable npz: {name} holds pickled objects, which are not read "
                                       "because they can run code; save plain arrays (numpy.savez)")
                    arrays[name] = _body(_rest(file), dtype, fortran, shape)
    except NpzError:
        raise
    except _DAMAGE as error:
        what = "a single array" if _is_npy(path) else str(error) or type(error).__name__
        raise NpzError(f"{path}: truncated, missing or not a readable npz file ({' '.join(what.split())}); write or copy it "
                       "again") from None
    return arrays


def npz_keys(path: Path) -> set[str]:
    """Names of the arrays of an npz file; none where it cannot be opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except _DAMAGE:
        return set()


def as_number(value: np.ndarray, where: str) -> float:
    """The one number that an array holds.

    Raises:
        NpzError: it holds none or several; the message begins with ``where``.
    """
    if value.size != 1 or value.dtype.kind not in "biuf":
        raise NpzError(f"{where} is of type {value.dtype} and shape {value.shape}; one number is needed")
    return float(value.reshape(-1)[0])


def as_numbers(value: np.ndarray, where: str) -> np.ndarray:
    """An array that holds real numbers or truth values, unchanged.

    Raises:
        NpzError: it holds something else; the message begins with ``where``.
    """
    if value.dtype.kind not in "biuf":
        raise NpzError(f"{where} is of type {value.dtype}; numbers are needed")
    return value


def as_text(value: np.ndarray, where: str) -> str:
    """The one text that an array holds, stored as text or as bytes.

    Raises:
        NpzError: it holds no text or several; the message begins with ``where``.
    """
    if value.size != 1:
        raise NpzError(f"{where} has shape {value.shape}; one text is needed")
    return as_names(value.reshape(1), where)[0]


def as_names(value: np.ndarray, where: str) -> tuple[str, ...]:
    """Names in a row; an empty array of any type has none.

    Raises:
        NpzError: it holds something else; the message begins with ``where``.
    """
    if value.size == 0:
        return ()
    if value.ndim != 1 or value.dtype.kind not in "SU":
        raise NpzError(f"{where} is of type {value.dtype} and shape {value.shape}; names in a row are needed")
    try:
        return tuple(value.astype(np.str_).tolist())
    except ValueError as error:  # bytes that are no text
        raise NpzError(f"{where} is no text ({error})") from None


def _check_sizes(entries: list[zipfile.ZipInfo], on_disk: int) -> None:
    if (total := sum(e.file_size for e in entries)) > MOST_BYTES:
        raise ValueError(f"its arrays take {total:.3g} bytes, more than {MOST_BYTES:.3g}")
    if any(e.file_size > DENSEST.get(e.compress_type, 0) * min(e.compress_size, on_disk) for e in entries):
        raise ValueError("an entry claims more bytes than it can hold, or is packed in a way that numpy does not use")


def _check_packing(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Refuse what would be a great dictionary, allocated before the first byte is unpacked."""
    if entry.compress_type != zipfile.ZIP_LZMA:
        return
    file = archive.fp
    file.seek(entry.header_offset + 26)
    file.seek(sum(struct.unpack("<HH", file.read(4))) + 5, io.SEEK_CUR)  # over names, LZMA's version and its parameters
    (size,) = struct.unpack("<I", file.read(4))
    if size > DICTIONARY:
        raise ValueError(f"an entry needs {size} bytes to be unpacked")


def _rest(file: IO[bytes]) -> bytes:
    content = bytearray()
    while chunk := file.read(_CHUNK):
        content += chunk
    return bytes(content)


def _header(file: IO[bytes]) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """Type, whether in Fortran's order, and shape of an npy array, of plain types only."""
    start = file.read(8)
    if start[:6] != _MAGIC or start[6] not in _LENGTH:
        raise ValueError("an entry is no npy array")
    packed = _LENGTH[start[6]]
    (length,) = struct.unpack(packed, file.read(struct.calcsize(packed)))
    text = file.read(min(length, _LONGEST))
    found = [pattern.search(text) for pattern in (_DESCR, _ORDER, _SHAPE)]
    if length > _LONGEST or not all(found):
        raise ValueError("the header of an array is damaged or describes no plain array")
    descr, order, shape = (match.group(1).decode() for match in found if match)
    try:
        dtype = np.dtype(descr)
    except TypeError:
        raise ValueError(f"an array is of the unknown type {descr!r}") from None
    if not dtype.hasobject and dtype.kind not in _KINDS:
        raise ValueError(f"an array is of type {dtype}")
    return dtype, order == "True", tuple(int(n) for n in re.findall(r"\d+", shape))


def _body(content: bytes, dtype: np.dtype, fortran: bool, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    if count * dtype.itemsize != len(content) or (count > 1 and not dtype.itemsize):
        raise ValueError(f"an array of shape {shape} and type {dtype} has {len(content)} bytes")
    if not content:
        return np.zeros(shape, dtype)
    if dtype.kind == "U" and np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder)).max() > sys.maxunicode:
        raise ValueError("a text holds what is no character")  # numpy would give up with a SystemError
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _is_npy(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
