"""What an evaluation does to the body: pushes from random directions, and muscles weaker than they should be."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

import mujoco
import numpy as np

from mm_torch.config.load import RecipeError
from sim_models.embodiment import Embodiment

_SIDE = re.compile(r"_(?:r|l|left|right)$")
_LEFT = re.compile(r"_(?:l|left)$")


@dataclass(frozen=True)
class Push:
    """Sudden horizontal impulses on one site, one in every interval, at a random time from a random direction.

    ======= ============================================================== =====
    impulse size of each                                                   N s
    every   length of the interval that each falls into                    s
    site    mimic site whose body is pushed at its origin; None: the main site
    ======= ============================================================== =====
    """

    impulse: float
    every: float = 1.0
    site: str | None = None


class Pushes:
    """Pushes on a body: when, from where, and by how much the velocities change.

    Args:
        body: embodiment.
        push: size, interval and site.
        fps: control rate in 1/s.

    Raises:
        RecipeError: no such site, one that cannot move, or an interval shorter than a control step.
    """

    def __init__(self, body: Embodiment, push: Push, fps: float) -> None:
        site = body.site_names[0] if push.site is None else push.site
        if site not in body.mimic_sites:
            near = get_close_matches(site, body.site_names, n=1) or body.site_names[:4]
            raise RecipeError(f"push_site={site}: {body.name} has no such mimic site; try {', '.join(near)}")
        self.body, self.impulse = body, push.impulse
        self._body_id = int(body.site_body_ids[body.site_names.index(site)])
        if body.model.body_weldid[self._body_id] == 0:
            raise RecipeError(f"push_site={site}: that part of {body.name} cannot move; push_site=SITE names another, for "
                              f"example {body.site_names[-1]}")
        self._interval = round(push.every * fps)
        if self._interval < 1:
            raise RecipeError(f"push_every={push.every:g}: shorter than a control step of {1 / fps:g} s")
        self._data = mujoco.MjData(body.model)

    def schedule(self, clip: int, seed: int, steps: int) -> dict[int, np.ndarray]:
        """Control steps before which a push falls, with its impulse (3,) N s in world axes.

        Args:
            clip: number that stands for the clip.
            seed: another one gives other times and directions.
            steps: control steps of the clip.
        """
        rng = np.random.default_rng([clip, seed])
        pushes = {}
        for start in range(0, steps, self._interval):
            step, angle = start + int(rng.integers(self._interval)), rng.uniform(0.0, 2.0 * np.pi)
            if 0 < step < steps:
                pushes[step] = self.impulse * np.array([np.cos(angle), np.sin(angle), 0.0])
        return pushes

    def velocity_change(self, qpos: np.ndarray, impulse: np.ndarray) -> np.ndarray:
        """Change of velocities by a sudden impulse.

        ``dv = T (T' M T)^-1 T' J' p``: mass matrix M, Jacobian J of the pushed point, couplings T kept. The floor answers in
        the steps that follow.

        Args:
            qpos: (Q,).
            impulse: (3,) N s, world.

        Returns:
            (V,).
        """
        model, data = self.body.model, self._data
        data.qpos[:] = qpos
        mujoco.mj_fwdPosition(model, data)
        mass, jacobian = np.zeros((model.nv, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_fullM(model, data, mass)
        mujoco.mj_jacBody(model, data, jacobian, None, self._body_id)
        free = self.body.couplings.jacobian(qpos)
        return free @ np.linalg.solve(free.T @ mass @ free, free.T @ jacobian.T @ impulse)


def muscles_named(body: Embodiment, name: str) -> np.ndarray:
    """Ids of the muscles that a name stands for.

    A name is a group (``right_leg``), or a muscle: with its side (``soleus_r``, ``DELT1_left``, ``DELT1_right``) or without
    for both sides (``soleus``), and without number for all its parts (``glmax``, ``DELT``).

    Raises:
        RecipeError: names the nearest that the body has.
    """
    if name in body.muscle_groups:
        return body.muscle_groups[name]

    def fits(muscle: str) -> bool:
        stem = _SIDE.sub("", muscle)
        same_side = not _SIDE.search(name) or bool(_LEFT.search(name)) == bool(_LEFT.search(muscle))
        return same_side and _SIDE.sub("", name) in (stem, stem.rstrip("0123456789"))

    found = np.array([i for i, muscle in enumerate(body.muscle_names) if fits(muscle)], dtype=int)
    if not len(found):
        known = [*body.muscle_groups, *dict.fromkeys(_SIDE.sub("", m) for m in body.muscle_names)]
        near = get_close_matches(name, known, n=3) or list(body.muscle_groups)
        raise RecipeError(f"strength={name}: {body.name} has no such muscle or group; try {', '.join(near)}")
    return found


def weakened(body: Embodiment, strength: dict[str, float]) -> Embodiment:
    """The body with the peak isometric forces of some muscles multiplied, active and passive force alike.

    Args:
        body: embodiment; it stays as it is.
        strength: muscle or group (see ``muscles_named``) to factor; factors of a muscle named twice multiply.

    Raises:
        RecipeError: no such muscle, or a factor that is negative or not finite.
    """
    if not strength:
        return body
    model = copy.copy(body.model)
    for table in (model.actuator_gainprm, model.actuator_biasprm):
        given = table[:, 2] >= 0
        table[:, 2] = np.where(given, table[:, 2], table[:, 3] / model.actuator_acc0)
    for name, factor in strength.items():
        if not (np.isfinite(factor) and factor >= 0):
            raise RecipeError(f"strength={name}:{factor:g}: a factor is 0 or more; 0.5 halves a muscle's force")
        muscles = muscles_named(body, name)
        model.actuator_gainprm[muscles, 2] *= factor
        model.actuator_biasprm[muscles, 2] *= factor
    return replace(body, model=model)


def read_strength(text: str) -> tuple[tuple[str, float], ...]:
    """``soleus:0.5,right_leg:0.8`` as pairs.

    Raises:
        RecipeError: a part is no ``NAME:FACTOR``.
    """
    pairs = []
    for part in filter(None, text.split(",")):
        name, _, factor = part.partition(":")
        try:
            pairs.append((name, float(factor)))
        except ValueError:
            raise RecipeError(f"strength={text}: {part!r} is no NAME:FACTOR; write for example strength=soleus:0.5") from None
    return tuple(pairs)
