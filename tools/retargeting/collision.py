"""The parts of a body that may touch each other, those of the model's explicit contact pairs, batched over frames."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from torch import Tensor

from tools.retargeting import distances
from tools.retargeting.kinematics import MotionKinematics, Pose
from tools.retargeting.launch import ragged
from tools.retargeting.solve import Normal

_SPHERE, _CAPSULE, _ELLIPSOID = (int(getattr(mujoco.mjtGeom, f"mjGEOM_{n}")) for n in ("SPHERE", "CAPSULE", "ELLIPSOID"))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs that may come close, E of them over all frames, frame by frame: frames (E,) and pair numbers (E,)."""

    frame: Tensor
    pair: Tensor

    def where(self, keep: Tensor) -> Candidates:
        """Those that are kept (E,)."""
        return Candidates(self.frame[keep], self.pair[keep])


class SelfCollision:
    """The explicit contact pairs of a body, floor excluded.

    Raises:
        ValueError: a pair holds a geom that is no sphere, capsule or ellipsoid.
    """

    def __init__(self, kinematics: MotionKinematics) -> None:
        self.kinematics = kinematics
        kinematics.launch.load(distances)
        model, chain = kinematics.body.model, kinematics.chain
        pairs = [(int(a), int(b)) for a, b in zip(model.pair_geom1, model.pair_geom2, strict=True)
                 if 0 not in (model.geom_bodyid[a], model.geom_bodyid[b])]
        ids = sorted({g for pair in pairs for g in pair})
        known = {_SPHERE, _CAPSULE, _ELLIPSOID}
        strange = [g for g in ids if int(model.geom_type[g]) not in known]
        if strange:
            raise ValueError(f"geom {model.geom(strange[0]).name!r} is in a contact pair but no sphere, capsule or "
                             "ellipsoid: extend tools/retargeting/distances.py or take the pair out of the model")
        turns = np.zeros((len(ids), 9))
        for k, g in enumerate(ids):
            mujoco.mju_quat2Mat(turns[k], model.geom_quat[g])
        bodies, kinds = model.geom_bodyid[ids], model.geom_type[ids]
        place = chain.body_place[bodies]
        number = {g: k for k, g in enumerate(ids)}
        ordered = [sorted((number[a], number[b]), key=lambda i: kinds[i] != _ELLIPSOID) for a, b in pairs]
        first, second = np.array(ordered, dtype=int).reshape(-1, 2).T
        links = chain.body_link[bodies]
        screw = {int(dof): v for v, dof in enumerate(kinematics.screw_dofs)}
        above = [{screw[dof] for dof in chain.above[link]} for link in links]
        apart = [sorted(above[i] ^ above[j]) for i, j in ordered]
        start, dofs = ragged(apart)
        index, tensor = kinematics.index, kinematics.tensor
        self.geoms = kinematics.launch.struct(
            distances.Geoms, link=index(links), turn=tensor(place[:, :, :3] @ turns.reshape(-1, 3, 3)),
            center=tensor(np.einsum("gij,gj->gi", place[:, :, :3], model.geom_pos[ids]) + place[:, :, 3]),
            size=tensor(model.geom_size[ids]), bound=tensor(model.geom_rbound[ids]),
            half=tensor(np.where(kinds == _CAPSULE, model.geom_size[ids, 1], 0.0)), first=index(first), second=index(second),
            kind=index((kinds[first] == _ELLIPSOID).astype(int) + (kinds[second] == _ELLIPSOID)),
            start=index(start), dofs=index(dofs),
            sign=tensor([1.0 if d in above[j] else -1.0 for (_, j), of_pair in zip(ordered, apart, strict=True)
                         for d in of_pair]),
        )
        self.links = torch.as_tensor(links[np.stack([first, second])], device=kinematics.device)  # (2, N) of the pairs
        self._columns = [{int(kinematics.column_of_dof[kinematics.screw_dofs[d]]) for d in of_pair} for of_pair in apart]

    def candidates(self, pose: Pose, reach: float) -> Candidates:
        """Pairs and frames with a distance below ``reach`` m."""
        near = torch.zeros(len(pose.qpos), self.links.shape[1], dtype=torch.bool, device=pose.qpos.device)
        self.kinematics.launch(distances.mark_near, near.shape, self.geoms, pose.position, pose.rotation, reach, near)
        frame, pair = near.nonzero(as_tuple=True)
        return Candidates(frame.int(), pair.int())

    def moved_by(self, candidates: Candidates, window: slice | None) -> Candidates:
        """Those candidates that dofs in a window move apart; all without one."""
        if window is None:
            return candidates
        inside = set(range(window.start, window.stop))
        moved = torch.tensor([bool(columns & inside) for columns in self._columns], device=self.kinematics.device)
        return candidates.where(moved[candidates.pair])

    def distance(self, pose: Pose, candidates: Candidates) -> Tensor:
        """(E,) m, negative where the two overlap."""
        out = pose.qpos.new_empty(len(candidates.pair))
        self.kinematics.launch(distances.measure, len(out), self.geoms, pose.position, pose.rotation, candidates.frame,
                               candidates.pair, out)
        return out

    def repel(self, pose: Pose, candidates: Candidates, room: float, weight: float, normal: Normal) -> None:
        """Add a row ``weight (room - d)^2 / room``, straight from touch on, for every candidate closer than ``room`` m."""
        frames = len(pose.qpos)
        counts = torch.bincount(candidates.frame, minlength=frames)
        first = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        self.kinematics.launch(
            distances.repel_rows, frames, self.geoms, normal.tables, pose.position, pose.rotation, pose.screw, first,
            candidates.pair, room, weight, pose.qpos.new_empty(frames, pose.screw.shape[1]), normal.hessian, normal.gradient,
            normal.cost,
        )
