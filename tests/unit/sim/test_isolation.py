"""A world that explodes is its own affair: all others go exactly the way they would have gone without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from mm_torch import build
from mm_torch.config.load import load_recipe
from mm_torch.sim.native import NativePhysics
from mm_torch.sim.physics import Physics
from mm_torch.task.env import MimicEnv
from sim_models.registry import load_body

WORLDS, SICK = 4, 2
STATES = ("qpos", "qvel", "act", "site_xpos", "site_xquat", "site_xvel", "muscle_length", "muscle_velocity", "muscle_force",
          "touch", "failed")
OTHERS = torch.arange(WORLDS) != SICK


@pytest.fixture(autouse=True)
def mujoco_log_goes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- faults: what a step's excitations (N, M) become, and what happens to the state before it ----------------------------
def put(physics: Physics, field: str, value: float) -> None:
    """Set a quantity of the sick world, whatever it is."""
    pose = {name: getattr(physics.state, name).clone() for name in ("qpos", "qvel", "act")}
    pose[field][SICK, :3] = value
    physics.reset(~OTHERS, **pose)


def crouch(physics: Physics, field: str, value: float) -> None:
    """Push the sick world into the floor: all its contacts at once."""
    pose = {name: getattr(physics.state, name).clone() for name in ("qpos", "qvel", "act")}
    pose["qpos"][SICK, 2] = value
    physics.reset(~OTHERS, **pose)


FAULTS = {
    "qpos NaN": (put, "qpos", float("nan")), "qpos inf": (put, "qpos", float("inf")), "qvel 1e30": (put, "qvel", 1e30),
    "qvel -inf": (put, "qvel", float("-inf")), "act NaN": (put, "act", float("nan")), "act 1e20": (put, "act", 1e20),
    "ctrl 1e30": (None, "ctrl", 1e30), "ctrl NaN": (None, "ctrl", float("nan")), "ctrl -inf": (None, "ctrl", float("-inf")),
    "in the floor": (crouch, "qpos", -0.4),
}


def drive(physics: Physics, steps: int, fault: str | None) -> list[dict[str, Tensor]]:
    """Random excitations; from step 3 on the fault, and resets of the sick world where it has failed, as the env does."""
    generator, seen = torch.Generator().manual_seed(0), []
    start = {name: getattr(physics.state, name).clone() for name in ("qpos", "qvel", "act")}
    how, field, value = FAULTS[fault] if fault else (None, "", 0.0)
    for step in range(steps):
        excitation = torch.rand(WORLDS, physics.body.model.nu, generator=generator).to(physics.device)
        if fault and step == 3:
            if how is None:
                excitation[SICK] = value
            else:
                how(physics, field, value)
        physics.step(excitation)
        seen.append({name: getattr(physics.state, name).clone() for name in STATES})
        if bool(physics.state.failed.any()):
            physics.reset(physics.state.failed.clone(), **start)
    return seen


def assert_isolated(physics: Physics, healthy: Physics, fault: str, steps: int) -> None:
    mine, theirs = drive(physics, steps, fault), drive(healthy, steps, None)
    touched = False
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        for name in STATES:
            assert torch.equal(a[name][OTHERS], b[name][OTHERS]), f"{fault}: {name} of the others in step {step}"
            touched |= not torch.equal(a[name][SICK], b[name][SICK])
    assert touched and int(healthy.errors) == 0, "nothing happened to the sick world"
    assert not mine[-1]["failed"].any() and bool(mine[-1]["qpos"].isfinite().all())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "in the floor"])
def test_native_arms(fault: str, threads: int) -> None:
    body = load_body("toy_arm")
    assert_isolated(NativePhysics(body, WORLDS, threads), NativePhysics(body, WORLDS, 1), fault, steps=10)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_native_full_body(fault: str) -> None:
    body = load_body("myo_fullbody")
    assert_isolated(NativePhysics(body, WORLDS, 2), NativePhysics(body, WORLDS, 1), fault, steps=8)


@pytest.mark.slow
def test_warp_on_the_cpu() -> None:
    from mm_torch.sim.warp import WarpPhysics  # a minute of kernels to compile

    body = load_body("toy_arm")
    for fault in (f for f in FAULTS if f != "in the floor"):
        assert_isolated(WarpPhysics(body, WORLDS, "cpu"), WarpPhysics(body, WORLDS, "cpu"), fault, steps=6)


# -- the environment --------------------------------------------------------------------------------------------------
def episodes(fault: bool) -> tuple[MimicEnv, list[TensorDict]]:
    """Thirty steps with resets, in the eighth of which the sick world's positions are lost."""
    recipe = load_recipe(["recipe=toy_arm", "profile=cpu", f"num_envs={WORLDS}"], cuda_available=False)
    physics = NativePhysics(load_body("toy_arm"), WORLDS, 1)
    env = build.build_env(recipe, physics, build.build_bank(recipe, physics.body, physics.device))
    generator, state, seen = torch.Generator().manual_seed(1), env.reset(), []
    for step in range(30):
        action = torch.randn(*env.action_spec.shape, generator=generator)
        if fault and step == 8:
            put(physics, "qpos", float("nan"))
        taken, state = env.step_and_maybe_reset(state.set("action", action))
        seen.append(taken.clone())
    return env, seen


def test_an_episode_that_fails_leaves_the_other_episodes_alone() -> None:
    (env, mine), (healthy, theirs) = episodes(True), episodes(False)
    assert int(env.physics.errors) == 1 and int(healthy.physics.errors) == 0
    lost = mine[8]["next"]
    assert lost["terminated"][SICK].item() and lost["reward"][SICK].item() == 0.0
    assert torch.equal(lost["observation"][SICK], mine[8]["observation"][SICK])  # that of the step before
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert bool(a["next", "observation"].isfinite().all()) and bool(a["next", "reward"].isfinite().all())
        for name in ("observation", ("next", "observation"), ("next", "reward"), ("next", "done")):
            assert torch.equal(a[name][OTHERS], b[name][OTHERS]), (step, name)
