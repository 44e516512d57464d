"""Distances between the parts of a body that may touch each other, batched over frames, with analytic derivatives.

The pairs are the model's explicit contact pairs. Spheres and capsules are segments with a radius: two of them have a
closed form. An ellipsoid and a segment: the signed distance of a point to an ellipsoid is convex, its minimum along the
segment is found by Newton steps. Two ellipsoids: the direction of the largest separation is a fixed point. For all,
``d = n . (p_b - p_a)`` with the common normal n, so that ``dd/dq = n . (J_b - J_a)`` at any point of the normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from torch import Tensor

from tools.retargeting.kinematics import MotionKinematics, Points, Pose, Runs, runs_of

PROJECTION_STEPS, SEGMENT_STEPS, FIXED_POINT_STEPS = 5, 3, 12
_SPHERE, _CAPSULE, _ELLIPSOID = (int(getattr(mujoco.mjtGeom, f"mjGEOM_{n}")) for n in ("SPHERE", "CAPSULE", "ELLIPSOID"))


@dataclass(frozen=True, eq=False)
class Contacts:
    """Pairs that are closer than a reach, E of them over all frames.

    ======== =============================================== ==========
    frame    frame                                           (E,) int
    group    which dofs move the two apart                   (E,) int
    first    link of the first geom                          (E,) int
    second   link of the second geom                         (E,) int
    distance negative where they overlap                     (E,) m
    normal   unit, from the first to the second              (E, 3)
    point    a world point on the common normal              (E, 3) m
    ======== =============================================== ==========
    """

    frame: Tensor
    group: Tensor
    first: Tensor
    second: Tensor
    distance: Tensor
    normal: Tensor
    point: Tensor


# For every kind of pairs: pair numbers and frames.
Candidates = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False)
class _Kind:
    """Pairs of one kind of geoms: indices (n,) into the geoms of a ``SelfCollision``; ellipsoids come first."""

    first: Tensor
    second: Tensor
    group: Tensor
    solve: object


class SelfCollision:
    """The explicit contact pairs of a body, floor excluded.

    Raises:
        ValueError: a pair holds a geom that is no sphere, capsule or ellipsoid.
    """

    def __init__(self, kinematics: MotionKinematics) -> None:
        self.kinematics = kinematics
        model = kinematics.body.model
        pairs = [(int(a), int(b)) for a, b in zip(model.pair_geom1, model.pair_geom2, strict=True)
                 if 0 not in (model.geom_bodyid[a], model.geom_bodyid[b])]
        ids = sorted({g for pair in pairs for g in pair})
        known = {_SPHERE, _CAPSULE, _ELLIPSOID}
        strange = [g for g in ids if int(model.geom_type[g]) not in known]
        if strange:
            raise ValueError(f"geom {model.geom(strange[0]).name!r} is in a contact pair but no sphere, capsule or "
                             "ellipsoid: extend tools/retargeting/collision.py or take the pair out of the model")
        turns = np.zeros((len(ids), 9))
        for k, g in enumerate(ids):
            mujoco.mju_quat2Mat(turns[k], model.geom_quat[g])
        bodies = model.geom_bodyid[ids]
        place = kinematics.chain.body_place[bodies][:, :, :3]
        self.turn = kinematics.tensor(place @ turns.reshape(-1, 3, 3))  # geom axes in the link's frame
        self.size = kinematics.tensor(model.geom_size[ids])
        round_ = np.array([int(model.geom_type[g]) != _ELLIPSOID for g in ids])
        half = np.where([int(model.geom_type[g]) == _CAPSULE for g in ids], model.geom_size[ids, 1], 0.0)
        self.half = kinematics.tensor(half)
        self.bound = kinematics.tensor(model.geom_rbound[ids])
        self.centers: Points = kinematics.points(bodies, model.geom_pos[ids])
        number = {g: k for k, g in enumerate(ids)}
        kinds: dict[object, list[tuple[int, int]]] = {}
        for a, b in pairs:
            i, j = number[a], number[b]
            if round_[i] and not round_[j]:
                i, j = j, i
            solve = _segments if round_[i] else _ellipsoid_segment if round_[j] else _ellipsoids
            kinds.setdefault(solve, []).append((i, j))
        index = lambda v: torch.tensor(v, dtype=torch.int64, device=kinematics.device)  # noqa: E731
        self.groups: list[Runs] = []
        self.kinds = [
            _Kind(index([i for i, _ in p]), index([j for _, j in p]), index([self._group(i, j) for i, j in p]), s)
            for s, p in kinds.items()
        ]

    def _group(self, i: int, j: int) -> int:
        """Number of the dofs that move two geoms apart: those that move them differently."""
        table, links = self.kinematics.link_screws, self.centers.links
        runs = runs_of(torch.nonzero(table[links[i]] != table[links[j]]).squeeze(1).tolist())
        if runs not in self.groups:
            self.groups.append(runs)
        return self.groups.index(runs)

    def candidates(self, pose: Pose, reach: float) -> Candidates:
        """Pairs and frames with a distance below ``reach`` m."""
        center = self.centers.at(pose)  # (G, 3, F)
        found = []
        for kind in self.kinds:
            apart = (center[kind.first] - center[kind.second]).square().sum(dim=1)
            limit = (self.bound[kind.first] + self.bound[kind.second] + reach).square()
            pair, frame = (apart < limit[:, None]).nonzero(as_tuple=True)
            a, b = kind.first[pair], kind.second[pair]
            if len(pair):
                close = kind.solve(self._shape(pose, center, a, frame), self._shape(pose, center, b, frame))[0] < reach
                pair, frame = pair[close], frame[close]
            found.append((pair, frame))
        return tuple(found)

    def moved_by(self, candidates: Candidates, window: slice | None) -> Candidates:
        """Those candidates that dofs in a window move apart; all without one."""
        if window is None:
            return candidates
        moved = torch.tensor([any(dofs.start < window.stop and window.start < dofs.stop for dofs, _ in runs)
                              for runs in self.groups], device=self.kinematics.device)
        kept = [moved[kind.group[pair]] for kind, (pair, _) in zip(self.kinds, candidates, strict=True)]
        return tuple((pair[keep], frame[keep]) for keep, (pair, frame) in zip(kept, candidates, strict=True))

    def contacts(self, pose: Pose, candidates: Candidates, reach: float) -> Contacts:
        """Those candidates that are closer than ``reach`` m."""
        center, links = self.centers.at(pose), self.centers.links
        none = torch.zeros(0, dtype=torch.int64, device=center.device)
        found = [(none, none, none, none, center.new_zeros(0), center.new_zeros(0, 3), center.new_zeros(0, 3))]
        for kind, (pair, frame) in zip(self.kinds, candidates, strict=True):
            if not len(frame):
                continue
            a, b = kind.first[pair], kind.second[pair]
            distance, normal, point = kind.solve(self._shape(pose, center, a, frame), self._shape(pose, center, b, frame))
            close = distance < reach
            found.append((frame[close], kind.group[pair[close]], links[a[close]], links[b[close]], distance[close],
                          normal[close], point[close]))
        return Contacts(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _shape(self, pose: Pose, center: Tensor, geom: Tensor, frame: Tensor) -> _Shape:
        links = self.centers.links[geom]
        turn = pose.rotation[links, :, :, frame] @ self.turn[geom]
        return _Shape(center[geom, :, frame], turn, self.size[geom], self.half[geom])

    def jacobian(self, pose: Pose, contacts: Contacts, rows: Tensor, runs: Runs) -> Tensor:
        """(n, C) derivatives of the distances of some contacts (n,) by the dofs of their group."""
        table = torch.cat([self.kinematics.link_screws[:, dofs] for dofs, _ in runs], dim=1)
        frame, normal = contacts.frame[rows], contacts.normal[rows]
        moment = torch.linalg.cross(contacts.point[rows], normal)  # n . (w x p) = w . (p x n)
        along = torch.cat([moment, normal], dim=1)[:, :, None]
        first, second = (pose.screw[table[links[rows]], :, frame[:, None]] for links in (contacts.first, contacts.second))
        return ((second - first) @ along).squeeze(2)  # screws (n, C, 6)


@dataclass(frozen=True, eq=False)
class _Shape:
    """Geoms in the world: centre (E, 3), axes (E, 3, 3), size (E, 3), half length (E,)."""

    center: Tensor
    turn: Tensor
    size: Tensor
    half: Tensor


def _unit(vector: Tensor, fallback: Tensor) -> Tensor:
    norm = vector.norm(dim=1, keepdim=True)
    return torch.where(norm > 1e-9, vector / norm.clamp_min(1e-12), fallback)


def _segments(a: _Shape, b: _Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Distance of segments with radii: closest points of the axes by clamping one parameter after the other."""
    u, v = a.turn[:, :, 2] * a.half[:, None], b.turn[:, :, 2] * b.half[:, None]
    w = a.center - b.center
    uu, vv, uv = (u * u).sum(1), (v * v).sum(1), (u * v).sum(1)
    uw, vw = (u * w).sum(1), (v * w).sum(1)
    full = uu * vv - uv**2
    parallel = full <= 1e-9 * uu * vv
    s = torch.where(parallel, torch.zeros_like(full), (uv * vw - vv * uw) / full.clamp_min(1e-18)).clamp(-1.0, 1.0)
    t = ((uv * s + vw) / vv.clamp_min(1e-18)).clamp(-1.0, 1.0)
    s = ((uv * t - uw) / uu.clamp_min(1e-18)).clamp(-1.0, 1.0)
    p, q = a.center + s[:, None] * u, b.center + t[:, None] * v
    normal = _unit(q - p, a.turn[:, :, 0])
    distance = ((q - p) * normal).sum(1) - a.size[:, 0] - b.size[:, 0]
    return distance, normal, p


def project(point: Tensor, axes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distance of points (E, 3) to ellipsoids with semi-axes (E, 3) in their own frame.

    The surface point below is ``a_i^2 y_i / (t + a_i^2)`` with the largest root t of ``sum (a_i y_i / (t + a_i^2))^2 =
    1``, by Newton steps on its inverse square root, which is nearly straight.

    Returns:
        distance (E,), outward normal (E, 3), and its derivative along a direction as a function of (E, 3).
    """
    square = axes**2
    least = (axes * point.abs() - square).max(dim=1).values  # at most the root
    t = torch.maximum(least, -square.min(dim=1).values * (1.0 - 1e-9))
    for _ in range(PROJECTION_STEPS):
        term = (axes * point / (t[:, None] + square)) ** 2
        f, slope = term.sum(1), -2.0 * (term / (t[:, None] + square)).sum(1)
        t = t - 2.0 * f * (f - 1.0) / ((1.0 + f.sqrt()) * slope.clamp_max(-1e-12))  # Newton on 1 / sqrt(f)
    inverse = 1.0 / (t[:, None] + square)
    gradient = point * inverse
    size = gradient.norm(dim=1)
    normal = gradient / size[:, None].clamp_min(1e-12)
    # y - x = t y w, its length along n: t |y w|
    return t * size, normal, torch.stack([inverse, square, point, size[:, None].expand_as(point)])


def _turning(state: Tensor, normal: Tensor, along: Tensor) -> Tensor:
    """Second derivative (E,) of the distance along a direction (E, 3) in the ellipsoid's frame."""
    inverse, square, point, size = state
    rate = (square * inverse**2 * point * along).sum(1) / (square * point**2 * inverse**3).sum(1).clamp_min(1e-12)
    change = inverse * along - inverse**2 * point * rate[:, None]
    return ((change * along).sum(1) - (change * normal).sum(1) * (normal * along).sum(1)) / size[:, 0].clamp_min(1e-12)


def _ellipsoid_segment(a: _Shape, b: _Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Least signed distance along the segment: safeguarded Newton on its derivative, which rises along it."""
    local = (a.turn.transpose(1, 2) @ (b.center - a.center)[:, :, None]).squeeze(2)
    along = (a.turn.transpose(1, 2) @ b.turn[:, :, 2:]).squeeze(2) * b.half[:, None]
    low, high = torch.full_like(b.half, -1.0), torch.ones_like(b.half)
    s = (-(local * along / a.size**2).sum(1) / (along**2 / a.size**2).sum(1).clamp_min(1e-12)).clamp(-1.0, 1.0)
    for last in (*[False] * SEGMENT_STEPS, True):
        distance, normal, state = project(local + s[:, None] * along, a.size)
        if last:
            break
        slope = (normal * along).sum(1)
        low, high = torch.where(slope < 0, s, low), torch.where(slope > 0, s, high)
        step = s - slope / _turning(state, normal, along).clamp_min(1e-9)
        inside = (step >= low) & (step <= high)
        ends = torch.where(slope < 0, high, low)  # the first overshoot goes to the end, later ones halve
        s = torch.where(inside, step, torch.where(ends.abs() == 1.0, ends, 0.5 * (low + high)))
    point = b.center + s[:, None] * b.turn[:, :, 2] * b.half[:, None]
    return distance - b.size[:, 0], (a.turn @ normal[:, :, None]).squeeze(2), point


def _ellipsoids(a: _Shape, b: _Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Largest separation ``n . D - |A n| - |B n|`` over unit n: ``(d + A A^T / |A n| + B B^T / |B n|) n`` points to D."""
    between = b.center - a.center
    first = (a.turn * a.size[:, None] ** 2) @ a.turn.transpose(1, 2)
    second = (b.turn * b.size[:, None] ** 2) @ b.turn.transpose(1, 2)
    eye = torch.eye(3, dtype=between.dtype, device=between.device)
    normal = _unit(between, a.turn[:, :, 0])
    for _ in range(FIXED_POINT_STEPS):
        distance, near, far = _separation(normal, between, first, second)
        matrix = distance[:, None, None] * eye + first / near[:, None, None] + second / far[:, None, None]
        normal = _unit(torch.linalg.solve(matrix, between), normal)
    distance, near, _ = _separation(normal, between, first, second)
    return distance, normal, a.center + (first @ normal[:, :, None]).squeeze(2) / near[:, None]


def _separation(normal: Tensor, between: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    near, far = ((normal[:, None] @ m @ normal[:, :, None])[:, 0, 0].clamp_min(1e-12).sqrt() for m in (first, second))
    return (normal * between).sum(1) - near - far, near, far
