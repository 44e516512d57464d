"""Resampling of motions on exact timestamps."""

from __future__ import annotations

import numpy as np
import torch

from mm_torch.maths import quaternion
from sim_models.embodiment import Embodiment


def resample(body: Embodiment, qpos: np.ndarray, fps: float, new_fps: float) -> np.ndarray:
    """Positions at another rate: frame k of the result is at time k / new_fps exactly, the first frames coincide.

    Scalars follow a cubic Hermite curve with central-difference tangents, the root's orientation spherical linear
    interpolation; couplings hold exactly afterwards. What lies after the last multiple of the new period is dropped.

    Args:
        body: embodiment.
        qpos: (F, Q), F >= 2.
        fps: its rate in 1/s.
        new_fps: wanted rate in 1/s.

    Returns:
        (F', Q) with F' = floor((F - 1) * new_fps / fps) + 1.
    """
    if abs(fps - new_fps) < 1e-9 * new_fps:
        return qpos
    frames = len(qpos)
    count = int(np.floor((frames - 1) * new_fps / fps + 1e-9)) + 1
    source = np.arange(count) * fps / new_fps
    low = np.minimum(source.astype(int), frames - 2)
    t = source - low
    out = body.couplings.enforce(_hermite(qpos, low, t))
    if body.free_root:
        a, b = torch.from_numpy(qpos[low, 3:7]), torch.from_numpy(qpos[low + 1, 3:7])
        out[:, 3:7] = quaternion.slerp(a, b, torch.from_numpy(t)[:, None]).numpy()
    return out


def interpolate_linearly(values: np.ndarray, fps: float, new_fps: float, count: int) -> np.ndarray:
    """Rows (F, D) at times k / new_fps, k < count, linear in time; clamped at the last row."""
    source = np.minimum(np.arange(count) * fps / new_fps, len(values) - 1)
    low = np.minimum(source.astype(int), max(len(values) - 2, 0))
    t = (source - low)[:, None]
    return values[low] * (1 - t) + values[np.minimum(low + 1, len(values) - 1)] * t


def _hermite(values: np.ndarray, low: np.ndarray, t: np.ndarray) -> np.ndarray:
    slope = np.gradient(values, axis=0)
    t = t[:, None]
    p0, p1, m0, m1 = values[low], values[low + 1], slope[low], slope[low + 1]
    t2, t3 = t * t, t * t * t
    return (2 * t3 - 3 * t2 + 1) * p0 + (t3 - 2 * t2 + t) * m0 + (3 * t2 - 2 * t3) * p1 + (t3 - t2) * m1
