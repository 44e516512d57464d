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


@cache
def load_body(name: str, fingers: bool = False) -> Embodiment:
    """Compile a body.

    Args:
        name: one of ``BODIES``.
        fingers: let the fingers move (ignored by bodies without).

    Raises:
        ValueError: no body has that name.
    """
    if name not in BODIES:
        near = get_close_matches(name, BODIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown body {name!r}: choose one of {', '.join(BODIES)}{hint}")
    return BODIES[name](fingers=fingers)
