"""A body whose halves are exact mirror images, for the solver: rounding in the published model would tell left from right.

The published bodies are symmetric but for rounding: four bodies of the midline are turned by 1.571 instead of pi / 2, and
collision geoms differ by up to 0.1 mm from left to right. That is nothing to a fit, but where two postures are equally
good, it decides between them, and a mirrored capture would get another motion than the mirror image of the first.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from sim_models.muscles import mirror_name

RIGHT_ANGLE = 2e-3  # difference from a quaternion of right angles that counts as rounding
SAME_PLACE = 5e-3  # m: geoms closer than this to each other's mirror image are a pair
FLIP = np.array([1.0, 1.0, -1.0])  # bodies of limbs have z to the right
_CAPSULE = int(mujoco.mjtGeom.mjGEOM_CAPSULE)


def symmetric(body: Embodiment) -> Embodiment:
    """The body with a model of its own in which rounding errors between left and right are evened out."""
    model = copy(body.model)
    model.body_quat[:] = [_right_angles(quat) for quat in body.model.body_quat]
    for geom, partner in _pairs(body.model):
        _even_out(model, body.model, geom, partner)
    _even_masses(model)
    return replace(body, model=model)


def _right_angles(quat: np.ndarray) -> np.ndarray:
    """The nearest quaternion whose components are 0, 1/2, sqrt(1/2) or 1, where it differs by rounding only."""
    steps = np.array([0.0, 0.5, np.sqrt(0.5), 1.0])
    near = steps[np.abs(np.abs(quat)[:, None] - steps).argmin(axis=1)] * np.sign(quat)
    exact = abs(np.linalg.norm(near) - 1.0) < 1e-9 and np.abs(near - quat).max() < RIGHT_ANGLE
    return near if exact else quat


def _pairs(model: mujoco.MjModel) -> list[tuple[int, int]]:
    """Colliding geoms of limbs and their mirror images, every pair once."""
    names = {model.body(b).name: b for b in range(model.nbody)}
    paired = {int(g) for g in (*model.pair_geom1, *model.pair_geom2)}
    geoms = [g for g in range(model.ngeom) if model.geom_contype[g] or g in paired]
    out = []
    for g in geoms:
        name = model.body(model.geom_bodyid[g]).name
        other = names.get(mirror_name(name, set(names)), 0)
        if other <= model.geom_bodyid[g]:
            continue
        there = [h for h in geoms if model.geom_bodyid[h] == other and model.geom_type[h] == model.geom_type[g]]
        away = [np.abs(model.geom_pos[h] - FLIP * model.geom_pos[g]).max()
                + np.abs(model.geom_size[h] - model.geom_size[g]).max() for h in there]
        if away and min(away) < SAME_PLACE:
            out.append((g, there[int(np.argmin(away))]))
    return out


def _even_out(model: mujoco.MjModel, source: mujoco.MjModel, geom: int, partner: int) -> None:
    """Give two geoms the mean of one and the other's mirror image."""
    place = 0.5 * (source.geom_pos[geom] + FLIP * source.geom_pos[partner])
    size = 0.5 * (source.geom_size[geom] + source.geom_size[partner])
    model.geom_pos[geom], model.geom_pos[partner] = place, FLIP * place
    model.geom_size[[geom, partner]] = size
    if int(source.geom_type[geom]) == _CAPSULE:
        mine, theirs = _axis(source.geom_quat[geom]), FLIP * _axis(source.geom_quat[partner])
        mean = mine + theirs * np.sign(mine @ theirs)
        model.geom_quat[geom] = _to_axis(mean)
        model.geom_quat[partner] = _to_axis(FLIP * mean)


def _axis(quat: np.ndarray) -> np.ndarray:
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, quat)
    return turn.reshape(3, 3)[:, 2]


def _to_axis(axis: np.ndarray) -> np.ndarray:
    quat = np.zeros(4)
    mujoco.mju_quatZ2Vec(quat, axis / np.linalg.norm(axis))
    return quat


def _even_masses(model: mujoco.MjModel) -> None:
    """Give the bodies of both sides the mean mass and centre of mass."""
    names = {model.body(b).name: b for b in range(model.nbody)}
    for name, b in names.items():
        other = names.get(mirror_name(name, set(names)), b)
        if other > b:
            model.body_mass[[b, other]] = 0.5 * (model.body_mass[b] + model.body_mass[other])
            model.body_inertia[[b, other]] = 0.5 * (model.body_inertia[b] + model.body_inertia[other])
            place = 0.5 * (model.body_ipos[b] + FLIP * model.body_ipos[other])
            model.body_ipos[b], model.body_ipos[other] = place, FLIP * place
