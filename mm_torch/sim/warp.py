"""MuJoCo Warp back end: single precision, arrays shared with torch by pointer, one CUDA graph a control step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor

from mm_torch.sim.physics import PhysicsError, PhysicsState, empty_state
from sim_models.embodiment import Embodiment

_MAX_VALUE = wp.constant(1.0e10)  # MuJoCo's own bound of a healthy state (mjMAXVAL)
_INTEGRATED = ("qpos", "qvel", "act", "ctrl", "qacc_warmstart", "time")  # what these models integrate
_ROWS_LOST = int(mjw.OverflowType.NEFC | mjw.OverflowType.NJMAX_NNZ)
_CONTACTS_LOST = int(mjw.OverflowType.BROADPHASE | mjw.OverflowType.NARROWPHASE | mjw.OverflowType.CCD)


class WarpPhysics:
    """``Physics`` on MuJoCo Warp.

    ``qpos``, ``qvel``, ``act`` and the muscle quantities of ``state`` are the simulator's own arrays; site poses, site
    velocities and touch are gathered into tensors of their own by the last kernels of each program. A program (step,
    reset, refresh) is a fixed sequence of kernels: on a CUDA device each is captured once and replayed on torch's
    current stream, on Warp's CPU device it runs eagerly.

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
        self._warp_device = wp.device_from_torch(torch.device(device))
        self.device = torch.device(wp.device_to_torch(self._warp_device))
        self.errors = torch.zeros((), dtype=torch.int64, device=self.device)
        self._contact_budget = body.contact_budget if contact_budget is None else contact_budget
        self._constraint_budget = body.constraint_budget if constraint_budget is None else constraint_budget
        with wp.ScopedDevice(self._warp_device):
            self._model = _upload(body.model)
            self._data = mjw.make_data(
                body.model, nworld=num_envs, nconmax=self._contact_budget, njmax=self._constraint_budget
            )
            self._allocate()
        self._graphs: dict[Callable[[], None], wp.Graph] = {}
        self._start()

    def _allocate(self) -> None:
        data, body = self._data, self.body
        self._shared = {name: wp.to_torch(getattr(data, name)) for name in _INTEGRATED}
        own = empty_state(body, self.num_envs, self.device)
        self.state = PhysicsState(
            qpos=self._shared["qpos"], qvel=self._shared["qvel"], act=self._shared["act"],
            site_xpos=own.site_xpos, site_xquat=own.site_xquat, site_xvel=own.site_xvel,
            muscle_length=wp.to_torch(data.actuator_length), muscle_velocity=wp.to_torch(data.actuator_velocity),
            muscle_force=wp.to_torch(data.actuator_force), touch=own.touch, failed=own.failed,
        )
        self._sites = (
            wp.from_torch(own.site_xpos, dtype=wp.vec3),
            wp.from_torch(own.site_xquat, dtype=wp.quat),
            wp.from_torch(own.site_xvel, dtype=wp.spatial_vector),
        )
        self._touch, self._failed = wp.from_torch(own.touch), wp.from_torch(own.failed)
        self._site_body_ids = wp.array(body.site_body_ids, dtype=int)
        self._site_root_ids = wp.array(body.site_root_ids, dtype=int)
        self._touch_adr = wp.array(body.touch_adr, dtype=int)
        self._every = wp.full(self.num_envs, True, dtype=wp.bool)
        self._mask = wp.zeros(self.num_envs, dtype=wp.bool)
        self._mask_shared = wp.to_torch(self._mask)
        self._force_kept = wp.zeros_like(data.actuator_force)
        self._peak_rows = wp.zeros(self.num_envs, dtype=int)  # most constraint rows of each world
        self._peak_contacts = wp.zeros(1, dtype=int)  # most contacts (or candidate pairs) of all worlds together
        self._peaks = wp.to_torch(self._peak_rows), wp.to_torch(self._peak_contacts)
        self._overflow = wp.to_torch(data.overflow)

    def _start(self) -> None:
        """Put all worlds into the neutral pose; on CUDA build the kernels by a warm-up and capture the programs."""
        neutral = torch.as_tensor(self.body.neutral_qpos, dtype=torch.float32, device=self.device)
        every = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        pose = neutral.expand(self.num_envs, -1), torch.zeros_like(self.state.qvel), torch.zeros_like(self.state.act)
        if self.device.type == "cuda":
            self._write(every, *pose)
            torch.cuda.synchronize(self.device)
            programs = (self._step_program, self._reset_program, self._refresh_program)
            for program in programs:
                with wp.ScopedDevice(self._warp_device):
                    program()
            wp.synchronize_device(self._warp_device)
            for program in programs:
                with wp.ScopedDevice(self._warp_device), wp.ScopedCapture() as capture:
                    program()
                self._graphs[program] = capture.graph
        self.reset(every, *pose)

    # -- the protocol -------------------------------------------------------------------------------------------------
    def step(self, excitation: Tensor, running: Tensor | None = None) -> None:
        """See ``Physics.step``; all worlds are stepped."""
        self._shared["ctrl"].copy_(excitation)
        self._run(self._step_program)
        self.errors += self.state.failed.sum()

    def reset(self, mask: Tensor, qpos: Tensor, qvel: Tensor, act: Tensor) -> None:
        """See ``Physics.reset``. Always costs one forward pass of all worlds: who is masked stays on the device."""
        self._write(mask, qpos, qvel, act)
        self._run(self._reset_program)

    def state_dict(self) -> dict[str, Tensor]:
        """See ``Physics.state_dict``."""
        saved = {name: tensor.clone() for name, tensor in self._shared.items()}
        last = {name: getattr(self.state, name).clone() for name in ("muscle_force", "touch", "failed")}
        return saved | last | {"errors": self.errors.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See ``Physics.load_state_dict``."""
        for name, tensor in self._shared.items():
            tensor.copy_(state[name])
        self._run(self._refresh_program)
        for name in ("muscle_force", "touch", "failed"):
            getattr(self.state, name).copy_(state[name])
        self.errors.copy_(state["errors"])

    def check(self) -> None:
        """See ``Physics.check``."""
        bits = self._overflow
        figures = torch.stack([
            self._peaks[0].max(), self._peaks[1].max(),
            (bits & _ROWS_LOST).ne(0).any().int(), (bits & _CONTACTS_LOST).ne(0).any().int(),
        ])
        rows, contacts, rows_lost, contacts_lost = figures.tolist()
        self._forget_peaks()
        contacts = math.ceil(contacts / self.num_envs)
        lost = []
        if rows_lost or rows > self._constraint_budget:
            lost.append(_advice("constraint", "rows in one world", self._constraint_budget, rows))
        if contacts_lost or contacts > self._contact_budget:
            lost.append(_advice("contact", "contacts per world", self._contact_budget, contacts))
        if lost:
            raise PhysicsError(f"{self.body.name} lost information: {'; '.join(lost)}")

    # -- programs: fixed kernel sequences -----------------------------------------------------------------------------
    def _step_program(self) -> None:
        for _ in range(self.body.substeps):
            mjw.step(self._model, self._data)
            self._record_peaks()
        self._bring_up_to_date()
        self._read(self._every, touch=True)
        self._failed.zero_()
        for field in (self._data.qpos, self._data.qvel, self._data.act):
            wp.launch(_flag_unhealthy, dim=field.shape, inputs=[field], outputs=[self._failed])

    def _reset_program(self) -> None:
        """Forward pass of all worlds, of which only masked ones keep the force and touch it computes.

        The pass leaves the integration state, the warm start included, as it is; what it recomputes in unmasked worlds
        belongs to their unchanged state, except the actuator force, which these hold from their last substep.
        """
        data = self._data
        wp.copy(self._force_kept, data.actuator_force)
        mjw.forward(self._model, data)
        self._record_peaks()
        wp.launch(
            _keep_unmasked, dim=data.actuator_force.shape, inputs=[self._mask, self._force_kept],
            outputs=[data.actuator_force],
        )
        self._read(self._mask, touch=True)

    def _refresh_program(self) -> None:
        self._bring_up_to_date()
        self._read(self._every, touch=False)

    def _bring_up_to_date(self) -> None:
        """Position- and velocity-stage quantities that ``state`` shows, of the current state."""
        mjw.fwd_kinematics(self._model, self._data)
        mjw.transmission(self._model, self._data)
        mjw.fwd_velocity(self._model, self._data)

    def _read(self, mask: wp.array, touch: bool) -> None:
        data = self._data
        wp.launch(
            _gather_sites, dim=(self.num_envs, len(self._site_body_ids)),
            inputs=[mask, self._site_body_ids, self._site_root_ids, data.xpos, data.xquat, data.cvel, data.subtree_com],
            outputs=[*self._sites],
        )
        if touch and len(self._touch_adr):
            wp.launch(
                _gather_sensors, dim=self._touch.shape, inputs=[mask, self._touch_adr, data.sensordata],
                outputs=[self._touch],
            )

    def _record_peaks(self) -> None:
        data = self._data
        wp.launch(
            _record_peaks, dim=self.num_envs, inputs=[data.nefc, data.nacon, data.ncollision],
            outputs=[self._peak_rows, self._peak_contacts],
        )

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
            target = self._shared[name]
            target.copy_(torch.where(rows, value.to(target), target))
        for name in ("ctrl", "qacc_warmstart"):
            self._shared[name].masked_fill_(rows, 0.0)
        self._shared["time"].masked_fill_(mask, 0.0)
        self.state.failed.masked_fill_(mask, False)
        self._mask_shared.copy_(mask)

    def _forget_peaks(self) -> None:
        for tensor in (*self._peaks, self._overflow):
            tensor.zero_()


def _upload(model: mujoco.MjModel) -> mjw.Model:
    """Single-precision model on the current device; overflow is read from counters, not printed."""
    source = copy.copy(model)
    source.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)  # Warp never resets by itself and refuses it
    uploaded = mjw.put_model(source)
    uploaded.opt.warn_overflow = 0
    return uploaded


def _advice(budget: str, unit: str, given: int, needed: int) -> str:
    if needed > given:
        return f"{needed} {unit} needed, {budget}_budget is {given}: raise it to {needed} or more"
    return f"a buffer sized by {budget}_budget={given} overflowed: raise it"


@wp.kernel
def _gather_sites(
    mask: wp.array(dtype=wp.bool),
    body_ids: wp.array(dtype=int),
    root_ids: wp.array(dtype=int),
    xpos: wp.array2d(dtype=wp.vec3),
    xquat: wp.array2d(dtype=wp.quat),
    cvel: wp.array2d(dtype=wp.spatial_vector),
    subtree_com: wp.array2d(dtype=wp.vec3),
    site_xpos: wp.array2d(dtype=wp.vec3),
    site_xquat: wp.array2d(dtype=wp.quat),
    site_xvel: wp.array2d(dtype=wp.spatial_vector),
) -> None:
    """Pose and world velocity of the mimic sites: ``v = v_com + omega x (p - c)``, c the tree's centre of mass."""
    world, site = wp.tid()
    if mask[world]:
        body = body_ids[site]
        position = xpos[world, body]
        angular = wp.spatial_top(cvel[world, body])
        arm = position - subtree_com[world, root_ids[site]]
        linear = wp.spatial_bottom(cvel[world, body]) + wp.cross(angular, arm)
        site_xpos[world, site] = position
        site_xquat[world, site] = xquat[world, body]
        site_xvel[world, site] = wp.spatial_vector(angular, linear)


@wp.kernel
def _gather_sensors(
    mask: wp.array(dtype=wp.bool),
    adr: wp.array(dtype=int),
    sensordata: wp.array2d(dtype=float),
    out: wp.array2d(dtype=float),
) -> None:
    world, sensor = wp.tid()
    if mask[world]:
        out[world, sensor] = sensordata[world, adr[sensor]]


@wp.kernel
def _keep_unmasked(mask: wp.array(dtype=wp.bool), kept: wp.array2d(dtype=float), out: wp.array2d(dtype=float)) -> None:
    world, element = wp.tid()
    if not mask[world]:
        out[world, element] = kept[world, element]


@wp.kernel
def _flag_unhealthy(values: wp.array2d(dtype=float), failed: wp.array(dtype=wp.bool)) -> None:
    """Flag worlds with a value that is NaN or beyond MuJoCo's bound; every writer of a flag writes the same."""
    world, element = wp.tid()
    if not (wp.abs(values[world, element]) <= _MAX_VALUE):
        failed[world] = True


@wp.kernel
def _record_peaks(
    nefc: wp.array(dtype=int),
    nacon: wp.array(dtype=int),
    ncollision: wp.array(dtype=int),
    peak_rows: wp.array(dtype=int),
    peak_contacts: wp.array(dtype=int),
) -> None:
    world = wp.tid()
    peak_rows[world] = wp.max(peak_rows[world], nefc[world])
    if world == 0:
        peak_contacts[0] = wp.max(peak_contacts[0], wp.max(nacon[0], ncollision[0]))
