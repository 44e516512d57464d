"""Reward terms: squared deviations (N,) by name; each earns ``weight * exp(-scale * deviation)``; and costs.

A perfect imitation earns the sum of the weights. Deviations are means of squares over the named coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from mm_torch.config.schema import RewardConfig
from mm_torch.maths import quaternion
from mm_torch.task.context import StepContext, mean_square
from mm_torch.task.observation import relative_sites

Kernel = Callable[[StepContext], Tensor]
TERMS: dict[str, Kernel] = {}
COSTS: dict[str, Kernel] = {}


def _term(kernel: Kernel) -> Kernel:
    TERMS[kernel.__name__] = kernel
    return kernel


def _cost(kernel: Kernel) -> Kernel:
    COSTS[kernel.__name__] = kernel
    return kernel


class Reward:
    """The terms and costs of a task, and what they weigh.

    Args:
        terms: scale and first weight of each term.
        costs: weight of each cost.
        device: where the weights live.
    """

    def __init__(
        self, terms: Mapping[str, RewardConfig], costs: Mapping[str, float], device: torch.device | str = "cpu"
    ) -> None:
        def column(numbers: Iterable[float]) -> Tensor:
            return torch.tensor(list(numbers), dtype=torch.float32, device=device)[:, None]

        self.names, self.costs = tuple(terms), tuple(costs)
        self._scale, self._weight = column(-t.scale for t in terms.values()), column(t.weight for t in terms.values())
        self._price = column(costs.values())
        self.weights = dict(zip(terms, self._weight[:, 0], strict=True))
        """Present weight () of each term: views; a curriculum writes into them."""

    def __call__(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """Total reward and its parts.

        Returns:
            ``max(sum of terms - min(costs, 1), 0)`` (N,), and the unweighted terms ``exp(-scale * deviation)`` (T, N), in
            the order of ``names``.
        """
        parts = (self._scale * torch.stack([TERMS[name](context) for name in self.names])).exp()
        total = _sum_of_rows(self._weight * parts)
        if self.costs:
            cost = _sum_of_rows(self._price * torch.stack([COSTS[name](context) for name in self.costs]))
            total = total - cost.clamp_max(1.0)
        return total.clamp_min(0.0), parts


def _sum_of_rows(x: Tensor) -> Tensor:
    """``x.sum(dim=0)``, whose bits depend on the column; these do not."""
    return x.cumsum(dim=0)[-1]


@_term
def joint_position(c: StepContext) -> Tensor:
    """Independent joints, rad²."""
    return c.joint_position_deviation


@_term
def joint_velocity(c: StepContext) -> Tensor:
    """Velocities of the independent joints, (rad/s)²."""
    return c.joint_velocity_deviation


@_term
def root_position(c: StepContext) -> Tensor:
    """World position of the main site, m²."""
    return mean_square(c.site_error[:, 0])


@_term
def root_rotation(c: StepContext) -> Tensor:
    """Angle between the root orientations, rad²."""
    return c.root_angle.square()


@_term
def root_velocity(c: StepContext) -> Tensor:
    """World velocity of the main site, (m/s)² and (rad/s)²."""
    return mean_square(c.site_velocity_error[:, 0])


@_term
def site_position(c: StepContext) -> Tensor:
    """Sites relative to the main site, world axes, m²."""
    return mean_square(c.site_offset_error)


@_term
def site_rotation(c: StepContext) -> Tensor:
    """Angles between site orientations, rad²."""
    return mean_square(quaternion.angle_between(c.state.site_xquat[:, 1:], c.ref_site_xquat[:, 1:]))


@_term
def site_velocity(c: StepContext) -> Tensor:
    """Linear site velocities relative to the main site, world axes, (m/s)²."""
    error = c.site_velocity_error[..., 3:]
    return mean_square(error[:, 1:] - error[:, :1])


# -- upstream ---------------------------------------------------------------------------------------------------------
@_term
def upstream_qpos(c: StepContext) -> Tensor:
    """Upstream: all positions but the root quaternion, plus the root angle in rad (not squared)."""
    error = c.state.qpos - c.ref_qpos
    if c.body.free_root:
        error = torch.cat([error[:, :3], error[:, 7:]], dim=-1)
    return mean_square(error) + c.root_angle


@_term
def upstream_qvel(c: StepContext) -> Tensor:
    """Upstream: all velocities, root and coupled joints included."""
    return mean_square(c.state.qvel - c.ref_qvel)


@_term
def upstream_root_velocity(c: StepContext) -> Tensor:
    """Upstream: root velocities, each in its own root axes."""
    simulated = torch.cat([quaternion.rotate_inverse(c.state.qpos[:, 3:7], c.state.qvel[:, :3]), c.state.qvel[:, 3:6]], -1)
    ref = torch.cat([quaternion.rotate_inverse(c.ref_qpos[:, 3:7], c.ref_qvel[:, :3]), c.ref_qvel[:, 3:6]], -1)
    return mean_square(simulated - ref)


def _upstream_site_errors(c: StepContext) -> tuple[Tensor, Tensor, Tensor]:
    simulated = relative_sites(c.state.site_xpos, c.state.site_xquat, c.state.site_xvel)
    ref = relative_sites(c.ref_site_xpos, c.ref_site_xquat, c.ref_site_xvel)
    rpos, rangles, rvel = (s - r for s, r in zip(simulated, ref, strict=True))
    return rpos, rangles, rvel


@_term
def upstream_rquat(c: StepContext) -> Tensor:
    """Upstream: difference of the relative rotation vectors."""
    return mean_square(_upstream_site_errors(c)[1])


@_term
def upstream_rvel_rot(c: StepContext) -> Tensor:
    """Upstream: angular part of the relative site velocities."""
    return mean_square(_upstream_site_errors(c)[2][..., :3])


@_term
def upstream_rvel_lin(c: StepContext) -> Tensor:
    """Upstream: linear part of the relative site velocities."""
    return mean_square(_upstream_site_errors(c)[2][..., 3:])


# -- costs ------------------------------------------------------------------------------------------------------------
@_cost
def action_bounds(c: StepContext) -> Tensor:
    """Mean squared excess of the action over [-1, 1]."""
    return mean_square((c.action.abs() - 1.0).clamp_min(0.0))


@_cost
def activation_energy(c: StepContext) -> Tensor:
    """Mean squared activation."""
    return mean_square(c.state.act)
