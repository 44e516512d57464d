"""Training iterations at the paper's settings over the number of worlds, each case in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from tools.benchmarks.iteration import Case, measure

PAPER = {"rollout_steps": 50, "minibatches": 32}
PAPER_WORLDS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # Figure 2
START = 50.0  # control steps a second that the first case is planned with; measured again where it turns out faster


def shortened(case: Case, hold: int, rate: float, seconds: float) -> Case:
    """The case with fewer actions a rollout, so that an iteration takes at most ``seconds`` at ``rate``.

    Minibatches are cut in proportion: their size, and what share of the iteration the update takes, stay the same.
    """
    actions = int(seconds * rate / (case.worlds * hold))
    steps = max(1, min(case.rollout_steps, actions))
    return replace(case, rollout_steps=steps, minibatches=max(1, round(case.minibatches * steps / case.rollout_steps)))


def sweep(case: Case, worlds: Sequence[int], hold: int, seconds: float, memory_gb: float) -> Iterator[dict[str, Any]]:
    """Measure a case for each number of worlds, ascending, as far as the memory goes.

    Args:
        case: everything but the worlds.
        worlds: numbers of worlds.
        hold: control steps of an action.
        seconds: of an iteration, at most; longer ones are shortened (``shortened``), never below one action.
        memory_gb: a case whose predicted peak (a straight line through the two before it) is above it is left out.
    """
    rate, peaks = START, [(0, 0.0)]
    for number in sorted(worlds):
        predicted = _extrapolate(peaks, number)
        if predicted > memory_gb:
            print(f"{number} worlds would take about {predicted:.1f} GB, memory_gb={memory_gb:g}: left out")
            return
        asked = replace(case, worlds=number)
        planned = shortened(asked, hold, rate, seconds)
        try:
            figures = _alone(planned)
            known = shortened(asked, hold, figures["training_steps_per_s"], seconds)
            if len(peaks) == 1 and known.rollout_steps > planned.rollout_steps:
                figures = _alone(known)
        except BrokenProcessPool:
            print(f"{number} worlds: the process was killed, most likely for want of memory; give memory_gb= below it")
            return
        rate = figures["training_steps_per_s"] * (2.0 if len(peaks) < 3 else 1.0)  # few worlds: the rate still grows
        peaks.append((number, figures["peak_gb"]))
        yield figures


def _alone(case: Case) -> dict[str, Any]:
    """Measure in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, case).result()


def _extrapolate(peaks: list[tuple[int, float]], worlds: int) -> float:
    (n0, p0), (n1, p1) = peaks[-2] if len(peaks) > 2 else (0, 0.0), peaks[-1]
    if len(peaks) < 3:
        return p1
    return p1 + (worlds - n1) * max(0.0, p1 - p0) / (n1 - n0)
