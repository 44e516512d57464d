"""Read the pickles of SMPL-family models without running what they name: no foreign class or function is imported.

A pickle is a program that may call whatever it can import. Here it can reach only the stand-ins below, which store what
they are given: numpy arrays are rebuilt from their bytes, scipy's sparse matrices from three arrays, chumpy's wrappers
are asked for the array inside. Every other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tools.retargeting.skeleton import CaptureError

NUMBERS = frozenset("biuf")


class Refused(pickle.UnpicklingError):
    """The pickle asks for something that a body model has no need of."""


class Type:
    """A numpy data type: ``numpy.dtype(code, ...)`` and its state, of which the second entry is the byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple) -> None:
        self.order = str(state[1]).replace("|", "=")

    def value(self) -> np.dtype:
        """The data type of plain numbers or text.

        Raises:
            Refused: it is another, such as objects.
        """
        if self.code[:1] not in NUMBERS | set("SU"):
            raise Refused(f"an array of type {self.code!r}; plain numbers are needed")
        return np.dtype(self.order + self.code)


class Array:
    """A numpy array: its state holds version, shape, data type, whether columns run fastest, and the bytes."""

    def __init__(self, *_: object) -> None:
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def value(self) -> np.ndarray:
        """The array.

        Raises:
            Refused: it holds no plain numbers.
        """
        _, shape, kind, columns_first, data = self.state
        return _from_bytes(data, kind, shape, "F" if columns_first else "C")


class Sparse:
    """A matrix of scipy.sparse, by its attributes."""

    layout = ""

    def __init__(self, *_: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def value(self) -> np.ndarray:
        """The matrix, dense."""
        state = {key: plain(item) for key, item in self.state.items()}
        shape = tuple(int(n) for n in state["_shape"] if n is not None)
        if self.layout == "coo":
            row, column = state.get("coords", (state.get("row"), state.get("col")))
        else:
            pointer, inner = np.asarray(state["indptr"]), np.asarray(state["indices"])
            outer = np.repeat(np.arange(len(pointer) - 1), np.diff(pointer))
            row, column = (outer, inner) if self.layout == "csr" else (inner, outer)
        dense = np.zeros(shape)
        np.add.at(dense, (row, column), state["data"])
        return dense


class Wrapped:
    """An array of chumpy: ``Ch`` holds it as ``x``, ``Select`` picks entries ``idxs`` of ``a``."""

    origin = "chumpy"

    def __init__(self, *_: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def value(self) -> np.ndarray:
        """The array inside.

        Raises:
            Refused: it would have to be computed by chumpy.
        """
        if "x" in self.state:
            return plain(self.state["x"])
        if {"a", "idxs"} <= self.state.keys():
            picked = np.asarray(plain(self.state["a"])).ravel()[plain(self.state["idxs"])]
            return picked.reshape(plain(self.state.get("preferred_shape", picked.shape)))
        raise Refused(f"a {self.origin} that holds no array but {', '.join(map(str, self.state)) or 'nothing'}")


def plain(item: Any) -> Any:
    """The array that a stand-in stands for; anything else as it is, sequences entry by entry."""
    if isinstance(item, (Array, Sparse, Wrapped)):
        return item.value()
    return tuple(plain(entry) for entry in item) if isinstance(item, (tuple, list)) else item


def _from_bytes(data: bytes | str, kind: Type, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    if not isinstance(kind, Type) or not isinstance(data, (bytes, bytearray, str)):
        raise Refused("an array that is not stored as bytes")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    return np.frombuffer(raw, kind.value()).reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(kind: Type, data: bytes | str) -> Any:
    return _from_bytes(data, kind, ())[()]


def _instance(cls: type, *_: object) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, (Array, Sparse, Wrapped))):
        raise Refused(f"an instance of {cls!r}")
    return cls()


def _text(text: str, encoding: str = "latin1") -> bytes:
    if encoding.lower() not in ("latin1", "latin-1"):
        raise Refused(f"text in encoding {encoding!r}")
    return text.encode("latin1")


def _table() -> dict[tuple[str, str], Callable[..., Any]]:
    table: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): Array, ("numpy", "dtype"): Type, ("_codecs", "encode"): _text,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):
        table |= {(f"{core}.multiarray", "_reconstruct"): _instance, (f"{core}.multiarray", "scalar"): _scalar,
                  (f"{core}.numeric", "_frombuffer"): _from_bytes}
    for builtins in ("builtins", "__builtin__"):
        table |= {(builtins, "object"): object, (builtins, "set"): set, (builtins, "frozenset"): frozenset}
    return table | {(module, "_reconstructor"): _instance for module in ("copyreg", "copy_reg")}


KNOWN = _table()
SPARSE = frozenset(f"{layout}_{kind}" for layout in ("csc", "csr", "coo") for kind in ("matrix", "array"))


class ModelUnpickler(pickle.Unpickler):
    """An unpickler that knows ``KNOWN``, sparse matrices and chumpy's classes, all as stand-ins, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Stand-in for a name.

        Raises:
            Refused: there is none.
        """
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module.startswith("scipy.sparse") and name in SPARSE:
            return type("Matrix", (Sparse,), {"layout": name[:3]})
        if module.split(".")[0] == "chumpy":
            return type("Chumpy", (Wrapped,), {"origin": f"{module}.{name}"})
        raise Refused(f"the name {module}.{name}, which no body model needs; nothing of it was run")


def read_model_pickle(data: bytes, name: str, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays of a pickled model.

    Args:
        data: contents of the file.
        name: of the file, for messages.
        wanted: entries to take; those that are not there are left out.

    Raises:
        CaptureError: the pickle asks for what no model needs, is damaged, or is no mapping.
    """
    try:
        content = ModelUnpickler(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(content, dict):
            raise Refused(f"a {type(content).__name__} where a model is a dict")
        return {key: np.asarray(plain(content[key])) for key in wanted if key in content}
    except Refused as error:
        raise CaptureError(f"{name}: refused: holds {error}; download the model again from its own site") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError, MemoryError) as error:
        raise CaptureError(f"{name}: damaged or no pickle ({error}); download it again") from None
