from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mm_torch.evaluation.control_job import track
from mm_torch.evaluation.rollout_file import read_rollout
from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_dir
from mm_torch.track import main, tracking_from


def _track(tmp_path: Path, *words: str) -> dict[str, float]:
    main([f"out={tmp_path / 'out'}", "threads=1", *words])
    return json.loads((tmp_path / "out" / "summary.json").read_text())


def _start_of(body: str, name: str, frames: int, folder: Path) -> Path:
    """The first frames of a built-in clip, in a file of its own."""
    clip = load_clip(library_dir(body) / f"{name}.npz")
    per_frame = ("qpos", "qvel", "site_xpos", "site_xquat", "act", "contact", "fit_error")
    arrays = {k: getattr(clip, k)[:frames] for k in per_frame}
    path = folder / f"{name}.npz"
    replace(clip, **arrays).save(path)
    return path


@pytest.mark.slow
def test_the_toy_tracks_its_library_and_writes_what_evaluate_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = _track(tmp_path, "body=toy_arm", "rollouts=true")
    assert summary["early_termination_rate"] == 0.0 and summary["absolute_site_error"] < 0.005
    with (tmp_path / "out" / "per_clip.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["clips"] == 4 and all(float(r["frame_coverage"]) == 1.0 for r in rows)
    rollout = read_rollout(tmp_path / "out" / "rollouts" / "reach.npz")
    assert 0.0 < rollout.excitation.max() <= 1.0 and rollout.source == "computed muscle control"
    assert "control steps in" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"report.json", "report.csv", "report.md", "tensorboard"}


@pytest.mark.slow
def test_the_arms_follow_with_their_hands_and_weak_muscles_lose_it(tmp_path: Path) -> None:
    motions = f"motions={_start_of('myo_bimanual', 'push', 120, tmp_path)}"
    summary = _track(tmp_path, "body=myo_bimanual", motions)
    assert summary["early_termination_rate"] == 0.0 and summary["unsolved_problems"] == 0
    assert 0.0 < summary["hand_error"] < 0.003
    assert _track(tmp_path, "body=myo_bimanual", motions, "strength=right_arm:0.3")["hand_error"] > 0.006


@pytest.mark.slow
def test_the_body_stands(tmp_path: Path) -> None:
    summary = _track(tmp_path, "body=myo_fullbody", f"motions={_start_of('myo_fullbody', 'stand', 60, tmp_path)}")
    assert summary["frame_coverage"] == 1.0 and summary["root_position_error"] < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["squat_slow", "weight_shift", "stand_reach_forward_left"])
def test_the_body_follows_slow_motions(tmp_path: Path, clip: str) -> None:
    summary = _track(tmp_path, "body=myo_fullbody", f"motions={library_dir('myo_fullbody') / clip}.npz")
    assert summary["frame_coverage"] == 1.0 and summary["relative_site_error"] < 0.01


@pytest.mark.parametrize(
    ("word", "message"),
    [("body=nobody", "body=nobody"), ("format=xml", "format=xml"), ("push=-1", "push=-1"), ("seconds=0", "seconds=0")],
)
def test_what_cannot_be_used_is_named(word: str, message: str) -> None:
    words = [word] if word.startswith("body=") else ["body=toy_arm", word]
    with pytest.raises(ValueError, match=message):
        track(tracking_from(words)[0])
