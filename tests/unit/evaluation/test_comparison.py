"""Means, intervals and paired differences of evaluation results."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mm_torch.evaluation.comparison import ERRORS, METRICS, intervals, paired_differences, summarise
from mm_torch.evaluation.tracker import ClipResult


def results(clips: int, seed: int = 0, better: float = 0.0) -> list[ClipResult]:
    """Clips of very different difficulty."""
    rng = np.random.default_rng(seed)
    hard = rng.exponential(0.1, clips)
    return [
        ClipResult(f"c{i}", 100, 50 + i % 50, bool(i % 3 == 0), 10.0 * i, {n: hard[i] * (1 - better) for n in ERRORS})
        for i in range(clips)
    ]


def test_every_tracked_frame_counts_once() -> None:
    short = ClipResult("a", 100, 20, True, 5.0, dict.fromkeys(ERRORS, 1.0))
    long = ClipResult("b", 300, 300, False, 50.0, dict.fromkeys(ERRORS, 0.0))
    summary = summarise([short, long])
    assert summary["clips"] == 2 and summary["early_termination_rate"] == 0.5
    assert summary["frame_coverage"] == pytest.approx(0.8)
    assert summary["joint_position_error"] == pytest.approx(20 / 320)
    assert summary["episode_length"] == 160 and summary["episode_return"] == 27.5
    assert list(summary) == ["clips", *METRICS]


def test_interval_is_that_of_the_mean() -> None:
    many = results(400)
    found = intervals(many)["early_termination_rate"]
    rate = sum(r.early_termination for r in many) / 400
    assert found.value == pytest.approx(rate)
    error = math.sqrt(rate * (1 - rate) / 400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert intervals(many) == intervals(many)  # the draws are always the same


def test_a_paired_difference_is_clearer_than_two_intervals() -> None:
    first, other = results(30), results(30, better=0.2)
    a, b = intervals(first)["root_yaw_error"], intervals(other)["root_yaw_error"]
    assert a.low < b.high  # they overlap
    difference = paired_differences(first, other)["root_yaw_error"]
    assert difference.value == pytest.approx(b.value - a.value) and difference.high < 0
    assert all(tuple(e) == (0.0, 0.0, 0.0) for e in paired_differences(first, first).values())


def test_seeds_of_a_clip_are_no_clips_of_their_own() -> None:
    one = results(20)
    tenfold = one * 10  # ten seeds that give the same
    once, again = intervals(one)["root_yaw_error"], intervals(tenfold, seeds=10)["root_yaw_error"]
    assert summarise(tenfold, seeds=10)["clips"] == 20
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.1)


def test_one_clip_has_no_interval_and_other_clips_no_difference() -> None:
    only = intervals(results(1))["frame_coverage"]
    assert only.value == 0.5 and math.isnan(only.low) and math.isnan(only.high)
    with pytest.raises(ValueError, match="different clips"):
        paired_differences(results(2), [replace(r, clip="x") for r in results(2)])
