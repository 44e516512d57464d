"""Worlds of MuJoCo Warp: their arrays as torch tensors, what they show, and the fixed kernel sequences run on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor

from mm_torch.sim.physics import PhysicsState, empty_state
from sim_models.embodiment import Embodiment

INTEGRATED = ("qpos", "qvel", "act", "ctrl", "qacc_warmstart", "time")  # what these models integrate
SHOWN = ("site_xpos", "site_xquat", "site_xvel", "muscle_length", "muscle_velocity", "muscle_force", "touch")
DRAWING = ("_spatial_tendon_wrap",)  # where tendons wrap, for a renderer
TENDON_PASSIVE = (
    "_spring_damper_tendon_passive", "_tendon_armature", "_tendon_dot", "_tendon_bias_coef", "_tendon_bias_qfrc",
)
"""Kernels of MuJoCo Warp that add what stiffness, damping and armature of tendons do."""
_MAX_VALUE = wp.constant(1.0e10)  # MuJoCo's own bound of a healthy state (mjMAXVAL)
_ROWS_LOST = int(mjw.OverflowType.NEFC | mjw.OverflowType.NJMAX_NNZ)
_CONTACTS_LOST = int(mjw.OverflowType.BROADPHASE | mjw.OverflowType.NARROWPHASE | mjw.OverflowType.CCD)


def upload(model: mujoco.MjModel) -> mjw.Model:
    """Single-precision model on the current device; overflow is read from counters, not printed."""
    source = copy.copy(model)
    source.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)  # Warp never resets by itself and refuses it
    uploaded = mjw.put_model(source)
    uploaded.opt.warn_overflow = 0
    return uploaded


def idle_kernels(model: mujoco.MjModel) -> tuple[str, ...]:
    """Kernels that change nothing for a model: drawing, and forces of tendons that have no stiffness, damping or armature."""
    properties = (model.tendon_stiffness, model.tendon_damping, model.tendon_armature, model.actuator_damping,
                  model.actuator_armature)
    return DRAWING + (() if any(value.any() for value in properties) else TENDON_PASSIVE)


@contextmanager
def leaving_out(names: tuple[str, ...]) -> Iterator[None]:
    """Within it, launches of the named kernels do nothing; MuJoCo Warp itself has no switch for them."""
    launch = wp.launch

    def filtered(kernel: wp.Kernel, *arguments: Any, **named: Any) -> Any:
        return None if kernel_name(kernel) in names else launch(kernel, *arguments, **named)

    wp.launch = filtered
    try:
        yield
    finally:
        wp.launch = launch


def kernel_name(kernel: wp.Kernel) -> str:
    """Name of a kernel, or of the function that makes it."""
    return str(kernel.key).partition("__locals__")[0]


class Worlds:
    """N worlds on one device; the programs ``step``, ``forward`` and ``refresh`` are kernels in a fixed order.

    ============ =====================================================================================
    data         MuJoCo Warp's arrays
    integrated   those of ``INTEGRATED``, as tensors that share their memory
    state        what is shown of the worlds; positions, activations and muscle quantities share memory
    ============ =====================================================================================

    Args:
        body: embodiment.
        model: its model on the current Warp device, where the worlds are made.
        count: N.
        contact_budget: contacts per world; the pool is shared by all worlds.
        constraint_budget: constraint rows per world.
    """

    def __init__(
        self, body: Embodiment, model: mjw.Model, count: int, contact_budget: int, constraint_budget: int
    ) -> None:
        self.body, self.count, self._model = body, count, model
        self._idle = idle_kernels(body.model)
        self.data = data = mjw.make_data(body.model, nworld=count, nconmax=contact_budget, njmax=constraint_budget)
        self.integrated = {name: wp.to_torch(getattr(data, name)) for name in INTEGRATED}
        own = empty_state(body, count, self.integrated["qpos"].device)
        self.state = PhysicsState(
            qpos=self.integrated["qpos"], qvel=self.integrated["qvel"], act=self.integrated["act"],
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
        self._peak_rows = wp.zeros(count, dtype=int)  # most constraint rows of each world
        self._peak_contacts = wp.zeros(1, dtype=int)  # most contacts (or candidate pairs) of all worlds together
        self._peaks = wp.to_torch(self._peak_rows), wp.to_torch(self._peak_contacts)
        self._overflow = wp.to_torch(data.overflow)

    # -- programs -----------------------------------------------------------------------------------------------------
    def step(self) -> None:
        """One control step; ``failed`` is set anew."""
        with leaving_out(self._idle):
            for _ in range(self.body.substeps):
                mjw.step(self._model, self.data)
                self._record_peaks()
        self._read_touch()
        self.refresh()
        self._failed.zero_()
        for field in (self.data.qpos, self.data.qvel, self.data.act):
            wp.launch(_flag_unhealthy, dim=field.shape, inputs=[field], outputs=[self._failed])

    def forward(self) -> None:
        """Everything that belongs to the present states; they stay as they are, the solver's warm start too."""
        with leaving_out(self._idle):
            mjw.forward(self._model, self.data)
        self._record_peaks()
        self._read_sites()
        self._read_touch()

    def refresh(self) -> None:
        """Sites, muscle lengths and velocities of the present states."""
        data = self.data
        with leaving_out(self._idle):
            for stage in (mjw.kinematics, mjw.com_pos, mjw.tendon, mjw.transmission, mjw.com_vel):
                stage(self._model, data)
        wp.launch(
            _muscle_velocity, dim=data.actuator_velocity.shape,
            inputs=[data.qvel, data.moment_rownnz, data.moment_rowadr, data.moment_colind, data.actuator_moment],
            outputs=[data.actuator_velocity],
        )
        self._read_sites()

    def _read_sites(self) -> None:
        data = self.data
        wp.launch(
            _gather_sites, dim=(self.count, len(self._site_body_ids)),
            inputs=[self._site_body_ids, self._site_root_ids, data.xpos, data.xquat, data.cvel, data.subtree_com],
            outputs=[*self._sites],
        )

    def _read_touch(self) -> None:
        if len(self._touch_adr):
            wp.launch(
                _gather_sensors, dim=self._touch.shape, inputs=[self._touch_adr, self.data.sensordata], outputs=[self._touch]
            )

    def _record_peaks(self) -> None:
        data = self.data
        wp.launch(
            _record_peaks, dim=self.count, inputs=[data.nefc, data.nacon, data.ncollision],
            outputs=[self._peak_rows, self._peak_contacts],
        )

    # -- budgets ------------------------------------------------------------------------------------------------------
    def peaks(self) -> Tensor:
        """(4,) int on the device: most rows of a world, most contacts per world, whether rows, whether contacts were lost."""
        rows, contacts = self._peaks
        per_world = (contacts.max() + self.count - 1) // self.count
        lost = [(self._overflow & bits).ne(0).any().int() for bits in (_ROWS_LOST, _CONTACTS_LOST)]
        return torch.stack([rows.max(), per_world, *lost])

    def forget_peaks(self) -> None:
        """Start again at zero."""
        for tensor in (*self._peaks, self._overflow):
            tensor.zero_()


@wp.kernel
def _muscle_velocity(
    qvel: wp.array2d(dtype=float),
    moment_rownnz: wp.array2d(dtype=int),
    moment_rowadr: wp.array2d(dtype=int),
    moment_colind: wp.array2d(dtype=int),
    moment: wp.array2d(dtype=float),
    velocity: wp.array2d(dtype=float),
) -> None:
    """Moment arms times joint velocities; the moments are rows of a sparse matrix."""
    world, muscle = wp.tid()
    first = moment_rowadr[world, muscle]
    total = wp.float32(0.0)
    for entry in range(first, first + moment_rownnz[world, muscle]):
        total += moment[world, entry] * qvel[world, moment_colind[world, entry]]
    velocity[world, muscle] = total


@wp.kernel
def _gather_sites(
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
    body = body_ids[site]
    position = xpos[world, body]
    angular = wp.spatial_top(cvel[world, body])
    arm = position - subtree_com[world, root_ids[site]]
    linear = wp.spatial_bottom(cvel[world, body]) + wp.cross(angular, arm)
    site_xpos[world, site] = position
    site_xquat[world, site] = xquat[world, body]
    site_xvel[world, site] = wp.spatial_vector(angular, linear)


@wp.kernel
def _gather_sensors(adr: wp.array(dtype=int), sensordata: wp.array2d(dtype=float), out: wp.array2d(dtype=float)) -> None:
    world, sensor = wp.tid()
    out[world, sensor] = sensordata[world, adr[sensor]]


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
