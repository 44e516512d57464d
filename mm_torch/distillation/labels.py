"""States and what the teacher would do in them: in memory for learning, on disk so that no work is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mm_torch.motion.npz import NpzError, read_npz


class LabelError(ValueError):
    """A file with labels cannot be used; the message names it, what is wrong and the remedy."""


class Batch(NamedTuple):
    """Labelled states.

    =========== ======================================================================== ============
    observation what the policy sees, raw                                                (B, O)
    action      the teacher's, in the policy's unit                                      (B, A)
    side        1 where the action reaches the upper bound of excitation, -1 the lower   (B, A) int8
    =========== ======================================================================== ============
    """

    observation: Tensor
    action: Tensor
    side: Tensor


class Labels:
    """Labelled states in a directory, one file a round; those that are there already are read.

    Args:
        folder: where they are kept.
        room: most states.
        observations: O.
        actions: A.

    Raises:
        LabelError: a file is damaged or of other sizes.
    """

    def __init__(self, folder: Path, room: int, observations: int, actions: int) -> None:
        self.folder, self.count = folder, 0
        self._sizes: list[int] = []  # of the rounds
        self._all = Batch(
            torch.empty(room, observations), torch.empty(room, actions), torch.empty(room, actions, dtype=torch.int8)
        )
        for path in sorted(folder.glob("*.npz")):
            self._take(_read(path, observations, actions))

    @property
    def room(self) -> int:
        """Most states."""
        return len(self._all.action)

    @property
    def full(self) -> bool:
        """Whether there is no room left."""
        return self.count == self.room

    def add(self, batch: Batch) -> None:
        """Keep a round; what there is no room for is left out. The file appears whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{len(self._sizes):06}.npz"
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: x.numpy() for name, x in batch._asdict().items()})
        os.replace(temporary, path)
        self._take(batch)

    def draw(self, size: int) -> Batch:
        """States drawn evenly, with replacement, by torch's generator."""
        rows = torch.randint(self.count, (size,))
        return Batch(*(x[rows] for x in self._all))

    def rounds(self) -> Iterator[Batch]:
        """What was added so far, in its order."""
        for parts in zip(*(x[: self.count].split(self._sizes) for x in self._all), strict=True):
            yield Batch(*parts)

    def _take(self, batch: Batch) -> None:
        stop = min(self.count + len(batch.action), self.room)
        for kept, new in zip(self._all, batch, strict=True):
            kept[self.count : stop] = new[: stop - self.count]
        self._sizes.append(stop - self.count)
        self.count = stop


def _read(path: Path, observations: int, actions: int) -> Batch:
    remedy = "delete the folder and label anew"
    try:
        arrays = read_npz(path, Batch._fields)
    except NpzError as error:
        raise LabelError(f"{error}; {remedy}") from None
    kinds = {"observation": (observations, np.float32), "action": (actions, np.float32), "side": (actions, np.int8)}
    for name, (width, kind) in kinds.items():
        array = arrays.get(name)
        if array is None or array.dtype != kind or array.ndim != 2 or array.shape != (len(arrays["action"]), width):
            found = "is missing" if array is None else f"is {array.dtype} {array.shape}"
            raise LabelError(f"{path}: {name} {found}; this run needs {np.dtype(kind)} (states, {width}): {remedy}")
    return Batch(*(torch.from_numpy(arrays[name]) for name in Batch._fields))
