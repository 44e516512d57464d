"""The processes of a run: how many torchrun or SLURM started, which one this is, and how they find each other."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy

from mm_torch.config.load import RecipeError

PATIENCE = datetime.timedelta(minutes=30)
"""How long ranks wait for each other: longer than an evaluation, a film or a slow disk takes."""
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
    if TorchElasticEnvironment.detect():
        found: ClusterEnvironment = TorchElasticEnvironment()
        local_world = int(os.environ["LOCAL_WORLD_SIZE"])
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 and SLURMEnvironment.detect():
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


def join(processes: Processes) -> None:
    """Meet the other processes and take this one's GPU, if there are any.

    Raises:
        RecipeError: more processes than GPUs on this machine.
    """
    if processes.world == 1:
        return
    gpus = torch.cuda.device_count()
    if gpus:
        if processes.local_rank >= gpus:
            raise RecipeError(f"{processes.local_world} processes on this machine and {gpus} GPUs: start one a GPU")
        torch.cuda.set_device(processes.local_rank)
    os.environ["MASTER_ADDR"] = processes.environment.main_address
    os.environ["MASTER_PORT"] = str(processes.environment.main_port)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, rank=processes.rank, world_size=processes.world, timeout=PATIENCE)


def leave() -> None:
    """End the process group of this run, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def lost(error: RuntimeError, processes: Processes) -> bool:
    """Whether an error says that the connection to another process broke, rather than that something is wrong here."""
    if processes.world == 1:
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)
