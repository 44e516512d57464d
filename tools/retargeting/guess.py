"""The pose from which the solver starts: legs a little bent, arms where the directions of their segments put them.

A Gauss-Newton method follows the nearest valley. With an arm that is raised over the head it ends in the wrong one where it
starts from a hanging arm: elevation at its limit, the plane of elevation opposite. The arms' angles are therefore looked up
in a table of directions, and of the many that fit (a hanging or a raised arm shows no plane, a straight one no rotation)
those are taken that turn least over the whole motion, by dynamic programming.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim_models.embodiment import Embodiment
from tools.retargeting import rotations
from tools.retargeting.kinematics import MotionKinematics
from tools.retargeting.skeleton import SIDES
from tools.retargeting.targets import Skeleton, Targets

# rad: joints of the legs whose neutral angle leaves undefined which way the limb turns (a straight knee has no direction).
BENT = {"hip_flexion": 0.3, "knee_angle": 0.6}
GRID = {"elv_angle": 14, "shoulder_elv": 14, "shoulder_rot": 14, "elbow_flex": 6}  # angles of the table
TURNING = 0.02  # 1 / rad^2: what a turn of plane and rotation from frame to frame costs, beside squared errors of directions
RESTING = 1e-3  # 1 / rad^2: the same for their distance from zero, where they are neutral


@dataclass(frozen=True, eq=False)
class ArmTable:
    """Directions of an arm's segments at a grid of angles, seen from the trunk.

    ======== ========================================================= =================
    angles   elv_angle (A,), shoulder_elv (E,), shoulder_rot (R,),
             elbow_flex (X,)                                           rad
    upper    from shoulder to elbow                                    (A, E, 3)
    fore     from elbow to hand                                        (A, E, R, X, 3)
    between  cosine of the angle between the two                       (X,)
    ======== ========================================================= =================
    """

    angles: tuple[np.ndarray, ...]
    upper: np.ndarray
    fore: np.ndarray
    between: np.ndarray

    @classmethod
    def of(cls, kinematics: MotionKinematics, side: str) -> ArmTable:
        """Of a body's ``left`` or ``right`` arm."""
        body = kinematics.body
        joints = [body.model.joint(f"{name}_{side[0]}") for name in GRID]
        columns = [int(kinematics.column_of_dof[j.dofadr[0]]) for j in joints]
        angles = tuple(np.linspace(float(kinematics.low[c]), float(kinematics.high[c]), number)
                       for c, number in zip(columns, GRID.values(), strict=True))
        mesh = np.stack(np.meshgrid(*angles, indexing="ij"), axis=-1).reshape(-1, len(joints))
        qpos = np.tile(body.neutral_qpos, (len(mesh), 1))
        qpos[:, [int(j.qposadr[0]) for j in joints]] = mesh
        bodies = np.array([body.model.body(body.mimic_sites[f"{side}_{p}_mimic"]).id for p in ("shoulder", "elbow", "hand")])
        points = kinematics.points(bodies, np.zeros((3, 3)))
        at = points.at(kinematics.pose(kinematics.enforce(kinematics.tensor(qpos)))).cpu().numpy()
        upper, fore = (_unit(at[:, k + 1] - at[:, k]).reshape(*GRID.values(), 3) for k in range(2))
        return cls(angles, upper[:, :, 0, 0], fore, (upper * fore).sum(axis=-1)[0, 0, 0])

    def look_up(self, upper: np.ndarray, fore: np.ndarray) -> np.ndarray:
        """(F, 4) angles for directions (F, 3) of upper arm and forearm, seen from the trunk."""
        plane, elevation, rotation, flexion = self.angles
        order = np.argsort(self.between)
        bent = np.interp((upper * fore).sum(axis=1), self.between[order], flexion[order])
        bend = np.abs(flexion - bent[:, None]).argmin(axis=1)
        off = ((self.upper - upper[:, None, None]) ** 2).sum(axis=-1)  # (F, A, E)
        raised = off.argmin(axis=2)
        planes = np.arange(len(plane))
        there = self.fore[planes, raised, :, bend[:, None]]  # (F, A, R, 3)
        cost = off.min(axis=2)[:, :, None] + ((there - fore[:, None, None]) ** 2).sum(axis=-1)
        cost += RESTING * (plane[:, None] ** 2 + rotation**2)
        a, r = calmest(cost, TURNING * (plane[:, None] - plane) ** 2, TURNING * (rotation[:, None] - rotation) ** 2)
        return np.stack([plane[a], elevation[raised[np.arange(len(a)), a]], rotation[r], bent], axis=1)


def calmest(cost: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Path (F,), (F,) through costs (F, A, R) with costs of steps (A, A) and (R, R): the least sum (Viterbi's method)."""
    frames, best = len(cost), cost[0]
    came = np.empty((2, *cost.shape), dtype=int)
    for f in range(1, frames):
        along = best[:, None] + first[:, :, None]  # from a to a', (A, A, R)
        came[0, f], best = along.argmin(axis=0), along.min(axis=0)
        along = best[:, :, None] + second  # from r to r', (A, R, R)
        came[1, f], best = along.argmin(axis=1), along.min(axis=1) + cost[f]
    a, r = (np.empty(frames, dtype=int) for _ in range(2))
    a[-1], r[-1] = np.unravel_index(best.argmin(), best.shape)
    for f in range(frames - 1, 0, -1):
        r[f - 1] = came[1, f, a[f], r[f]]
        a[f - 1] = came[0, f, a[f], r[f - 1]]
    return a, r


class FirstGuess:
    """First guesses of motions of a body.

    Args:
        kinematics: of the body.
        skeleton: of the body.
    """

    def __init__(self, kinematics: MotionKinematics, skeleton: Skeleton) -> None:
        self.kinematics, self.skeleton = kinematics, skeleton
        self.arms = {side: ArmTable.of(kinematics, side) for side in SIDES}

    def __call__(self, targets: Targets) -> np.ndarray:
        """(F, Q) positions, the root where the pelvis should be."""
        body, names = self.kinematics.body, self.skeleton.names
        qpos = np.tile(body.neutral_qpos, (len(targets.position), 1))
        for joint, angle in BENT.items():
            for side in SIDES:
                if f"{joint}_{side[0]}" in body.joint_names:
                    qpos[:, _address(body, joint, side)] = angle
        trunk = self._turn(targets, "upper_body")
        for side, table in self.arms.items():
            shoulder, elbow, hand = (targets.position[:, names.index(f"{side}_{p}")] for p in ("shoulder", "elbow", "hand"))
            seen = [np.einsum("fji,fj->fi", trunk, _unit(v)) for v in (elbow - shoulder, hand - elbow)]
            qpos[:, [_address(body, joint, side) for joint in GRID]] = table.look_up(*seen)
        if body.free_root:
            turn = self._turn(targets, "pelvis")
            qpos[:, 3:7] = rotations.to_quaternion(turn @ rotations.from_quaternion(body.neutral_qpos[3:7]))
            qpos[:, :3] = targets.position[:, names.index("pelvis")]
        return body.couplings.enforce(qpos)

    def _turn(self, targets: Targets, site: str) -> np.ndarray:
        """(F, 3, 3) turn of a site from its orientation at the neutral pose; none where it has no wanted one."""
        k = self.skeleton.names.index(site)
        where = np.flatnonzero(targets.turn_sites == k)
        if not len(where):
            return np.broadcast_to(np.eye(3), (len(targets.position), 3, 3))
        return targets.turn[:, where[0]] @ self.skeleton.rest_mat[k].T


def _address(body: Embodiment, joint: str, side: str) -> int:
    return int(body.model.joint(f"{joint}_{side[0]}").qposadr[0])


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)
