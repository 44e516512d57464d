"""Sums over the processes (ranks) of one run. A run of one process has no process group: nothing is sent, nothing changes."""

from __future__ import annotations

import heapq
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Moments = tuple[Tensor, Tensor, Tensor]


def launched() -> bool:
    """Whether torchrun, or srun with several tasks, started this process; a batch script's own commands are no tasks."""
    return dist.is_torchelastic_launched() or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


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


def deal(sizes: Sequence[float], hands: int) -> list[list[int]]:
    """Deal out pieces of work evenly: the largest first, each to the hand with the least work, then the fewest pieces.

    Args:
        sizes: of the pieces (P,).
        hands: how many share them.

    Returns:
        Numbers of the pieces in each hand, ascending. No hand has more than the mean and one piece.
    """
    loads = [(0.0, 0, hand) for hand in range(hands)]
    dealt: list[list[int]] = [[] for _ in range(hands)]
    for piece in sorted(range(len(sizes)), key=lambda p: (-sizes[p], p)):
        load, count, hand = loads[0]
        dealt[hand].append(piece)
        heapq.heapreplace(loads, (load + sizes[piece], count + 1, hand))
    return [sorted(hand) for hand in dealt]


def any_rank(yes: bool) -> bool:
    """Whether it holds on at least one rank."""
    return bool(largest_over_ranks(torch.tensor([float(yes)])))


def meet() -> None:
    """Wait until all ranks are here."""
    any_rank(False)


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


def agreed(text: str) -> bool:
    """Whether a text is the same on all ranks."""
    return len(set(texts(text))) == 1


def merge_on_first(parts: Mapping[int, Any]) -> dict[int, Any]:
    """Numbered parts that the ranks hold, all of them on rank 0; elsewhere nothing. Every rank takes part.

    They are sent one a rank at a time: no message is larger than the parts of one round.

    Args:
        parts: by number, each held by one rank: numpy arrays of numbers in plain containers.
    """
    if world_size() == 1:
        return dict(parts)
    rounds = int(largest_over_ranks(torch.tensor([len(parts)])))
    held, whole = list(parts.items()), {}
    for start in range(rounds):
        for state in gather_on_first({"part": _converted(dict(held[start : start + 1]))}):
            whole |= _converted(state["part"])
    return whole


def _converted(tree: Any) -> Any:
    """The same containers with tensors in place of arrays, and the other way round; the bits stay."""
    if isinstance(tree, Mapping):
        return {key: _converted(value) for key, value in tree.items()}
    if isinstance(tree, Tensor):
        return tree.numpy()
    return torch.from_numpy(np.ascontiguousarray(tree).reshape(tree.shape)) if isinstance(tree, np.ndarray) else tree


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
