"""A policy file does what the trained policy does and needs torch alone; a video shows the body and its ghost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imageio
import numpy as np
import pytest
import torch

from mm_torch import bodies, build, play, policy_file, video
from mm_torch.command import EXPECTED
from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.evaluation import load_agent
from mm_torch.motion.bank import load_bank
from mm_torch.motion.library import library_clips
from mm_torch.policy_file import PolicyFileError, export_policy
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


def expected(
    checkpoint: Path, observation: torch.Tensor, base: torch.Tensor | float, joint_errors: list[torch.Tensor]
) -> torch.Tensor:
    recipe, agent = load_agent(checkpoint)
    action = recipe.task.action
    with torch.no_grad():
        mean = agent.mean_action(observation)
        if action.space == "joint":
            mean = mean + action.stiffness * joint_errors[0] + action.damping * joint_errors[1]
            mean = mean @ torch.from_numpy(joint_drive(load_body("toy_arm"))).float()
        return (base + action.scale * mean).clamp(action.low, 1.0).clamp(min=0.0)


@pytest.mark.parametrize("kind", NETS)
def test_export_equals_the_policy(loud_run: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    checkpoint = loud_run(kind)
    out = export_policy(checkpoint, tmp_path / "policy.pt")
    policy = torch.jit.load(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["policy.json", "policy.pt"]
    torch.manual_seed(0)
    for rows in (1, 300):
        observation = 0.5 * torch.randn(rows, 18)
        base = torch.rand(rows, 6) if kind == "reference" else load_agent(checkpoint)[0].task.action.offset
        errors = [torch.randn(rows, 2), torch.randn(rows, 2)] if kind == "feedback" else []
        named = dict(zip(("joint_error", "joint_velocity_error"), errors, strict=False))
        given = policy(observation, base) if kind == "reference" else policy(observation, **named)
        wanted = expected(checkpoint, observation, base, errors or [torch.zeros(rows, 2)] * 2)
        assert given.dtype == torch.float32
        assert wanted.std() > 0.05  # neither constant nor saturated everywhere
        assert (given - wanted).abs().max() <= 1e-6


def test_a_policy_file_asks_for_the_inputs_it_needs(loud_run: Callable[[str], Path], tmp_path: Path) -> None:
    for kind, missing in (("reference", "base"), ("feedback", "joint_error")):
        policy = torch.jit.load(export_policy(loud_run(kind), tmp_path / f"{kind}.pt"))
        with pytest.raises(torch.jit.Error, match=missing):
            policy(torch.zeros(1, 18))


def test_sheet_names_everything(toy_run: Path, tmp_path: Path) -> None:
    sheet = json.loads(export_policy(toy_run, tmp_path / "p.pt").with_suffix(".json").read_text())
    body = load_body("toy_arm")
    ends = [0, *(term["end"] for term in sheet["observation"])]
    assert [term["start"] for term in sheet["observation"]] == ends[:-1]
    assert sheet["inputs"]["observation"]["shape"] == ["N", ends[-1]]
    assert all(term["meaning"] for term in sheet["observation"])
    assert sheet["muscles"] == list(body.muscle_names)
    assert sheet["body"] == {"name": "toy_arm", "fingers": False, "model_hash": body.model_hash}
    assert sheet["control_rate_hz"] == 100.0
    assert sheet["recipe"] == "toy_arm"
    assert sheet["difference"] <= 1e-6


def test_policy_file_needs_torch_alone(toy_run: Path, tmp_path: Path) -> None:
    out = export_policy(toy_run, tmp_path / "policy.pt")
    code = (
        "import sys, torch\n"
        "y = torch.jit.load(sys.argv[1])(torch.zeros(5, 18))\n"
        "foreign = {'mm_torch', 'sim_models', 'mujoco', 'torchrl', 'tensordict', 'lightning'} & set(sys.modules)\n"
        "assert not foreign, foreign\n"
        "print(tuple(y.shape), float(y.min()) >= 0, float(y.max()) <= 1)\n"
    )
    words = [sys.executable, "-I", "-c", code, out]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(5, 6) True True"


def test_a_wrong_policy_is_not_kept(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(policy_file.ExportedPolicy):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            self.scale += 1e-3

    out = tmp_path / "policy.pt"
    out.write_bytes(b"an older one")
    monkeypatch.setattr(policy_file, "ExportedPolicy", Wrong)
    with pytest.raises(PolicyFileError, match="differs"):
        export_policy(toy_run, out)
    assert [p.name for p in tmp_path.iterdir()] == ["policy.pt"]
    assert out.read_bytes() == b"an older one"


def test_base_of_the_reference_is_what_the_environment_adds() -> None:
    recipe = load_recipe(
        ["recipe=toy_arm", "task.action.base=reference", "sim=native", "profile=cpu"], cuda_available=False
    )
    body = build.build_body(recipe)
    bank = load_bank(body, library_clips(body.name))
    env = build.build_env(recipe, build.build_physics(recipe, body, 4, 1), bank)
    state = env.reset()
    base = policy_file.policy_inputs(env)["base"].clone()
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
        ([], "checkpoint=CKPT"),
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
