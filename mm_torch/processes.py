"""The processes of a run: how many torchrun or SLURM started, which one this is, and how they find each other."""

from __future__ import annotations

import datetime
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy

from mm_torch.callbacks.stopping import INTERRUPTED
from mm_torch.config.load import RecipeError
from mm_torch.maths import ranks
from mm_torch.sim.threads import ThreadBudget, available_cpus, budget_threads

PATIENCE = datetime.timedelta(minutes=30)
"""How long the ranks of a training wait for each other: longer than an evaluation, a film or a slow disk takes."""
SHARED_WORK = datetime.timedelta(days=1)
"""How long ranks that share out clips wait for the last of them: they meet only when all is done."""
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "TCPStore")  # in errors of a broken group


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those of the run.

    ============ ==============================================================
    environment  Lightning's view of who started them
    world        how many there are
    rank         this one's number, from 0
    local_rank   its number on this machine: its GPU
    local_world  processes on this machine, which share its cores
    ============ ==============================================================
    """

    environment: ClusterEnvironment
    world: int = 1
    rank: int = 0
    local_rank: int = 0
    local_world: int = 1

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.world // self.local_world

    def threads(self, asked: int) -> ThreadBudget:
        """Threads of this process: those asked for, or its share of the machine's cores where that is 0."""
        return budget_threads(asked or max(1, available_cpus() // self.local_world))

    def strategy(self, partial: bool = False) -> DDPStrategy | str:
        """Lightning's strategy: gradients are averaged over the ranks while the backward pass runs.

        Buffers are not broadcast: statistics are pooled where they are made, and the returns of a rank's worlds are its own.

        Args:
            partial: whether a loss may leave parameters out, as ``ppo.value_warmup`` does the actor's.
        """
        if self.world == 1:
            return "auto"
        return DDPStrategy(broadcast_buffers=False, init_sync=False, find_unused_parameters=partial, timeout=PATIENCE)


ALONE = Processes(LightningEnvironment())


def find_processes() -> Processes:
    """What the environment of ``torchrun`` or of ``srun`` says; one process otherwise.

    Raises:
        RecipeError: the machines do not run the same number of processes each.
    """
    if not ranks.launched():
        return ALONE
    if TorchElasticEnvironment.detect():
        found: ClusterEnvironment = TorchElasticEnvironment()
        local_world = int(os.environ["LOCAL_WORLD_SIZE"])
    elif SLURMEnvironment.detect():
        if "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise RecipeError("srun: give --ntasks-per-node=N instead of --ntasks, one task a GPU (docs/scaling.md)")
        found = SLURMEnvironment(auto_requeue=False)
        local_world = int(os.environ["SLURM_NTASKS_PER_NODE"])
    else:
        return ALONE
    world = found.world_size()
    if world % local_world:
        raise RecipeError(f"{world} processes with {local_world} on this machine: start as many on each (docs/scaling.md)")
    if world == 1:
        return ALONE
    return Processes(found, world, found.global_rank(), found.local_rank(), local_world)


def join(processes: Processes, patience: datetime.timedelta = PATIENCE, gpus: bool = True) -> None:
    """Meet the other processes and take this one's GPU, if there are any.

    Args:
        processes: as found.
        patience: how long ranks wait for each other.
        gpus: whether each takes a GPU where the machine has some.

    Raises:
        RecipeError: more processes than GPUs on this machine.
    """
    if processes.world == 1:
        return
    count = torch.cuda.device_count() if gpus else 0
    if count:
        if processes.local_rank >= count:
            raise RecipeError(f"{processes.local_world} processes on this machine and {count} GPUs: start one a GPU")
        torch.cuda.set_device(processes.local_rank)
    os.environ["MASTER_ADDR"] = processes.environment.main_address
    os.environ["MASTER_PORT"] = str(processes.environment.main_port)
    backend = "cpu:gloo,cuda:nccl" if count else "gloo"
    dist.init_process_group(backend, rank=processes.rank, world_size=processes.world, timeout=patience)


def leave() -> None:
    """End the process group of this run, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def lost(error: RuntimeError, processes: Processes) -> bool:
    """Whether an error says that the connection to another process broke, rather than that something is wrong here."""
    if processes.world == 1:
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)


@contextmanager
def together(remedy: str, patience: datetime.timedelta = PATIENCE, gpus: bool = True) -> Iterator[Processes]:
    """Work of all processes of the run: they meet before it and part after it.

    Where one dies, the others end with ``INTERRUPTED``: when they miss it, or when their launcher sends SIGTERM, unless that
    is handled already.

    Args:
        remedy: what to do where another process dies meanwhile.
        patience: how long ranks wait for each other.
        gpus: whether each takes a GPU where the machine has some.

    Raises:
        RecipeError: see ``find_processes`` and ``join``.
        SystemExit: another process has gone; stderr says so.
    """
    found = find_processes()
    join(found, patience, gpus)

    def end(number: int, frame: FrameType | None) -> None:
        print(f"error: process {found.rank} of {found.world}: ended by SIGTERM, as when another process of the run has gone; "
              f"see the other's message, then {remedy}", file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED)

    unhandled = found.world > 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if unhandled:
        signal.signal(signal.SIGTERM, end)
    try:
        yield found
    except RuntimeError as error:
        if not lost(error, found):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"error: process {found.rank} of {found.world}: another process of the run has gone, so this one ends too "
              f"({reason}); see the other's message, then {remedy}", file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED) from None
    finally:
        if unhandled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    leave()
