"""Rotation matrices in double precision: exponential, logarithm, elementary and minimal rotations, interpolation."""

from __future__ import annotations

import numpy as np
import torch

from mm_torch.maths import quaternion


def exp(vector: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) rad."""
    return quaternion.to_matrix(quaternion.from_rotation_vector(torch.as_tensor(vector, dtype=torch.float64))).numpy()


def log(matrix: np.ndarray) -> np.ndarray:
    """Rotation vectors (..., 3) rad, angle at most pi, of rotation matrices (..., 3, 3)."""
    return quaternion.to_rotation_vector(quaternion.from_matrix(torch.as_tensor(matrix, dtype=torch.float64))).numpy()


def to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """Unit quaternions wxyz (..., 4) of rotation matrices (..., 3, 3)."""
    return quaternion.from_matrix(torch.as_tensor(matrix, dtype=torch.float64)).numpy()


def from_quaternion(wxyz: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of unit quaternions wxyz (..., 4)."""
    return quaternion.to_matrix(torch.as_tensor(wxyz, dtype=torch.float64)).numpy()


def about_axis(axis: int, angle: np.ndarray | float) -> np.ndarray:
    """Rotations (..., 3, 3) by ``angle`` (...,) rad about a coordinate axis (0, 1 or 2)."""
    cosine, sine = np.cos(angle), np.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros((*np.shape(angle), 3, 3))
    out[..., axis, axis] = 1.0
    out[..., i, i], out[..., j, j] = cosine, cosine
    out[..., i, j], out[..., j, i] = -sine, sine
    return out


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Smallest rotation (3, 3) that turns direction ``a`` (3,) into direction ``b`` (3,); not for opposite ones.

    ``R = I + [v]x + [v]x^2 / (1 + a.b)`` with ``v = a x b``.

    Raises:
        ValueError: the directions are opposite, so that the axis is undetermined.
    """
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    if a @ b < -1.0 + 1e-9:
        raise ValueError(f"directions {a} and {b} are opposite: the rotation between them has no unique axis")
    v = np.cross(a, b)
    skew = np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
    return np.eye(3) + skew + skew @ skew / (1.0 + a @ b)


def interpolate(matrix: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Spherical interpolation of tracks along time.

    Args:
        matrix: (F, K, 3, 3).
        index: (G,) fractional frame numbers in [0, F - 1].

    Returns:
        (G, K, 3, 3).
    """
    low = np.clip(np.floor(index).astype(int), 0, max(len(matrix) - 2, 0))
    high = np.minimum(low + 1, len(matrix) - 1)
    step = log(np.swapaxes(matrix[low], -1, -2) @ matrix[high])
    return matrix[low] @ exp((index - low)[:, None, None] * step)
