"""Evaluation: the same every time and in any company; its rollouts obey physics; training does not notice it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from mm_torch import build
from mm_torch.command import EXPECTED
from mm_torch.config.load import load_recipe
from mm_torch.evaluate import main, plan_from
from mm_torch.evaluation.evalkit import KitWriter
from mm_torch.evaluation.job import candidate_names, evaluate, load_agent, thresholds_of
from mm_torch.evaluation.perturbation import Push
from mm_torch.evaluation.recording import record_states, rollout_of
from mm_torch.evaluation.report import render
from mm_torch.evaluation.rollout_file import FEET, read_rollout
from mm_torch.evaluation.tracker import ERRORS, ClipResult, Conditions, Trace, Tracker, evaluation_recipe
from mm_torch.motion.bank import ReferenceBank, load_bank
from mm_torch.motion.library import library_clips, library_dir
from mm_torch.ppo.policy import Agent
from mm_torch.sim.native import NativePhysics
from mm_torch.task.metrics import tracking_errors
from mm_torch.training import train
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body

SUMMARY = ["clips", "early_termination_rate", "frame_coverage", *ERRORS, "episode_length", "episode_return"]
LOOSE = {"absolute_site_deviation": 0.4}  # some clips end early, some do not
READ_KIT = """
import json, pathlib, sys
import numpy as np
from mm_evalkit.workflows.gait.channels import joint_names_myo, muscle_names_myo
from mm_evalkit.workflows.gait.loading import build_channels
from mm_evalkit.workflows.gait.policy_data import extract_trajectory_data
from mm_evalkit.workflows.gait.rollout_validation import has_embedded_kinetics, validate_rollout_archive

path = pathlib.Path(sys.argv[1])
with np.load(path, allow_pickle=False) as archive:
    kinetics = has_embedded_kinetics(archive, path)
    episodes = validate_rollout_archive(
        archive, path, subject_based=False, motion_count=None, expected_joint_names=tuple(joint_names_myo),
        expected_joint_width=len(joint_names_myo) + 6, expected_activation_width=len(muscle_names_myo),
    )
data = extract_trajectory_data(build_channels("Wang"), path, subject_based=False)
print(json.dumps({"episodes": int(episodes), "kinetics": bool(kinetics), "skipped": len(data.skipped_episodes),
                  "gait": len(data.episode_gait_records)}))
"""
VARIED = Conditions(push=Push(0.05, 0.3, "hand_mimic"), sampled=True)


@pytest.fixture(scope="module")
def held_run(tiny_run: Callable[..., Path]) -> Path:
    """A toy arm whose actions are held, so that worlds which take new clips get out of step."""
    return tiny_run(2, "task.action.hold_steps=3", "task.action.space=joint")


def toy_tracker(run: Path, conditions: Conditions, names: tuple[str, ...] = ()) -> tuple[Tracker, Agent]:
    recipe, agent = load_agent(run)
    recipe = evaluation_recipe(recipe, None, LOOSE)
    body = build.build_body(recipe)
    paths = [p for p in library_clips(body.name) if not names or p.stem in names]
    return Tracker(recipe, load_bank(body, paths), 2, conditions), agent


def track(run: Path, conditions: Conditions = Conditions(), names: tuple[str, ...] = ()) -> list[ClipResult]:  # noqa: B008
    tracker, agent = toy_tracker(run, conditions, names)
    return tracker.track(agent)


# -- the same every time ----------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("varied", (False, True))
def test_results_depend_on_nothing_beside_the_policy(held_run: Path, varied: bool) -> None:
    def under(worlds: int) -> Conditions:
        return Conditions(worlds=worlds, push=VARIED.push if varied else None, sampled=varied)

    expected = track(held_run, under(64))
    assert {r.early_termination for r in expected} == {True, False}  # worlds become free at different times
    assert track(held_run, under(64)) == expected
    for worlds in (1, 3):
        assert track(held_run, under(worlds)) == expected
    one = expected[1]
    assert track(held_run, under(64), (one.clip,)) == [one]
    assert track(held_run, under(64), ("swing", one.clip)) == [one, next(r for r in expected if r.clip == "swing")]


@pytest.mark.slow
def test_pushes_samples_and_weakness_change_what_happens(toy_run: Path) -> None:
    healthy = track(toy_run, names=("reach",))
    seen = [healthy]
    for changed in (
        Conditions(push=VARIED.push), Conditions(sampled=True), Conditions(push=VARIED.push, seed=1),
        Conditions(strength=(("deltoid_front", 0.2),)),
    ):
        results = track(toy_run, changed, ("reach",))
        assert results not in seen, changed
        seen.append(results)


def test_each_clip_is_tracked_as_one_world_alone_would_be(toy_run: Path) -> None:
    """Against a plain loop over one environment, within what sizes of matrix products make of rounding."""
    recipe, agent = load_agent(toy_run)
    recipe = evaluation_recipe(recipe, None, LOOSE)
    body = build.build_body(recipe)
    bank = load_bank(body, library_clips(body.name))
    env = build.build_env(recipe, NativePhysics(body, 1, 1), bank)
    results = {r.clip: r for r in track(toy_run)}
    for clip, name in enumerate(bank.names):
        env.assign(torch.tensor([clip]), torch.tensor([0]))
        env.reset()
        steps, total, error = 0, 0.0, 0.0
        while True:
            with torch.no_grad():
                taken = env.advance(agent.mean_action(env.current_observation), torch.tensor([True]))
            steps, total = steps + 1, total + taken.reward.item()
            error += tracking_errors(env.context())["absolute_site_error"].item()
            if taken.terminated or taken.truncated:
                break
        result = results[name]
        assert result.frames == int(bank.lengths[clip]) - 1
        assert abs(result.episode_length - steps) <= 1 and result.early_termination == bool(taken.terminated)
        assert result.episode_return == pytest.approx(total, rel=0.02)
        assert result.errors["absolute_site_error"] == pytest.approx(error / steps, rel=0.02)


def test_traces_end_with_the_clip(toy_run: Path) -> None:
    traces: list[Trace] = []
    tracker, agent = toy_tracker(toy_run, Conditions(worlds=2))
    results = {r.clip: r for r in tracker.track(agent, record=traces.append)}
    assert sorted(t.clip for t in traces) == sorted(results)
    for trace in traces:
        result = results[trace.clip]
        assert len(trace.qpos) == len(trace.total) == result.episode_length + 1
        assert trace.finished != result.early_termination
        assert trace.total[1:].sum() == pytest.approx(result.episode_return, rel=1e-5)
        assert np.isnan(trace.total[0]) and all(v[1:].min() >= 0 and v[1:].max() <= 1 for v in trace.rewards.values())


# -- files ------------------------------------------------------------------------------------------------------------
def test_one_checkpoint_writes_summary_clips_and_report(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([f"checkpoint={toy_run}", f"out={tmp_path}", "absolute_site_deviation=0.4", "format=json"])
    printed = json.loads(capsys.readouterr().out)  # nothing but JSON
    assert printed == json.loads((tmp_path / "report.json").read_text())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == SUMMARY and summary["clips"] == 4
    with (tmp_path / "per_clip.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["clip", *SUMMARY[1:]]
    assert [r["clip"] for r in rows] == ["curl", "figure_eight", "reach", "swing"]
    metrics = printed["checkpoints"][0]["metrics"]
    assert list(metrics) == SUMMARY[1:]
    for name, figure in metrics.items():
        assert figure["value"] == summary[name] and figure["low"] <= figure["value"] <= figure["high"]
    assert not (tmp_path / "rollouts").exists()


def test_checkpoints_are_compared_with_the_first(
    toy_run: Path, held_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.ckpt"
    shutil.copy(toy_run / "checkpoints" / "last.ckpt", copy)
    words = [f"checkpoint={toy_run},{copy},{held_run}", f"motions={library_dir('toy_arm')}", f"out={tmp_path / 'out'}"]
    changes = ["push=0.05", "push_every=0.3", "push_site=hand_mimic", "seeds=2", "strength=deltoid_front:0.5"]
    main([*words, "format=md", *changes])
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "report.md").read_text()
    header, rule, *lines = printed.splitlines()
    assert header.count("|") == rule.count("|") == lines[0].count("|") == 8
    assert "2 seeds from 0 on, deltoid_front at 0.5 of its force, pushes of 0.05 N s" in printed and "nan" not in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    first, same, other = report["checkpoints"]
    assert "minus_first" not in first
    assert all(d == {"value": 0.0, "low": 0.0, "high": 0.0} for d in same["minus_first"].values())
    assert any(d["value"] != 0 for d in other["minus_first"].values())
    for candidate in report["checkpoints"]:
        with (tmp_path / "out" / candidate["name"] / "per_clip.csv").open(newline="") as file:
            assert [r["seed"] for r in csv.DictReader(file)] == ["0"] * 4 + ["1"] * 4
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 * len(SUMMARY[1:])


def test_weakness_is_compared_with_the_healthy_body(toy_run: Path, tmp_path: Path) -> None:
    words = ["strength=biceps:0.2", "push=0.05", "push_site=hand_mimic", "baseline=true", "seeds=2",
             f"motions={library_dir('toy_arm') / 'curl.npz'}"]
    plan = plan_from([f"checkpoint={toy_run}", f"out={tmp_path}", "absolute_site_deviation=0.4",
                      "relative_site_deviation=9", "root_position=9", *words])[0]
    healthy, weak = evaluate(plan)
    assert healthy.results == track(toy_run, names=("curl",)) * 2 and healthy.name == "run-unperturbed"
    under = Conditions(push=Push(0.05, 1.0, "hand_mimic"), strength=(("biceps", 0.2),))
    assert weak.results == track(toy_run, under, ("curl",)) + track(toy_run, replace(under, seed=1), ("curl",))
    note = "pushes of 0.05 N s every 1 s on hand_mimic, none of that in run-unperturbed;"
    assert note in render(plan, [healthy, weak], "md")


@pytest.mark.slow
def test_the_controller_is_compared_with_a_policy(toy_run: Path, tmp_path: Path) -> None:
    policy, control = evaluate(plan_from([f"checkpoint={toy_run},control", f"out={tmp_path}", "rollouts=true",
                                          f"motions={library_dir('toy_arm') / 'reach.npz'}"])[0])
    assert (policy.name, control.name) == ("run", "control")
    assert sum(r.early_termination for r in control.results) < sum(r.early_termination for r in policy.results)
    for result in control.results:  # the policy's reward, at most 1 a frame
        assert 0.5 < result.episode_return / result.frames <= 1.0 and result.errors["absolute_site_error"] < 0.01
        assert len(read_rollout(tmp_path / "control" / "rollouts" / f"{result.clip}.npz").time) == result.episode_length + 1
    with pytest.raises(EXPECTED, match="name that first"):
        plan = plan_from([f"checkpoint=control,{toy_run}", f"out={tmp_path}"])[0]
        evaluate(plan)


def test_names_of_checkpoints_are_short_and_differ() -> None:
    assert candidate_names(["runs/a", "runs/b/checkpoints/best.ckpt", "c.ckpt"]) == ["a", "b", "c"]
    assert candidate_names(["runs/a", "runs/a/checkpoints/best.ckpt"]) == ["a-last", "a-best"]
    assert candidate_names(["x/a", "y/a"]) == ["a-last-1", "a-last-2"]


@pytest.mark.parametrize(
    ("words", "message"),
    (
        (["format=xml"], "text, json, csv, md"),
        (["seeds=3"], "nothing is random here"),
        (["baseline=true"], "nothing is pushed or weakened"),
        (["seeds=0"], "must be 1 or more"),
        (["worlds=65"], "between 1 and 64"),
        (["push=-1"], "greater than 0"),
        (["push=1"], "cannot move"),
        (["strength=soleus:0.5"], "no such muscle or group"),
        (["strength=soleus"], "NAME:FACTOR"),
        (["evalkit=true"], "myo_fullbody"),
        (["motions=nowhere"], "no such file or directory"),
        (["chekpoint=x"], "did you mean 'checkpoint'"),
    ),
)
def test_wrong_words_are_refused(toy_run: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(EXPECTED, match=message):
        main([f"checkpoint={toy_run}", f"out={tmp_path}", *words])
    with pytest.raises(EXPECTED, match="checkpoint=CKPT is missing"):
        plan_from(["checkpoint="])


def test_checkpoints_of_two_bodies_are_refused(toy_run: Path, tmp_path: Path) -> None:
    words = ["recipe=bimanual_demo", "profile=cpu", "sim=native", "num_envs=2", "ppo.rollout_steps=2", "ppo.minibatches=1",
             "total_steps=4", f"run_dir={tmp_path / 'arms'}"]
    arms = train(load_recipe(words, cuda_available=False))
    with pytest.raises(EXPECTED, match=r"arms: a policy of myo_bimanual .* of toy_arm .* checkpoints of one body"):
        evaluate(plan_from([f"checkpoint={toy_run},{arms}", f"out={tmp_path}"])[0])


# -- rollouts ---------------------------------------------------------------------------------------------------------
def test_rollouts_show_what_was_evaluated(toy_run: Path, tmp_path: Path) -> None:
    main([f"checkpoint={toy_run}", f"out={tmp_path}", "rollouts=true", "absolute_site_deviation=0.4", "format=csv"])
    body = load_body("toy_arm")
    bank = load_bank(body, library_clips("toy_arm"))
    with (tmp_path / "per_clip.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(p.stem for p in (tmp_path / "rollouts").iterdir()) == [r["clip"] for r in rows]
    for clip, row in enumerate(rows):
        rollout = read_rollout(tmp_path / "rollouts" / f"{row['clip']}.npz")
        frames = int(row["episode_length"]) + 1
        assert rollout.qpos.shape == (frames, 2) and rollout.control_rate == pytest.approx(100.0)
        start = int(bank.offsets[clip])
        np.testing.assert_array_equal(rollout.ref_qpos, bank.frames.qpos[start : start + frames].numpy())
        np.testing.assert_array_equal(rollout.qpos[0], rollout.ref_qpos[0])
        error = np.sqrt(np.mean((rollout.qpos - rollout.ref_qpos) ** 2, axis=1))[1:].mean()
        assert error == pytest.approx(float(row["joint_position_error"]), rel=1e-4)
        assert rollout.muscle_force.min() >= 0 and rollout.muscle_force.max() > 1
        assert 0 <= rollout.excitation.min() <= rollout.excitation.max() <= 1
        assert not rollout.has_forces and rollout.muscle_names == body.muscle_names and rollout.source.startswith("run")
        # activation follows excitation: rises where that is above it
        rise, drive = np.diff(rollout.activation, axis=0), rollout.excitation[1:] - rollout.activation[:-1]
        clear = np.abs(drive) > 0.02
        assert (np.sign(rise[clear]) == np.sign(drive[clear])).mean() > 0.99


@pytest.fixture(scope="module")
def full() -> Embodiment:
    return load_body("myo_fullbody")


@pytest.fixture(scope="module")
def standing(full: Embodiment) -> dict[str, np.ndarray]:
    """Half a second of the full body dropped on its feet with slightly tense muscles, all substeps."""
    model, data = full.model, mujoco.MjData(full.model)
    data.qpos[:] = full.neutral_qpos
    data.ctrl[:] = data.act[:] = 0.05
    states = []
    for _ in range(250):
        states.append([x.copy() for x in (data.qpos, data.qvel, data.act)])
        mujoco.mj_step(model, data)
    return dict(zip(("qpos", "qvel", "activation"), map(np.stack, zip(*states, strict=True)), strict=True))


def test_floor_forces_carry_the_body(full: Embodiment, standing: dict[str, np.ndarray]) -> None:
    """The impulse under the feet is what the centre of mass took up, gravity included."""
    rollout = record_states(full, **standing, clip="stand", source="test")
    dt, mass, data = full.model.opt.timestep, rollout.mass_kg, mujoco.MjData(full.model)
    assert mass == pytest.approx(84.27, abs=0.001)

    def momentum(frame: int) -> np.ndarray:
        data.qpos[:], data.qvel[:] = standing["qpos"][frame], standing["qvel"][frame]
        mujoco.mj_forward(full.model, data)
        mujoco.mj_subtreeVel(full.model, data)
        return mass * data.subtree_linvel[0]

    impulse = rollout.foot_force[:-1].sum(axis=(0, 1)) * dt
    weight = np.array([0.0, 0.0, -9.81 * mass * dt * (len(rollout.time) - 1)])
    np.testing.assert_allclose(impulse, momentum(-1) - momentum(0) - weight, atol=0.03 * abs(weight[2]))
    assert impulse[2] > 0.5 * abs(weight[2])
    both = rollout.foot_force[:, :, 2] > 20
    assert both.mean() > 0.5
    centre = rollout.foot_centre_of_pressure
    for foot, side in enumerate(FEET):
        ankle = rollout.site_position[:, rollout.site_names.index(f"{side}_ankle_mimic")]
        assert np.abs(centre[both[:, foot], foot, :2] - ankle[both[:, foot], :2]).max() < 0.25
        assert np.abs(centre[both[:, foot], foot, 2]).max() < 0.01
        assert np.isnan(centre[rollout.foot_force[:, foot, 2] == 0, foot]).all()
    assert centre[-1, 0, 0] < 0 < centre[-1, 1, 0]  # right foot first; the left is +x


def test_moments_are_forces_times_moment_arms(full: Embodiment, standing: dict[str, np.ndarray]) -> None:
    rollout = record_states(full, **{n: x[200:203] for n, x in standing.items()}, clip="stand", source="test")
    joint = rollout.joint_names.index("ankle_angle_r")
    step, adr = 1e-5, full.model.joint("ankle_angle_r").qposadr[0]
    lengths, data = [], mujoco.MjData(full.model)
    for sign in (-1, 1):
        data.qpos[:] = standing["qpos"][200]
        data.qpos[adr] += sign * step
        mujoco.mj_fwdPosition(full.model, data)
        lengths.append(data.actuator_length.copy())
    arms = -(lengths[1] - lengths[0]) / (2 * step)
    assert rollout.joint_moment[0, joint] == pytest.approx(arms @ rollout.muscle_force[0], rel=1e-3)
    replay = record_states(full, standing["qpos"][200:203], standing["qvel"][200:203], clip="stand", source="test")
    np.testing.assert_allclose(replay.muscle_length, rollout.muscle_length)
    assert replay.kind == "replay" and replay.joint_moment is None and replay.foot_force is None


@pytest.fixture(scope="module")
def full_tracker(full: Embodiment) -> tuple[Tracker, Agent]:
    """The full body and a policy that adds next to nothing to the reference's activations."""
    recipe = load_recipe(["recipe=fullbody_generalist", "profile=cpu", "sim=native"], cuda_available=False)
    recipe = evaluation_recipe(recipe, None, thresholds_of(recipe))
    tracker = Tracker(recipe, load_bank(full, library_clips("myo_fullbody")), 2)
    torch.manual_seed(0)
    return tracker, Agent(tracker.env.layout[-1].end, tracker.env.action_spec.shape[-1], recipe.net).eval()


@pytest.mark.slow
def test_evalkit_reads_our_rollouts(full_tracker: tuple[Tracker, Agent], tmp_path: Path) -> None:
    """The kit itself, from PyPI into a folder of this test; it runs in a process of its own on the packages that we have."""
    kit = tmp_path / "kit"
    words = ["install", "-q", "--disable-pip-version-check", "--no-deps", "--target", kit, "mm-evalkit==0.1.0", "pandas>=2.2"]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    if "No matching distribution found" in done.stderr:
        pytest.skip(f"no index of packages has mm-evalkit here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    path, bank = write_kit(full_tracker, tmp_path)
    environment = os.environ | {"PYTHONPATH": str(kit)}
    words = [sys.executable, "-c", READ_KIT, path]
    read = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert read.returncode == 0, read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    assert found["episodes"] == bank.num_clips and found["kinetics"]
    assert found["skipped"] + found["gait"] >= bank.num_clips


@pytest.mark.slow
def test_evalkit_file_has_the_keys_of_its_format(full_tracker: tuple[Tracker, Agent], tmp_path: Path) -> None:
    """What ``rollout_validation.py`` of mm-evalkit 0.1.0 asks for, checked without it."""
    path, bank = write_kit(full_tracker, tmp_path)
    with np.load(path, allow_pickle=False) as archive:
        assert archive["n_episodes"] == bank.num_clips and archive["dt"] == pytest.approx(0.01)
        assert archive["joint_names"].shape == (83,) and archive["joint_names"][0] == "root"
        assert archive["activation_sample_phase"] == "pre_step" and archive["kinetics_sample_phase"] == "post_step"
        assert archive["model_mass_kg"] == pytest.approx(84.27, abs=0.001)
        units = dict(zip(archive["generalized_actuator_force_joint_names"].tolist(),
                         archive["generalized_actuator_force_units"].tolist(), strict=True))
        assert units["knee_angle_r"] == "Nm" and "N" in units.values()
        for episode in range(bank.num_clips):
            length, frames = int(bank.lengths[episode]), len(archive[f"episode_{episode}_timesteps"])
            shapes = {
                "traj_qpos": (length, 89), "joint_positions": (frames, 89), "muscle_activations": (frames, 354),
                "touch_observations": (frames, 4), "force_sensor_values": (frames, 4),
                "generalized_actuator_forces": (frames, 82), "kinetics_reference_steps": (frames,),
            }
            assert {n: archive[f"episode_{episode}_{n}"].shape for n in shapes} == shapes
            assert archive[f"episode_{episode}_traj_id"] == episode
            assert archive[f"episode_{episode}_traj_length"] == length >= frames
            touch = archive[f"episode_{episode}_touch_observations"]
            assert touch[:, [0, 2]].max() > 100 and (touch[:, [1, 3]] == 0).all()


def write_kit(full_tracker: tuple[Tracker, Agent], folder: Path) -> tuple[Path, ReferenceBank]:
    tracker, agent = full_tracker
    few = load_bank(tracker.body, [p for p in library_clips("myo_fullbody") if p.stem in ("walk", "stand")])
    tracker = Tracker(tracker.recipe, few, 2)
    kit = KitWriter(tracker.body, few)
    tracker.track(agent, record=lambda trace: kit.add(trace.number, rollout_of(tracker.body, trace, "test")))
    kit.write(folder / "kit.npz")
    return folder / "kit.npz", few


# -- time -------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_evaluation_takes_less_than_twice_the_stepping(full: Embodiment, full_tracker: tuple[Tracker, Agent]) -> None:
    """Forty clips of the full body against the bare thread pool making as many control steps of as many worlds."""
    tracker, agent = full_tracker
    paths = library_clips("myo_fullbody")
    tracker = Tracker(tracker.recipe, load_bank(full, (paths * 2)[:40]), 2)
    start = time.perf_counter()
    steps = sum(r.episode_length for r in tracker.track(agent))
    evaluation = time.perf_counter() - start
    bare = NativePhysics(full, 40, 2)
    start = time.perf_counter()
    for _ in range(-(-steps // 40)):
        bare._batch.step(nstep=full.substeps)
    assert evaluation < 2 * (time.perf_counter() - start)


@pytest.mark.slow
def test_full_body_results_do_not_depend_on_the_number_of_worlds(full_tracker: tuple[Tracker, Agent]) -> None:
    tracker, agent = full_tracker
    expected = tracker.track(agent)
    assert tracker.track(agent) == expected
    assert Tracker(tracker.recipe, tracker.bank, 1, Conditions(worlds=5)).track(agent) == expected
