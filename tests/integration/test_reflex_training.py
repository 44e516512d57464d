"""Reflexes through a whole run: searched, kept, resumed, evaluated, exported, and activations found under them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mm_torch.evaluation.job import load_agent
from mm_torch.evolution.search import Generation, Search
from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_clips
from mm_torch.policy.bundle import export_policy
from mm_torch.train import recipe_from
from mm_torch.training import train
from sim_models.registry import load_body
from tests.unit.task.worlds import library_clip
from tools.refine_activations import main as refine

pytestmark = pytest.mark.slow
WORDS = (
    "recipe=fullbody_generalist", "profile=cpu", "sim=native", "task.action.reflexes=true", "evolution.steps=600",
    "evolution.episode_steps=20", "num_envs=8", "ppo.rollout_steps=2", "ppo.minibatches=1", "threads=1", "total_steps=128",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe_from([*WORDS, f"run_dir={tmp_path_factory.mktemp('reflexes') / 'whole'}"]))


def gains(run: Path) -> np.ndarray:
    with np.load(run / "evolution.npz") as file:
        return file["averaged"]


def test_the_policy_has_what_the_search_found(whole: Path) -> None:
    rows = list(csv.DictReader((whole / "evolution.csv").open()))
    assert int(rows[-1]["control_steps"]) >= 600 > int(rows[-2]["control_steps"]) > 0
    for checkpoint in (whole, whole / "checkpoints" / "evolved.ckpt"):
        agent = load_agent(checkpoint)[1]
        assert agent.reflexes is not None and np.array_equal(agent.reflexes.vector().numpy(), gains(whole))
    assert np.abs(gains(whole)).max() > 0.01


def test_a_search_cut_short_goes_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    improve = Search._improve

    def until_the_lights_go_out(self: Search) -> Generation:
        if self.generation == 2:
            raise OSError("no more light")
        return improve(self)

    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "evolution.csv").touch()  # a run that died even earlier
    with monkeypatch.context() as patch:
        patch.setattr(Search, "_improve", until_the_lights_go_out)
        with pytest.raises(OSError, match="no more light"):
            train(recipe_from([*WORDS, f"run_dir={tmp_path / 'part'}"]))
    train(recipe_from([f"resume={tmp_path / 'part'}"]))
    assert np.array_equal(gains(tmp_path / "part"), gains(whole))
    numbers = [row["generation"] for row in csv.DictReader((tmp_path / "part" / "evolution.csv").open())]
    assert numbers == [row["generation"] for row in csv.DictReader((whole / "evolution.csv").open())]


def test_the_bundle_has_them(whole: Path, tmp_path: Path) -> None:
    stand = next(path for path in library_clips("myo_fullbody") if path.stem == "stand")
    bundle = export_policy(whole, tmp_path / "bundle", ("torchscript", "onnx"), str(stand))
    sheet = json.loads((bundle / "policy.json").read_text())
    assert sheet["policy"]["inputs"][4]["name"] == "balance" and "reflexes(" in sheet["policy"]["map"]
    assert all(figures["policy_difference"] < 1e-5 for figures in sheet["formats"].values())


# -- activations that carry a motion -----------------------------------------------------------------------------------
SMALL = ("worlds=8", "elites=2", "window=8", "threads=1")


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motions")
    body = load_body("myo_fullbody", False)
    library_clip(body, 0, act=True).save(folder / "sub" / "good.npz")
    library_clip(body, 1).save(folder / "bare.npz")
    replace(library_clip(body, 2, act=True), fps=50.0).save(folder / "slow.npz")
    (folder / "torn.npz").write_bytes((folder / "sub" / "good.npz").read_bytes()[:1000])
    return folder


def test_clips_are_refined_and_bad_ones_named(
    whole: Path, motions: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [str(motions), f"checkpoint={whole}", f"out={tmp_path}", *SMALL]
    assert refine(words) == 1
    errors = capsys.readouterr().err
    assert "bare.npz: has no activations to begin with; add them with tools/solve_activations.py" in errors
    assert "slow.npz: 50 frames a second, must be 100" in errors
    assert "torn.npz" in errors and len(errors.splitlines()) == 3
    rows = {Path(row["clip"]).stem: row for row in csv.DictReader((tmp_path / "refined.csv").open())}
    assert {name for name, row in rows.items() if row["status"] == "ok"} == {"good"} and len(rows) == 4
    assert int(rows["good"]["length"]) >= int(rows["good"]["length_before"])
    before, after = load_clip(motions / "sub" / "good.npz"), load_clip(tmp_path / "sub" / "good.npz")
    assert np.array_equal(before.qpos, after.qpos) and np.array_equal(before.act[0], after.act[0])
    assert not np.array_equal(before.act, after.act) and not after.foot_force.size
    written = (tmp_path / "sub" / "good.npz").stat().st_mtime_ns
    assert refine(words) == 1 and "is up to date" in capsys.readouterr().out
    assert (tmp_path / "sub" / "good.npz").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("window=6", "window=6: must be a multiple of task.action.hold_steps=4"),
        ("elites=9", "elites=9: must lie between 1 and half of worlds=8"),
        ("sigma=0", "sigma=0: must lie between"),
        ("horizon=4", "horizon=4: must lie between 8"),
        ("breadth=3", "unknown option 'breadth'"),
        ("checkpoint=nowhere.ckpt", "nowhere.ckpt"),
    ],
)
def test_a_wrong_command_is_one_line(
    whole: Path, motions: Path, tmp_path: Path, word: str, says: str, capsys: pytest.CaptureFixture
) -> None:
    words = {w.split("=")[0]: w for w in (f"checkpoint={whole}", f"out={tmp_path}", *SMALL, word)}
    assert refine([str(motions), *words.values()]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and says in errors[0]
