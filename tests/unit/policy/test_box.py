"""The policy in the box is small, says where it comes from, and moves the arms along the built-in motions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mm_torch.callbacks.checkpoint import KEY, CheckpointError, read_checkpoint
from mm_torch.config.load import RecipeError
from mm_torch.evaluation.job import Plan, evaluate, load_agent
from mm_torch.evaluation.tracker import Conditions
from mm_torch.motion.library import library_clips, library_dir
from mm_torch.policy import box
from mm_torch.policy.box import boxed_policy
from mm_torch.policy.modules import PolicyFileError
from mm_torch.train import main as train
from tools import make_box


def test_it_is_small_and_says_where_it_comes_from() -> None:
    path = boxed_policy()
    assert path.stat().st_size < 1e6
    checkpoint = read_checkpoint(path)
    extra, recipe = checkpoint[KEY], checkpoint[KEY]["recipe"]
    assert (recipe["recipe"], recipe["seed"], recipe["body"]["name"]) == ("bimanual_guided", 1, "myo_bimanual")
    assert extra["control_steps"] == 65_536 and extra["seconds"] > 60
    assert extra["clips"] == [p.stem for p in library_clips("myo_bimanual")]
    assert all(recipe[name] is None for name in ("motions", "run_dir", "resume", "init_from"))
    assert {v.dtype for k, v in checkpoint["state_dict"].items() if ".nets." in k} == {torch.float16}


@pytest.mark.slow
def test_it_follows_a_motion(tmp_path: Path) -> None:
    motion = str(library_dir("myo_bimanual") / "elbow_sweep_right.npz")
    plan = Plan((str(boxed_policy()),), motion, tmp_path, threads=1, conditions=Conditions(worlds=1))
    ((result,),) = [c.results for c in evaluate(plan)]
    assert result.frame_coverage == 1.0
    assert result.errors["relative_site_error"] < 0.02


def test_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(box, "BOX", tmp_path / "box.ckpt")
    with pytest.raises(PolicyFileError, match="install mm_torch again"):
        boxed_policy()


def test_packing_keeps_the_policy_and_nothing_else(toy_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy.ckpt"
    make_box.main([f"checkpoint={toy_run}", f"out={out}"])
    assert [p.name for p in tmp_path.iterdir()] == ["toy.ckpt"]
    last = toy_run / "checkpoints" / "last.ckpt"
    assert out.stat().st_size < last.stat().st_size / 2
    packed = out.read_bytes()
    assert str(toy_run).encode() not in packed and b"optimizer" not in packed
    (_, whole), (_, half) = load_agent(last), load_agent(out)
    observation = torch.randn(64, whole.normaliser.mean.numel())
    torch.testing.assert_close(half.mean_action(observation), whole.mean_action(observation), atol=5e-3, rtol=5e-3)
    with pytest.raises(CheckpointError, match=f"init_from={out}"):
        train([f"resume={out}"])


def test_packing_refuses_what_has_no_built_in_motions() -> None:
    with pytest.raises(RecipeError, match="motions=clips: the box takes"):
        make_box.pack({KEY: {"recipe": {"motions": "clips"}}})
