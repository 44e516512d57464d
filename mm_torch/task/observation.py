"""Observation terms: kernels from a step's context to (N, d) tensors, by name.

A recipe lists names; the observation vector is their concatenation in that order. Units: m, rad, s, N unless the term says
otherwise; the observation normaliser rescales them. Terms marked *upstream* reproduce MuscleMimic 0.1.0 and are not
invariant to the heading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mm_torch.maths import quaternion
from mm_torch.task.context import StepContext

Kernel = Callable[[StepContext], Tensor]
TERMS: dict[str, Kernel] = {}


def _term(kernel: Kernel) -> Kernel:
    TERMS[kernel.__name__] = kernel
    return kernel


@dataclass(frozen=True)
class Slice:
    """Place of a term in the observation vector: columns start to end (exclusive)."""

    name: str
    start: int
    end: int


def observe(context: StepContext, names: Sequence[str]) -> Tensor:
    """Concatenate terms.  Returns: (N, O)."""
    return torch.cat([TERMS[name](context) for name in names], dim=-1)


def layout(context: StepContext, names: Sequence[str]) -> tuple[Slice, ...]:
    """Places of the terms in the observation of a body, found by evaluating them once."""
    slices, start = [], 0
    for name in names:
        end = start + TERMS[name](context).shape[-1]
        slices.append(Slice(name, start, end))
        start = end
    return tuple(slices)


# -- own state --------------------------------------------------------------------------------------------------------
@_term
def root_height(c: StepContext) -> Tensor:
    """Height of the root above the floor."""
    return c.root_position[:, 2:3]


@_term
def root_up_b(c: StepContext) -> Tensor:
    """World up in root axes (3): tilt without heading."""
    return quaternion.rotate_inverse(c.root_quat, c.body.up)


@_term
def root_velocity_b(c: StepContext) -> Tensor:
    """Linear, then angular velocity (6) of the free root in root axes."""
    linear = quaternion.rotate_inverse(c.root_quat, c.state.qvel[:, :3])
    return torch.cat([linear, c.state.qvel[:, 3:6]], dim=-1)


@_term
def joint_position(c: StepContext) -> Tensor:
    """Positions (D) of the independent joints."""
    return c.state.qpos.index_select(1, c.body.free_qpos)


@_term
def joint_velocity(c: StepContext) -> Tensor:
    """Velocities (D) of the independent joints."""
    return c.state.qvel.index_select(1, c.body.free_dof)


@_term
def muscle_activation(c: StepContext) -> Tensor:
    """Activations (M) in [0, 1]."""
    return c.state.act


@_term
def muscle_length(c: StepContext) -> Tensor:
    """Fibre lengths (M) over optimal fibre length."""
    return (c.state.muscle_length - c.body.length_offset) / c.body.optimal_length


@_term
def muscle_velocity(c: StepContext) -> Tensor:
    """Fibre velocities (M) over maximum shortening velocity."""
    return c.state.muscle_velocity / (c.body.optimal_length * c.body.max_velocity)


@_term
def muscle_force(c: StepContext) -> Tensor:
    """Tension (M) over maximum isometric force."""
    return -c.state.muscle_force / c.body.peak_force


@_term
def touch(c: StepContext) -> Tensor:
    """Touch sensors in N."""
    return c.state.touch


@_term
def site_position_h(c: StepContext) -> Tensor:
    """Mimic sites relative to the root, heading axes (3 (S-1))."""
    relative = c.state.site_xpos[:, 1:] - c.root_position[:, None]
    return quaternion.rotate_inverse(c.heading[:, None], relative).flatten(1)


# -- reference relative to the own state ------------------------------------------------------------------------------
@_term
def ref_site_error_h(c: StepContext) -> Tensor:
    """Look-ahead site positions relative to where the sites are now, heading axes (3 K S): root drift included."""
    delta = c.ahead_of("site_xpos") - c.origin[:, None, None] - c.state.site_xpos[:, None]
    return quaternion.rotate_inverse(c.heading[:, None, None], delta).flatten(1)


@_term
def ref_root_rotation_b(c: StepContext) -> Tensor:
    """Rotation vectors (3 K) from the root's orientation to the look-ahead ones, root axes."""
    ahead = c.ahead_qpos[..., 3:7]
    return quaternion.to_rotation_vector(
        quaternion.multiply(quaternion.conjugate(c.root_quat)[:, None].expand_as(ahead), ahead)
    ).flatten(1)


@_term
def ref_root_velocity_b(c: StepContext) -> Tensor:
    """Root velocity due now minus the own, linear and angular (6), root axes of the simulated body."""
    ref_angular_w = quaternion.rotate(c.ref_qpos[:, 3:7], c.ref_qvel[:, 3:6])
    linear = quaternion.rotate_inverse(c.root_quat, c.ref_qvel[:, :3] - c.state.qvel[:, :3])
    return torch.cat([linear, quaternion.rotate_inverse(c.root_quat, ref_angular_w) - c.state.qvel[:, 3:6]], dim=-1)


@_term
def ref_joint_error(c: StepContext) -> Tensor:
    """Look-ahead positions of the independent joints minus the present ones (K D)."""
    return (c.ahead_of("qpos") - c.state.qpos[:, None]).index_select(2, c.body.free_qpos).flatten(1)


@_term
def ref_joint_velocity(c: StepContext) -> Tensor:
    """Reference velocities (D) of the independent joints due now."""
    return c.ref_qvel.index_select(1, c.body.free_dof)


@_term
def ref_activation(c: StepContext) -> Tensor:
    """Look-ahead activations (K M) of the reference; 0 where it has none."""
    act = c.bank.activations(c.clip[:, None], c.frame[:, None] + c.lookahead)
    return c.state.act.new_zeros(len(c.frame), len(c.lookahead) * c.state.act.shape[1]) if act is None else act.flatten(1)


# -- upstream ---------------------------------------------------------------------------------------------------------
def relative_sites(position: Tensor, quat: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Site quantities relative to the main site in upstream's conventions, quirks included.

    Args:
        position: (..., S, 3) m, world.
        quat: (..., S, 4), world.
        velocity: (..., S, 6) angular and linear, world.

    Returns:
        ``rpos`` (..., S-1, 3): world axes; ``rangles`` (..., S-1, 3): rotation vector of R0^T Ri;
        ``rvel`` (..., S-1, 6): (R0^T Ri)^T w_i - w_0, then R0 (v_0 - v_i) - with R0 not transposed.

    Source: MuscleMimic 0.1.0; the corrected terms use one frame and one sign.
    """
    q0, q = quat[..., :1, :], quat[..., 1:, :]
    relative = quaternion.multiply(quaternion.conjugate(q0).expand_as(q), q)
    angular = quaternion.rotate_inverse(relative, velocity[..., 1:, :3]) - velocity[..., :1, :3]
    linear = quaternion.rotate(q0, velocity[..., :1, 3:] - velocity[..., 1:, 3:])
    rpos = position[..., 1:, :] - position[..., :1, :]
    return rpos, quaternion.to_rotation_vector(relative), torch.cat([angular, linear], dim=-1)


def _simulated_sites(c: StepContext) -> tuple[Tensor, Tensor, Tensor]:
    return relative_sites(c.state.site_xpos, c.state.site_xquat, c.state.site_xvel)


def _ahead_sites(c: StepContext) -> tuple[Tensor, Tensor, Tensor]:
    return relative_sites(c.ahead.site_xpos, c.ahead.site_xquat, c.ahead.site_xvel)


@_term
def upstream_root_pose(c: StepContext) -> Tensor:
    """Upstream: root z and world quaternion (5)."""
    return c.state.qpos[:, 2:7]


@_term
def upstream_joint_position(c: StepContext) -> Tensor:
    """Upstream: positions (J) of all scalar joints, coupled ones included."""
    return c.state.qpos.index_select(1, c.body.hinge_qpos)


@_term
def upstream_root_velocity(c: StepContext) -> Tensor:
    """Upstream: free-root qvel (6), linear in world and angular in body axes."""
    return c.state.qvel[:, :6]


@_term
def upstream_joint_velocity(c: StepContext) -> Tensor:
    """Upstream: velocities (J) of all scalar joints."""
    return c.state.qvel.index_select(1, c.body.hinge_dof)


@_term
def upstream_muscle_state(c: StepContext) -> Tensor:
    """Upstream: length, velocity, force, excitation, activation of each muscle, interleaved (5 M), raw units."""
    s = c.state
    return torch.stack([s.muscle_length, s.muscle_velocity, s.muscle_force, c.excitation, s.act], dim=-1).flatten(1)


@_term
def upstream_muscle_force_activation(c: StepContext) -> Tensor:
    """Upstream: force and activation of each muscle, interleaved (2 M), raw units."""
    return torch.stack([c.state.muscle_force, c.state.act], dim=-1).flatten(1)


@_term
def upstream_sites(c: StepContext) -> Tensor:
    """Upstream: rpos, rangles, rvel of the simulated sites (12 (S-1))."""
    return torch.cat([part.flatten(1) for part in _simulated_sites(c)], dim=-1)


@_term
def upstream_goal_concise(c: StepContext) -> Tensor:
    """Upstream, full body: rpos now, then per further frame root displacement, root velocity change and rpos."""
    rpos = _ahead_sites(c)[0].flatten(2)
    moved = c.ahead.qpos[..., :3] - c.ahead.qpos[:, :1, :3]
    sped = c.ahead.qvel[..., :6] - c.ahead.qvel[:, :1, :6]
    further = torch.cat([moved, sped, rpos], dim=-1)[:, 1:]
    return torch.cat([rpos[:, 0], further.flatten(1)], dim=-1)


@_term
def upstream_goal_full(c: StepContext) -> Tensor:
    """Upstream, arms: qpos, qvel, rpos, rangles, rvel, each over all look-ahead frames."""
    parts = (c.ahead.qpos, c.ahead.qvel, *_ahead_sites(c))
    return torch.cat([part.flatten(1) for part in parts], dim=-1)


@_term
def phase(c: StepContext) -> Tensor:
    """Frame over clip length (1)."""
    return (c.frame / (c.last + 1))[:, None].to(c.state.qpos.dtype)
