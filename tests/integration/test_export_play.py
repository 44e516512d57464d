"""A policy bundle does what the trained policy does and needs nothing of us; a video shows the body and its ghost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio
import numpy as np
import pytest
import torch

from mm_torch import (
    bodies,
    build,
    export,
    play,
    video,
)
from mm_torch.command import EXPECTED
from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.config.schema import ActionConfig, Recipe
from mm_torch.evaluation.job import load_agent, thresholds_of
from mm_torch.evaluation.tracker import evaluation_recipe
from mm_torch.motion.bank import load_bank
from mm_torch.motion.library import library_clips
from mm_torch.policy import bundle as policy_bundle
from mm_torch.policy import formats as policy_formats
from mm_torch.policy import modules as policy_file
from mm_torch.policy import run_policy
from mm_torch.policy import sheet as policy_sheet
from mm_torch.policy.bundle import export_policy
from mm_torch.policy.modules import PolicyFileError
from mm_torch.ppo.policy import Agent
from mm_torch.task import observation
from mm_torch.task.env import MimicEnv
from sim_models.drive import joint_drive
from sim_models.registry import load_body

NETS = {
    "plain": (),
    "residual": ("net.kind=residual", "net.hidden=[32,32,32,32]"),
    "moe": ("net.kind=moe", "net.hidden=[32,32,32]", "net.moe.layers=[2]", "net.moe.experts=4"),
    "upstream": ("net.observation_clip=null", "ppo.upstream=true", "task.action={low: -1.0, offset: 0.0, scale: 1.0}"),
    "reference": ("task.action.base=reference", "task.action.scale=0.3"),
    "joint": ("task.action.space=joint",),
    "feedback": ("task.action.space=joint", "task.action.stiffness=2.0", "task.action.damping=0.1",
                 "task.action.hold_steps=3"),
}


@pytest.fixture(scope="module")
def loud_run(tiny_run: Callable[..., Path]) -> Callable[[str], Path]:
    """One iteration of a kind of network, its actor's output enlarged so that actions leave the linear range."""

    def run(kind: str) -> Path:
        path = tiny_run(1, *NETS[kind]) / "checkpoints" / "last.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["state_dict"]["agent.nets.actor.output.weight"] *= 100.0
        torch.save(checkpoint, path)
        return path

    return run


def setting(checkpoint: Path, *observation: str) -> tuple[Recipe, Agent, MimicEnv]:
    """Recipe, networks and check environment of a checkpoint; with other observation terms where they are given."""
    recipe, agent = load_agent(checkpoint)
    recipe = evaluation_recipe(recipe, None, thresholds_of(recipe))
    if observation:
        recipe = replace(recipe, task=replace(recipe.task, observation=observation))
    body = build.build_body(recipe)
    env = build.build_env(recipe, build.build_physics(recipe, body, policy_bundle.WORLDS, 1), build.build_bank(
        recipe, body, torch.device("cpu")))
    if observation:
        agent = Agent(env.layout[-1].end, env.action_spec.shape[-1], recipe.net)
    return recipe, agent, env


def expected(agent: Agent, recipe: Recipe, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    action = recipe.task.action
    with torch.no_grad():
        mean = agent.mean_action(inputs["observation"]) + agent.nets.log_std.exp() * inputs["noise"]
        if action.space == "joint":
            mean = mean + action.stiffness * inputs["joint_error"] + action.damping * inputs["joint_velocity_error"]
            mean = mean @ torch.from_numpy(joint_drive(load_body("toy_arm"))).float()
        return (inputs["base"] + action.scale * mean).clamp(action.low, 1.0)


@pytest.mark.parametrize("kind", NETS)
def test_export_equals_the_policy(loud_run: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    recipe, agent, env = setting(loud_run(kind))
    figures = policy_bundle.write_formats(tmp_path, ("torchscript",), agent, env)["torchscript"]
    assert figures["observations"] >= 1000
    assert max(figures["policy_difference"], figures["observer_difference"]) <= 1e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["observer.pt", "policy.pt"]
    policy = torch.jit.load(tmp_path / "policy.pt")
    torch.manual_seed(0)
    for rows in (1, 300):
        inputs = {"observation": 0.5 * torch.randn(rows, 18), "base": torch.rand(rows, 6),
                  "joint_error": torch.randn(rows, 2), "joint_velocity_error": torch.randn(rows, 2),
                  "noise": torch.randn(rows, env.action_spec.shape[-1])}
        given, wanted = policy(*inputs.values()), expected(agent, recipe, inputs)
        assert given.dtype == torch.float32
        assert wanted.std() > 0.05  # neither constant nor saturated everywhere
        assert (given - wanted).abs().max() <= 2e-6
    for other in (inputs["observation"][:, 1:], inputs["observation"].double()):  # another layout, another dtype
        with pytest.raises(RuntimeError, match=r"size of tensor|same dtype"):
            policy(*(inputs | {"observation": other}).values())


@pytest.mark.slow
def test_the_observer_has_every_term_of_a_fixed_root(toy_run: Path, tmp_path: Path) -> None:
    free_only = ("root_velocity_b", "ref_root_rotation_b", "ref_root_velocity_b", "upstream_root_pose",
                 "upstream_root_velocity", "upstream_goal_concise")
    _, agent, env = setting(toy_run, *(name for name in observation.TERMS if name not in free_only))
    assert policy_bundle.write_formats(tmp_path, ("torchscript",), agent, env)["torchscript"]["observer_difference"] <= 1e-5


def test_every_term_has_a_unit_and_a_frame() -> None:
    assert set(policy_sheet.UNITS) == set(observation.TERMS)


def test_a_format_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(PolicyFileError, match=r"onnx needs onnxscript; .*pip install 'mm_torch\[onnx\]'"):
        policy_formats.read_formats("torchscript,onnx")


@pytest.mark.slow
def test_onnx_equals_the_policy(loud_run: Callable[[str], Path], tmp_path: Path) -> None:
    assert policy_formats.read_formats("torchscript,onnx") == ("torchscript", "onnx")
    _, agent, env = setting(loud_run("feedback"))
    figures = policy_bundle.write_formats(tmp_path, ("onnx",), agent, env)["onnx"]
    assert max(figures["policy_difference"], figures["observer_difference"]) <= 1e-5


# -- the bundle -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def bundle(loud_run: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_policy(loud_run("feedback"), tmp_path_factory.mktemp("exports") / "policy", ("torchscript", "pt2"))


def test_sheet_names_everything(bundle: Path) -> None:
    sheet = json.loads((bundle / "policy.json").read_text())
    body = load_body("toy_arm")
    ends = [0, *(term["end"] for term in sheet["observation"])]
    assert [term["start"] for term in sheet["observation"]] == ends[:-1]
    assert [i["name"] for i in sheet["policy"]["inputs"]] == [*policy_file.sight(ActionConfig()), "noise"]
    assert sheet["policy"]["inputs"][0]["shape"] == ["N", ends[-1]]
    assert all(term["meaning"] and term["unit"] and term["frame"] for term in sheet["observation"])
    assert sheet["muscles"] == list(body.muscle_names)
    assert sheet["body"] == {"name": "toy_arm", "fingers": False, "model_hash": body.model_hash}
    assert sheet["control_rate_hz"] == 100.0 and sheet["lookahead_s"] == [0.01, 0.05, 0.15]
    assert sheet["recipe"] == "toy_arm" and sheet["hold_steps"] == 3
    assert set(sheet["evaluation"]) == {p.stem for p in (bundle / "clips").iterdir()}
    assert set(sheet["formats"]) == {"torchscript", "pt2"}
    assert all(f["policy_ms"] < 5.0 for f in sheet["formats"].values())  # a loaded machine; about 0.1 on a quiet core


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchscript", "pt2", "onnx"])
def test_the_example_does_what_the_evaluation_did_without_us(
    loud_run: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    bundle = export_policy(loud_run("feedback"), tmp_path / "policy", (kind,))
    code = (
        "import runpy, sys\n"
        "sys.argv.pop(0)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "foreign = {'mm_torch', 'sim_models', 'torchrl', 'tensordict', 'lightning'} & set(sys.modules)\n"
        "assert not foreign, foreign\n"
    )
    words = [sys.executable, "-I", "-c", code, bundle / "run_policy.py", "curl", "reach", "--format", kind]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["curl", "reach"]
    assert all(line.endswith("  as evaluated") for line in done.stdout.splitlines()), done.stdout


def test_the_example_notices_another_result(bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    sheet = json.loads((other / "policy.json").read_text())
    sheet["evaluation"]["curl"]["relative_site_error"] += 2e-3
    (other / "policy.json").write_text(json.dumps(sheet))
    words = [sys.executable, "-I", other / "run_policy.py", "curl"]
    assert "EVALUATED OTHERWISE" in subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_the_example_is_short() -> None:
    assert len(Path(run_policy.__file__).read_text().splitlines()) < 120


def test_own_motions_give_the_very_observation(bundle: Path) -> None:
    """What ``run_policy.py`` makes of a clip's positions is what the bank holds."""
    sheet = json.loads((bundle / "policy.json").read_text())
    body = load_body("toy_arm")
    bank = load_bank(body, library_clips(body.name))
    index = bank.names.index("reach")
    wanted = policy_bundle.reference_arrays(bank, index, torch.zeros(3), body.model.nu)
    given = run_policy.load_reference(body.model, sheet, bundle / "clips" / "reach.npz")
    assert tuple(given) == policy_file.REFERENCE
    for array, tensor in zip(given.values(), wanted, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=0, atol=1e-6)


def test_a_wrong_policy_is_not_kept(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> policy_file.ExportedPolicy:
        policy = policy_file.exported_policy(*arguments)
        policy.mean += 1e-3
        return policy

    out = tmp_path / "policy"
    out.mkdir()
    (out / "policy.json").write_text("an older one")
    monkeypatch.setattr(policy_bundle, "exported_policy", wrong)
    with pytest.raises(PolicyFileError, match="differs"):
        export_policy(toy_run, out, ("torchscript",))
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]
    assert (out / "policy.json").read_text() == "an older one"


def test_an_older_bundle_is_replaced_and_nothing_else(toy_run: Path, bundle: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(bundle, tmp_path / "policy"))
    export_policy(toy_run, out, ("torchscript",))
    assert [p.name for p in tmp_path.iterdir()] == ["policy"] and not (out / "policy.pt2").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for target, message in (("mine", "no policy bundle"), ("file", "no policy bundle"), ("file/policy", "cannot be written")):
        with pytest.raises(PolicyFileError, match=message):
            export_policy(toy_run, tmp_path / target, ("torchscript",))


@pytest.mark.parametrize(
    ("words", "message"),
    ((["out=x"], "checkpoint=CKPT"), (["checkpoint=x", "formats=onx"], "unknown format 'onx'"),
     (["checkpoint=x", "formats="], "at least one"), (["checkpoint=nowhere"], "no such checkpoint")),
)
def test_wrong_words_of_export_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(EXPECTED, match=message):
        export.main(words)


@pytest.mark.slow
def test_the_full_body_and_its_terms(tmp_path: Path) -> None:
    """An untrained policy falls; the modules still equal the environment: free root, touch sensors and reflexes, too."""
    terms = [name for name in observation.TERMS if name != "upstream_goal_full"]  # of the arms: keeps the root's place
    words = ["recipe=fullbody_demo", "profile=cpu", "sim=native", "num_envs=2", "net.symmetric=false",
             f"task.observation=[{','.join(terms)}]"]
    recipe = load_recipe(words, cuda_available=False)
    body = build.build_body(recipe)
    bank = load_bank(body, library_clips(body.name)[:2])
    env = build.build_env(recipe, build.build_physics(recipe, body, policy_bundle.WORLDS, 0), bank)
    agent = Agent.of(recipe, body, [(s.name, s.start, s.end) for s in env.layout], env.action_spec.shape[-1])
    assert agent.reflexes is not None
    agent.reflexes.set_vector(0.2 * torch.randn_like(agent.reflexes.vector()))
    figures = policy_bundle.write_formats(tmp_path, ("torchscript", "pt2"), agent, env)
    assert all(max(f["policy_difference"], f["observer_difference"]) <= 1e-5 for f in figures.values())


def test_base_of_the_reference_is_what_the_environment_adds() -> None:
    recipe = load_recipe(
        ["recipe=toy_arm", "task.action.base=reference", "sim=native", "profile=cpu"], cuda_available=False
    )
    body = build.build_body(recipe)
    bank = load_bank(body, library_clips(body.name))
    env = build.build_env(recipe, build.build_physics(recipe, body, 4, 1), bank)
    state = env.reset()
    base = policy_bundle.policy_inputs(env)[0].clone()
    env.step(state.set("action", torch.zeros(4, 6)))
    torch.testing.assert_close(env.context().excitation, base.clamp(0.0, 1.0), rtol=0.0, atol=0.0)


# -- video ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gl() -> None:
    try:
        video.gl_backend()
    except video.VideoError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("gl")
def test_play_writes_a_video(toy_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.mp4"
    play.main([f"checkpoint={toy_run}", f"video={path}", "clip=swing", "seconds=0.5", "width=160", "height=120"])
    assert [p.name for p in tmp_path.iterdir()] == ["toy.mp4"]
    frames = np.stack([np.asarray(f) for f in imageio.get_reader(path)])
    assert frames.shape == (26, 120, 160, 3)
    assert all(frame.std() > 10 for frame in frames)
    assert np.abs(frames[-1].astype(int) - frames[0]).max() > 30  # something moved


@pytest.mark.usefixtures("gl")
def test_ghost_and_activations_are_visible() -> None:
    body = load_body("toy_arm")
    apart = body.neutral_qpos + 0.8
    colours = body.model.tendon_rgba.copy()
    with video.Stage(body, 160, 120) as stage:
        alone = stage.frame(body.neutral_qpos).astype(int)
        ghost = stage.frame(body.neutral_qpos, None, apart).astype(int)
        relaxed = stage.frame(body.neutral_qpos, np.zeros(6)).astype(int)
        active = stage.frame(body.neutral_qpos, np.ones(6)).astype(int)
    more_blue = (ghost - alone)[..., 2] - (ghost - alone)[..., 0] > 20
    assert 30 < more_blue.sum() < 0.2 * more_blue.size
    assert ((active - relaxed)[..., 0] > 50).sum() > 5
    np.testing.assert_array_equal(body.model.tendon_rgba, colours)  # the shared model stays as it is


@pytest.mark.usefixtures("gl")
def test_an_aimed_camera_shows_all_of_the_body_and_little_else() -> None:
    body = load_body("toy_arm")
    poses = np.stack([body.neutral_qpos, body.neutral_qpos + 0.8])
    with video.Stage(body, 160, 120) as stage:
        stage.aim(poses)
        shown = [stage.frame(qpos).astype(int) for qpos in poses]
        stage.model.geom_rgba[:, 3] *= stage.model.geom_bodyid == 0
        stage.model.tendon_rgba[:, 3] = 0.0
        empty = stage.frame(poses[0]).astype(int)
    drawn = np.any([np.abs(picture - empty).max(axis=-1) > 40 for picture in shown], axis=0)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert rows[0] > 0 and rows[-1] < 119 and columns[0] > 0 and columns[-1] < 159
    assert max(np.ptp(rows) / 120, np.ptp(columns) / 160) > 0.6


@pytest.mark.usefixtures("gl")
def test_motions_play_without_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "reach.mp4"
    play.main(["body=toy_arm", "clip=reach", f"video={path}", "seconds=0.2", "width=160", "height=120"])
    assert imageio.get_reader(path).count_frames() == 11


def test_no_opengl_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(video, "_PROBE", "raise SystemExit(1)")
    with pytest.raises(EXPECTED, match=r"apt-get install libegl1.*libosmesa6"):
        video.gl_backend()


def test_a_window_system_that_is_not_there_is_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(video.VideoError, match="tried glfw"):
        video.gl_backend()


@pytest.mark.parametrize(
    ("words", "message"),
    (
        (["body=toy_arm", "clip=swin"], "near it: swing"),
        (["body=toy_am"], "did you mean 'toy_arm'"),
        (["body=toy_arm", "video=a.gif"], "must end in .mp4"),
        (["body=toy_arm", "width=161"], "even numbers"),
        (["vidoe=a.mp4"], "did you mean 'video'"),
        (["body=toy_arm", "seconds=long"], "must be a number"),
        (["body=toy_arm", "seconds=0"], "greater than 0"),
        (["viewer=vido"], "choose from video, window, web"),
        (["show=ghost"], "choose policy or reference"),
        (["show=rollout"], "give rollout=FILE"),
        (["show=reference"], "add body=NAME, motions=DIR or both"),
        (["checkpoint=runs/toy", "body=toy_arm"], "does not go with showing a reference"),
        (["checkpoint=runs/toy", "rollout=a.npz"], "does not go with showing a rollout"),
        (["rollout=nowhere.npz"], "no such file"),
    ),
)
def test_wrong_words_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(EXPECTED, match=message):
        play.main([f"video={tmp_path / 'a.mp4'}", *words] if not any("vid" in w for w in words) else words)


def test_bodies_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(bodies.BODIES, "myo_fullbody")  # takes seconds to compile
    bodies.main([])
    listed = capsys.readouterr().out
    for name in ("myo_bimanual:", "myo_bimanual with fingers:", "toy_arm:"):
        assert listed.count(f"{name} nq") == 1
    assert "toy_arm with fingers" not in listed
    with pytest.raises(RecipeError, match="unknown option"):
        bodies.main(["x=1"])
