"""Kinematics of a whole motion with analytic Jacobians in the independent degrees of freedom, batched over frames.

Written in torch (double precision), so that it runs on the CPU and on a GPU alike. Arrays carry the frames last: every
operation then runs along contiguous memory. Couplings are eliminated: a column of a Jacobian belongs to an independent
dof and sums the dofs that it drives, ``J_independent = J T(q)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mm_torch.maths import quaternion
from sim_models.embodiment import Embodiment
from tools.retargeting.chain import FREE, Chain


@dataclass(frozen=True, eq=False)
class Pose:
    """Where the links of a body are over F frames.

    ========= ========================================================================== =================
    qpos      positions, couplings satisfied                                             (F, Q)
    position  origins of the links                                                       (L, 3, F) m
    rotation  their orientations                                                         (L, 3, 3, F)
    ========= ========================================================================== =================
    """

    qpos: Tensor
    position: Tensor
    rotation: Tensor
    kinematics: MotionKinematics

    @cached_property
    def screw(self) -> Tensor:
        """(C + 1, 6, F) angular velocity and velocity at the world's origin per unit speed of an independent dof.

        One for every set of dofs that it moves together; the last is none's. Computed where a Jacobian first needs it.
        """
        return self.kinematics.screws(self)


# Consecutive dofs as (slice of all dofs, slice of the columns of a smaller matrix).
Runs = tuple[tuple[slice, slice], ...]


@dataclass(frozen=True, eq=False)
class Block:
    """Points that the same few dofs move: their numbers (n,), those dofs (m), and the screw of each pair (n, m)."""

    points: Tensor
    runs: Runs
    screws: Tensor


@dataclass(frozen=True, eq=False)
class Points:
    """Points fixed to links: link numbers (P,), places in the links' frames (P, 3) m, and the dofs that move them."""

    links: Tensor
    local: Tensor
    blocks: tuple[Block, ...]

    def at(self, pose: Pose) -> Tensor:
        """World positions (P, 3, F) m."""
        turned = (pose.rotation[self.links] * self.local[:, None, :, None]).sum(dim=2)
        return pose.position[self.links] + turned


def linear_velocity(pose: Pose, screws: Tensor, at: Tensor, axes: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    """Velocities (n, len(axes), m, F) of points at ``at`` (n, 3, F) per unit speed of screws (n, m)."""
    picked = pose.screw[screws.reshape(-1)].view(*screws.shape, 6, -1)
    turn, shift = picked[:, :, :3], picked[:, :, 3:]
    out = []
    for i in axes:
        j, k = (i + 1) % 3, (i + 2) % 3
        out.append(turn[:, :, j] * at[:, None, k] - turn[:, :, k] * at[:, None, j] + shift[:, :, i])
    return torch.stack(out, dim=1)


def angular_velocity(pose: Pose, screws: Tensor) -> Tensor:
    """Angular velocities (n, 3, m, F) per unit speed of screws (n, m)."""
    return pose.screw[screws.reshape(-1), :3].view(*screws.shape, 3, -1).transpose(1, 2)


def runs_of(dofs: list[int]) -> Runs:
    """Ascending dofs as runs of consecutive ones."""
    breaks = [0, *(k for k in range(1, len(dofs)) if dofs[k] != dofs[k - 1] + 1), len(dofs)]
    return tuple((slice(dofs[a], dofs[b - 1] + 1), slice(a, b)) for a, b in pairwise(breaks) if b > a)


class MotionKinematics:
    """Forward kinematics, Jacobians and steps of an embodiment over all frames of a motion.

    Args:
        body: embodiment.
        device: where the tensors live.
    """

    def __init__(self, body: Embodiment, device: str = "cpu") -> None:
        self.body, self.device = body, torch.device(device)
        self._latest: tuple[Pose | None, int] = (None, 0)
        model, couplings = body.model, body.couplings
        solid = np.flatnonzero((model.geom_contype != 0) | (model.geom_conaffinity != 0))
        wanted = np.unique([*body.site_body_ids, *model.geom_bodyid[solid], *model.geom_bodyid[model.pair_geom1],
                            *model.geom_bodyid[model.pair_geom2]])
        self.chain = Chain.of(body, wanted)
        self.dofs = len(couplings.independent_dof)
        column = np.full(model.nv, -1)
        column[couplings.independent_dof] = np.arange(self.dofs)
        self._has_driver = couplings.driver_dof >= 0
        self._driven = couplings.dependent_dof[self._has_driver]
        column[self._driven] = column[couplings.driver_dof[self._has_driver]]
        self.column_of_dof = column
        of_dof = {int(dof): k for k, dof in enumerate(couplings.independent_dof)}
        self._hinge_columns = self._index([of_dof[int(d)] for d in model.jnt_dofadr[body.independent_hinges]])
        self._hinge_qpos = self._index(model.jnt_qposadr[body.independent_hinges])
        self._couplings()
        self._tables()
        self._screw_sets()
        low, high = np.full(self.dofs, -np.inf), np.full(self.dofs, np.inf)
        low[self._hinge_columns.cpu()], high[self._hinge_columns.cpu()] = body.joint_ranges[body.independent_hinges].T
        self.low, self.high = self.tensor(low), self.tensor(high)

    def tensor(self, value: object) -> Tensor:
        """Double-precision tensor on the device."""
        return torch.as_tensor(np.asarray(value, dtype=float), device=self.device)

    def _index(self, value: object) -> Tensor:
        return torch.as_tensor(np.asarray(value, dtype=np.int64), device=self.device)

    # -- tables -------------------------------------------------------------------------------------------------------
    def _couplings(self) -> None:
        c = self.body.couplings
        self._dependent = self._index(c.dependent_qpos)
        self._driver = self._index(np.maximum(c.driver_qpos, 0))
        self._poly = self.tensor(c.poly)
        self._slope_poly = self.tensor(c.poly[:, 1:] * np.arange(1, 5) * self._has_driver[:, None])

    def _tables(self) -> None:
        levels = self.chain.levels
        self._joint_qpos = self._index(np.concatenate([lv.qpos for lv in levels]))
        self._joint_rest = self.tensor(np.concatenate([lv.origin for lv in levels]))[:, None]
        slide = np.concatenate([lv.slide for lv in levels])
        self._slides, self._turns = self.tensor(slide)[:, None], self.tensor(~slide)[:, None]
        self._level = [
            (self._index(lv.parent), self.tensor(np.swapaxes(lv.fixed, 1, 2))[:, None], bool(lv.slide.any()))
            for lv in levels
        ]
        self._link_dof = self._index(np.concatenate([lv.dof for lv in levels]))
        scaled = np.full(self.body.model.nv, -1)
        scaled[self._driven] = np.flatnonzero(self._has_driver)
        order = np.concatenate([np.arange(6 * self.body.free_root), self._link_dof.cpu().numpy()]).astype(int)
        self._screw_row = {int(dof): k for k, dof in enumerate(order)}
        rows = [(k, scaled[dof]) for k, dof in enumerate(order) if scaled[dof] >= 0]
        self._scaled_rows = self._index([r for r, _ in rows])
        self._scaled_couplings = self._index([c for _, c in rows])

    def _screw_sets(self) -> None:
        sets: dict[tuple[int, tuple[int, ...]], int] = {}
        self._sets_of_link: list[dict[int, int]] = []
        for dofs in self.chain.above:
            by_column: dict[int, list[int]] = {}
            for dof in dofs:
                if self.column_of_dof[dof] >= 0:
                    by_column.setdefault(int(self.column_of_dof[dof]), []).append(self._screw_row[dof])
            self._sets_of_link.append({c: sets.setdefault((c, tuple(rows)), len(sets)) for c, rows in by_column.items()})
        gather = np.zeros((len(sets) + 1, len(self._screw_row)))
        for (_, rows), k in sets.items():
            gather[k, list(rows)] = 1.0
        self._set_sum = self.tensor(gather)
        self.no_screw = len(sets)

    @cached_property
    def link_screws(self) -> Tensor:
        """(L, D) which screw each dof moves each link with."""
        table = np.full((len(self._sets_of_link), self.dofs), self.no_screw)
        for link, sets in enumerate(self._sets_of_link):
            table[link, list(sets)] = list(sets.values())
        return self._index(table)

    def points(self, bodies: np.ndarray, local: np.ndarray) -> Points:
        """Points (P, 3) m given in the frames of bodies (P,); points moved by the same dofs share a block."""
        links = self.chain.body_link[bodies]
        place = self.chain.body_place[bodies]
        at = np.einsum("pij,pj->pi", place[:, :, :3], np.asarray(local, dtype=float)) + place[:, :, 3]
        groups: list[tuple[set[int], list[int]]] = []
        for p in sorted(range(len(links)), key=lambda p: -len(self._sets_of_link[links[p]])):
            columns = set(self._sets_of_link[links[p]])
            home = next((members for have, members in groups if columns <= have), None)
            if home is None:
                groups.append((columns, [p]))
            else:
                home.append(p)
        blocks = []
        for columns, members in groups:
            order, members = sorted(columns), sorted(members)
            screws = [[self._sets_of_link[links[p]].get(c, self.no_screw) for c in order] for p in members]
            index = np.array(screws, dtype=np.int64).reshape(len(members), len(order))
            blocks.append(Block(self._index(members), runs_of(order), self._index(index)))
        return Points(self._index(links), self.tensor(at.reshape(-1, 3)), tuple(blocks))

    # -- kinematics ---------------------------------------------------------------------------------------------------
    def enforce(self, qpos: Tensor) -> Tensor:
        """Copy of ``qpos`` (F, Q) whose dependent joints satisfy the couplings."""
        out = qpos.clone()
        out[:, self._dependent] = _horner(self._poly, qpos[:, self._driver])
        return out

    def pose(self, qpos: Tensor) -> Pose:
        """Forward kinematics of positions (F, Q) that satisfy the couplings; kept until another tensor or value comes."""
        pose, version = self._latest
        if pose is None or pose.qpos is not qpos or version != qpos._version:
            pose = self._forward(qpos)
            self._latest = pose, qpos._version
        return pose

    def _forward(self, qpos: Tensor) -> Pose:
        frames = len(qpos)
        angle = qpos.T[self._joint_qpos] - self._joint_rest
        sine, cosine = torch.sin(angle * self._turns), torch.cos(angle * self._turns)
        shift = angle * self._slides
        mats, places = [self._identity(frames)], [qpos.new_zeros(1, 3, frames)]
        if self.body.free_root:
            turn = quaternion.to_matrix(qpos[:, 3:7]).permute(1, 2, 0)[None]
            mats, places = [torch.cat([mats[0], turn])], [torch.cat([places[0], qpos[:, :3].T[None]])]
        start = 0
        for parent, fixed, slides in self._level:
            joints = slice(start, start + len(parent))
            start += len(parent)
            above = mats[-1][parent]
            moved = torch.matmul(fixed, above)  # (n, 3 rows, 4, F): rotation, then offset
            place = places[-1][parent] + moved[:, :, 3]
            c, s = cosine[joints, None], sine[joints, None]
            x, y, z = moved[:, :, 0], moved[:, :, 1], moved[:, :, 2]
            if slides:
                place = place + z * shift[joints, None]
            mats.append(torch.stack([x * c + y * s, y * c - x * s, z], dim=2))
            places.append(place)
        rotation, position = torch.cat(mats), torch.cat(places)
        return Pose(qpos, position, rotation, self)

    def _identity(self, frames: int) -> Tensor:
        return torch.eye(3, dtype=torch.float64, device=self.device)[None, :, :, None].expand(1, 3, 3, frames)

    def screws(self, pose: Pose) -> Tensor:
        """Those of a pose."""
        qpos, position, rotation = pose.qpos, pose.position, pose.rotation
        first = FREE + int(self.body.free_root)
        axis, at = rotation[first:, :, 2], position[first:]
        turn = axis * self._turns[:, :, None]
        rows = torch.cat([turn, _cross(at, turn) + axis * self._slides[:, :, None]], dim=1)
        if self.body.free_root:
            base = qpos.new_zeros(6, 6, len(qpos))
            base[:3, 3:] = torch.eye(3, dtype=qpos.dtype, device=self.device)[:, :, None]
            base[3:, :3] = rotation[FREE].transpose(0, 1)
            base[3:, 3:] = _cross(position[FREE][None], base[3:, :3])
            rows = torch.cat([base, rows])
        slope = _horner(self._slope_poly, qpos[:, self._driver]).T[self._scaled_couplings]
        rows[self._scaled_rows] = rows[self._scaled_rows] * slope[:, None]
        return (self._set_sum @ rows.view(len(rows), -1)).view(len(self._set_sum), 6, -1)

    # -- motions in the independent dofs ------------------------------------------------------------------------------
    def step(self, qpos: Tensor, delta: Tensor) -> Tensor:
        """Positions (F, Q) after a tangent step (F, D) in the independent dofs."""
        out = qpos.clone()
        out[:, self._hinge_qpos] += delta[:, self._hinge_columns]
        if self.body.free_root:
            out[:, :3] += delta[:, :3]
            turned = quaternion.multiply(qpos[:, 3:7], quaternion.from_rotation_vector(delta[:, 3:6]))
            out[:, 3:7] = turned / turned.norm(dim=1, keepdim=True)
        return self.enforce(out)

    def tangent(self, qpos: Tensor) -> Tensor:
        """Frame-to-frame steps (F - 1, D) in the independent dofs."""
        return self.difference(qpos[:-1], qpos[1:])

    def difference(self, start: Tensor, end: Tensor) -> Tensor:
        """Steps (F, D) in the independent dofs that lead from positions ``start`` to ``end``, both (F, Q)."""
        out = self.coordinates(end) - self.coordinates(start)
        if self.body.free_root:
            out[:, :3] = end[:, :3] - start[:, :3]
            turn = quaternion.multiply(quaternion.conjugate(start[:, 3:7]), end[:, 3:7])
            out[:, 3:6] = quaternion.to_rotation_vector(turn)
        return out

    def coordinates(self, qpos: Tensor) -> Tensor:
        """(F, D) positions of the independent hinges; zero in the root's columns."""
        out = qpos.new_zeros(len(qpos), self.dofs)
        out[:, self._hinge_columns] = qpos[:, self._hinge_qpos]
        return out


@lru_cache(maxsize=8)
def kinematics_of(body: Embodiment) -> MotionKinematics:
    """The kinematics of a body on the CPU, made once per process."""
    return MotionKinematics(body)


def _horner(poly: Tensor, x: Tensor) -> Tensor:
    value = poly[:, -1].expand_as(x)
    for k in range(poly.shape[1] - 2, -1, -1):
        value = value * x + poly[:, k]
    return value


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product along dimension 1."""
    (ax, ay, az), (bx, by, bz) = a.unbind(1), b.unbind(1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], dim=1)
