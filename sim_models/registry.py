"""The bodies by name. A further body is a further entry."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache

from sim_models.bimanual import myo_bimanual
from sim_models.embodiment import Embodiment
from sim_models.fullbody import myo_fullbody
from sim_models.toy import toy_arm

BODIES: dict[str, Callable[..., Embodiment]] = {
    "myo_fullbody": myo_fullbody,
    "myo_bimanual": myo_bimanual,
    "toy_arm": toy_arm,
}


class BodyError(ValueError):
    """No body has the name asked for."""


def load_body(name: str, fingers: bool = False) -> Embodiment:
    """The body of that name, compiled once per process.

    Args:
        name: one of ``BODIES``.
        fingers: let the fingers move (ignored by bodies without).

    Raises:
        BodyError: no body has that name.
    """
    if name not in BODIES:
        near = get_close_matches(name, BODIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BodyError(f"unknown body {name!r}: choose one of {', '.join(BODIES)}{hint}")
    return _compile(name, fingers)


@cache
def _compile(name: str, fingers: bool) -> Embodiment:  # one call form, so that the cache knows each body once
    return BODIES[name](fingers=fingers)
