"""Departures from the reference: when, in which phase of the stride, and with which part."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest

from mm_torch.evaluation.rollout_file import Rollout, write_rollout
from mm_torch.motion.library import library_dir
from sim_models.registry import load_body
from tests.unit.analysis.walks import walking
from tools.analysis.departures import PHASES, departure, heading, phases
from tools.departure_report import main

WALK = str(library_dir("myo_fullbody") / "walk.npz")
SWING = 3  # index of "left foot alone"


@pytest.fixture(scope="module")
def walk() -> Rollout:
    return walking(load_body("myo_fullbody"))


def astray(walk: Rollout) -> tuple[Rollout, int]:
    """The walk, 30 cm to the left, with a right leg that stays 40 cm behind from a frame in a step on the left foot on."""
    body = load_body("myo_fullbody")
    phase = departure(walk, body, 0.1).phase
    frame = int(np.flatnonzero((phase == SWING) & (np.arange(len(phase)) > len(phase) // 2))[0]) + 5
    sites, axes = walk.site_position.copy(), heading(walk.ref_qpos)
    sites += 0.3 * axes[:, None, :, 1]
    leg = [k for k, name in enumerate(walk.site_names) if name.startswith(("right_knee", "right_ankle", "right_toes"))]
    sites[frame:, leg] -= 0.4 * axes[frame:, None, :, 0]
    return replace(walk, site_position=sites), frame


def test_who_follows_stays(walk: Rollout) -> None:
    d = departure(walk, load_body("myo_fullbody"), 0.1)
    assert not d.leaves and d.told == "stays near the reference"
    assert d.error.max() < 1e-5 and np.abs(d.away).max() < 1e-5
    order = [k for k, _ in groupby(d.phase.tolist())]
    assert all((b - a) % 4 == 1 for a, b in pairwise(order)) and len(order) > 6


def test_a_leg_that_stays_behind_is_named_with_time_and_phase(walk: Rollout) -> None:
    rollout, frame = astray(walk)
    d = departure(rollout, load_body("myo_fullbody"), 0.05)
    assert d.frame == frame and PHASES[d.phase[frame]] == "left foot alone"
    assert d.told == f"leaves at {frame / 100.0:.2f} s (left foot alone), right leg 40 cm behind"
    np.testing.assert_allclose(d.away[frame:, 2], [[-0.4, 0.0, 0.0]] * len(d.error[frame:]), atol=1e-5)
    np.testing.assert_allclose(d.parts[frame:, 2], 0.4, atol=1e-5)
    assert d.error[:frame].max() < 1e-5  # a body elsewhere is no error


def test_an_error_that_passes_is_no_departure(walk: Rollout) -> None:
    rollout, frame = astray(walk)
    sites = np.concatenate([rollout.site_position[: frame + 9], walk.site_position[frame + 9 :]])
    assert not departure(replace(rollout, site_position=sites), load_body("myo_fullbody"), 0.05).leaves


def test_phases_by_the_foot_that_came_down_last() -> None:
    right, left = (np.repeat(row, 10) for row in ([1, 1, 1, 0, 1, 0], [1, 0, 1, 1, 1, 0]))
    found = phases(np.stack([right, left], axis=1).astype(bool), 100.0)
    assert [PHASES[k] for k, _ in groupby(found.tolist())] == [
        "right foot takes over", "right foot alone", "left foot takes over", "left foot alone", "right foot takes over",
        "flight",
    ]


def test_the_tool_writes_tables_and_a_picture(
    walk: Rollout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout, frame = astray(walk)
    write_rollout(tmp_path / "in" / "astray.npz", replace(rollout, clip="astray"))
    write_rollout(tmp_path / "in" / "near.npz", replace(walk, clip="near"))
    assert main([str(tmp_path / "in"), f"out={tmp_path / 'out'}", "limit=0.05"]) == 0
    assert f"leaves at {frame / 100.0:.2f} s" in capsys.readouterr().out
    rows = {row["clip"]: row for row in csv.DictReader((tmp_path / "out" / "departures.csv").open())}
    assert float(rows["astray"]["leaves_s"]) == pytest.approx(frame / 100.0) and not rows["near"]["leaves_s"]
    stride = {row["phase"]: row for row in csv.DictReader((tmp_path / "out" / "phases.csv").open())}
    assert int(stride["left foot alone"]["departures"]) == 1
    assert sum(int(row["frames"]) for row in stride.values()) == frame + len(walk.time)
    assert (tmp_path / "out" / "departures.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([WALK, "limit=0"], "limit=0: must be positive"),
        ([WALK], "a motion without physics"),
        ([WALK, "height=1"], "unknown option 'height'"),
        (["nowhere"], "nowhere: no such file"),
        ([], "no rollout given"),
    ],
)
def test_what_it_cannot_use_is_one_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"out={tmp_path}", *words]) == 2
    errors = capsys.readouterr().err
    assert says in errors and len(errors.splitlines()) == 1
