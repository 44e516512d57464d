"""Worlds that do not run keep their state; those that run do what they do in company."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mm_torch.sim.native import NativePhysics
from sim_models.registry import load_body
from tests.unit.task.worlds import ENDLESS, act, begin, make_env, noise

RUNNING = torch.tensor([True, False, True, True])


def states(physics: NativePhysics) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in vars(physics.state).items()}


def excitation(physics: NativePhysics, seed: int) -> Tensor:
    return torch.rand(physics.num_envs, physics.body.model.nu, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("body", ["toy_arm", "myo_fullbody"])
def test_waiting_worlds_stay_and_others_go_on_bit_for_bit(body: str) -> None:
    some, every = (NativePhysics(load_body(body), 4, 2) for _ in range(2))
    for physics in (some, every):
        physics.step(excitation(physics, 0))
    before = states(some)
    some.step(excitation(some, 1), RUNNING)
    every.step(excitation(every, 1))
    for name, value in states(some).items():
        assert torch.equal(value[RUNNING], vars(every.state)[name][RUNNING]), name
        assert torch.equal(value[~RUNNING], before[name][~RUNNING]), name
    for physics in (some, every):  # a world that waited goes on from where it was
        physics.step(excitation(physics, 2))
    assert torch.equal(some.state.qpos[RUNNING], every.state.qpos[RUNNING])
    assert not torch.equal(some.state.qpos[1], every.state.qpos[1])


def test_a_reset_touches_its_worlds_only() -> None:
    physics = NativePhysics(load_body("toy_arm"), 4, 1)
    physics.step(excitation(physics, 0))
    before, zero = states(physics), torch.zeros_like
    physics.reset(~RUNNING, zero(before["qpos"]), zero(before["qvel"]), zero(before["act"]))
    for name, value in states(physics).items():
        assert torch.equal(value[RUNNING], before[name][RUNNING]), name
    assert (physics.state.qpos[1] == 0).all()


def test_a_failed_world_that_waits_is_counted_once_and_stays_flagged() -> None:
    physics = NativePhysics(load_body("toy_arm"), 4, 1)
    fast = torch.zeros_like(physics.state.qvel)
    fast[1] = float("inf")
    physics.reset(~RUNNING, physics.state.qpos.clone(), fast, physics.state.act.clone())
    physics.step(excitation(physics, 0))
    for seed in (1, 2):
        physics.step(excitation(physics, seed), RUNNING)
    assert physics.errors.item() == 1 and physics.state.failed.tolist() == (~RUNNING).tolist()


def test_a_held_action_shows_the_last_state_of_an_episode_that_ended_under_it() -> None:
    held = make_env("recipe=toy_arm", *ENDLESS, "task.horizon_steps=3", "task.action.hold_steps=4")
    each = make_env("recipe=toy_arm", *ENDLESS, "task.horizon_steps=3", "task.action.hold_steps=1")
    action, state = noise(held), begin(each)
    step = act(held, begin(held), action)
    for _ in range(3):
        last = each.step(state.set("action", action))["next"]
        state = last.clone()
    assert step["truncated"].all() and last["truncated"].all() and (held.steps == 3).all()
    assert torch.equal(step["observation"], last["observation"])
