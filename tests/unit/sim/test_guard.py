"""The flight recorder keeps what led to a failure, and native MuJoCo replays it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mm_torch.sim.guard import FlightError, FlightRecorder, load_flights, replay
from mm_torch.sim.native import NativePhysics
from sim_models.registry import load_body

WORLDS = 3


@pytest.fixture(autouse=True)
def mujoco_log_goes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rollout(
    recorder: FlightRecorder, physics: NativePhysics, steps: int, sabotage: int | None = None, value: float = 1e30
) -> list[dict[str, Tensor]]:
    """Random excitation; in step ``sabotage`` world 1 gets impossible velocities. Returns states before each step."""
    generator = torch.Generator().manual_seed(0)
    seen = []
    fresh = torch.zeros(physics.num_envs, dtype=torch.bool)
    for step in range(steps):
        excitation = torch.rand(physics.num_envs, physics.body.model.nu, generator=generator)
        if step == sabotage:
            mask = torch.tensor([False, True, False])
            state = physics.state
            physics.reset(mask, state.qpos.clone(), torch.full_like(state.qvel, value), state.act.clone())
        seen.append({name: getattr(physics.state, name).clone() for name in ("qpos", "qvel", "act")}
                    | {"ctrl": excitation})
        recorder.record(physics.state, excitation, fresh)
        physics.step(excitation)
        recorder.freeze(physics.state.failed)
    return seen


@pytest.mark.parametrize(("name", "tolerance"), (("toy_arm", 1e-5), ("myo_bimanual", 1e-3)))
def test_replay_reproduces_a_recorded_rollout(name: str, tolerance: float, tmp_path: Path) -> None:
    body = load_body(name)
    recorder = FlightRecorder(body, WORLDS, tmp_path / "dumps", depth=8)
    physics = NativePhysics(body, WORLDS, threads=1)
    seen = rollout(recorder, physics, steps=13)
    path = recorder.dump(torch.tensor([True, False, True]))
    flights = replay(path)
    assert [flight.world for flight in flights] == [0, 2]
    for flight in flights:
        assert flight.qpos.shape == (9, body.model.nq) and flight.ctrl.shape == (8, body.model.nu)
        last = {field: getattr(physics.state, field) for field in ("qpos", "qvel", "act")}
        for replayed, recorded in zip(range(9), [*seen[5:], last], strict=True):
            np.testing.assert_allclose(flight.qpos[replayed], recorded["qpos"][flight.world].numpy(), atol=tolerance)
            np.testing.assert_allclose(flight.act[replayed], recorded["act"][flight.world].numpy(), atol=1e-6)
        assert np.ptp(flight.qpos, axis=0).max() > 100 * tolerance  # it did move


def test_ring_holds_the_last_steps_in_time_order(tmp_path: Path) -> None:
    body = load_body("toy_arm")
    recorder = FlightRecorder(body, WORLDS, tmp_path, depth=4)
    seen = rollout(recorder, NativePhysics(body, WORLDS, threads=1), steps=7)
    (flight,) = load_flights(recorder.dump(torch.tensor([False, False, True])))
    for name in ("qpos", "qvel", "act", "ctrl"):
        expected = np.stack([entry[name][2].numpy() for entry in seen[3:]])
        np.testing.assert_array_equal(getattr(flight, name), expected)


def test_short_flight_has_only_the_steps_taken(tmp_path: Path) -> None:
    body = load_body("toy_arm")
    recorder = FlightRecorder(body, WORLDS, tmp_path, depth=16)
    rollout(recorder, NativePhysics(body, WORLDS, threads=1), steps=3)
    (flight,) = load_flights(recorder.dump(torch.tensor([True, False, False])))
    assert len(flight.qpos) == len(flight.ctrl) == len(flight.fresh) == 3


@pytest.mark.parametrize("value", (1e30, float("inf"), float("nan")))
def test_failed_world_is_counted_dumped_and_harms_nobody(value: float, tmp_path: Path) -> None:
    body = load_body("toy_arm")
    healthy = NativePhysics(body, WORLDS, threads=1)
    rollout(FlightRecorder(body, WORLDS, tmp_path / "unused", depth=2), healthy, steps=10)
    recorder = FlightRecorder(body, WORLDS, tmp_path / "dumps", depth=4)
    physics = NativePhysics(body, WORLDS, threads=1)
    seen = rollout(recorder, physics, steps=10, sabotage=6, value=value)
    assert physics.state.failed.tolist() == [False, True, False]
    assert int(physics.errors) == 4 and int(healthy.errors) == 0
    for name in ("qpos", "qvel", "act", "site_xpos", "muscle_force"):
        others = torch.tensor([0, 2])
        assert torch.equal(getattr(physics.state, name)[others], getattr(healthy.state, name)[others]), name

    (flight,) = load_flights(recorder.dump())  # written at the end: still ends with the step that failed
    assert flight.world == 1
    np.testing.assert_array_equal(flight.qvel[-1], seen[6]["qvel"][1].numpy())
    np.testing.assert_array_equal(flight.ctrl, np.stack([entry["ctrl"][1].numpy() for entry in seen[3:7]]))
    assert not (tmp_path / "unused").exists()


def test_replay_takes_up_a_reset_from_the_record(tmp_path: Path) -> None:
    body = load_body("toy_arm")
    recorder, physics = FlightRecorder(body, 1, tmp_path, depth=8), NativePhysics(body, 1, threads=1)
    every, seen = torch.ones(1, dtype=torch.bool), []
    for step in range(6):
        if step == 3:
            physics.reset(every, physics.state.qpos + 0.2, physics.state.qvel * 0.0, physics.state.act * 0.0 + 0.5)
        seen.append(physics.state.qpos[0].clone().numpy())
        excitation = torch.full((1, body.model.nu), 0.1 * step)
        recorder.record(physics.state, excitation, every & (step == 3))
        physics.step(excitation)
    (flight,) = replay(recorder.dump(every))
    assert flight.fresh.tolist() == [False, False, False, True, False, False]
    np.testing.assert_allclose(flight.qpos[:-1], np.stack(seen), atol=1e-5)


def test_dumps_are_limited_and_files_are_plain(tmp_path: Path) -> None:
    body = load_body("toy_arm")
    recorder, physics = FlightRecorder(body, WORLDS, tmp_path, depth=2, max_dumps=2), NativePhysics(body, WORLDS)
    failed, none = torch.tensor([True, True, False]), torch.zeros(WORLDS, dtype=torch.bool)
    written = []
    for mask in (none, failed, failed, failed):
        rollout(recorder, physics, steps=2)
        written.append(recorder.dump(mask))
    assert [path and path.name for path in written] == [None, "failure-0000.npz", "failure-0001.npz", None]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".mjb", ".npz", ".npz"]
    with np.load(written[1], allow_pickle=False) as file:
        metadata = json.loads(str(file["metadata"]))
    assert metadata["body"] == "toy_arm" and metadata["control_steps"] == 4 and metadata["versions"]["mujoco"]


def test_other_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "failure-0000.npz"
    np.savez(path, metadata=np.array(json.dumps({"schema": 99})))
    with pytest.raises(FlightError, match="schema 99"):
        load_flights(path)


def test_a_model_that_is_not_the_recorded_one_is_refused(tmp_path: Path) -> None:
    body = load_body("toy_arm")
    recorder, physics = FlightRecorder(body, WORLDS, tmp_path / "dumps", depth=2), NativePhysics(body, WORLDS, threads=1)
    rollout(recorder, physics, steps=2)
    path = recorder.dump(torch.tensor([True, False, False]))
    assert path is not None and len(replay(path)) == 1
    (model,) = path.parent.glob("*.mjb")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    metadata = json.loads(str(arrays["metadata"]))
    for change in ({"model": f"../dumps/{model.name}"}, {"model": None}, {"substeps": 0}, {"model_sha256": "0"}):
        np.savez(path, **(arrays | {"metadata": np.array(json.dumps(metadata | change))}))
        with pytest.raises(FlightError):
            replay(path)
    np.savez(path, **(arrays | {"qpos": arrays["qpos"][..., :1]}))
    with pytest.raises(FlightError, match="do not fit the model"):
        replay(path)
    np.savez(path, **arrays)
    model.write_bytes(model.read_bytes()[:-8])
    with pytest.raises(FlightError, match="is another"):
        replay(path)


def test_depth_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="depth 0"):
        FlightRecorder(load_body("toy_arm"), 1, tmp_path, depth=0)
