"""Units of length: what ``units=`` takes, and whether a capture has the size and the speed of a person."""

from __future__ import annotations

import numpy as np

from tools.retargeting.skeleton import SIDES, Capture, CaptureError

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254}
LEG = (0.5, 1.25)  # m, thigh and shin: from a school child to the tallest adults
FASTEST = 15.0  # m/s: sprinters reach 12.4
HIGHEST = 10.0  # m above or below the origin; a floor is rarely further away


def metres(text: str) -> float:
    """Metres of one unit, given as a name or as a number.

    Raises:
        CaptureError: the text is neither.
    """
    try:
        scale = UNITS.get(text) or float(text)
    except ValueError:
        scale = float("nan")
    if not (np.isfinite(scale) and scale > 0):
        raise CaptureError(f"units={text}: choose {'|'.join(UNITS)} or give the metres of one unit, e.g. units=0.0254")
    return scale


def check_size(capture: Capture, name: str, told: bool) -> None:
    """Raise where lengths or speeds are not those of a person: then the file's unit is not the one that was read.

    Args:
        capture: what was read; ``provenance["unit_m"]`` holds the metres of one unit that were assumed.
        name: of the file.
        told: whether the unit was given by name; then the leg may have any length (a doll's, a child's).

    Raises:
        CaptureError: names the size and the units that would make sense.
    """
    unit = float(capture.provenance.get("unit_m", 1.0))
    leg = leg_length(capture)
    if not told and not LEG[0] <= leg <= LEG[1]:
        fitting = [u for u, scale in UNITS.items() if LEG[0] <= leg / unit * scale <= LEG[1] and scale != unit]
        remedy = (
            "the file is damaged" if not leg > 0.0
            else f"the lengths look like {' or '.join(fitting)}: give units={fitting[0]}" if fitting
            else f"give the metres of one unit, about units={0.85 / (leg / unit):.3g}"
        )
        raise CaptureError(f"{name}: read with {unit:g} m a unit, a leg (thigh and shin) is {leg:.3g} m long; {remedy} "
                           f"(units={unit:g} where it is as it should be)")
    middle = 0.5 * (capture.point("left_hip") + capture.point("right_hip"))
    speed = float(np.percentile(np.linalg.norm(np.diff(middle, axis=0), axis=1), 95.0)) * capture.fps
    height = float(np.median(middle[:, 2]))
    if speed > FASTEST or abs(height) > HIGHEST:
        raise CaptureError(
            f"{name}: the pelvis is {height:.3g} m high and moves at {speed:.3g} m/s; nobody does: the path is in another "
            f"unit than {unit:g} m (give units=cm, mm or inch), the frame rate is wrong (give fps_in=) or the file is damaged"
        )


def leg_length(capture: Capture) -> float:
    """Mean of both legs: median thigh plus median shin in m."""
    total = 0.0
    for side in SIDES:
        for a, b in (("hip", "knee"), ("knee", "ankle")):
            segment = capture.point(f"{side}_{b}") - capture.point(f"{side}_{a}")
            total += float(np.median(np.linalg.norm(segment, axis=1)))
    return 0.5 * total
