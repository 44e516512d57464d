"""Verbs take checkpoints and motions from the hub; here from a cache in its layout, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from mm_torch import build
from mm_torch.callbacks.checkpoint import CheckpointError, open_checkpoint
from mm_torch.config.load import RecipeError
from mm_torch.evaluation.job import load_agent, warn_of_leakage
from mm_torch.hub.download import HubError
from mm_torch.motion.bank import find_clips
from mm_torch.motion.clip import MotionError
from mm_torch.motion.library import library_dir
from mm_torch.motion.splits import motions_of
from mm_torch.train import recipe_from
from tests.unit.hub.hubs import fill_cache

RUN, CLIPS = "hf://me/toy", "hf://datasets/me/clips"


@pytest.fixture(scope="module")
def home(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What HF_HOME names: a run, two of its clips, and a pickle under a checkpoint's name."""
    folder, clips = tmp_path_factory.mktemp("home"), library_dir("toy_arm")
    few = {f"few/{name}.npz": (clips / f"{name}.npz").read_bytes() for name in ("curl", "reach")}
    fill_cache(folder / "hub", "models/me/toy", {"checkpoints/last.ckpt": (toy_run / "checkpoints/last.ckpt").read_bytes()})
    fill_cache(folder / "hub", "models/me/pickle", {"policy.ckpt": b"\x80\x04cos\nsystem\n.", "a.npz": b"\x80\x04N."})
    fill_cache(folder / "hub", "datasets/me/clips", few)
    return folder


@pytest.fixture
def offline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process sees that cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_a_recipe_starts_from_the_hub() -> None:
    recipe = recipe_from(["recipe=toy_arm", f"init_from={RUN}@main", f"motions={CLIPS}/few"])
    assert recipe.init_from == f"{RUN}@main" and recipe.motions == f"{CLIPS}/few"  # another machine can read that, too
    assert [p.name for p in build.motion_files(recipe, build.build_body(recipe))] == ["curl.npz", "reach.npz"]
    assert load_agent(RUN)[0].body.name == "toy_arm"
    with pytest.raises(RecipeError, match="begin one with init_from="):
        recipe_from([f"resume={RUN}"])


@pytest.mark.usefixtures("offline")
def test_leakage_is_seen_through_the_hub(caplog: pytest.LogCaptureFixture) -> None:
    assert motions_of(f"{CLIPS}/few") == ("curl", "reach")
    warn_of_leakage(str(library_dir("toy_arm")), f"{CLIPS}/few")
    assert "2 of the motions in hf://datasets/me/clips/few were trained on" in caplog.text


@pytest.mark.usefixtures("offline")
def test_nothing_of_the_hub_is_unpickled() -> None:
    with pytest.raises(CheckpointError, match=r"policy\.ckpt: not a readable checkpoint"):
        open_checkpoint("hf://me/pickle/policy.ckpt")
    with pytest.raises(MotionError, match="not a readable npz"):
        build.build_bank(recipe_from(["recipe=toy_arm", "motions=hf://me/pickle"]), build.build_body(
            recipe_from(["recipe=toy_arm"])), "cpu")
    with pytest.raises(HubError, match="not in the cache"):
        find_clips("hf://me/clips")


@pytest.mark.slow
def test_every_verb_takes_the_hub(home: Path, tmp_path: Path) -> None:
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"mm_torch.{verb}", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    tiny = ("recipe=toy_arm", "profile=cpu", "sim=native", "num_envs=16", "ppo.rollout_steps=32", "ppo.minibatches=4",
            "total_steps=512", "run_dir=run", f"init_from={RUN}", f"motions={CLIPS}/few")
    for verb, words, result in (
        ("train", tiny, "run/checkpoints/last.ckpt"),
        ("evaluate", (f"checkpoint={RUN},run", f"motions={CLIPS}"), "evaluation/report.json"),
        ("export", (f"checkpoint={RUN}", f"motions={CLIPS}/few/curl.npz", "formats=torchscript"), "policy/policy.json"),
        ("track", ("body=toy_arm", f"motions={CLIPS}"), "tracking/summary.json"),
    ):
        done = run(verb, *words)
        assert done.returncode == 0 and (tmp_path / result).is_file(), done.stderr
    report = json.loads((tmp_path / "evaluation/report.json").read_text())
    assert [(c["name"], c["checkpoint"]) for c in report["checkpoints"]] == [("toy", RUN), ("run", "run")]
    lost = run("evaluate", "checkpoint=hf://me/legs")
    assert lost.returncode == 2 and lost.stderr.startswith("error: hf://me/legs: not in the cache")
    assert len(lost.stderr.splitlines()) == 1
