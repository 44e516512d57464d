"""Runs that begin with the teacher: what the policy learns, resuming, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mm_torch import build
from mm_torch.callbacks.checkpoint import read_checkpoint
from mm_torch.command import run_command
from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.distillation.teacher import Teacher
from mm_torch.evaluation.comparison import summarise
from mm_torch.evaluation.job import Plan, evaluate
from mm_torch.train import main, recipe_from
from mm_torch.training import train

TOY = (
    "recipe=toy_arm", "profile=cpu", "sim=native", "num_envs=16", "threads=1", "ppo.rollout_steps=8", "ppo.minibatches=4",
    "net.hidden=[64,64]", "net.init_std=0.05", "task.action.space=muscle", "total_steps=256", "ppo.value_warmup=1",
)
TAUGHT = ("distillation.labels=2048", "distillation.led_labels=512", "distillation.last_updates=400")


def judged(run: Path, out: Path) -> dict[str, float]:
    return summarise(evaluate(Plan((str(run / "checkpoints" / "distilled.ckpt"),), None, out, 1))[0].results)


@pytest.mark.slow
def test_the_policy_learns_from_the_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(recipe_from([*TOY, f"run_dir={tmp_path / 'run'}", *TAUGHT]))
    assert "labels 2,048 of 2,048" in capsys.readouterr().out
    assert len(list((tmp_path / "run" / "labels").glob("*.npz"))) == 8
    train(recipe_from([*TOY, f"run_dir={tmp_path / 'little'}", "distillation.labels=16", "distillation.last_updates=1"]))
    taught, untaught = judged(tmp_path / "run", tmp_path / "a"), judged(tmp_path / "little", tmp_path / "b")
    assert taught["relative_site_error"] < 0.3 * untaught["relative_site_error"]
    assert taught["episode_return"] > untaught["episode_return"]


@pytest.mark.slow
def test_resuming_uses_the_labels_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(recipe_from([*TOY, f"run_dir={run}", "distillation.labels=512", "total_steps=1"]))
    shutil.rmtree(run / "checkpoints")
    whole = tmp_path / "whole"
    (run / "labels").rename(tmp_path / "labels")
    whole.mkdir()
    (tmp_path / "labels").rename(whole / "labels")
    stamps = {path: path.stat().st_mtime_ns for path in (whole / "labels").glob("*.npz")}
    train(recipe_from([*TOY, f"run_dir={whole}", "distillation.labels=1024", "distillation.last_updates=300"]))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps and len(stamps) == 2
    assert len(list((whole / "labels").glob("*.npz"))) == 4
    out = capsys.readouterr().out
    assert "labels 768 of 1,024" in out and "labels 256 of 1,024" not in out


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = read_checkpoint(run)["state_dict"]
    return {name: x for name, x in state.items() if name.startswith("agent.nets.")}


def test_the_critic_learns_alone_at_first(tmp_path: Path) -> None:
    start = weights(train(recipe_from([*TOY, f"run_dir={tmp_path / 'a'}", "total_steps=128", "ppo.optimiser.lr=0"])))
    after = weights(train(recipe_from([*TOY, f"run_dir={tmp_path / 'b'}", "total_steps=128"])))  # one iteration
    changed = {name.split(".")[2] for name in start if (start[name] != after[name]).any()}
    assert changed == {"critic"}


def test_teacher_follows_the_reference_of_each_world() -> None:
    recipe = load_recipe([*TOY], cuda_available=False)
    body = build.build_body(recipe)
    physics = build.build_physics(recipe, body, 16, 1)
    env = build.build_env(recipe, physics, build.build_bank(recipe, body, physics.device))
    env.reset()
    teacher = Teacher(body, env.bank)
    everyone = torch.arange(16)
    whole, part = teacher(env, everyone).excitation, teacher(env, everyone[3:5]).excitation
    torch.testing.assert_close(whole[3:5], part, rtol=0, atol=1e-3)
    assert whole.shape == (16, body.model.nu) and float(whole.min()) >= 0.0 and float(whole.max()) <= 1.0


@pytest.mark.parametrize(("words", "message"), [
    (("task.action.space=joint",), "task.action.space=muscle"),
    (("distillation.led_share=2",), "distillation.led_share=2.0: must lie between 0 and 1"),
])
def test_what_cannot_be_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe([*TOY, "distillation.labels=64", *words], cuda_available=False)


def test_labels_of_another_run_are_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "labels").mkdir(parents=True)
    (tmp_path / "run" / "labels" / "000000.npz").write_bytes(b"no zip")
    with pytest.raises(SystemExit) as end:
        run_command(main, [*TOY, f"run_dir={tmp_path / 'run'}", *TAUGHT], None)
    assert end.value.code == 2 and "delete the folder" in capsys.readouterr().err
