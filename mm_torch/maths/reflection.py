"""Mirror images of vectors as signed permutations."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Reflection(NamedTuple):
    """Mirror image of a vector at the sagittal plane, ``x' = sign * x[index]``: index (D,) long, sign (D,) 1 or -1."""

    index: Tensor
    sign: Tensor
