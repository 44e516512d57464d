"""Tracking errors of a control step, by name; every one (N,). Definitions stand in docs/metrics.md."""

from __future__ import annotations

from torch import Tensor

from mm_torch.task import termination
from mm_torch.task.context import StepContext


def tracking_errors(c: StepContext) -> dict[str, Tensor]:
    """Deviation of the simulated body from the reference frame that is due.

    Returns:
        ``joint_position_error`` rad and ``joint_velocity_error`` rad/s: root mean square over the independent joints;
        ``root_position_error`` m; ``root_yaw_error`` rad; ``relative_site_error`` and ``absolute_site_error`` m.
    """
    return {
        "joint_position_error": c.joint_position_deviation.sqrt(),
        "joint_velocity_error": c.joint_velocity_deviation.sqrt(),
        "root_position_error": termination.root_position(c),
        "root_yaw_error": c.root_yaw,
        "relative_site_error": termination.relative_site_deviation(c),
        "absolute_site_error": termination.absolute_site_deviation(c),
    }
