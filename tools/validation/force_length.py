"""Where muscles work on their force-length curve: dead muscles, passive force at rest, tendon slack lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tools.validation.findings import Finding
from tools.validation.subject import Subject

DEAD = 0.05  # of peak force
PASSIVE = 0.5  # of peak force
OUTSIDE = 0.05  # share of random postures


def dead(subject: Subject) -> Iterator[Finding]:
    """Muscles that produce (nearly) no active force at neutral and in every one of 300 random postures."""
    rest = subject.lengths(subject.neutral)
    for muscle, tendon in zip(subject.muscles, subject.tendon_of, strict=True):
        low, high = subject.model.actuator_lengthrange[muscle]
        name, column = subject.muscle_name(muscle), subject.random_lengths[:, tendon]
        best = max(subject.active(muscle, float(x)) for x in (rest[tendon], *column))
        if best <= DEAD:
            yield Finding("ERROR", "force_length.dead", name, best, "of peak force",
                          f"at most {best:.1%} of peak active force: lengths {column.min():.3f}..{column.max():.3f} m "
                          f"(neutral {rest[tendon]:.4f}), declared {low:.4f}..{high:.4f} m")
            continue
        share = float(np.mean((column < low) | (column > high)))
        if share > OUTSIDE:
            yield Finding("INFO", "force_length.outside", name, 100 * share, "% of postures",
                          f"outside its declared length range in {share:.0%} of random postures")


def passive(subject: Subject) -> Iterator[Finding]:
    """Muscles that pull hard while relaxed at neutral."""
    rest = subject.lengths(subject.neutral)
    for muscle, tendon in zip(subject.muscles, subject.tendon_of, strict=True):
        share = subject.passive(muscle, float(rest[tendon]))
        if share > PASSIVE:
            yield Finding("WARN", "passive.neutral", subject.muscle_name(muscle), share, "of peak force",
                          f"passive force {share * subject.body.peak_force[muscle]:.0f} N at neutral, {share:.0%} of peak")


def slack(subject: Subject) -> Iterator[Finding]:
    """Muscles whose declared ranges imply a tendon of negative length, ``lr0 - range0 * (lr1 - lr0)/(range1 - range0)``."""
    m = subject.model
    for muscle in subject.muscles:
        (low, high), (r0, r1) = m.actuator_lengthrange[muscle], m.actuator_gainprm[muscle, :2]
        tendon = float(low - r0 * (high - low) / (r1 - r0))
        if tendon < 0:
            yield Finding("WARN", "slack.negative", subject.muscle_name(muscle), 1e3 * tendon, "mm",
                          f"implied tendon slack length {1e3 * tendon:.0f} mm")
