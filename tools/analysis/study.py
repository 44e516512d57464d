"""The analysis of a gait report: curves of every trial, their agreement with the norms, muscles and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np

from mm_torch.evaluation.rollout_file import FEET
from tools.analysis import muscles, spatiotemporal
from tools.analysis.agreement import agreement, pearson
from tools.analysis.norm_tables import Band, Citation, GaitError, Window, bands, windows
from tools.analysis.quantities import QUANTITIES, Signals
from tools.analysis.references import References
from tools.analysis.strides import Stride, find_strides
from tools.analysis.trial import Trial

SPEED_GATE = 0.2  # m/s: a norm further from the trial's speed is shown, but does not count
HEADLINE = ("hip_flexion", "knee_angle", "ankle_angle")
BOTH, ALL = "both", "all files"
PARTS = {"forces": "ground reaction", "moments": "joint moments and powers", "muscles": "muscle excitations"}


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean and SD over strides of one side or of both, (101,) each, and how many strides; SD 0 for a single one."""

    mean: np.ndarray
    sd: np.ndarray
    strides: int


@dataclass(frozen=True, eq=False)
class Result:
    """What one trial gives.

    ============== ==========================================================================
    trial          the input
    strides        its strides that count
    gait           walking or running
    figures        spatiotemporal figures by name
    curves         quantity to side (right, left, both) to curve
    excitations    muscle to side to curve
    checks         rows of what floor forces must be
    ============== ==========================================================================
    """

    trial: Trial
    strides: Sequence[Stride]
    gait: str
    figures: Mapping[str, float]
    curves: Mapping[str, Mapping[str, Curve]]
    excitations: Mapping[str, Mapping[str, Curve]]
    checks: Sequence[Mapping[str, Any]]

    @property
    def speed(self) -> float:
        """m/s."""
        return self.figures["speed"]


@dataclass(frozen=True, eq=False)
class Study:
    """All results beside the norms of one gait.

    ============== ==========================================================================
    gait           whose norms are compared with
    results        one for each input
    quantities     those asked for that some input holds
    bands          norms by quantity
    windows        EMG windows by muscle
    envelopes      measured EMG by muscle, from reference=
    comparison     rows of agreement
    muscle_rows    rows of agreement of muscles
    left_out       sentences on what cannot be shown, and why
    ============== ==========================================================================
    """

    gait: str
    results: Sequence[Result]
    quantities: Sequence[str]
    bands: Mapping[str, Band]
    windows: Mapping[str, Window]
    envelopes: Mapping[str, Band]
    comparison: Sequence[Mapping[str, Any]]
    muscle_rows: Sequence[Mapping[str, Any]]
    left_out: Sequence[str] = field(default=())

    @property
    def mean_r(self) -> float:
        """Mean Pearson r of hip, knee and ankle over the inputs that pass the speed gate; nan where none does."""
        values = [row["r"] for row in self.comparison
                  if row["quantity"] in HEADLINE and row["counts"] and row["file"] != ALL]
        return float(np.mean(values)) if values else float("nan")


def choose(known: Sequence[str], asked: str, option: str) -> tuple[str, ...]:
    """Names of a comma-separated option; all where it is empty.

    Raises:
        GaitError: an unknown name, with the nearest known one.
    """
    names = tuple(n.strip() for n in asked.split(",") if n.strip())
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise GaitError(f"{option}={name}: unknown; choose from {', '.join(known)}{hint}")
    return names or tuple(known)


def analyse(trial: Trial, quantities: Sequence[str], muscle_names: Sequence[str]) -> Result:
    """Cut a trial into strides and measure them.

    Raises:
        GaitError: there is no complete stride.
    """
    strides, gait = find_strides(trial)
    signals = Signals(trial)
    cut = [signals.of_stride(s) for s in strides]
    held = [q for q in quantities if q in cut[0]]
    curves = {q: _sides(strides, [c[q] for c in cut]) for q in held}
    excitations = {}
    if trial.rollout.excitation is not None:
        excitations = {m: _sides(strides, [muscles.envelope(trial, m, s) for s in strides]) for m in muscle_names}
    checks = spatiotemporal.force_checks(signals, strides, gait)
    return Result(trial, strides, gait, spatiotemporal.figures(trial, strides), curves, excitations, checks)


def _sides(strides: Sequence[Stride], curves: Sequence[np.ndarray]) -> dict[str, Curve]:
    """Curves by side; of both, the mean of the two means and the SD of all strides."""
    sides = {side: [c for s, c in zip(strides, curves, strict=True) if s.side == k] for k, side in enumerate(FEET)}
    found = {side: Curve(np.mean(rows, axis=0), _sd(rows), len(rows)) for side, rows in sides.items() if rows}
    mean = np.mean([c.mean for c in found.values()], axis=0)
    return found | {BOTH: Curve(mean, _sd(curves), len(curves))}


def _sd(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.std(rows, axis=0, ddof=1) if len(rows) > 1 else np.zeros_like(rows[0])


def study(trials: Sequence[Trial], norm: str = "", joints: str = "", muscle_names: str = "",
          references: References | None = None) -> Study:
    """Analyse all trials and compare them with the norms.

    Args:
        trials: inputs of one body.
        norm: walking or running; that of the inputs where empty.
        joints: quantities to show, with commas in between; all where empty.
        muscle_names: muscles to show; all that have EMG windows where empty.
        references: measured cycles that take the place of built-in bands.

    Raises:
        GaitError: unknown names, no complete stride, inputs of another gait than the norm, or of both gaits.
    """
    references = references or References()
    if norm:
        bands(norm)  # an unknown gait is an error before anything else
    quantities = choose(tuple(QUANTITIES), joints, "joints")
    chosen = choose(tuple(muscles.table("emg")["muscles"]), muscle_names, "muscles")
    results = [analyse(trial, quantities, chosen) for trial in trials]
    gait = _one_gait(results, norm)
    shown = [q for q in quantities if any(q in r.curves for r in results)]
    norms = {**bands(gait), **references.angles}
    gait_windows = {m: w for m, w in windows(gait).items() if m in chosen}
    return Study(
        gait, results, shown, norms, gait_windows, references.envelopes,
        _comparison(results, shown, norms), _muscle_rows(results, gait_windows, references.envelopes),
        _left_out(results, gait),
    )


def _one_gait(results: Sequence[Result], norm: str) -> str:
    for r in results:
        wanted = norm or results[0].gait
        if r.gait != wanted:
            against = f"norm={norm}" if norm else f"{results[0].trial.name}, which is {results[0].gait}"
            duty = np.nanmean([r.figures["stance_right"], r.figures["stance_left"]])
            raise GaitError(
                f"{r.trial.name}: is {r.gait} ({r.speed:.2f} m/s, each foot stands {duty:.0f} % of the cycle, both "
                f"{r.figures['double_support']:.0f} %), not to be compared with {against}; "
                + (f"give norm={r.gait}" if norm else "make a report of each gait")
            )
    return norm or results[0].gait


def gate(speed: float, citation: Citation) -> bool:
    """Whether a norm was measured at about a speed in m/s; one without a speed always counts."""
    return not np.isfinite(citation.speed) or abs(speed - citation.speed) <= SPEED_GATE + 1e-9


def _comparison(results: Sequence[Result], quantities: Sequence[str], norms: Mapping[str, Band]) -> list[dict[str, Any]]:
    rows = []
    for quantity in (q for q in quantities if q in norms):
        band = norms[quantity]
        holders = [r for r in results if quantity in r.curves]
        for r in holders:
            sides = r.curves[quantity]
            counts = gate(r.speed, band.citation)
            sided = {f"r_{s}": pearson(sides[s].mean, band.mean) if s in sides else float("nan") for s in FEET}
            rows.append(_agreement_row(r.trial.name, quantity, sides[BOTH].strides, sides[BOTH].mean, band, counts, sided,
                                       _note(r.speed, band.citation)))
        counted = [r for r in holders if gate(r.speed, band.citation)]
        if len(holders) > 1 and counted:
            mean = np.mean([r.curves[quantity][BOTH].mean for r in counted], axis=0)
            note = f"mean of {len(counted)} of {len(holders)} files"
            strides = sum(r.curves[quantity][BOTH].strides for r in counted)
            rows.append(_agreement_row(ALL, quantity, strides, mean, band, True, {}, note))
    return rows


def _agreement_row(name: str, quantity: str, strides: int, mean: np.ndarray, band: Band, counts: bool,
                   sided: Mapping[str, float], note: str) -> dict[str, Any]:
    nan = float("nan")
    figures = agreement(mean, band.mean, band.sd)._asdict()
    return {
        "file": name, "quantity": quantity, "unit": QUANTITIES[quantity].unit, "strides": strides, "r": figures.pop("r"),
        "r_right": sided.get("r_right", nan), "r_left": sided.get("r_left", nan), **figures, "counts": counts, "note": note,
    }  # fmt: skip


def _note(speed: float, citation: Citation) -> str:
    return "" if gate(speed, citation) else f"speed mismatch: {speed:.2f} m/s, norm {citation.speed:g} m/s"


def _muscle_rows(results: Sequence[Result], gait_windows: Mapping[str, Window],
                 envelopes: Mapping[str, Band]) -> list[dict[str, Any]]:
    rows = []
    for muscle, window in gait_windows.items():
        for r in (r for r in results if muscle in r.excitations):
            measured = envelopes.get(muscle)
            cited = window.citation if measured is None else measured.citation
            curve = r.excitations[muscle][BOTH]
            counts = gate(r.speed, cited)
            note = _note(r.speed, cited)
            if not window.scored:
                note = "; ".join(filter(None, ["window is a hint only", note]))
            rows.append({
                "file": r.trial.name, "muscle": muscle, "against": "window" if measured is None else "measured envelope",
                "strides": curve.strides, "mean": float(curve.mean.mean()), "peak": float(curve.mean.max()),
                **muscles.score(curve.mean, window, r.figures["stride_time"], measured),
                "counts": counts and window.scored, "note": note,
            })  # fmt: skip
    return rows


def _left_out(results: Sequence[Result], gait: str) -> list[str]:
    """Sentences on parts that some input does not hold, and on norms that do not exist."""
    sentences = []
    for r in results:
        rollout = r.trial.rollout
        held = {"forces": rollout.foot_force, "moments": rollout.joint_moment, "muscles": rollout.excitation}
        missing = [PARTS[part] for part, values in held.items() if values is None]
        if missing:
            why = "is played without physics" if rollout.kind == "replay" else "holds no forces"
            sentences.append(f"{r.trial.name}: {', '.join(missing)} left out, because it {why} (a rollout of python -m "
                             "mm_torch.evaluate rollouts=true holds them).")
        alone = [side for k, side in enumerate(FEET) if not any(s.side == k for s in r.strides)]
        if alone:
            sentences.append(f"{r.trial.name}: no complete stride of the {alone[0]} foot; its columns are empty.")
    unknown = [QUANTITIES[q].label for q in QUANTITIES if q not in bands(gait) and any(q in r.curves for r in results)]
    if unknown:
        sentences.append(f"No openly licensed norm of {gait} was found for: {', '.join(unknown)}; shown without a band.")
    return sentences
