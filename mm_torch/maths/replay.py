"""A fixed sequence of tensor operations: eager on the CPU, one CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Replay(Generic[T]):
    """Run work that reads and writes the same tensors each time.

    Where it is captured, the first call runs it, which also loads kernels and allocates; the second records it as a graph,
    and from then on every call launches that graph: no Python, no allocation, one launch. The work must not wait for the
    device or bring values from the host (``tests/unit/task/test_replay.py`` checks that on the CPU). What it returns is
    overwritten by the next call.

    Args:
        work: takes nothing; returns tensors or nothing.
        captured: whether its tensors live on a CUDA device, so that a graph pays.
    """

    def __init__(self, work: Callable[[], T], captured: bool) -> None:
        self._work = work
        self._calls_before_capture = 1 if captured else -1  # never
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: T

    def __call__(self) -> T:
        """Do the work; see the class."""
        if self._graph is not None:
            self._graph.replay()
            return self._result
        if self._calls_before_capture:
            self._calls_before_capture -= 1
            return self._work()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._result = self._work()
        self._graph = graph
        graph.replay()
        return self._result
