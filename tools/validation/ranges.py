"""Ranges that contradict each other: coupled joints and muscle controls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tools.validation.findings import Finding
from tools.validation.subject import Subject

TOLERANCE = 1e-6


def couplings(subject: Subject) -> Iterator[Finding]:
    """Coupled joints that leave their own range while their driver sweeps its range."""
    m, c = subject.model, subject.body.couplings
    joint_at = {int(a): j for j, a in enumerate(m.jnt_qposadr)}
    for e, (dependent, driver) in enumerate(zip(c.dependent_qpos, c.driver_qpos, strict=True)):
        joint = joint_at[int(dependent)]
        if driver < 0 or not m.jnt_limited[joint]:
            continue
        master = joint_at[int(driver)]
        values = np.polynomial.polynomial.polyval(np.linspace(*m.jnt_range[master], 1001), c.poly[e])
        low, high = m.jnt_range[joint]
        over = float(max(low - values.min(), values.max() - high))
        if over > TOLERANCE:
            yield Finding("WARN", "range.coupled", m.joint(joint).name, over, "rad or m",
                          f"reaches {values.min():.3f}..{values.max():.3f} over the range of {m.joint(master).name}, "
                          f"its own is {low:.3f}..{high:.3f}")


def control(subject: Subject) -> Iterator[Finding]:
    """Muscles that declare negative controls, which MuJoCo clamps to zero."""
    m = subject.model
    for muscle in subject.muscles:
        low = float(m.actuator_ctrlrange[muscle, 0])
        if low < 0:
            yield Finding("WARN", "range.control", subject.muscle_name(muscle), low, "",
                          "control range starts below 0; muscles take 0..1 (the training bodies are corrected)")
