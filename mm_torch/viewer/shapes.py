"""Geometry of a body as triangles: what the web page draws, and coarser meshes for software rendering."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

SIDES = 16  # of round shapes
SHOWN_GROUPS = 3  # geoms of the groups 0, 1 and 2 are drawn, as MuJoCo does; wrapping and contact geoms are in 3 and 4
FINEST, COARSEST, CELLS = 1e-3, 4e-3, 20  # a mesh is resolved in its size / CELLS, but within these m


@dataclass(frozen=True, eq=False)
class Shape:
    """Triangles of one colour that move with a body.

    ======== ==================== ======= =======
    body     id                   int
    rgba     colour               (4,)    [0, 1]
    vertices in the body's frame  (V, 3)  m
    faces    rows of ``vertices`` (T, 3)
    ======== ==================== ======= =======
    """

    body: int
    rgba: tuple[float, ...]
    vertices: np.ndarray
    faces: np.ndarray


def body_shapes(model: mujoco.MjModel) -> list[Shape]:
    """All visible geoms but planes, those of one body and colour joined."""
    parts: dict[tuple[int, tuple[float, ...]], list[tuple[np.ndarray, np.ndarray]]] = {}
    for geom in np.flatnonzero((model.geom_group < SHOWN_GROUPS) & (model.geom_rgba[:, 3] > 0)):
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE:
            continue
        key = int(model.geom_bodyid[geom]), tuple(np.round(geom_colour(model, geom), 3).tolist())
        vertices, faces = geom_triangles(model, geom)
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        parts.setdefault(key, []).append((vertices @ rotation.reshape(3, 3).T + model.geom_pos[geom], faces))
    return [Shape(body, rgba, *_joined(pieces)) for (body, rgba), pieces in parts.items()]


def geom_colour(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """(4,) colour of a geom, its material's where it has one."""
    material = model.geom_matid[geom]
    return model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]


def geom_triangles(model: mujoco.MjModel, geom: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) m and faces (T, 3) of a geom in its own frame.

    Raises:
        ValueError: a geom of another kind than mesh, sphere, ellipsoid, capsule, cylinder and box.
    """
    kind, size = mujoco.mjtGeom(int(model.geom_type[geom])), model.geom_size[geom]
    quarter = np.linspace(0.0, np.pi / 2, SIDES // 4 + 1)
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        return coarse(*mesh_triangles(model, model.geom_dataid[geom]))
    if kind in (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_ELLIPSOID):
        vertices, faces = _turned(_ball(quarter, 1.0, 0.0))
        return vertices * (size[0] if kind == mujoco.mjtGeom.mjGEOM_SPHERE else size), faces
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return _turned(_ball(quarter, size[0], size[1]))
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return _turned(np.array([[0.0, -size[1]], [size[0], -size[1]], [size[0], size[1]], [0.0, size[1]]]))
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * size
        quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
        return corners, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    raise ValueError(f"geom {model.geom(geom).name!r} is a {kind.name}, which no viewer draws yet")


def mesh_triangles(model: mujoco.MjModel, mesh: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) m and faces (T, 3) of a mesh of the model."""
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    return vertices, model.mesh_face[model.mesh_faceadr[mesh] :][: model.mesh_facenum[mesh]]


def clusters(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of a mesh gathered in the cells of a grid.

    Returns:
        Cell (V,) of each vertex, mean position (U, 3) of each cell.
    """
    cell = np.clip(np.ptp(vertices, axis=0).max() / CELLS, FINEST, COARSEST)
    places = np.floor((vertices - vertices.min(axis=0)) / cell).astype(np.int64)
    member = np.unique(places @ np.array([1, 1 << 20, 1 << 40]), return_inverse=True)[1]
    counts = np.bincount(member)
    return member, np.stack([np.bincount(member, weights=v) / counts for v in vertices.T], axis=1)


def coarse(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mesh with the vertices of each cell made one, and the triangles that are left."""
    member, means = clusters(vertices)
    faces = member[faces]
    return means, faces[_proper(faces)]


def coarsen(model: mujoco.MjModel) -> None:
    """Make the meshes of a model coarse, in place and for drawing only: a software renderer is then several times as fast."""
    for mesh in range(model.nmesh):
        vertices, faces = mesh_triangles(model, mesh)
        member, means = clusters(vertices)
        first = np.unique(member, return_index=True)[1]
        keep = _proper(member[faces])
        normals = model.mesh_facenormal[model.mesh_faceadr[mesh] :][: len(faces)]
        kept_faces, kept_normals = first[member[faces[keep]]], normals[keep]
        vertices[first] = means
        faces[: len(kept_faces)], normals[: len(kept_normals)] = kept_faces, kept_normals
        model.mesh_facenum[mesh] = len(kept_faces)


def _proper(faces: np.ndarray) -> np.ndarray:
    return (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])


def _ball(quarter: np.ndarray, radius: float, half: float) -> np.ndarray:
    """Outline (P, 2) of a capsule, distance from the axis and height."""
    low = np.stack([radius * np.sin(quarter), -half - radius * np.cos(quarter)], axis=1)
    return np.concatenate([low, low[::-1] * [1.0, -1.0]])


def _turned(outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Surface that an outline (P, 2), from bottom to top, sweeps about the z axis; normals point outward."""
    angle = 2.0 * np.pi * np.arange(SIDES) / SIDES
    rings = np.stack([np.outer(outline[:, 0], np.cos(angle)), np.outer(outline[:, 0], np.sin(angle)),
                      np.outer(outline[:, 1], np.ones(SIDES))], axis=-1)
    return rings.reshape(-1, 3), np.array([triangle for low in range(len(outline) - 1) for triangle in _band(low)])


def _band(low: int) -> Iterator[tuple[int, int, int]]:
    for side in range(SIDES):
        a, b = low * SIDES + side, low * SIDES + (side + 1) % SIDES
        yield a, b, b + SIDES
        yield a, b + SIDES, a + SIDES


def _joined(pieces: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *(len(v) for v, _ in pieces)])
    return (np.concatenate([v for v, _ in pieces]),
            np.concatenate([f + start for (_, f), start in zip(pieces, starts[:-1], strict=True)]))
