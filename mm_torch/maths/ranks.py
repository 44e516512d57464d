"""Sums over the processes (ranks) of one run. A run of one process has no process group: nothing is sent, nothing changes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Moments = tuple[Tensor, Tensor, Tensor]


def world_size() -> int:
    """Ranks of this run; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Whether this process writes the files and prints."""
    return rank() == 0


def rank_seed(seed: int, of: int) -> int:
    """Seed of one rank's worlds and actions: the recipe's own for rank 0, one spread by a hash for the others."""
    return seed if of == 0 else int(np.random.SeedSequence([seed, of]).generate_state(1, np.uint64)[0] >> 1)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, in place; the same bits everywhere."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def largest_over_ranks(x: Tensor) -> Tensor:
    """Largest entries of a tensor over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def any_rank(yes: bool) -> bool:
    """Whether it holds on at least one rank."""
    return bool(largest_over_ranks(torch.tensor([float(yes)])))


def pooled(moments: Moments) -> Moments:
    """Moments of the samples of all ranks together, the same bits everywhere.

    ``n = sum n_r``; ``m = sum n_r m_r / n``; ``s = sum s_r + n_r (m_r - m)^2``: as if one process had seen all samples.

    Args:
        moments: count (), mean (D,) and squared deviations from that mean (D,) of this rank, float64.

    Returns:
        The same of all ranks.

    Source: Chan, Golub and LeVeque (1979), equation 1.5, for several parts at once.
    """
    if world_size() == 1:
        return moments
    count, mean, squares = moments
    flat = torch.cat([count.view(1), mean, squares])
    parts = [torch.empty_like(flat) for _ in range(world_size())]
    dist.all_gather(parts, flat)
    everything = torch.stack(parts)
    counts, means, deviations = everything[:, :1], everything[:, 1 : 1 + len(mean)], everything[:, 1 + len(mean) :]
    total = counts.sum()
    middle = (counts * means).sum(0) / total.clamp(min=1.0)
    return total, middle, (deviations + counts * (means - middle).square()).sum(0)


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if world_size() > 1:
        for x in tensors:
            dist.broadcast(x, 0)


def texts(text: str) -> list[str]:
    """The texts of all ranks, in their order."""
    if world_size() == 1:
        return [text]
    own, sizes = _padded(text.encode())
    parts = [torch.empty_like(own) for _ in sizes]
    dist.all_gather(parts, own)
    return [part[:size].numpy().tobytes().decode() for part, size in zip(parts, sizes, strict=True)]


def gather_on_first(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """States (tensors in plain containers) of all ranks, on rank 0; elsewhere an empty list. Every rank takes part."""
    if world_size() == 1:
        return [dict(state)]
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    own, sizes = _padded(buffer.getbuffer())
    parts = [torch.empty_like(own) for _ in sizes] if is_first() else None
    dist.gather(own, parts)
    return [
        torch.load(io.BytesIO(part[:size].numpy().tobytes()), map_location="cpu", weights_only=True)
        for part, size in zip(parts or [], sizes, strict=False)
    ]


def _padded(content: bytes | memoryview) -> tuple[Tensor, list[int]]:
    """Bytes of this rank, filled up to the longest rank's, and the lengths of all."""
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(content)]))
    lengths = [int(size) for size in sizes]
    own = torch.zeros(max(lengths), dtype=torch.uint8)
    own.numpy()[: len(content)] = np.frombuffer(content, np.uint8)
    return own, lengths
