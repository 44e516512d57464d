"""The checks, in order. A further check is a further entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tools.validation import force_length, inertia, jumps, moment_arms, ranges, strength, symmetry
from tools.validation.findings import LEVELS, Finding
from tools.validation.subject import Subject

CHECKS: tuple[Callable[[Subject], Iterable[Finding]], ...] = (
    inertia.phantom, inertia.fractions, inertia.limbs, symmetry.frames, symmetry.masses, symmetry.parameters,
    symmetry.paths, symmetry.arms, symmetry.contacts, symmetry.unpaired, jumps.neutral, jumps.random, force_length.dead,
    force_length.passive, force_length.slack, ranges.couplings, ranges.control, strength.strength, strength.long_arms,
    moment_arms.compare,
)


def run_checks(subject: Subject) -> list[Finding]:
    """Findings of all checks, errors first."""
    found = [finding for check in CHECKS for finding in check(subject)]
    return sorted(found, key=lambda f: LEVELS.index(f.level))
