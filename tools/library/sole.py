"""The foot on the floor: lowest points of the sole, and how a foot rolls over it without slipping."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment


def lowest_surface_points(
    kind: np.ndarray, size: np.ndarray, position: np.ndarray, rotation: np.ndarray
) -> np.ndarray:
    """Lowest surface point of each geom (sphere, capsule, ellipsoid or box).

    Args:
        kind: (G,) MuJoCo geom types.
        size: (G, 3) MuJoCo geom sizes.
        position: (G, 3) m, world.
        rotation: (G, 3, 3), geom to world.

    Returns:
        (G, 3) m, world.
    """
    down = -rotation[:, 2, :]  # world down in geom axes
    ball = size[:, :1] * down
    capsule = ball + np.stack([0 * down[:, 0], 0 * down[:, 0], np.sign(down[:, 2]) * size[:, 1]], axis=1)
    ellipsoid = size**2 * down / np.linalg.norm(size * down, axis=1, keepdims=True)
    types = mujoco.mjtGeom
    choices = {types.mjGEOM_CAPSULE: capsule, types.mjGEOM_ELLIPSOID: ellipsoid, types.mjGEOM_BOX: np.sign(down) * size}
    local = np.select([(kind == k)[:, None] for k in choices], list(choices.values()), default=ball)
    return position + np.einsum("gij,gj->gi", rotation, local)


def turn(axis: int, angle: float | np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) about a world axis by an angle in rad."""
    angle = np.asarray(angle, dtype=float)
    out = np.zeros((*angle.shape, 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[..., axis, axis] = 1.0
    out[..., i, i] = out[..., j, j] = np.cos(angle)
    out[..., j, i], out[..., i, j] = np.sin(angle), -np.sin(angle)
    return out


@dataclass(frozen=True)
class RollOver:
    """Path of a rolling foot: heel bone orientation (n, 3, 3), its origin (n, 3) in m, toe joint angle (n,) in rad.

    The origin starts at x = y = 0; its height is such that the sole touches z = 0.
    """

    rotation: np.ndarray
    origin: np.ndarray
    toe: np.ndarray


class Foot:
    """Geometry of the right foot: sole geoms in the frames of heel bone and toes.

    Args:
        body: embodiment with feet; it faces -y at ``qpos0`` with x to its left.
    """

    def __init__(self, body: Embodiment) -> None:
        model, self._data = body.model, mujoco.MjData(body.model)
        self._model = model
        self._neutral = body.neutral_qpos
        self.heel, self.toes = model.body("calcn_r").id, model.body("toes_r").id
        self._toe_adr = model.joint("mtp_angle_r").qposadr[0]
        self._geoms = body.foot_geom_ids["right"]
        self._on_toes = model.geom_bodyid[self._geoms] == self.toes
        self._place(0.0)
        self.flat = self._data.xmat[self.heel].reshape(3, 3).copy()  # orientation of the heel bone, foot flat

    def _place(self, toe: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Geom and toe poses in the heel bone's frame at a toe angle."""
        data = self._data
        data.qpos[:] = self._neutral
        data.qpos[self._toe_adr] = toe
        mujoco.mj_kinematics(self._model, data)
        to_heel = data.xmat[self.heel].reshape(3, 3).T
        origin = data.xpos[self.heel]
        geom_x = (data.geom_xpos[self._geoms] - origin) @ to_heel.T
        geom_r = to_heel @ data.geom_xmat[self._geoms].reshape(-1, 3, 3)
        toe_x = to_heel @ (data.xpos[self.toes] - origin)
        return geom_x, geom_r, toe_x, to_heel @ data.xmat[self.toes].reshape(3, 3)

    def orientation(self, pitch: np.ndarray, toe_out: float) -> np.ndarray:
        """Heel bone orientations (n, 3, 3) at pitches (n,), toes up positive, turned outward by ``toe_out`` rad."""
        return turn(2, -toe_out) @ turn(0, -np.asarray(pitch)) @ self.flat

    def sole(self, rotation: np.ndarray, toe: float) -> np.ndarray:
        """Lowest point of each sole geom (G, 3) relative to the heel bone's origin, in world axes."""
        geom_x, geom_r, _, _ = self._place(toe)
        kind, size = self._model.geom_type[self._geoms], self._model.geom_size[self._geoms]
        return lowest_surface_points(kind, size, geom_x @ rotation.T, rotation @ geom_r)

    def roll(self, pitch: np.ndarray, toe: np.ndarray, toe_out: float) -> RollOver:
        """Roll without slipping: between samples the material point that touches the floor does not move.

        Args:
            pitch: (n,) rad, toes up positive.
            toe: (n,) rad, toe joint angle.
            toe_out: rad.
        """
        rotation = self.orientation(pitch, toe_out)
        origin = np.zeros((len(pitch), 3))
        touch = []
        for k in range(len(pitch)):
            points = self.sole(rotation[k], toe[k])
            touch.append((int(np.argmin(points[:, 2])), points[np.argmin(points[:, 2])]))
            origin[k, 2] = -points[:, 2].min()
        for k in range(len(pitch) - 1):
            now = self._carried(touch[k], rotation[[k, k + 1]], toe[[k, k + 1]]) - touch[k][1]
            later = touch[k + 1][1] - self._carried(touch[k + 1], rotation[[k + 1, k]], toe[[k + 1, k]])
            origin[k + 1, :2] = origin[k, :2] - 0.5 * (now + later)[:2]
        return RollOver(rotation, origin, toe)

    def _carried(self, touch: tuple[int, np.ndarray], rotation: np.ndarray, toe: np.ndarray) -> np.ndarray:
        """Where the material point that touches in the first of two configurations lies in the second."""
        geom, point = touch
        local = rotation[0].T @ point
        if self._on_toes[geom]:
            _, _, x0, r0 = self._place(toe[0])
            _, _, x1, r1 = self._place(toe[1])
            local = x1 + r1 @ r0.T @ (local - x0)
        return rotation[1] @ local
