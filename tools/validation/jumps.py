"""Muscle jumps: lengths that change discontinuously while a joint moves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim_models.muscles import FINGER_JOINT
from tools.validation.findings import Finding
from tools.validation.subject import Subject, Sweep

FLOOR, RATIO = 5e-5, 8.0  # a step is suspect above this residual (m) and this multiple of the curve's median
WIDTH = 2e-6  # rad or m, where bisection ends
SHORT = 8e-5  # rad or m; below it lengths decide alone, because differences of slopes would straddle the jump
FINE = 1e-7  # rad or m, central difference while bisecting
JUMP, SERIOUS = 1e-4, 1e-3  # m
POSTURES, POSTURE_POINTS = 3, 91


def discontinuities(subject: Subject, base: np.ndarray, sweep: Sweep) -> Iterator[tuple[int, float, float]]:
    """Tendon, joint position and size (m) of each jump in a sweep.

    A step is suspect where the length departs from the trapezoid of its slopes, ``|dL - (s1 + s2) dq / 2|``; it is
    bisected, the half with the larger departure kept, and what remains of ``dL`` is the jump.
    """
    step = np.diff(sweep.grid)[:, None]
    residual = np.abs(np.diff(sweep.length, axis=0) - step * (sweep.slope[:-1] + sweep.slope[1:]) / 2)
    bound = np.maximum(FLOOR, RATIO * np.median(residual, axis=0))
    for i, tendon in zip(*np.nonzero(residual > bound), strict=True):
        where, size = _bisect(subject, base, sweep.joint, int(tendon), sweep.grid[i], sweep.grid[i + 1])
        if size > JUMP:
            yield int(tendon), where, size


def _bisect(subject: Subject, base: np.ndarray, joint: int, tendon: int, low: float, high: float) -> tuple[float, float]:
    def point(q: float) -> tuple[float, float, float]:
        return q, subject.at(base, joint, q)[tendon], subject.slopes(base, joint, q, FINE)[tendon]

    def departure(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
        return abs(b[1] - a[1] - (b[0] - a[0]) * (a[2] + b[2]) / 2)

    a, b = point(low), point(high)
    while b[0] - a[0] > WIDTH:
        middle = point((a[0] + b[0]) / 2)
        if b[0] - a[0] < SHORT:
            left, right = abs(middle[1] - a[1]), abs(b[1] - middle[1])
        else:
            left, right = departure(a, middle), departure(middle, b)
        a, b = (a, middle) if left > right else (middle, b)
    return (a[0] + b[0]) / 2, abs(b[1] - a[1])


def _report(subject: Subject, found: list[tuple[int, int, float, float]], posture: str) -> Iterator[Finding]:
    for tendon in sorted({f[0] for f in found}):
        mine = sorted((f for f in found if f[0] == tendon), key=lambda f: -f[3])
        _, joint, where, size = mine[0]
        level = "ERROR" if size > SERIOUS and posture == "neutral" else "WARN"
        names = dict.fromkeys(subject.model.joint(f[1]).name for f in mine)
        yield Finding(level, f"jump.{posture}", subject.tendon_name(tendon), 1e3 * size, "mm",
                      f"length jumps by {1e3 * size:.2f} mm at {subject.model.joint(joint).name} = "
                      f"{np.degrees(where):.2f} deg ({len(mine)} jump(s) over {', '.join(names)})")


def neutral(subject: Subject) -> Iterator[Finding]:
    """Jumps while one joint moves and all others are neutral."""
    found = [(t, s.joint, q, size) for s in subject.sweeps.values()
             for t, q, size in discontinuities(subject, subject.neutral, s)]
    yield from _report(subject, found, "neutral")


def random(subject: Subject) -> Iterator[Finding]:
    """Jumps from random postures (fingers left at rest: their muscles cross nothing that random postures move)."""
    found = []
    moving = [j for j in subject.joints if not is_finger(subject.model.joint(j).name)]
    for base in subject.random_poses(POSTURES):
        for joint in moving:
            sweep = subject.sweep(base, joint, POSTURE_POINTS)
            found += [(t, joint, q, size) for t, q, size in discontinuities(subject, base, sweep)]
    yield from _report(subject, found, "random")


def is_finger(joint: str) -> bool:
    """Whether a joint belongs to a finger."""
    return FINGER_JOINT.match(joint) is not None
