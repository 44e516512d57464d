"""Kinematics of a whole motion in the independent degrees of freedom, batched over frames.

Double precision; Warp kernels over torch tensors, so that it runs on the CPU and on a GPU alike. Couplings are
eliminated: a column of a Jacobian belongs to an independent dof and sums the dofs that it drives,
``J_independent = J T(q)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from mm_torch.maths import quaternion
from sim_models.embodiment import Embodiment
from tools.retargeting import kernels
from tools.retargeting.chain import Chain
from tools.retargeting.launch import Launcher, ragged


@dataclass(frozen=True, eq=False)
class Pose:
    """Where the links of a body are over F frames.

    ========= ========================================================================== =================
    qpos      positions, couplings satisfied                                             (F, Q)
    position  origins of the links                                                       (F, L, 3) m
    rotation  their orientations                                                         (F, L, 3, 3)
    screw     angular velocity, and velocity at the world's origin, per unit speed of
              a dof or, where it is coupled, of the dof that drives it                   (F, V, 6)
    ========= ========================================================================== =================
    """

    qpos: Tensor
    position: Tensor
    rotation: Tensor
    screw: Tensor
    kinematics: MotionKinematics

    @cached_property
    def step(self) -> Tensor:
        """Frame-to-frame steps (F - 1, D) in the independent dofs."""
        return self.kinematics.tangent(self.qpos)


@dataclass(frozen=True, eq=False)
class Points:
    """Points fixed to links: link numbers (P,) and places in the links' frames (P, 3) m."""

    links: Tensor
    local: Tensor

    def at(self, pose: Pose) -> Tensor:
        """World positions (F, P, 3) m."""
        frames, points = len(pose.qpos), len(self.links)
        out = pose.qpos.new_empty(frames, points, 3)
        pose.kinematics.launch(kernels.places, (frames, points), pose.position, pose.rotation, self.links, self.local, out)
        return out


class MotionKinematics:
    """Forward kinematics and steps of an embodiment over all frames of a motion.

    Args:
        body: embodiment.
        device: where the tensors live.
    """

    def __init__(self, body: Embodiment, device: str = "cpu") -> None:
        self.body, self.device = body, torch.device(device)
        self.launch = Launcher(self.device)
        self.launch.load(kernels)
        self._latest: tuple[Pose | None, int] = (None, 0)
        model, couplings = body.model, body.couplings
        solid = np.flatnonzero((model.geom_contype != 0) | (model.geom_conaffinity != 0))
        wanted = np.unique([*body.site_body_ids, *model.geom_bodyid[solid], *model.geom_bodyid[model.pair_geom1],
                            *model.geom_bodyid[model.pair_geom2]])
        self.chain = Chain.of(body, wanted)
        self.links = len(self.chain.above)
        self.dofs = len(couplings.independent_dof)
        column = np.full(model.nv, -1)
        column[couplings.independent_dof] = np.arange(self.dofs)
        driven = couplings.driver_dof >= 0
        column[couplings.dependent_dof[driven]] = column[couplings.driver_dof[driven]]
        self.column_of_dof = column
        of_dof = {int(dof): k for k, dof in enumerate(couplings.independent_dof)}
        self._hinge_columns = self._positions([of_dof[int(d)] for d in model.jnt_dofadr[body.independent_hinges]])
        self._hinge_qpos = self._positions(model.jnt_qposadr[body.independent_hinges])
        self._dependent = self._positions(couplings.dependent_qpos)
        self._driver = self._positions(np.maximum(couplings.driver_qpos, 0))
        self._poly = self.tensor(couplings.poly)
        low, high = np.full(self.dofs, -np.inf), np.full(self.dofs, np.inf)
        low[self._hinge_columns.cpu()], high[self._hinge_columns.cpu()] = body.joint_ranges[body.independent_hinges].T
        self.low, self.high = self.tensor(low), self.tensor(high)
        self._root = np.arange(6 * body.free_root)
        self.screw_dofs = np.concatenate([self._root, self.chain.dof]).astype(int)
        self.tree = self._tree()

    def tensor(self, value: object) -> Tensor:
        """Double-precision tensor on the device."""
        return torch.as_tensor(np.ascontiguousarray(value, dtype=float), device=self.device)

    def index(self, value: object) -> Tensor:
        """Tensor of whole numbers for kernels."""
        return torch.as_tensor(np.asarray(value, dtype=np.int32), device=self.device)

    def _positions(self, value: object) -> Tensor:
        return torch.as_tensor(np.asarray(value, dtype=np.int64), device=self.device)

    # -- tables -------------------------------------------------------------------------------------------------------
    def _tree(self) -> kernels.Tree:
        chain, couplings = self.chain, self.body.couplings
        driver, slope = np.full(len(chain.dof), -1), np.zeros((len(chain.dof), 4))
        of_dof = {int(dof): k for k, dof in enumerate(couplings.dependent_dof)}
        for j, dof in enumerate(chain.dof):
            k = of_dof.get(int(dof))
            if k is not None and couplings.driver_dof[k] >= 0:
                driver[j], slope[j] = couplings.driver_qpos[k], couplings.poly[k, 1:] * np.arange(1, 5)
        screw = {int(dof): v for v, dof in enumerate(self.screw_dofs)}
        start, above = ragged([[screw[dof] for dof in dofs] for dofs in chain.above])
        joints = np.arange(len(chain.dof)) + self.links - len(chain.dof)
        return self.launch.struct(
            kernels.Tree, free=int(self.body.free_root), parent=self.index(chain.parent),
            turn=self.tensor(chain.fixed[:, :, :3]), offset=self.tensor(chain.fixed[:, :, 3]),
            qpos=self.index(chain.qpos), origin=self.tensor(chain.origin),
            slide=self.index(chain.slide), driver=self.index(driver), slope=self.tensor(slope),
            link=self.index(np.concatenate([np.ones_like(self._root), joints])),
            column=self.index(self.column_of_dof[self.screw_dofs]), start=self.index(start), above=self.index(above),
        )

    @lru_cache(maxsize=8)  # noqa: B019 - a kinematics lives as long as the process
    def window(self, first: int, stop: int) -> kernels.Window:
        """The columns from ``first`` to before ``stop``."""
        column = self.column_of_dof[self.screw_dofs]
        moved = [any(first <= self.column_of_dof[dof] < stop for dof in dofs) for dofs in self.chain.above]
        return self.launch.struct(
            kernels.Window, column=self.index(np.where((column >= first) & (column < stop), column - first, -1)),
            active=self.index(moved),
        )

    def points(self, bodies: np.ndarray, local: np.ndarray) -> Points:
        """Points (P, 3) m given in the frames of bodies (P,)."""
        place = self.chain.body_place[bodies]
        at = np.einsum("pij,pj->pi", place[:, :, :3], np.asarray(local, dtype=float)) + place[:, :, 3]
        return Points(self.index(self.chain.body_link[bodies]), self.tensor(at.reshape(-1, 3)))

    # -- kinematics ---------------------------------------------------------------------------------------------------
    def enforce(self, qpos: Tensor) -> Tensor:
        """Copy of ``qpos`` (F, Q) whose dependent joints satisfy the couplings."""
        out = qpos.clone()
        x, value = qpos[:, self._driver], self._poly[:, -1]
        for k in range(self._poly.shape[1] - 2, -1, -1):
            value = value * x + self._poly[:, k]
        out[:, self._dependent] = value
        return out

    def pose(self, qpos: Tensor) -> Pose:
        """Forward kinematics of positions (F, Q) that satisfy the couplings; kept until another tensor or value comes."""
        pose, version = self._latest
        if pose is None or pose.qpos is not qpos or version != qpos._version:
            new = lambda *shape: qpos.new_empty(len(qpos), *shape)  # noqa: E731
            pose = Pose(qpos, new(self.links, 3), new(self.links, 3, 3), new(len(self.screw_dofs), 6), self)
            self.launch(kernels.forward, len(qpos), self.tree, qpos.contiguous(), pose.position, pose.rotation, pose.screw)
            self._latest = pose, qpos._version
        return pose

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
        out = self.coordinates(end - start)
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
