"""Points of the soles that may carry floor forces."""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment

_SIGNS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


class SolePoints(NamedTuple):
    """Spheres swept by the sole geoms: every capsule end, sphere and box corner; ellipsoids as one moving point.

    ======== ====================================================== ============= ====
    geom     geom of each point                                     (P,) int
    body     body of each point                                     (P,) int
    centre   centre in the geom's frame                             (P, 3)        m
    radii    semi-axes of the ellipsoid around the centre           (P, 3)        m
    ======== ====================================================== ============= ====
    """

    geom: np.ndarray
    body: np.ndarray
    centre: np.ndarray
    radii: np.ndarray

    @classmethod
    def of(cls, body: Embodiment) -> SolePoints:
        """Sole points of all feet; none for a body without feet.

        Raises:
            ValueError: a sole geom is neither sphere, capsule, ellipsoid nor box.
        """
        geoms = [int(g) for ids in body.foot_geom_ids.values() for g in ids]
        rows = [(g, *row) for g in geoms for row in _surface(body.model, g)]
        geom = np.array([r[0] for r in rows], dtype=int)
        return cls(
            geom, body.model.geom_bodyid[geom] if len(geom) else geom,
            np.array([r[1] for r in rows]).reshape(-1, 3), np.array([r[2] for r in rows]).reshape(-1, 3),
        )

    def lowest(self, data: mujoco.MjData) -> np.ndarray:
        """World position (P, 3) of the lowest point of each ellipsoid, at the pose in ``data``."""
        rotation = data.geom_xmat[self.geom].reshape(-1, 3, 3)
        up = rotation[:, 2, :]  # world z in geom axes
        scaled = self.radii * up
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        local = self.centre - self.radii * scaled / np.maximum(length, 1e-12)
        return data.geom_xpos[self.geom] + np.einsum("pij,pj->pi", rotation, local)


def _surface(model: mujoco.MjModel, geom: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Centres and semi-axes of the ellipsoids that make up a geom's support."""
    size, kind = model.geom_size[geom], mujoco.mjtGeom(int(model.geom_type[geom]))
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return [(np.zeros(3), np.full(3, size[0]))]
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return [(np.array([0.0, 0.0, end * size[1]]), np.full(3, size[0])) for end in (-1.0, 1.0)]
    if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        return [(np.zeros(3), size.copy())]
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return [(signs * size, np.zeros(3)) for signs in _SIGNS]
    raise ValueError(f"sole geom {model.geom(geom).name!r} is a {kind.name}: use sphere, capsule, ellipsoid or box")
