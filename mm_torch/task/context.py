"""Everything the term kernels may look at in one control step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.linalg import vector_norm

from mm_torch.maths import quaternion
from mm_torch.motion.bank import Reference, ReferenceBank, rows_of
from mm_torch.sim.physics import PhysicsState
from sim_models.embodiment import Embodiment


class BodyTensors:
    """Index tensors and muscle constants of an embodiment on a device.

    ================ ====================================================================== =======
    hinge_qpos/dof   addresses of all scalar joints                                         (J,)
    free_qpos/dof    addresses of the scalar joints that no coupling determines             (D,)
    peak_force       maximum isometric force of each muscle in N                            (M,)
    optimal_length   optimal fibre length L0 in m                                           (M,)
    length_offset    actuator length at normalised fibre length 0 in m                      (M,)
    max_velocity     maximum shortening velocity in L0/s                                    (M,)
    up               the world's up                                                         (3,)
    upright          the rotation by nothing, wxyz                                          (4,)
    ================ ====================================================================== =======

    Source: MuJoCo muscle model.
    """

    def __init__(self, body: Embodiment, device: torch.device) -> None:
        model = body.model

        def index(ids: np.ndarray) -> Tensor:
            return torch.as_tensor(np.asarray(ids), dtype=torch.long, device=device)

        def number(values: ArrayLike) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        self.free_root = body.free_root
        self.hinge_qpos, self.hinge_dof = index(body.hinge_qpos), index(body.hinge_dof)
        self.free_qpos = index(model.jnt_qposadr[body.independent_hinges])
        self.free_dof = index(model.jnt_dofadr[body.independent_hinges])
        gain = model.actuator_gainprm
        self.peak_force = number(body.peak_force)
        span = model.actuator_lengthrange
        optimal = (span[:, 1] - span[:, 0]) / (gain[:, 1] - gain[:, 0])
        self.optimal_length = number(optimal)
        self.length_offset = number(span[:, 0] - gain[:, 0] * optimal)
        self.max_velocity = number(gain[:, 6])
        self.up, self.upright = number([0.0, 0.0, 1.0]), number([1.0, 0.0, 0.0, 0.0])


def mean_square(x: Tensor) -> Tensor:
    """Mean of squares over all but the first dimension.  Returns: (N,)."""
    flat = x.flatten(1)
    return vector_norm(flat, dim=1).square() / flat.shape[1]


@dataclass(eq=False)
class StepContext:
    """One control step of N worlds: simulated state, reference and actions; derived quantities are computed once.

    =============== ============================================================================== ===========
    body            constants of the embodiment                                                    BodyTensors
    state           simulated state, see ``PhysicsState``                                          (N, ...)
    bank            reference motions                                                              bank
    clip, frame     clip of each world and the reference frame that is due now                     (N,)
    origin          world position (z = 0) of the episode's reference origin; the reference is     (N, 3) m
                    shifted by ``-origin`` so that each episode starts at x = y = 0
    action          the policy's last action, unbounded                                            (N, A)
    excitation      the excitation made of it                                                      (N, M)
    lookahead       frames ahead of ``frame`` that the policy sees                                 (K,)
    =============== ============================================================================== ===========

    Frames: ``_w`` world, ``_h`` heading of the simulated root (z up), ``_b`` root body.
    """

    body: BodyTensors
    state: PhysicsState
    bank: ReferenceBank
    clip: Tensor
    frame: Tensor
    origin: Tensor
    action: Tensor
    excitation: Tensor
    lookahead: Tensor

    # -- reference ----------------------------------------------------------------------------------------------------
    @cached_property
    def last(self) -> Tensor:
        """(N,) last frame of each world's clip."""
        return rows_of(self.bank.lengths, self.clip) - 1

    @cached_property
    def _first_row(self) -> Tensor:
        return rows_of(self.bank.offsets, self.clip)

    @cached_property
    def _row(self) -> Tensor:
        return self._first_row + torch.minimum(self.frame, self.last)

    @cached_property
    def _ahead_rows(self) -> Tensor:
        ahead = (self.frame[:, None] + self.lookahead).clamp_min(0)
        return self._first_row[:, None] + torch.minimum(ahead, self.last[:, None])

    @cached_property
    def ref_qpos(self) -> Tensor:
        """(N, Q) reference positions due now, root shifted to the episode's origin."""
        return self._shift_root(rows_of(self.bank.frames.qpos, self._row))

    @cached_property
    def ref_qvel(self) -> Tensor:
        """(N, V) reference velocities due now."""
        return rows_of(self.bank.frames.qvel, self._row)

    @cached_property
    def ref_site_xpos(self) -> Tensor:
        """(N, S, 3) m reference site positions due now, world."""
        return rows_of(self.bank.frames.site_xpos, self._row) - self.origin[:, None]

    @cached_property
    def ref_site_xquat(self) -> Tensor:
        """(N, S, 4) reference site orientations due now, world."""
        return rows_of(self.bank.frames.site_xquat, self._row)

    @cached_property
    def ref_site_xvel(self) -> Tensor:
        """(N, S, 6) reference site velocities due now, world: angular, linear."""
        return rows_of(self.bank.frames.site_xvel, self._row)

    @cached_property
    def ahead(self) -> Reference:
        """Reference rows (N, K, ...) of the look-ahead frames, unshifted."""
        return Reference(*(rows_of(value, self._ahead_rows) for value in vars(self.bank.frames).values()))

    def ahead_of(self, name: str) -> Tensor:
        """One field (N, K, ...) of the look-ahead frames, unshifted."""
        return rows_of(getattr(self.bank.frames, name), self._ahead_rows)

    @cached_property
    def ahead_qpos(self) -> Tensor:
        """(N, K, Q) look-ahead positions, root shifted to the episode's origin."""
        return self._shift_root(self.ahead_of("qpos"))

    def _shift_root(self, qpos: Tensor) -> Tensor:
        if self.body.free_root:
            qpos[..., :3].sub_(self.origin if qpos.ndim == 2 else self.origin[:, None])
        return qpos

    # -- frames -------------------------------------------------------------------------------------------------------
    @cached_property
    def root_quat(self) -> Tensor:
        """(N, 4) orientation of the root body; identity for a fixed root."""
        if self.body.free_root:
            return self.state.qpos[:, 3:7]
        return self.body.upright.expand(len(self.frame), 4)

    @cached_property
    def heading(self) -> Tensor:
        """(N, 4) heading of the simulated root: world coordinates become ``_h`` by its inverse."""
        return quaternion.heading(self.root_quat)

    @cached_property
    def root_position(self) -> Tensor:
        """(N, 3) m world position of the main mimic site (the origin of the root frame)."""
        return self.state.site_xpos[:, 0]

    # -- deviations, used by reward, termination and metrics ----------------------------------------------------------
    @cached_property
    def site_offset_error(self) -> Tensor:
        """(N, S-1, 3) m: position relative to the main site, simulated minus reference, world axes."""
        return self.site_error[:, 1:] - self.site_error[:, :1]

    @cached_property
    def relative_site_distance(self) -> Tensor:
        """(N,) m: mean length of ``site_offset_error``."""
        return vector_norm(self.site_offset_error, dim=-1).mean(dim=-1)

    @cached_property
    def site_error(self) -> Tensor:
        """(N, S, 3) m: world site position, simulated minus reference."""
        return self.state.site_xpos - self.ref_site_xpos

    @cached_property
    def site_distance(self) -> Tensor:
        """(N, S) m: length of ``site_error``."""
        return vector_norm(self.site_error, dim=-1)

    @cached_property
    def site_velocity_error(self) -> Tensor:
        """(N, S, 6) rad/s and m/s: site velocity, simulated minus reference, world axes."""
        return self.state.site_xvel - self.ref_site_xvel

    @cached_property
    def joint_position_deviation(self) -> Tensor:
        """(N,) rad²: mean square over the independent joints of simulated minus reference positions."""
        return mean_square((self.state.qpos - self.ref_qpos).index_select(1, self.body.free_qpos))

    @cached_property
    def joint_velocity_deviation(self) -> Tensor:
        """(N,) (rad/s)²: the same of the velocities."""
        return mean_square((self.state.qvel - self.ref_qvel).index_select(1, self.body.free_dof))

    @cached_property
    def root_turn(self) -> Tensor:
        """(N, 4) the turn, world axes, from the simulated orientation of a free root to the reference's."""
        return quaternion.multiply(self.ref_qpos[:, 3:7], quaternion.conjugate(self.state.qpos[:, 3:7]))

    @cached_property
    def root_angle(self) -> Tensor:
        """(N,) rad between simulated and reference root orientation; 0 for a fixed root."""
        if not self.body.free_root:
            return torch.zeros(len(self.frame), device=self.frame.device)
        return 2.0 * torch.atan2(vector_norm(self.root_turn[:, 1:], dim=-1), self.root_turn[:, 0].abs())

    @cached_property
    def root_yaw(self) -> Tensor:
        """(N,) rad in [0, pi]: the part of ``root_angle`` about the world's z axis."""
        if not self.body.free_root:
            return torch.zeros_like(self.root_angle)
        return 2.0 * torch.atan2(self.root_turn[:, 3].abs(), self.root_turn[:, 0].abs())
