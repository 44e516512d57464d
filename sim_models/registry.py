"""The bodies by name. A further body is a further entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache

import mujoco

from sim_models import bimanual, fullbody, toy
from sim_models.bimanual import myo_bimanual
from sim_models.embodiment import Embodiment
from sim_models.fixes import FixError
from sim_models.fullbody import myo_fullbody
from sim_models.toy import toy_arm

BODIES: dict[str, Callable[..., Embodiment]] = {
    "myo_fullbody": myo_fullbody,
    "myo_bimanual": myo_bimanual,
    "toy_arm": toy_arm,
}
PUBLISHED: dict[str, Callable[[], mujoco.MjSpec]] = {  # the models before any edit
    "myo_fullbody": fullbody.published,
    "myo_bimanual": bimanual.published,
    "toy_arm": toy.published,
}


class BodyError(ValueError):
    """No body has the name asked for."""


def load_body(name: str, fingers: bool = False, fixes: Iterable[str] = ()) -> Embodiment:
    """The body of that name, compiled once per process.

    Args:
        name: one of ``BODIES``.
        fingers: let the fingers move (ignored by bodies without).
        fixes: repairs of ``sim_models.fixes`` to make; none leaves the published model.

    Raises:
        BodyError: no body has that name, or a fix is unknown or does not apply.
    """
    check_name(name)
    try:
        return _compile(name, fingers, tuple(sorted(set(fixes))))
    except FixError as error:
        raise BodyError(str(error)) from error


def check_name(name: str) -> None:
    """Refuse a name that no body has.

    Raises:
        BodyError: names the nearest body.
    """
    if name not in BODIES:
        near = get_close_matches(name, BODIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BodyError(f"unknown body {name!r}: choose one of {', '.join(BODIES)}{hint}")


@cache
def _compile(name: str, fingers: bool, fixes: tuple[str, ...]) -> Embodiment:  # one call form: each body once
    return BODIES[name](fingers=fingers, fixes=fixes)
