"""How sure the figures of an evaluation are: bootstrap intervals over clips and seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mm_torch.evaluation.tracker import ERRORS, ClipResult

RESAMPLES = 2000
LEVEL = 0.95
METRICS = ("early_termination_rate", "frame_coverage", *ERRORS, "episode_length", "episode_return")


class Estimate(NamedTuple):
    """A figure with the ends of its interval; the ends are NaN where a single clip and seed leave nothing to resample."""

    value: float
    low: float
    high: float


def _ratio(result: ClipResult, metric: str) -> tuple[float, float]:
    """Numerator and denominator that a clip adds to a metric; frames weigh errors and coverage, so each counts once."""
    steps = result.episode_length
    if metric in ERRORS:
        return result.errors[metric] * steps, steps
    return {
        "early_termination_rate": (float(result.early_termination), 1.0),
        "frame_coverage": (steps, result.frames),
        "episode_length": (steps, 1.0),
        "episode_return": (result.episode_return, 1.0),
    }[metric]


def summarise(results: Sequence[ClipResult], seeds: int = 1) -> dict[str, float]:
    """Means over clips (and seeds); coverage and errors are weighted by frames, so that every tracked frame counts once.

    Args:
        results: of all clips, seed after seed.
        seeds: how many.
    """
    summary: dict[str, float] = {"clips": len(results) // seeds}
    for metric in METRICS:
        top, bottom = np.array([_ratio(r, metric) for r in results]).sum(axis=0)
        summary[metric] = float(top / bottom)
    return summary


def draw(clips: int, seeds: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Resampled runs (resamples, clips * seeds): clips with replacement, then seeds of each drawn clip; always the same."""
    rng = np.random.default_rng(0)
    clip = rng.integers(clips, size=(resamples, clips, 1))
    seed = rng.integers(seeds, size=(resamples, clips, seeds))
    return (seed * clips + clip).reshape(resamples, -1)


def resampled(results: Sequence[ClipResult], drawn: np.ndarray) -> dict[str, np.ndarray]:
    """Metric to its value (resamples,) in each resample."""
    values = {}
    for metric in METRICS:
        top, bottom = np.array([_ratio(r, metric) for r in results], dtype=float).T
        values[metric] = top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1)
    return values


def _interval(value: float, sample: np.ndarray, runs: int) -> Estimate:
    if runs < 2:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(sample, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def intervals(results: Sequence[ClipResult], seeds: int = 1) -> dict[str, Estimate]:
    """95 % percentile bootstrap intervals of every metric.

    Args:
        results: of all clips, seed after seed.
        seeds: how many.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13.
    """
    summary = summarise(results, seeds)
    sample = resampled(results, draw(len(results) // seeds, seeds))
    return {metric: _interval(summary[metric], sample[metric], len(results)) for metric in METRICS}


def paired_differences(
    first: Sequence[ClipResult], other: Sequence[ClipResult], seeds: int = 1
) -> dict[str, Estimate]:
    """``other - first`` with intervals: both are resampled together, so that clips hard for both do not blur it.

    Args:
        first: results of one policy, seed after seed.
        other: those of another on the same clips and seeds, in the same order.
        seeds: how many.

    Raises:
        ValueError: they are not of the same clips.
    """
    if [r.clip for r in first] != [r.clip for r in other]:
        raise ValueError("the results are of different clips; evaluate both policies on the same motions")
    drawn = draw(len(first) // seeds, seeds)
    a, b = resampled(first, drawn), resampled(other, drawn)
    here, there = summarise(first, seeds), summarise(other, seeds)
    return {m: _interval(there[m] - here[m], b[m] - a[m], len(first)) for m in METRICS}
