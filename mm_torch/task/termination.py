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


class Termination:
    """The deviations that a task bounds.

    Args:
        thresholds: largest deviation by name; None bounds nothing.
        device: where the bounds live.
    """

    def __init__(self, thresholds: Mapping[str, float | None], device: torch.device | str = "cpu") -> None:
        bounds = {name: bound for name, bound in thresholds.items() if bound is not None}
        self._names = tuple(bounds)
        self._bounds = torch.tensor(list(bounds.values()), dtype=torch.float32, device=device)[:, None]
        self.scale = torch.ones((), device=device)
        """Factor () on all bounds; a curriculum writes into it."""

    def __call__(self, context: StepContext) -> Tensor:
        """Whether any deviation exceeds its bound times ``scale`` (strictly).  Returns: (N,) bool."""
        if not self._names:
            return torch.zeros_like(context.frame, dtype=torch.bool)
        return (torch.stack([TERMS[name](context) for name in self._names]) > self._bounds * self.scale).any(dim=0)
