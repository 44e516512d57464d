"""Surfaces that can touch the floor, and the parts of the feet that make contact: heel, ball and toes.

A capsule's lowest point lies on one of its two end spheres and a box's on a corner, so that all but ellipsoids are
represented by spheres fixed to their links.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from torch import Tensor

from tools.retargeting import kernels
from tools.retargeting.kinematics import MotionKinematics, Points, Pose

LONG = 0.08  # m: a first sole body that reaches this far forward has a rear and a front part
SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
_CAPSULE, _BOX, _ELLIPSOID = (int(getattr(mujoco.mjtGeom, f"mjGEOM_{n}")) for n in ("CAPSULE", "BOX", "ELLIPSOID"))


@dataclass(frozen=True, eq=False)
class Surface:
    """Spheres and ellipsoids of some geoms.

    ========== ====================================================================== =================
    points     centres; the spheres come first, then the ellipsoids                   P points
    radius     of the spheres                                                         (P_s,) m
    axes       semi-axes of the ellipsoids as vectors in their links' frames          (P_e, 3, 3) m
    geoms      geom of each point                                                     (P,) int
    groups     part of the sole that each point belongs to, -1: none                  (P,) int
    names      of the parts: heel_l, ball_l, toe_l ...                                (K,)
    ========== ====================================================================== =================
    """

    points: Points
    radius: Tensor
    axes: Tensor
    geoms: np.ndarray
    groups: np.ndarray
    names: tuple[str, ...]

    def lowest(self, pose: Pose) -> Tensor:
        """Lowest surface points (F, P, 3) m in the world."""
        low = self.points.at(pose)
        pose.kinematics.launch(kernels.lowest_points, low.shape[:2], pose.rotation, self.points.links, self.radius,
                               self.axes, low)
        return low

    def parts(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Centre (F, K, 3) and lowest height (F, K) of every part of the soles, m."""
        center, low = self.points.at(pose).cpu().numpy(), self.lowest(pose)[..., 2].cpu().numpy()
        members = [np.flatnonzero(self.groups == k) for k in range(len(self.names))]
        frames = len(pose.qpos)
        if not members:
            return np.zeros((frames, 0, 3)), np.zeros((frames, 0))
        return (np.stack([center[:, m].mean(axis=1) for m in members], axis=1),
                np.stack([low[:, m].min(axis=1) for m in members], axis=1))


def solid_geoms(model: mujoco.MjModel) -> np.ndarray:
    """Geoms of the body that may touch the floor."""
    return np.flatnonzero((model.geom_contype != 0) & (model.geom_bodyid != 0))


def floor_surface(kinematics: MotionKinematics, geoms: np.ndarray) -> Surface:
    """Surface of the soles and of other ``geoms``."""
    body, model = kinematics.body, kinematics.body.model
    soles = [int(g) for ids in body.foot_geom_ids.values() for g in ids]
    everything = soles + [int(g) for g in geoms if int(g) not in soles]
    spheres, ellipsoids = [], []
    for g in everything:
        turn = np.zeros(9)
        mujoco.mju_quat2Mat(turn, model.geom_quat[g])
        turn, at, size = turn.reshape(3, 3), model.geom_pos[g], model.geom_size[g]
        kind = int(model.geom_type[g])
        if kind == _ELLIPSOID:
            ellipsoids.append((g, at, turn * size))
            continue
        if kind == _CAPSULE:
            ends, radius = [at + sign * size[1] * turn[:, 2] for sign in (-1.0, 1.0)], size[0]
        elif kind == _BOX:
            ends, radius = [at + turn @ (signs * size) for signs in SIGNS], 0.0
        else:
            ends, radius = [at], size[0]
        spheres += [(g, end, radius) for end in ends]
    ids = np.array([s[0] for s in spheres] + [e[0] for e in ellipsoids], dtype=int)
    local = np.array([s[1] for s in spheres] + [e[1] for e in ellipsoids]).reshape(-1, 3)
    place = kinematics.chain.body_place[model.geom_bodyid[ids[len(spheres):]]][:, :, :3]
    axes = np.einsum("pij,pjk->pik", place, np.array([e[2] for e in ellipsoids]).reshape(-1, 3, 3))
    groups, names = _parts(kinematics, ids[: len(spheres)], local[: len(spheres)])
    return Surface(
        points=kinematics.points(model.geom_bodyid[ids], local),
        radius=kinematics.tensor([s[2] for s in spheres]),
        axes=kinematics.tensor(axes),
        geoms=ids,
        groups=np.concatenate([groups, np.full(len(ellipsoids), -1)]),
        names=names,
    )


def _parts(kinematics: MotionKinematics, ids: np.ndarray, local: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Part of the sole of every sphere: bodies from the ankle outwards, long ones split across the foot's direction."""
    body, model = kinematics.body, kinematics.body.model
    data = mujoco.MjData(model)
    data.qpos[:] = body.neutral_qpos
    mujoco.mj_kinematics(model, data)
    groups, names = np.full(len(ids), -1), []
    for side, geoms in sorted(body.foot_geom_ids.items()):
        mine = np.isin(ids, geoms)
        bodies = np.unique(model.geom_bodyid[geoms])
        forward = data.geom_xpos[geoms[model.geom_bodyid[geoms] == bodies[-1]]].mean(axis=0) - data.xpos[bodies[0]]
        for k, b in enumerate(bodies):
            members = np.flatnonzero(mine & (model.geom_bodyid[ids] == b))
            along = local[members] @ (data.xmat[b].reshape(3, 3).T @ (forward / np.linalg.norm(forward)))
            split = k == 0 and np.ptp(along) > LONG
            front = along > along.mean() if split else np.zeros(len(members), dtype=bool)
            for part in (False, True) if split else (False,):
                kind = ("ball" if part else "heel") if split else "toe" if k else "sole"
                groups[members[front == part]] = len(names)
                names.append(f"{kind}_{side[0]}")
    return groups, tuple(names)
