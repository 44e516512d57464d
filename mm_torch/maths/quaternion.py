"""Unit quaternions, scalar first (wxyz), on tensors of shape (..., 4); vectors are (..., 3)."""

from __future__ import annotations

import torch
from torch import Tensor


def conjugate(q: Tensor) -> Tensor:
    """Inverse of a unit quaternion."""
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product: the rotation ``b`` followed by ``a``."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    w = aw * bw - (av * bv).sum(-1, keepdim=True)
    return torch.cat([w, aw * bv + bw * av + torch.linalg.cross(av, bv, dim=-1)], dim=-1)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    if u.ndim != v.ndim:  # where they are equal it broadcasts by itself
        u, v = torch.broadcast_tensors(u, v)
    return torch.linalg.cross(u, v, dim=-1)


def rotate(q: Tensor, v: Tensor) -> Tensor:
    """Rotate vectors: coordinates in the frame ``q`` to coordinates in its parent.  Broadcasts."""
    w, u = q[..., :1], q[..., 1:]
    t = 2.0 * _cross(u, v)
    return torch.addcmul(v, w, t) + _cross(u, t)


def rotate_inverse(q: Tensor, v: Tensor) -> Tensor:
    """Rotate vectors by the inverse: parent coordinates to coordinates in the frame ``q``."""
    w, u = q[..., :1], q[..., 1:]
    t = 2.0 * _cross(u, v)
    return torch.addcmul(v, w, t, value=-1.0) + _cross(u, t)


def to_rotation_vector(q: Tensor) -> Tensor:
    """Logarithm: (..., 3) rad, angle in [0, pi]; the sign of ``q`` does not matter."""
    w, v = q[..., :1], q[..., 1:]
    sine = torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(1e-12)
    return v * (2.0 * torch.atan(sine / w) / sine)


def from_rotation_vector(v: Tensor) -> Tensor:
    """Exponential of rotation vectors (..., 3) rad."""
    half = 0.5 * v.norm(dim=-1, keepdim=True)
    return torch.cat([half.cos(), 0.5 * v * torch.sinc(half / torch.pi)], dim=-1)


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Angle (...,) rad in [0, pi] of the rotation between two orientations.

    Source: angle of two vectors by the sides of their rhombus, Kahan (2006), How futile are mindless assessments of roundoff.
    """
    apart, along = (torch.linalg.vector_norm(side, dim=-1) for side in (a - b, a + b))
    return 4.0 * torch.atan2(torch.minimum(apart, along), torch.maximum(apart, along))


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation along the shorter arc.  ``t`` in [0, 1], shape (..., 1)."""
    return multiply(a, from_rotation_vector(t * to_rotation_vector(multiply(conjugate(a), b))))


def to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3), columns are the frame's axes in parent coordinates."""
    eye = torch.eye(3, dtype=q.dtype, device=q.device).expand(*q.shape[:-1], 3, 3)
    return rotate(q.unsqueeze(-2), eye).transpose(-1, -2)


def from_matrix(m: Tensor) -> Tensor:
    """Quaternions of rotation matrices (..., 3, 3), by the largest of the four candidate components."""
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    ij = [(m[..., 2, 1], m[..., 1, 2]), (m[..., 0, 2], m[..., 2, 0]), (m[..., 1, 0], m[..., 0, 1])]
    diff = [a - b for a, b in ij]
    total = [a + b for a, b in ij]  # yz, zx, xy
    candidates = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, diff[0], diff[1], diff[2]], -1),
            torch.stack([diff[0], 1 + m00 - m11 - m22, total[2], total[1]], -1),
            torch.stack([diff[1], total[2], 1 - m00 + m11 - m22, total[0]], -1),
            torch.stack([diff[2], total[1], total[0], 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )
    best = torch.diagonal(candidates, dim1=-2, dim2=-1).argmax(-1)
    q = torch.take_along_dim(candidates, best[..., None, None], -2).squeeze(-2)
    return q / q.norm(dim=-1, keepdim=True)


def heading(q: Tensor) -> Tensor:
    """Rotation about the world's z axis that is closest to ``q``: its swing-twist yaw part (..., 4)."""
    half = torch.atan2(q[..., 3], q[..., 0])
    zero = torch.zeros_like(half)
    return torch.stack([half.cos(), zero, zero, half.sin()], dim=-1)


def yaw(q: Tensor) -> Tensor:
    """Heading angle (...,) rad in (-pi, pi]."""
    return torch.remainder(2.0 * torch.atan2(q[..., 3], q[..., 0]) + torch.pi, 2 * torch.pi) - torch.pi
