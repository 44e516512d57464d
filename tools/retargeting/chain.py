"""The joints of a body as a tree of links, one joint each, sorted by depth: tables for batched kinematics.

A link's frame has its joint's axis as z. Bodies without joints are merged into the link that carries them, and joints
that move nothing of interest (a kneecap) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment

WORLD, FREE = 0, 1  # link numbers: the world and, on a free root, the root body


@dataclass(frozen=True, eq=False)
class Level:
    """Links of one depth: ``T_link = T_parent [fixed] turn(q) slide(q)``.

    ========= ============================================================ ============
    parent    index within the level above                                 (n,) int
    fixed     rotation and offset in the parent's frame, side by side      (n, 3, 4)
    qpos      address of the joint's coordinate                            (n,) int
    origin    coordinate at which the joint is at rest                     (n,)
    slide     whether the joint slides along z; it turns about z otherwise (n,) bool
    dof       dof address                                                  (n,) int
    ========= ============================================================ ============
    """

    parent: np.ndarray
    fixed: np.ndarray
    qpos: np.ndarray
    origin: np.ndarray
    slide: np.ndarray
    dof: np.ndarray


@dataclass(frozen=True, eq=False)
class Chain:
    """Levels, and where every body hangs: link number and placement (3, 4) in the link's frame; -1 where left out.

    Links are numbered world, free root (if any), then level by level. ``dof_of_link`` is -1 for world and root;
    ``above`` lists for each link the dofs that move it.
    """

    levels: tuple[Level, ...]
    body_link: np.ndarray
    body_place: np.ndarray
    dof_of_link: np.ndarray
    above: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, body: Embodiment, wanted: np.ndarray) -> Chain:
        """Chain of a body that carries the ``wanted`` body ids."""
        return _Builder(body, wanted).build()


def _place(rotation: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.concatenate([rotation, offset[:, None]], axis=1)


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _place(a[:, :3] @ b[:, :3], a[:, :3] @ b[:, 3] + a[:, 3])


def _align(axis: np.ndarray) -> np.ndarray:
    """(3, 3) rotation whose z column is ``axis``."""
    axis = axis / np.linalg.norm(axis)
    first = np.cross(np.eye(3)[np.abs(axis).argmin()], axis)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first), axis], axis=1)


class _Builder:
    def __init__(self, body: Embodiment, wanted: np.ndarray) -> None:
        self.model = body.model
        self.free = body.free_root
        self.needed = np.zeros(self.model.nbody, dtype=bool)
        for body_id in wanted:
            while body_id > 0 and not self.needed[body_id]:
                self.needed[body_id] = True
                body_id = int(self.model.body_parentid[body_id])
        identity = _place(np.eye(3), np.zeros(3))
        self.link = np.full(self.model.nbody, -1)
        self.place = np.tile(identity, (self.model.nbody, 1, 1))
        self.link[0] = WORLD
        self.nodes: list[tuple[int, int, np.ndarray, int]] = []  # depth, parent link, fixed, joint
        self.depth = {WORLD: 0, **({FREE: 0} if self.free else {})}

    def build(self) -> Chain:
        model = self.model
        first = len(self.depth)
        for b in range(1, model.nbody):
            if self.needed[b]:
                self._add(b, first)
        order = sorted(range(len(self.nodes)), key=lambda k: self.nodes[k][0])
        number = {old + first: new + first for new, old in enumerate(order)} | {k: k for k in range(first)}
        levels, place_in_level = [], {k: k for k in range(first)}
        for depth in range(1, max((n[0] for n in self.nodes), default=0) + 1):
            members = [k for k in order if self.nodes[k][0] == depth]
            joints = np.array([self.nodes[k][3] for k in members])
            levels.append(Level(
                parent=np.array([place_in_level[self.nodes[k][1]] for k in members]),
                fixed=np.stack([self.nodes[k][2] for k in members]),
                qpos=model.jnt_qposadr[joints],
                origin=model.qpos0[model.jnt_qposadr[joints]],
                slide=model.jnt_type[joints] == mujoco.mjtJoint.mjJNT_SLIDE,
                dof=model.jnt_dofadr[joints],
            ))
            place_in_level |= {k + first: i for i, k in enumerate(members)}
        dof_of_link = [-1] * first + [int(model.jnt_dofadr[self.nodes[k][3]]) for k in order]
        above: list[tuple[int, ...]] = [(), tuple(range(6))][:first]
        for new, k in enumerate(order):
            parent = number[self.nodes[k][1]]
            above.append((*above[parent], dof_of_link[new + first]))
        link = np.array([number.get(int(x), -1) for x in self.link])
        return Chain(tuple(levels), link, self.place, np.array(dof_of_link), tuple(above))

    def _add(self, b: int, first: int) -> None:
        model, parent = self.model, int(self.model.body_parentid[b])
        quat = np.zeros(9)
        mujoco.mju_quat2Mat(quat, model.body_quat[b])
        link = int(self.link[parent])
        place = _times(self.place[parent], _place(quat.reshape(3, 3), model.body_pos[b]))
        for j in range(model.body_jntadr[b], model.body_jntadr[b] + model.body_jntnum[b]):
            if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE:
                link, place = FREE, _place(np.eye(3), np.zeros(3))
                continue
            align, at = _align(model.jnt_axis[j]), model.jnt_pos[j]
            depth = self.depth[link] + 1
            self.nodes.append((depth, link, _times(place, _place(align, at)), j))
            link = first + len(self.nodes) - 1
            self.depth[link] = depth
            place = _place(align.T, -align.T @ at)
        self.link[b], self.place[b] = link, place
