"""Excitations of muscle groups over the cycle against the times when EMG is on, or against measured envelopes."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np

from sim_models.embodiment import Embodiment
from tools.analysis.agreement import best_lag, pearson
from tools.analysis.norm_tables import Band, GaitError, Window, table
from tools.analysis.strides import Stride, over_stride
from tools.analysis.trial import Trial

MOST_DELAY = 0.150  # s: EMG comes 30 to 100 ms before force, and excitations may come late or early
ON = 0.25  # of the way from the cycle's least to its largest excitation
SHORTEST = 5  # % of the cycle: shorter bursts and gaps do not count


def electrodes(body: Embodiment, muscle: str, side: int) -> np.ndarray:
    """Actuator ids of a side that an electrode over a muscle stands for.

    Raises:
        GaitError: the body has none of them.
    """
    patterns = [f"{p}_{'rl'[side]}" for p in table("emg")["muscles"][muscle]]
    ids = [i for i, name in enumerate(body.muscle_names) if any(fnmatchcase(name, p) for p in patterns)]
    if not ids:
        raise GaitError(f"muscle {muscle!r}: body {body.name} has no actuator {', '.join(patterns)}")
    return np.array(ids)


def envelope(trial: Trial, muscle: str, stride: Stride) -> np.ndarray:
    """(101,) excitation of a muscle group over a stride, its actuators weighted by their peak forces."""
    assert trial.rollout.excitation is not None
    ids = electrodes(trial.body, muscle, stride.side)
    columns = [trial.rollout.muscle_names.index(trial.body.muscle_names[i]) for i in ids]
    values = np.clip(trial.rollout.excitation[:, columns], 0.0, 1.0)  # MuJoCo clamps the control of muscles so, too
    return over_stride(np.average(values, axis=1, weights=trial.body.peak_force[ids]), stride)


def bursts(curve: np.ndarray) -> np.ndarray:
    """(100,) bool: on, by threshold, without short gaps and bursts; the cycle is closed.

    Args:
        curve: (100,) excitation at 0, 1, ... 99 %.
    """
    low, high = float(curve.min()), float(curve.max())
    if high - low < 1e-6:
        return np.zeros(len(curve), dtype=bool)
    on = curve > low + ON * (high - low)
    for value in (False, True):
        if on.all() or not on.any():
            return on
        turn = int(np.flatnonzero(on != np.roll(on, 1))[0])
        rolled = np.roll(on, -turn)
        edges = np.concatenate([[0], np.flatnonzero(np.diff(rolled.astype(int))) + 1, [len(rolled)]])
        for start, stop in pairwise(edges):
            if rolled[start] == value and stop - start < SHORTEST:
                rolled[start:stop] = not value
        on = np.roll(rolled, turn)
    return on


def edge_error(on: np.ndarray, window: np.ndarray, rising: bool) -> float:
    """Mean distance in % of the cycle of the onsets (or ends) of a window from the nearest of a burst; + is later."""
    mine, theirs = _edges(on, rising), _edges(window, rising)
    if not len(mine) or not len(theirs):
        return float("nan")
    away = (mine[None] - theirs[:, None] + 50) % 100 - 50
    return float(np.mean([row[np.abs(row).argmin()] for row in away]))


def _edges(on: np.ndarray, rising: bool) -> np.ndarray:
    before = np.roll(on, 1)
    return np.flatnonzero(on & ~before if rising else ~on & before)


def score(curve: np.ndarray, window: Window, stride_time: float, measured: Band | None = None) -> dict[str, float]:
    """Agreement of an excitation with an EMG window, or with a measured envelope where there is one.

    Args:
        curve: (101,) excitation.
        window: when the muscle's EMG is on.
        stride_time: s.
        measured: envelope to correlate with instead of the window.

    Returns:
        ``r`` at no lag, ``r_lag`` at the best lag within 150 ms, ``lag_ms`` (+: the simulation comes later); share of the
        cycle ``overlap`` that is on in both of what is on in either, ``precision`` and ``recall``; ``onset`` and ``end``,
        % of the cycle too late.
    """
    curve, on, wanted = curve[:-1], bursts(curve[:-1]), window.mask
    target = measured.mean[:-1] if measured is not None else wanted.astype(float)
    lag, r_lag = best_lag(curve, target, round(100 * MOST_DELAY / stride_time))
    both, either = int((on & wanted).sum()), int((on | wanted).sum())
    nan = float("nan")
    return {
        "r": pearson(curve, target),
        "r_lag": r_lag,
        "lag_ms": 10.0 * lag * stride_time if r_lag == r_lag else nan,
        "overlap": both / either,
        "precision": both / int(on.sum()) if on.any() else nan,
        "recall": both / int(wanted.sum()),
        "onset": edge_error(on, wanted, rising=True),
        "end": edge_error(on, wanted, rising=False),
    }


def known_muscles(gait_windows: Mapping[str, Any]) -> tuple[str, ...]:
    """Muscles that have both a window and actuators."""
    return tuple(name for name in gait_windows if name in table("emg")["muscles"])
