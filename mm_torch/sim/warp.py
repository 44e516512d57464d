"""MuJoCo Warp back end: single precision, arrays shared with torch by pointer, one CUDA graph a control step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import warp as wp
from torch import Tensor

from mm_torch.sim.physics import PhysicsError
from mm_torch.sim.warp_worlds import SHOWN, Worlds, upload
from sim_models.embodiment import Embodiment

RESET_WORLDS = 256
"""Worlds that a reset computes at once."""


class WarpPhysics:
    """``Physics`` on MuJoCo Warp.

    ``qpos``, ``qvel``, ``act`` and the muscle quantities of ``state`` are the simulator's own arrays; site poses, site
    velocities and touch are gathered into tensors of their own by the last kernels of each program. A program (``Worlds``)
    is a fixed sequence of kernels: on a CUDA device each is captured once and replayed on torch's current stream, on Warp's
    CPU device it runs eagerly.

    What belongs to a reset state is computed in a few worlds kept for that, not by a forward pass of all.

    Args:
        body: embodiment.
        num_envs: number of worlds.
        device: a CUDA device, or the CPU (slow: for tests).
        contact_budget: contacts per world, the pool is shared by all worlds; the body's own if None.
        constraint_budget: constraint rows per world; the body's own if None.
    """

    can_wait = False

    def __init__(
        self,
        body: Embodiment,
        num_envs: int,
        device: torch.device | str,
        contact_budget: int | None = None,
        constraint_budget: int | None = None,
    ) -> None:
        wp.config.log_level = wp.LOG_WARNING
        wp.init()
        self.body, self.num_envs = body, num_envs
        self.device = torch.empty(0, device=device).device  # "cuda" alone has no index
        self._warp_device = wp.device_from_torch(self.device)
        self.errors = torch.zeros((), dtype=torch.int64, device=self.device)
        self._contact_budget = body.contact_budget if contact_budget is None else contact_budget
        self._constraint_budget = body.constraint_budget if constraint_budget is None else constraint_budget
        with wp.ScopedDevice(self._warp_device):
            self.model = upload(body.model)
            self.worlds, self._fresh = (
                Worlds(body, self.model, count, self._contact_budget, self._constraint_budget)
                for count in (num_envs, min(num_envs, RESET_WORLDS))
            )
        self.state = self.worlds.state
        self._graphs: dict[Callable[[], None], wp.Graph] = {}
        self._start()

    def _start(self) -> None:
        """Put all worlds into the neutral pose; on CUDA build the kernels by a warm-up and capture the programs."""
        neutral = torch.as_tensor(self.body.neutral_qpos, dtype=torch.float32, device=self.device)
        for worlds in (self.worlds, self._fresh):
            worlds.integrated["qpos"].copy_(neutral)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            programs = (self.worlds.step, self.worlds.refresh, self._fresh.forward)
            for program in programs:
                with wp.ScopedDevice(self._warp_device):
                    program()
            wp.synchronize_device(self._warp_device)
            for program in programs:
                with wp.ScopedDevice(self._warp_device), wp.ScopedCapture() as capture:
                    program()
                self._graphs[program] = capture.graph
        every = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self.reset(
            every, neutral.expand(self.num_envs, -1), torch.zeros_like(self.state.qvel), torch.zeros_like(self.state.act)
        )

    # -- the protocol -------------------------------------------------------------------------------------------------
    def step(self, excitation: Tensor, running: Tensor | None = None) -> None:
        """See ``Physics.step``; all worlds are stepped."""
        self.worlds.integrated["ctrl"].copy_(excitation)
        self._run(self.worlds.step)
        self.errors += self.state.failed.sum()

    def reset(self, mask: Tensor, qpos: Tensor, qvel: Tensor, act: Tensor) -> None:
        """See ``Physics.reset``. Waits for the device, to learn how many worlds are masked."""
        self._write(mask, qpos, qvel, act)
        ours, fresh = self.worlds, self._fresh
        worlds = torch.nonzero(mask).flatten()
        for chunk in worlds.split(fresh.count) if len(worlds) else ():
            rows = torch.cat([chunk, chunk[-1:].expand(fresh.count - len(chunk))])  # the last world fills up
            for name, tensor in fresh.integrated.items():
                torch.index_select(ours.integrated[name], 0, rows, out=tensor)
            self._run(fresh.forward)
            for name in SHOWN:
                getattr(ours.state, name)[rows] = getattr(fresh.state, name)

    def state_dict(self) -> dict[str, Tensor]:
        """See ``Physics.state_dict``."""
        saved = {name: tensor.clone() for name, tensor in self.worlds.integrated.items()}
        last = {name: getattr(self.state, name).clone() for name in ("muscle_force", "touch", "failed")}
        return saved | last | {"errors": self.errors.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See ``Physics.load_state_dict``."""
        for name, tensor in self.worlds.integrated.items():
            tensor.copy_(state[name])
        self._run(self.worlds.refresh)
        for name in ("muscle_force", "touch", "failed"):
            getattr(self.state, name).copy_(state[name])
        self.errors.copy_(state["errors"])

    def check(self) -> None:
        """See ``Physics.check``."""
        pools = (self.worlds, self._fresh)
        rows, contacts, rows_lost, contacts_lost = torch.stack([pool.peaks() for pool in pools]).amax(dim=0).tolist()
        for pool in pools:
            pool.forget_peaks()
        lost = []
        if rows_lost or rows > self._constraint_budget:
            lost.append(_advice("constraint", "rows in one world", self._constraint_budget, rows))
        if contacts_lost or contacts > self._contact_budget:
            lost.append(_advice("contact", "contacts per world", self._contact_budget, contacts))
        if lost:
            raise PhysicsError(f"{self.body.name} lost information: {'; '.join(lost)}")

    # -- plumbing -----------------------------------------------------------------------------------------------------
    def _run(self, program: Callable[[], None]) -> None:
        graph = self._graphs.get(program)
        if graph is not None:
            wp.capture_launch(graph, stream=wp.stream_from_torch(self.device))
            return
        with wp.ScopedDevice(self._warp_device):
            program()

    def _write(self, mask: Tensor, qpos: Tensor, qvel: Tensor, act: Tensor) -> None:
        rows = mask[:, None]
        for name, value in (("qpos", qpos), ("qvel", qvel), ("act", act)):
            target = self.worlds.integrated[name]
            target.copy_(torch.where(rows, value.to(target), target))
        for name in ("ctrl", "qacc_warmstart"):
            self.worlds.integrated[name].masked_fill_(rows, 0.0)
        self.worlds.integrated["time"].masked_fill_(mask, 0.0)
        self.state.failed.masked_fill_(mask, False)


def _advice(budget: str, unit: str, given: int, needed: int) -> str:
    if needed > given:
        return f"{needed} {unit} needed, {budget}_budget is {given}: raise it to {needed} or more"
    return f"a buffer sized by {budget}_budget={given} overflowed: raise it"
