"""Smooth curves in time: minimum-jerk moves between postures, windowed oscillations, periodic series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def minimum_jerk(x: np.ndarray) -> np.ndarray:
    """Minimum-jerk step from 0 (x <= 0) to 1 (x >= 1), ``10 x^3 - 15 x^4 + 6 x^5``; at rest at both ends.

    Source: Flash & Hogan 1985, J Neurosci 5:1688, equation 3.
    """
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def through_postures(times: Sequence[float], postures: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Minimum-jerk moves from posture to posture, at rest in each.

    Args:
        times: (K,) s, increasing; two equal postures in a row are a hold.
        postures: (K, D).
        t: (F,) s.

    Returns:
        (F, D).
    """
    out = np.repeat(postures[:1], len(t), axis=0)
    for start, stop, a, b in zip(times[:-1], times[1:], postures[:-1], postures[1:], strict=True):
        out += minimum_jerk((t - start) / (stop - start))[:, None] * (b - a)
    return out


def window(t: np.ndarray, start: float, stop: float, ramp: float) -> np.ndarray:
    """Smooth window: 0 outside [start, stop], 1 inside, minimum-jerk ramps of ``ramp`` s at both ends."""
    return minimum_jerk((t - start) / ramp) * minimum_jerk((stop - t) / ramp)


def oscillation(t: np.ndarray, start: float, stop: float, hertz: float, phase: float = 0.0) -> np.ndarray:
    """Sine of a frequency that starts and stops smoothly; ramps last one period, or half the time if that is less."""
    ramp = min(1.0 / hertz, 0.5 * (stop - start))
    return window(t, start, stop, ramp) * np.sin(2 * np.pi * hertz * (t - start) + phase)


class Periodic:
    """Trigonometric series through equidistant samples of one cycle.

    Args:
        samples: (n,) or (n, D) values at phases 0 .. 1; the last repeats the first (their mean is used).
        harmonics: order at which the series is cut.
    """

    def __init__(self, samples: np.ndarray, harmonics: int) -> None:
        cycle = np.array(samples, dtype=float)
        cycle[0] = 0.5 * (cycle[0] + cycle[-1])
        spectrum = np.fft.rfft(cycle[:-1], axis=0) / (len(cycle) - 1)
        self.spectrum = spectrum[: harmonics + 1]
        self.spectrum[1:] *= 2.0

    def __call__(self, phase: np.ndarray) -> np.ndarray:
        """Values at phases in cycles (any real number).  Args: phase (F,).  Returns: (F,) or (F, D)."""
        waves = np.exp(2j * np.pi * np.outer(phase, np.arange(len(self.spectrum))))
        return np.real(waves @ self.spectrum)
