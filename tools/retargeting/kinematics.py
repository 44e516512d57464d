"""Kinematics of a whole motion with analytic Jacobians in the independent degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from tools.retargeting import rotations


@dataclass(frozen=True)
class Pose:
    """Positions, and where the wanted bodies and geoms are, for F frames.

    ============ ======================================================= ================
    qpos         couplings satisfied                                     (F, Q)
    body_pos     origins of the mimic-site bodies                        (F, S, 3) m
    body_mat     their orientations                                      (F, S, 3, 3)
    sole_center  centre of every sole geom                               (F, G, 3) m
    sole_low     its lowest surface point                                (F, G, 3) m
    anchor       a point on each dof's axis (the origin for slides)      (F, V, 3) m
    angular      angular velocity per unit of each dof                   (F, V, 3)
    linear       linear velocity at the anchor per unit of each dof      (F, V, 3)
    scale        velocity of a dof per unit of its driver, times chain   (F, V)
    ============ ======================================================= ================
    """

    qpos: np.ndarray
    body_pos: np.ndarray
    body_mat: np.ndarray
    sole_center: np.ndarray
    sole_low: np.ndarray
    anchor: np.ndarray
    angular: np.ndarray
    linear: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class _Pairs:
    """Which dof moves which point: only those pairs are computed, sorted so that one driver's are neighbours."""

    point: np.ndarray
    dof: np.ndarray
    start: np.ndarray
    column: np.ndarray

    @classmethod
    def of(cls, moves: list[np.ndarray], column: np.ndarray) -> _Pairs:
        """``moves``: a mask (V,) per point; ``column``: the independent dof that drives each dof, -1: none."""
        pairs = [(p, int(column[v]), v) for p, mask in enumerate(moves) for v in np.flatnonzero(mask) if column[v] >= 0]
        point, driver, dof = np.array(sorted(pairs), dtype=int).reshape(-1, 3).T
        new = np.ones(len(point), dtype=bool)
        new[1:] = (np.diff(point) != 0) | (np.diff(driver) != 0)
        return cls(point, dof, np.flatnonzero(new), driver)

    def sum(self, velocity: np.ndarray, points: int, dofs: int) -> np.ndarray:
        """Velocities (F, pairs, 3) added up per driver: (F, points, 3, D)."""
        out = np.zeros((len(velocity), points, 3, dofs))
        if len(self.start):
            added = np.add.reduceat(velocity, self.start, axis=1)
            out[:, self.point[self.start], :, self.column[self.start]] = np.swapaxes(added, 0, 1)
        return out


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    (ax, ay, az), (bx, by, bz) = (np.moveaxis(v, -1, 0) for v in (a, b))
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


class MotionKinematics:
    """Forward kinematics and Jacobians of an embodiment over all frames of a motion.

    Couplings are eliminated: a column of a Jacobian belongs to an independent dof and sums the dofs that it drives,
    ``J_independent = J T(q)``.
    """

    def __init__(self, body: Embodiment) -> None:
        self.body = body
        self.soles = np.concatenate([*body.foot_geom_ids.values(), np.zeros(0, dtype=int)]).astype(int)
        self.sole_bodies = body.model.geom_bodyid[self.soles]
        self.dofs = len(body.couplings.independent_dof)
        model, couplings = body.model, body.couplings
        self._data = mujoco.MjData(model)
        dof_column = {int(dof): k for k, dof in enumerate(couplings.independent_dof)}
        self._hinge_columns = [dof_column[int(d)] for d in model.jnt_dofadr[body.independent_hinges]]
        self._hinge_qpos = model.jnt_qposadr[body.independent_hinges]
        self._is_driven = couplings.driver_dof >= 0
        self._driven = couplings.dependent_dof[self._is_driven]
        column = np.full(model.nv, -1)
        column[couplings.independent_dof] = np.arange(self.dofs)
        column[self._driven] = column[couplings.driver_dof[self._is_driven]]
        self._site_pairs = _Pairs.of([self._moves(b) for b in body.site_body_ids], column)
        self._sole_pairs = _Pairs.of([self._moves(b) for b in self.sole_bodies], column)

    def _moves(self, body_id: int) -> np.ndarray:
        """(V,) whether a dof moves a body."""
        model, mask = self.body.model, np.zeros(self.body.model.nv, dtype=bool)
        while body_id > 0:
            start = model.body_dofadr[body_id]
            mask[start : start + model.body_dofnum[body_id]] = True
            body_id = model.body_parentid[body_id]
        return mask

    def pose(self, qpos: np.ndarray) -> Pose:
        """Forward kinematics of positions (F, Q); couplings are enforced."""
        model, data, body = self.body.model, self._data, self.body
        qpos = body.couplings.enforce(qpos)
        frames, joints = len(qpos), model.njnt
        pos, mat = np.empty((frames, len(body.site_names), 3)), np.empty((frames, len(body.site_names), 9))
        sole, sole_mat = np.empty((frames, len(self.soles), 3)), np.empty((frames, len(self.soles), 9))
        anchor, axis = np.empty((frames, joints, 3)), np.empty((frames, joints, 3))
        for f in range(frames):
            data.qpos[:] = qpos[f]
            mujoco.mj_kinematics(model, data)
            pos[f], mat[f] = data.xpos[body.site_body_ids], data.xmat[body.site_body_ids]
            sole[f], sole_mat[f] = data.geom_xpos[self.soles], data.geom_xmat[self.soles]
            anchor[f], axis[f] = data.xanchor, data.xaxis
        lowest = sole + self._to_lowest(sole_mat.reshape(frames, -1, 3, 3))
        screws = self._screws(qpos, anchor, axis)
        return Pose(qpos, pos, mat.reshape(frames, -1, 3, 3), sole, lowest, *screws, self._scale(qpos))

    def _to_lowest(self, mat: np.ndarray) -> np.ndarray:
        """Vector (F, G, 3) from a geom's centre to its lowest surface point."""
        model = self.body.model
        size, kind = model.geom_size[self.soles], model.geom_type[self.soles, None]
        up = mat[..., 2, :]  # world up in geom axes
        turned = up * size
        ellipsoid = -(turned * size) / np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-12)
        capsule = -np.sign(up) * size[:, [1]] * np.array([0.0, 0.0, 1.0]) - up * size[:, [0]]
        box = -np.sign(up) * size
        local = np.select(
            [kind == mujoco.mjtGeom.mjGEOM_CAPSULE, kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID,
             kind == mujoco.mjtGeom.mjGEOM_BOX],
            [capsule, ellipsoid, box],
            default=-up * size[:, [0]],
        )
        return np.einsum("fgij,fgj->fgi", mat, local)

    def _screws(
        self, qpos: np.ndarray, anchor: np.ndarray, axis: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        model, shape = self.body.model, (len(qpos), self.body.model.nv, 3)
        at, angular, linear = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        dof = self.body.hinge_dof
        slide = model.jnt_type[self.body.hinge_ids] == mujoco.mjtJoint.mjJNT_SLIDE
        hinge_axis = axis[:, self.body.hinge_ids]
        at[:, dof] = anchor[:, self.body.hinge_ids]
        angular[:, dof] = np.where(slide[:, None], 0.0, hinge_axis)
        linear[:, dof] = np.where(slide[:, None], hinge_axis, 0.0)
        if self.body.free_root:
            linear[:, :3] = np.eye(3)
            at[:, 3:6] = qpos[:, None, :3]
            angular[:, 3:6] = np.swapaxes(rotations.from_quaternion(qpos[:, 3:7]), 1, 2)
        return at, angular, linear

    def _scale(self, qpos: np.ndarray) -> np.ndarray:
        scale = np.zeros((len(qpos), self.body.model.nv))
        scale[:, self.body.couplings.independent_dof] = 1.0
        scale[:, self._driven] = self.body.couplings.slopes(qpos)[:, self._is_driven]
        return scale

    def _point_jacobian(self, pose: Pose, point: np.ndarray, pairs: _Pairs) -> np.ndarray:
        arm = point[:, pairs.point] - pose.anchor[:, pairs.dof]  # (F, pairs, 3)
        velocity = _cross(pose.angular[:, pairs.dof], arm) + pose.linear[:, pairs.dof]
        return pairs.sum(velocity * pose.scale[:, pairs.dof, None], point.shape[1], self.dofs)

    def position_jacobian(self, pose: Pose) -> np.ndarray:
        """(F, S, 3, D) of the mimic-site positions."""
        return self._point_jacobian(pose, pose.body_pos, self._site_pairs)

    def rotation_jacobian(self, pose: Pose) -> np.ndarray:
        """(F, S, 3, D): world angular velocity of the mimic sites."""
        pairs = self._site_pairs
        velocity = pose.angular[:, pairs.dof] * pose.scale[:, pairs.dof, None]
        return pairs.sum(velocity, pose.body_pos.shape[1], self.dofs)

    def sole_jacobian(self, pose: Pose, points: np.ndarray) -> np.ndarray:
        """(F, G, 3, D) of world points (F, G, 3) m, one per sole geom and fixed to its body."""
        return self._point_jacobian(pose, points, self._sole_pairs)

    def step(self, qpos: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """Positions (F, Q) after a tangent step (F, D) in the independent dofs."""
        out = qpos.copy()
        out[:, self._hinge_qpos] += delta[:, self._hinge_columns]
        if self.body.free_root:
            out[:, :3] += delta[:, :3]
            turn = rotations.from_quaternion(qpos[:, 3:7]) @ rotations.exp(delta[:, 3:6])
            out[:, 3:7] = rotations.to_quaternion(turn)
        return self.body.couplings.enforce(out)

    def tangent(self, qpos: np.ndarray) -> np.ndarray:
        """Frame-to-frame steps (F - 1, D) in the independent dofs."""
        out = np.diff(self.coordinates(qpos), axis=0)
        if self.body.free_root:
            out[:, :3] = np.diff(qpos[:, :3], axis=0)
            turn = rotations.from_quaternion(qpos[:, 3:7])
            out[:, 3:6] = rotations.log(np.swapaxes(turn[:-1], 1, 2) @ turn[1:])
        return out

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """(D,) lower and upper bounds of the independent dofs' positions; infinite for the root."""
        low, high = np.full(self.dofs, -np.inf), np.full(self.dofs, np.inf)
        low[self._hinge_columns], high[self._hinge_columns] = self.body.joint_ranges[self.body.independent_hinges].T
        return low, high

    def coordinates(self, qpos: np.ndarray) -> np.ndarray:
        """(F, D) positions of the independent hinges; zero in the root's columns."""
        out = np.zeros((len(qpos), self.dofs))
        out[:, self._hinge_columns] = qpos[:, self._hinge_qpos]
        return out
