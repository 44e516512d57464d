"""Training on a GPU: graphs change nothing, runs resume."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from mm_torch.config.load import load_recipe
from mm_torch.maths import replay
from mm_torch.training import train

pytestmark = pytest.mark.gpu

WORDS = ("recipe=toy_arm", "sim=warp", "num_envs=32", "ppo.rollout_steps=16", "ppo.minibatches=4")
ITERATION = 32 * 16


def run(folder: Path, iterations: int, *words: str) -> list[dict[str, str]]:
    train(load_recipe([*WORDS, f"total_steps={iterations * ITERATION}", f"run_dir={folder}", *words], cuda_available=True))
    return list(csv.DictReader((folder / "metrics.csv").open()))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    return {name: x for name, x in saved.items() if x.is_floating_point()}


def test_graphs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = run(tmp_path / "captured", 4)
    monkeypatch.setattr(replay.Replay, "__call__", lambda self: self._work())
    eager = run(tmp_path / "eager", 4)
    for ours, theirs in zip(captured, eager, strict=True):
        for name in ("reward", "relative_site_error", "kl", "value_loss", "gradient_norm"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-2, abs=1e-4), name
    ours, theirs = weights(tmp_path / "captured"), weights(tmp_path / "eager")
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-2, atol=1e-3) for name in theirs)


def test_a_run_resumes(tmp_path: Path) -> None:
    run(tmp_path / "run", 2)
    rows = run(tmp_path / "run", 4, f"resume={tmp_path / 'run'}")
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3, 4]


def test_training_learns(tmp_path: Path) -> None:
    rows = run(tmp_path / "run", 2000, "num_envs=1024", "ppo.minibatches=16")  # 62 iterations of so many worlds
    assert float(rows[-1]["reward"]) > 1.1 * float(rows[5]["reward"])  # the very first episodes begin on the reference
