"""A checkpoint of the original becomes one of ours: same outputs, usable by every verb; and what is refused.

``upstream_tiny.npz`` holds a checkpoint that the original wrote, with random weights, and its answers to two of its own
observations; ``tools/convert/make_upstream.py`` makes it. The last test runs the original itself where ``MUSCLEMIMIC_PYTHON``
names a Python that has it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mm_torch import build, evaluate, export, train
from mm_torch.callbacks.checkpoint import KEY, CheckpointError, read_checkpoint
from mm_torch.config.load import RecipeError, to_recipe
from mm_torch.evaluation.job import load_agent
from mm_torch.motion.bank import load_bank
from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_clips
from mm_torch.motion.splits import read_split
from mm_torch.ppo.policy import Agent
from sim_models.registry import load_body
from tools.convert.networks import network_of
from tools.convert.orbax_directory import find_checkpoint, read_upstream
from tools.convert.settings import SPLITS, trained_on
from tools.convert_checkpoint import convert, main, write
from tools.retargeting.upstream import write_trajectory

pytest.importorskip("tensorstore", reason="the extra upstream is not installed")

SPLIT_FILES = Path(__file__).parents[3] / "recipes" / "splits"
TINY = Path(__file__).with_name("upstream_tiny.npz")
ORIGINAL = os.environ.get("MUSCLEMIMIC_PYTHON", "")
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """The packed checkpoint, unpacked: a directory that holds ``checkpoint_7``."""
    return unpack(tmp_path / "theirs")


def unpack(folder: Path) -> Path:
    with np.load(TINY) as arrays:
        for name in [n for n in arrays.files if n.startswith("file/")]:
            path = folder / name.removeprefix("file/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(arrays[name].tobytes())
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed checkpoint, converted."""
    folder = tmp_path_factory.mktemp("converted")
    main([str(unpack(folder / "theirs")), f"out={folder / 'mm.ckpt'}"])
    return folder / "mm.ckpt"


def edit(folder: Path, change: Change) -> None:
    """Change the stored configuration's experiment."""
    path = folder / "checkpoint_7" / "config" / "metadata"
    config = json.loads(path.read_text())
    change(config["experiment"])
    path.write_text(json.dumps(config))


def assert_same_outputs(agent: Agent, arrays: Any, prefix: str = "") -> None:
    observation, mean, value = (torch.from_numpy(arrays[prefix + n]) for n in ("observation", "mean", "value"))
    with torch.no_grad():
        seen = agent.normaliser.upstream_forward(observation)
        torch.testing.assert_close(agent.nets.policy(seen)[0], mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(agent.nets.value(seen), value, rtol=0, atol=1e-5)
    assert mean.std(0).mean() > 1e-3 or len(mean) < 3, "a policy that does nothing would prove nothing"


def test_outputs_recipe_and_layout(ours: Path, capsys: pytest.CaptureFixture[str]):
    recipe, agent = load_agent(ours)
    with np.load(TINY) as arrays:
        assert_same_outputs(agent, arrays)
    extra = read_checkpoint(ours)[KEY]
    assert (recipe.compat, recipe.body.name, recipe.body.fingers) == ("upstream", "myo_bimanual", True)
    assert recipe.task.lookahead_steps == (0,) and extra["layout"][-1] == ["phase", 700, 701]
    assert recipe.task.termination["absolute_site_deviation"] == 0.05 and recipe.task.reward["site_position"].weight == 2.0
    net, optimiser = recipe.net, recipe.ppo.optimiser
    assert (net.kind, net.hidden, net.init_std, net.observation_clip) == ("plain", (3,), 0.2, None)
    assert (optimiser.kind, optimiser.schedule, optimiser.weight_decay) == ("muon", "constant", 1e-3)
    assert (recipe.num_envs, recipe.ppo.rollout_steps, recipe.ppo.minibatches) == (8192, 10, 32)
    assert (extra["iteration"], extra["control_steps"]) == (7, 7 * 8192 * 10) and extra["upstream"]["schema_version"] == "2.2"
    assert extra["upstream"]["motions"] == "AMASS_BIMANUAL_TRAIN_MOTIONS (recipes/splits/amass_bimanual_train.txt)"
    assert read_checkpoint(ours)["state_dict"]["agent.normaliser.count"] == 2e9


def test_the_latest_complete_checkpoint_is_taken(theirs: Path):
    shutil.copytree(theirs / "checkpoint_7", theirs / "checkpoint_12")
    assert find_checkpoint(theirs).name == "checkpoint_12" and find_checkpoint(theirs / "checkpoint_7").name == "checkpoint_7"
    (theirs / "checkpoint_12" / "config" / "metadata").unlink()
    assert find_checkpoint(theirs).name == "checkpoint_7"
    flat = theirs.parent / "downloaded"  # a published copy is the directory itself
    (theirs / "checkpoint_7").rename(flat)
    assert find_checkpoint(flat) == flat


def test_it_is_fine_tuned_but_not_resumed(ours: Path):
    recipe = train.recipe_from(["recipe=bimanual_generalist", "profile=cpu", "compat=upstream", f"init_from={ours}"])
    stored = to_recipe(read_checkpoint(ours)[KEY]["recipe"])
    assert (recipe.body, recipe.net, recipe.task) == (stored.body, stored.net, stored.task) and recipe.num_envs == 128
    with pytest.raises(CheckpointError, match="no run that could go on; begin one with init_from="):
        train.main([f"resume={ours}", "num_envs=4", "ppo.minibatches=4", "sim=native"])


def test_its_groups_of_motions_are_our_splits():
    experiment = {"task_factory": {"params": {"amass_dataset_conf": {}}}}
    for group, files in SPLITS.items():
        experiment["task_factory"]["params"]["amass_dataset_conf"] = {"dataset_group": group}
        assert all(read_split(SPLIT_FILES / f"{name}.txt") and f"{name}.txt" in trained_on(experiment) for name in files)
    sizes = [len(read_split(SPLIT_FILES / f"{SPLITS[group][0]}.txt")) for group in SPLITS]
    assert sizes == [972, 108, 972, 110, 1770, 312], "the original's, which hold 1082 in the third with the transitions"
    experiment["task_factory"]["params"]["amass_dataset_conf"] = {"rel_dataset_path": ["KIT/3/walk_poses"]}
    assert trained_on(experiment) == "KIT/3/walk_poses"


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_other_places(tmp_path: Path, theirs: Path):
    with pytest.raises(CheckpointError, match="nothing: no such directory; give a directory checkpoint_N"):
        convert(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty: holds no checkpoint of MuscleMimic"):
        convert(tmp_path / "empty")
    (tmp_path / "old.pkl").write_bytes(b"\x80\x04\x95")
    with pytest.raises(CheckpointError, match=r"old.pkl: a pickle, which could run anything and is not read"):
        convert(tmp_path / "old.pkl")
    (tmp_path / "x.ckpt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"x.ckpt: a file, and Orbax writes directories"):
        convert(tmp_path / "x.ckpt")
    path = theirs / "checkpoint_7" / "config" / "metadata"
    path.write_text('{"agent": 1}')
    with pytest.raises(CheckpointError, match="no section 'experiment'"):
        convert(theirs)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="config/metadata: not readable"):
        convert(theirs)


@pytest.mark.parametrize("missing", ["train_state/_METADATA", "config/metadata", "metadata/metadata"])
def test_partial_directories(theirs: Path, missing: str):
    (theirs / "checkpoint_7" / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"checkpoint_7: {missing} is missing; the checkpoint is partial"):
        convert(theirs)


def test_unfinished_writes(theirs: Path):
    mark = theirs / "checkpoint_7" / "_CHECKPOINT_METADATA"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"commit_timestamp_nsecs": None}))
    with pytest.raises(CheckpointError, match="its commit mark is missing; the checkpoint is partial"):
        convert(theirs)
    mark.unlink()
    (theirs / "checkpoint_7").rename(theirs / "checkpoint_7.orbax-checkpoint-tmp")
    with pytest.raises(CheckpointError, match="partial"):
        convert(theirs)


def test_lost_data_files(theirs: Path):
    for path in (theirs / "checkpoint_7" / "train_state").rglob("d/*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"params\..* cannot be read .*partial"):
        convert(theirs)


def rewritten(folder: Path, name: str, array: np.ndarray) -> None:
    """Replace or add one array of a train state."""
    import tensorstore

    state = (folder / "checkpoint_7" / "train_state").resolve()
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{state}/"}, "path": f"{name}/"}
    written = tensorstore.open({"driver": "zarr", "kvstore": store}, create=True, delete_existing=True,
                               dtype=array.dtype, shape=array.shape).result()
    written.write(array).result()
    sheet = json.loads((state / "_METADATA").read_text())
    sheet["tree_metadata"][name] = {"key_metadata": [{"key": part, "key_type": 2} for part in name.split(".")]}
    (state / "_METADATA").write_text(json.dumps(sheet))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("run_stats.RunningMeanStd_0.mean", np.zeros(1597, np.float32), "sees 1597 numbers, myo_bimanual shows 701"),
        ("run_stats.RunningMeanStd_0.mean", np.zeros(701, np.float64), "mean is float64, the original trains in float32"),
        ("params.log_std", np.full(126, np.nan, np.float32), "log_std is not finite"),
        ("params.log_std", np.zeros(64, np.float32), "moves 64 muscles, myo_bimanual with fingers=true has 126"),
        ("params.actor.Dense_1.kernel", np.zeros((3, 5), np.float32), r"Dense_1.kernel has shape \(3, 5\)"),
        ("params.critic.Dense_0.kernel", np.zeros((701, 4), np.float32), r"actor \[3\] and critic \[4\] have different"),
        ("params.actor.Gru_0.kernel", np.zeros((3, 3), np.float32), "actor.Gru_0.kernel belongs to no part of a plain"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(theirs: Path, name: str, array: np.ndarray, message: str):
    rewritten(theirs, name, array)
    with pytest.raises(CheckpointError, match=message):
        convert(theirs)


def test_unknown_and_partial_towers(theirs: Path):
    arrays = read_upstream(theirs).arrays
    with pytest.raises(CheckpointError, match=r"unknown tower \(parameters actor.Transformer_0 \.\.\.\); known are those"):
        network_of(theirs, {"params.actor.Transformer_0.kernel": np.zeros((2, 2))})
    sheet = theirs / "checkpoint_7" / "train_state" / "_METADATA"
    content = json.loads(sheet.read_text())
    content["tree_metadata"] = {k: v for k, v in content["tree_metadata"].items() if "LayerNorm_0" not in k}
    sheet.write_text(json.dumps(content))
    assert len(read_upstream(theirs).arrays) < len(arrays)
    with pytest.raises(CheckpointError, match=r"params.actor.LayerNorm_0.scale is missing; the checkpoint is partial"):
        convert(theirs)


def settings(key: str, value: Any) -> Change:
    def change(experiment: dict[str, Any]) -> None:
        *sections, last = key.split(".")
        for section in sections:
            experiment = experiment[section]
        experiment[last] = value

    return change


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("env_params.env_name", "MjxUnitreeH1", "MjxUnitreeH1 is not known; known are MyoFullBody, MyoBimanualArm"),
        ("env_params.enable_muscle_length_observations", True, "enable_muscle_length_observations=True, only False is known"),
        ("env_params.goal_params.n_step_lookahead", 5, r"sees 701 numbers, .* shows 1597 .*another observation layout"),
        ("env_params.goal_params.sites_for_mimic", ["left_hand_mimic"], "follows the sites left_hand_mimic; known is only"),
        ("env_params.n_substeps", 10, "control step of 0.02 s, here 0.01 s"),
        ("env_params.disable_fingers", True, "sees 701 numbers"),
        ("len_obs_history", 3, "len_obs_history=3, only 1 is known"),
        ("activation", "relu", "activation=relu, only silu is known"),
        ("use_layernorm", False, "use_layernorm=False, only True"),
        ("n_seeds", 4, "n_seeds=4, only 1 is known"),
    ],
)  # fmt: skip
def test_policies_that_see_or_compute_otherwise(theirs: Path, key: str, value: Any, message: str):
    edit(theirs, settings(key, value))
    with pytest.raises(CheckpointError, match=message):
        convert(theirs)


def test_training_settings_without_counterpart_are_named(theirs: Path, caplog: pytest.LogCaptureFixture):
    edit(theirs, settings("adaptive_sampling", {"enabled": True}))
    convert(theirs)
    assert "not taken over, which matters for fine-tuning alone: adaptive_sampling.enabled=True" in caplog.text


def test_missing_extra(theirs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(CheckpointError, match=r"needs tensorstore; install the extra: pip install 'mm_torch\[upstream\]'"):
        convert(theirs)


def test_target_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("taken")
    for out in (tmp_path / "file" / "mm.ckpt", Path("/proc/mm.ckpt")):
        with pytest.raises(CheckpointError, match=rf"out={out}: cannot be written .*name a file in a directory that can"):
            write({"a": torch.zeros(1)}, out)
    (tmp_path / "mm.ckpt").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write({"a": torch.zeros(1)}, tmp_path / "mm.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mm.ckpt"]


@pytest.mark.parametrize("words", [[], ["a"], ["a", "b", "out=x.ckpt"], ["a", "out=x.pt"], ["a", "out=x.ckpt", "y=1"]])
def test_command_line(words: list[str]):
    with pytest.raises(RecipeError, match=r"use convert_checkpoint.py ORBAX_DIR out=FILE.ckpt"):
        main(words)


# -- the whole way -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_evaluated_fine_tuned_and_exported_again(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clips = tmp_path / "clips"
    clips.mkdir()
    shutil.copy(next(p for p in library_clips("myo_bimanual") if p.stem == "wave_right"), clips)
    evaluate.main([f"checkpoint={ours}", f"motions={clips}", f"out={tmp_path / 'before'}", "threads=1"])
    assert json.loads((tmp_path / "before" / "summary.json").read_text())
    run = tmp_path / "run"
    train.main(["recipe=bimanual_generalist", "profile=cpu", "compat=upstream", f"init_from={ours}", f"motions={clips}",
                f"run_dir={run}", "num_envs=8", "ppo.minibatches=4", "ppo.rollout_steps=16", "total_steps=384", "sim=native",
                "threads=1"])
    tuned = read_checkpoint(run)
    assert tuned[KEY]["iteration"] == 3
    name = "agent.nets.actor.output.weight"
    assert not torch.equal(tuned["state_dict"][name], read_checkpoint(ours)["state_dict"][name])
    export.main([f"checkpoint={run}", f"out={tmp_path / 'policy'}", "formats=torchscript", f"motions={clips}"])
    example = subprocess.run([sys.executable, "run_policy.py"], cwd=tmp_path / "policy", capture_output=True, text=True,
                             check=False)
    assert example.returncode == 0, example.stdout + example.stderr


# Paths that MuJoCo 3.4, which the original pins, measures longer than MuJoCo 4.0 by a constant, in m.
LONGER = {"TMAJ": 0.01481374024, "LAT2": 0.01284233023, "TMAJ_left": 0.01481374024, "LAT2_left": 0.01284233023}
FLOAT_STEPS = {"myo_fullbody": 8, "myo_bimanual": 20}  # then a contact or a tendon switches one step earlier in one of them


@pytest.mark.slow
@pytest.mark.skipif(not ORIGINAL, reason="MUSCLEMIMIC_PYTHON names no Python with musclemimic 0.1.0")
def test_the_original_itself(tmp_path: Path):
    words = []
    for name, motion in (("myo_fullbody", "walk"), ("myo_bimanual", "wave_right")):
        clip = load_clip(next(p for p in library_clips(name) if p.stem == motion))
        write_trajectory(load_body(name), clip, tmp_path / f"{name}.npz")
        words.append(f"{name}={tmp_path / name}.npz")
    script = Path(__file__).parents[3] / "tools" / "convert" / "make_upstream.py"
    subprocess.run([ORIGINAL, str(script), str(tmp_path / "out"), *words], check=True, capture_output=True)
    cases = sorted(tmp_path.glob("out/*.npz"))
    assert len(cases) == 5
    for case in cases:
        out = tmp_path / f"{case.stem}.ckpt"
        main([str(case.with_suffix("")), f"out={out}"])
        recipe, agent = load_agent(out)
        with np.load(case) as arrays:
            assert_same_outputs(agent, arrays)
            assert_same_rollout(replace(recipe, num_envs=1, sim="native"), load_agent(out)[1], dict(arrays),
                                tmp_path / f"{recipe.body.name}.npz")


@torch.no_grad()
def assert_same_rollout(recipe: Any, agent: Agent, arrays: dict[str, np.ndarray], trajectory: Path) -> None:
    """The native back end under the converted policy follows the original's CPU environment, given its tendon lengths."""
    body = build.build_body(recipe)
    longer = np.array([LONGER.get(name, 0.0) for name in body.muscle_names])
    published = body.model.actuator_lengthrange.copy()  # the body is shared by all who load it
    body.model.actuator_lengthrange[:] -= longer[:, None]
    if body.free_root:
        columns = slice(175, 175 + 5 * len(longer), 5)  # lengths in the observation
        agent.normaliser.mean[columns] -= torch.from_numpy(longer)
    env = build.build_env(recipe, build.build_physics(recipe, body, 1, 1), load_bank(body, [trajectory]))
    body.model.actuator_lengthrange[:] = published
    env.assign(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    env.reset()
    for step in range(FLOAT_STEPS[body.name]):
        for name, tolerance in (("qpos", 3e-5), ("qvel", 5e-4), ("act", 5e-5)):
            gap = np.abs(getattr(env.physics.state, name)[0].numpy() - arrays[f"roll_fresh_{name}"][step]).max()
            assert gap < tolerance, f"{name} differs by {gap:.1e} at step {step}"
        action = agent.mean_action(env.current_observation)
        gap = np.abs(action[0].numpy() - arrays["roll_fresh_action"][step]).max()
        assert gap < 1e-4, f"action differs by {gap:.1e} at step {step}"
        env.advance(action, torch.ones(1, dtype=torch.bool))
