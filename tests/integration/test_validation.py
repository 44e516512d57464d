"""Evaluation during training: on schedule, of the validation clips, unnoticed by the training, the best policy kept."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mm_torch.callbacks.checkpoint import read_checkpoint
from mm_torch.command import EXPECTED
from mm_torch.evaluate import main
from mm_torch.motion.bank import load_bank
from mm_torch.motion.library import library_dir
from mm_torch.train import recipe_from
from mm_torch.training import train
from sim_models.registry import load_body


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def validation_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    for name in ("swing", "reach"):
        shutil.copy(library_dir("toy_arm") / f"{name}.npz", folder)
    return folder


@pytest.fixture(scope="module")
def judged(tiny_run: Callable[..., Path], validation_clips: Path) -> Path:
    """Four iterations of 512 control steps, evaluated at the end of the second and the fourth."""
    return tiny_run(4, "evaluation.every_steps=1000", f"evaluation.motions={validation_clips}")


def test_training_does_not_notice_evaluation(judged: Path, toy_run: Path) -> None:
    with_it, without = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (judged, toy_run))
    assert with_it["state_dict"].keys() == without["state_dict"].keys()
    for name, value in without["state_dict"].items():
        assert torch.equal(value, with_it["state_dict"][name]), name
    for name, value in without["mm_torch"]["simulation"]["episodes"].items():
        assert torch.equal(value, with_it["mm_torch"]["simulation"]["episodes"][name]), name


def test_validation_clips_are_the_reference(judged: Path, validation_clips: Path, tmp_path: Path) -> None:
    """The last row equals an evaluation of the last checkpoint on those clips."""
    rows, clips = rows_of(judged / "evaluation.csv"), rows_of(judged / "evaluation_clips.csv")
    assert [int(r["control_steps"]) for r in rows] == [1024, 2048]
    assert [(c["control_steps"], c["clip"]) for c in clips] == [(s, c) for s in ("1024", "2048") for c in ("reach", "swing")]
    main([f"checkpoint={judged}", f"motions={validation_clips}", f"out={tmp_path}", "format=csv"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {name: float(rows[-1][name]) for name in summary} == summary
    frames = [int(load_bank(load_body("toy_arm"), [p]).lengths[0]) - 1 for p in sorted(validation_clips.iterdir())]
    assert float(rows[-1]["score"]) == pytest.approx(summary["episode_return"] * 2 / sum(frames))


def test_best_policy_and_pictures_are_kept(judged: Path) -> None:
    rows = rows_of(judged / "evaluation.csv")
    best = max(rows, key=lambda r: float(r["score"]))
    assert read_checkpoint(judged / "checkpoints" / "best_validation.ckpt")["mm_torch"]["control_steps"] == int(
        best["control_steps"]
    )
    pictures = sorted((judged / "evaluation").iterdir())
    assert [p.name for p in pictures] == ["activations.png", "joint_errors.png", "reward_terms.png", "success.png"]

    board = EventAccumulator(str(judged / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert [e.step for e in board.Scalars("evaluation/score")] == [1024, 2048]
    assert {"evaluation/joint_position_error", "evaluation/frame_coverage"} <= set(board.Tags()["scalars"])
    assert {f"evaluation/{p.stem}" for p in pictures} <= set(board.Tags()["images"])
    assert any(tag.startswith("evaluation/clips") for tag in board.Tags()["tensors"])


def test_the_film_plays_in_tensorboard(tiny_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mm_torch.evaluation.validation.FILM_SECONDS", 1.0)
    run = tiny_run(1, "evaluation.every_steps=500", "evaluation.video=true")
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    (event,) = board.Images("evaluation/film")
    gif = Image.open(io.BytesIO(event.encoded_image_string))
    frames = [np.asarray(f.convert("RGB"), dtype=float) for f in ImageSequence.Iterator(gif)]
    assert event.step == 512 and (event.width, event.height) == gif.size == (320, 240)
    assert gif.info["duration"] == 100 and "loop" in gif.info
    assert len(frames) > 1 and max(abs(f - frames[0]).max() for f in frames) > 100  # the arm moved
    assert (run / "evaluation" / "best.mp4").exists()


def test_a_resumed_run_goes_on_with_its_evaluations(judged: Path, tiny_run: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(judged, run)
    for name in ("evaluation.csv", "evaluation_clips.csv"):  # as if the process had died after a later evaluation
        lines = (run / name).read_text().splitlines()
        (run / name).write_text("\n".join([*lines, lines[-1].replace("2048", "999999")]) + "\n")
    before = rows_of(judged / "evaluation.csv")
    train(recipe_from([f"resume={run}", "total_steps=3072"]))
    after = rows_of(run / "evaluation.csv")
    assert after[:2] == before and [int(r["control_steps"]) for r in after] == [1024, 2048, 3072]
    assert len(rows_of(run / "evaluation_clips.csv")) == 6


@pytest.mark.parametrize(
    ("word", "message"),
    (("evaluation.every_steps=-1", "must be 0"), ("evaluation.motions=clips", "evaluation.every_steps=N"),
     ("evaluation.evry_steps=1", "evaluation.evry_steps")),
)
def test_wrong_schedules_are_refused(tiny_run: Callable[..., Path], word: str, message: str) -> None:
    with pytest.raises(EXPECTED, match=message):
        tiny_run(1, word)
