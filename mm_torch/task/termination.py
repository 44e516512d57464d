"""Deviations (N,) that end an episode where they exceed a threshold, by name; m or rad."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mm_torch.task.context import StepContext

Kernel = Callable[[StepContext], Tensor]


def relative_site_deviation(c: StepContext) -> Tensor:
    """Mean distance of the sites from the reference, each relative to the main site, world axes, m."""
    return c.relative_site_distance


def absolute_site_deviation(c: StepContext) -> Tensor:
    """Mean world distance of all sites from the reference, m."""
    return c.site_distance.mean(dim=-1)


def root_position(c: StepContext) -> Tensor:
    """World distance of the main site from the reference, m."""
    return c.site_distance[:, 0]


def root_rotation(c: StepContext) -> Tensor:
    """Angle between the root orientations, rad."""
    return c.root_angle


TERMS: dict[str, Kernel] = {
    kernel.__name__: kernel
    for kernel in (relative_site_deviation, absolute_site_deviation, root_position, root_rotation)
}


def terminated(context: StepContext, thresholds: Mapping[str, float | None], scale: Tensor | float = 1.0) -> Tensor:
    """Whether any deviation exceeds its threshold times ``scale`` (strictly).  Returns: (N,) bool."""
    bounds = {name: threshold for name, threshold in thresholds.items() if threshold is not None}
    if not bounds:
        return torch.zeros_like(context.frame, dtype=torch.bool)
    return torch.stack([TERMS[name](context) > bound * scale for name, bound in bounds.items()]).any(dim=0)
