"""The joints of a body as a tree of links, one joint each, parents first: tables for batched kinematics.

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
class Chain:
    """Links, numbered world, free root (if any), then the J with a joint: ``T_link = T_parent [fixed] turn(q) slide(q)``.

    ========== ==================================================================== ==============
    parent     link above                                                           (J,) int
    fixed      rotation and offset in the parent's frame, side by side              (J, 3, 4)
    qpos       address of the joint's coordinate                                    (J,) int
    origin     coordinate at which the joint is at rest                             (J,)
    slide      whether the joint slides along z; it turns about z otherwise         (J,) bool
    dof        dof address                                                          (J,) int
    above      dof addresses that move each link, those of the link itself last     L tuples
    body_link  link of each body, -1 where left out                                 (B,) int
    body_place placement of each body in the link's frame                           (B, 3, 4)
    ========== ==================================================================== ==============
    """

    parent: np.ndarray
    fixed: np.ndarray
    qpos: np.ndarray
    origin: np.ndarray
    slide: np.ndarray
    dof: np.ndarray
    above: tuple[tuple[int, ...], ...]
    body_link: np.ndarray
    body_place: np.ndarray

    @classmethod
    def of(cls, body: Embodiment, wanted: np.ndarray) -> Chain:
        """Chain of a body that carries the ``wanted`` body ids."""
        model = body.model
        needed = np.zeros(model.nbody, dtype=bool)
        for body_id in wanted:
            while body_id > 0 and not needed[body_id]:
                needed[body_id] = True
                body_id = int(model.body_parentid[body_id])
        joints, parents, fixed = [], [], []
        above: list[tuple[int, ...]] = [(), tuple(range(6))][: 1 + int(body.free_root)]
        body_link = np.full(model.nbody, -1)
        body_place = np.tile(_place(np.eye(3), np.zeros(3)), (model.nbody, 1, 1))
        body_link[0] = WORLD
        for b in range(1, model.nbody):
            if not needed[b]:
                continue
            turn = np.zeros(9)
            mujoco.mju_quat2Mat(turn, model.body_quat[b])
            link = int(body_link[model.body_parentid[b]])
            place = _times(body_place[model.body_parentid[b]], _place(turn.reshape(3, 3), model.body_pos[b]))
            for j in range(model.body_jntadr[b], model.body_jntadr[b] + model.body_jntnum[b]):
                if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE:
                    link, place = FREE, _place(np.eye(3), np.zeros(3))
                    continue
                align, at = _align(model.jnt_axis[j]), model.jnt_pos[j]
                joints.append(j)
                parents.append(link)
                fixed.append(_times(place, _place(align, at)))
                above.append((*above[link], int(model.jnt_dofadr[j])))
                link, place = len(above) - 1, _place(align.T, -align.T @ at)
            body_link[b], body_place[b] = link, place
        qpos = model.jnt_qposadr[joints]
        return cls(
            parent=np.array(parents), fixed=np.stack(fixed), qpos=qpos, origin=model.qpos0[qpos],
            slide=model.jnt_type[joints] == mujoco.mjtJoint.mjJNT_SLIDE, dof=model.jnt_dofadr[joints],
            above=tuple(above), body_link=body_link, body_place=body_place,
        )


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
