"""One place that shares the cores between the physics pool and torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class ThreadBudget:
    """Threads of the two pools that take turns within a control step.

    ======== ====================================
    physics  threads of the native physics pool
    torch    torch intra-op threads
    ======== ====================================
    """

    physics: int
    torch: int


def available_cpus(quota_file: Path = _CGROUP_QUOTA) -> int:
    """Cores this process may use: its affinity mask, cut by the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if quota_file.exists():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def budget_threads(cpu_count: int | None = None) -> ThreadBudget:
    """Physics takes every core, torch half of them.

    The pools work in turns, but torch's threads spin for a while after their work: as many of them as cores would hold
    up the physics pool. Half leaves the physics room and the update most of its speed.

    Args:
        cpu_count: cores to share; those available to this process if None. Several ranks on one machine pass theirs.

    Raises:
        ValueError: there is no core to share.
    """
    cores = available_cpus() if cpu_count is None else cpu_count
    if cores < 1:
        raise ValueError(f"cpu_count {cores}: pass at least 1")
    return ThreadBudget(physics=cores, torch=max(1, cores // 2))


def apply(budget: ThreadBudget) -> None:
    """Set torch's intra-op threads; the physics takes its share as an argument."""
    torch.set_num_threads(budget.torch)
