"""Clips tracked by computed muscle control, from what to track to files: as an evaluation, with the controller's figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mm_torch import build
from mm_torch.evaluation.comparison import summarise
from mm_torch.evaluation.control import ControlTracker, Effort, control_recipe
from mm_torch.evaluation.job import Candidate, Plan
from mm_torch.evaluation.recording import rollout_writer
from mm_torch.evaluation.report import write_results, write_text
from mm_torch.evaluation.tracker import UNCHANGED, ClipResult, Conditions, Trace, Tracker
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.video import Take, write_video
from sim_models.embodiment import Embodiment

NAME = "computed muscle control"
SATURATED = 0.98  # a muscle whose activation is above has nothing more to give


@dataclass(frozen=True)
class Tracking:
    """What to track.

    ========== ==================================================================================
    body       registry name
    out        directory that everything is written to
    fingers    whether the fingers move
    motions    directory with clips; None: the built-in library
    thresholds deviation to the value in m that ends a clip early; the defaults where not given
    threads    CPU threads in all; 0: all cores
    conditions perturbations
    rollouts   write a rollout file a clip
    video      file to film to; None: no film
    seconds    most seconds to film
    ========== ==================================================================================
    """

    body: str
    out: Path
    fingers: bool = False
    motions: str | None = None
    thresholds: tuple[tuple[str, float], ...] = ()
    threads: int = 0
    conditions: Conditions = UNCHANGED
    rollouts: bool = False
    video: Path | None = None
    seconds: float = 20.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of all clips and what they took; mean activation and share of saturated muscles; what is to be filmed."""

    results: list[ClipResult]
    effort: Effort
    activation: float
    saturated: float
    body: Embodiment
    takes: list[Take]

    def summary(self) -> dict[str, float]:
        """Metrics of an evaluation and those of the controller, by name."""
        steps, rate = self.effort.steps, self.effort.steps / self.effort.total_s
        hand = {}
        if "hand_error" in self.results[0].errors:
            hand["hand_error"] = sum(r.errors["hand_error"] * r.episode_length for r in self.results) / steps
        return summarise(self.results) | hand | {
            "activation": self.activation, "saturated_muscles": self.saturated, "control_steps_per_second": rate,
            "control_ms_per_step": 1e3 * self.effort.control_s / steps, "unsolved_problems": float(self.effort.unsolved),
        }

    def describe(self) -> str:
        """The controller's own figures in a line."""
        s = self.summary()
        hand = f"hands {100 * s['hand_error']:.2f} cm from the reference, " if "hand_error" in s else ""
        return (
            f"{hand}mean activation {self.activation:.3f}, {100 * self.saturated:.1f} % of the muscles saturated; "
            f"{self.effort.steps} control steps in {self.effort.total_s:.1f} s: {s['control_steps_per_second']:.0f} a "
            f"second, {s['control_ms_per_step']:.1f} ms of control each"
            + (f"; {self.effort.unsolved} problems not solved to tolerance" if self.effort.unsolved else "")
        )


def track(job: Tracking) -> Outcome:
    """Track clips with computed muscle control; rollouts are written on the way.

    Raises:
        RecipeError: no such body, or conditions that it cannot meet.
        MotionError: no usable clip.
    """
    budget = budget_threads(job.threads or None)
    apply(budget)
    recipe = control_recipe(job.body, job.fingers, job.motions, dict(job.thresholds))
    bank = build.build_bank(recipe, build.build_body(recipe), torch.device("cpu"))
    tracker = ControlTracker(recipe, bank, threads=budget.physics, conditions=job.conditions)
    diary = _Diary(job, tracker)
    results = tracker.follow(diary)
    return Outcome(
        results, tracker.effort, diary.activation / diary.frames, diary.saturated / diary.frames, tracker.simulated,
        diary.takes(bank.names),
    )


def write_tracking(job: Tracking, outcome: Outcome) -> tuple[Plan, Candidate]:
    """Write what an evaluation writes, with the controller's figures in ``summary.json``, and then the film.

    Returns:
        What is reported.

    Raises:
        VideoError: the film cannot be made; the results are there all the same.
    """
    plan = Plan((NAME,), job.motions, job.out, job.threads, job.thresholds, job.conditions, rollouts=job.rollouts)
    candidate = Candidate(NAME, NAME, outcome.results)
    write_results(plan, [candidate])
    write_text(job.out / "summary.json", json.dumps(outcome.summary(), indent=2) + "\n")
    if job.video is not None:
        write_video(outcome.body, outcome.takes, job.video)
    return plan, candidate


class _Diary:
    """Takes the trace of each clip: rollout file, what is filmed, sums of activation and saturation."""

    def __init__(self, job: Tracking, tracker: Tracker) -> None:
        write = rollout_writer(tracker.simulated, tracker.bank.names, job.out / "rollouts", NAME)
        self._write = write if job.rollouts else None
        self._fps, self._seconds = tracker.bank.fps, job.seconds if job.video is not None else 0.0
        self._filmed: dict[str, Take] = {}
        self.activation, self.saturated, self.frames = 0.0, 0.0, 0

    def __call__(self, trace: Trace) -> None:
        self.activation += float(trace.activation.mean(axis=1).sum())
        self.saturated += float((trace.activation > SATURATED).mean(axis=1).sum())
        self.frames += len(trace.activation)
        if self._seconds > 0:
            self._filmed[trace.clip] = Take(trace.clip, self._fps, trace.qpos, trace.activation, trace.ref_qpos)
        if self._write is not None:
            self._write(trace)

    def takes(self, names: Sequence[str]) -> list[Take]:
        """Clips in their order until the time is filled, the last one cut."""
        left, takes = round(self._seconds * self._fps), []
        for name in names:
            if left > 0:
                take = self._filmed[name]
                takes.append(Take(name, self._fps, take.qpos[:left], take.act[:left], take.ref_qpos[:left]))
                left -= len(take.qpos)
        return takes
