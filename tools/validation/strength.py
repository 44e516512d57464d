"""Moment arms and isometric strength of each joint over its range."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tools.validation.findings import Finding
from tools.validation.subject import Subject, Sweep

LONG_ARM = 0.09  # m


def curve(subject: Subject, sweep: Sweep, every: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joint positions, and isometric moments (n,) Nm at full activation of all muscles that pull it up and down."""
    rows = range(0, len(sweep.grid), every)
    arm = -sweep.slope[rows][:, subject.tendon_of]
    force = np.array([[subject.active(m, sweep.length[i, t]) * subject.body.peak_force[m] if abs(a) > 1e-6 else 0.0
                       for m, t, a in zip(subject.muscles, subject.tendon_of, arm[k], strict=True)]
                      for k, i in enumerate(rows)])
    moment = arm * force
    return sweep.grid[rows], np.maximum(moment, 0).sum(axis=1), np.minimum(moment, 0).sum(axis=1)


def strength(subject: Subject) -> Iterator[Finding]:
    """Peak isometric moment of each joint in both directions."""
    for sweep in subject.sweeps.values():
        grid, up, down = curve(subject, sweep)
        i, j = int(up.argmax()), int(down.argmin())
        yield Finding("INFO", "strength.peak", subject.model.joint(sweep.joint).name, float(up[i]), "Nm",
                      f"+{up[i]:.1f} Nm at {np.degrees(grid[i]):.0f} deg, {down[j]:.1f} Nm at {np.degrees(grid[j]):.0f} deg")


def long_arms(subject: Subject) -> Iterator[Finding]:
    """Muscles with moment arms beyond 90 mm."""
    for t, muscle in zip(subject.tendon_of, subject.muscles, strict=True):
        peaks = {s.joint: float(np.abs(s.slope[:, t]).max()) for s in subject.sweeps.values()}
        joint = max(peaks, key=lambda j: peaks[j], default=None)
        if joint is not None and peaks[joint] > LONG_ARM:
            yield Finding("INFO", "moment_arm.long", subject.muscle_name(muscle), 1e3 * peaks[joint], "mm",
                          f"moment arm {1e3 * peaks[joint]:.0f} mm about {subject.model.joint(joint).name}")
