"""Mirror images of observations and actions at the sagittal plane of the body."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mm_torch.config.load import RecipeError
from mm_torch.maths.reflection import Reflection
from sim_models.embodiment import Embodiment
from sim_models.muscles import mirror_name

Block = tuple[np.ndarray, np.ndarray]  # index and sign of one block of entries


def _scalar(body: Embodiment) -> Block:
    return np.zeros(1, dtype=int), np.ones(1)


def _vector(body: Embodiment) -> Block:
    sign = np.ones(3)
    sign[body.lateral_axis] = -1.0
    return np.arange(3), sign


def _pseudovector(body: Embodiment) -> Block:
    index, sign = _vector(body)
    return index, -sign


def _twist(body: Embodiment) -> Block:
    return _join(_vector(body), _pseudovector(body))


def _joints(body: Embodiment) -> Block:
    partner, sign = body.mirror_joints
    place = {joint: k for k, joint in enumerate(body.independent_hinges)}
    rows = np.array([np.flatnonzero(body.hinge_ids == joint)[0] for joint in body.independent_hinges])
    return np.array([place[joint] for joint in body.hinge_ids[partner[rows]]]), sign[rows]


def _muscles(body: Embodiment) -> Block:
    return body.mirror_muscles, np.ones(len(body.mirror_muscles))


def _touch(body: Embodiment) -> Block:
    names = body.touch_sensors
    return np.array([names.index(mirror_name(n, set(names))) for n in names], dtype=int), np.ones(len(names))


def _sites(body: Embodiment) -> Block:
    return _vectors_at(body, body.mirror_sites)


def _sites_but_the_main(body: Embodiment) -> Block:
    return _vectors_at(body, body.mirror_sites[1:] - 1)


def _vectors_at(body: Embodiment, partner: np.ndarray) -> Block:
    index, sign = _vector(body)
    return (3 * partner[:, None] + index).reshape(-1), np.tile(sign, len(partner))


def _join(first: Block, second: Block) -> Block:
    return np.concatenate([first[0], second[0] + len(first[0])]), np.concatenate([first[1], second[1]])


TERMS: dict[str, Callable[[Embodiment], Block]] = {
    "root_height": _scalar,
    "root_up_b": _vector,
    "root_velocity_b": _twist,
    "joint_position": _joints,
    "joint_velocity": _joints,
    "muscle_activation": _muscles,
    "muscle_length": _muscles,
    "muscle_velocity": _muscles,
    "muscle_force": _muscles,
    "touch": _touch,
    "site_position_h": _sites_but_the_main,
    "ref_site_error_h": _sites,
    "ref_root_rotation_b": _pseudovector,
    "ref_root_velocity_b": _twist,
    "ref_joint_error": _joints,
    "ref_joint_velocity": _joints,
    "ref_activation": _muscles,
    "phase": _scalar,
}
"""Mirror image of an observation term; a term of several look-ahead frames repeats it."""


def mirror_observation(body: Embodiment, layout: Sequence[tuple[str, int, int]]) -> Reflection:
    """Mirror image of the observation, (O,).

    Args:
        body: embodiment.
        layout: name, first and last column (exclusive) of each term, as in ``observation.layout``.

    Raises:
        RecipeError: a term has no mirror image.
    """
    parts: Block = (np.zeros(0, dtype=int), np.zeros(0))
    for name, start, end in layout:
        if name not in TERMS:
            raise RecipeError(f"net.symmetric: the observation term {name} has no mirror image; leave one of the two out")
        index, sign = TERMS[name](body)
        for _ in range((end - start) // max(len(index), 1)):
            parts = _join(parts, (index, sign))
    return _reflection(parts)


def mirror_action(body: Embodiment, space: str) -> Reflection:
    """Mirror image of the action, (A,), in ``task.action.space``."""
    return _reflection(_joints(body) if space == "joint" else _muscles(body))


def _reflection(block: Block) -> Reflection:
    return Reflection(torch.as_tensor(block[0], dtype=torch.long), torch.as_tensor(block[1], dtype=torch.float32))
