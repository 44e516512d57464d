"""Balance reflexes: signs of what they see, symmetry, gains, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.maths import quaternion
from mm_torch.task.action import feedback
from mm_torch.task.env import MimicEnv
from mm_torch.task.mirror import mirror_action
from mm_torch.task.reflex import BEARING, GRAVITY, PARTS, UNITS, Balance, Reflexes
from sim_models.reflexes import leg_joints
from sim_models.registry import load_body
from tests.unit.task.worlds import begin, make_env, noise

WORDS = ("recipe=fullbody_generalist", "task.action.reflexes=true", "evolution.steps=0")
SAGITTAL, OTHERS = ("rx", "wx", "vy", "vz", "py", "pz"), ("ry", "rz", "wy", "wz", "vx", "px")


@pytest.fixture(scope="module")
def env() -> MimicEnv:
    return make_env(*WORDS, clips=1, num_envs=4)


def random_gains(env: MimicEnv, seed: int = 0, worlds: int | None = None) -> Reflexes:
    reflexes = Reflexes(env.physics.body, env.task.action)
    shape = reflexes.vector().shape if worlds is None else (worlds, *reflexes.vector().shape)
    reflexes.set_vector(0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))
    return reflexes


def random_input(joints: int, worlds: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    position, velocity = torch.randn(2, worlds, joints, generator=generator)
    load = torch.rand(worlds, 2, generator=generator)
    return position, velocity, torch.cat([torch.randn(worlds, 12, generator=generator), load], dim=1)


def seen(env: MimicEnv, change: dict[str, Tensor]) -> dict[str, float]:
    """What the first world's reflexes see where its simulated state is changed."""
    begin(env)
    state = env.physics.state
    for name, value in change.items():
        getattr(state, name).copy_(value)
    row = Balance(env.physics.body)(env.context())[0].tolist()
    return dict(zip((*SAGITTAL, *OTHERS, "right", "left"), row, strict=True))


def test_at_the_reference_nothing_is_wrong(env: MimicEnv) -> None:
    errors = seen(env, {})
    assert all(abs(errors[name]) < 1e-3 for name in (*SAGITTAL, *OTHERS))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_root_errors_are_reference_minus_own_in_heading_axes(env: MimicEnv, axis: int) -> None:
    begin(env)
    state = env.physics.state
    heading = env.context().heading[0]
    step = quaternion.rotate(heading, 0.1 * torch.eye(3)[axis])
    moved = state.site_xpos.clone() + step
    errors = seen(env, {"site_xpos": moved})
    assert errors["p" + "xyz"[axis]] == pytest.approx(-0.1 / UNITS[3], abs=1e-3)
    drift = state.site_xvel.clone()
    drift[..., 3:] += step
    assert seen(env, {"site_xvel": drift})["v" + "xyz"[axis]] == pytest.approx(-0.1 / UNITS[2], abs=1e-2)
    half = torch.cat([torch.tensor([math.cos(0.05)]), math.sin(0.05) * step / 0.1])
    qpos = state.qpos.clone()
    qpos[:, 3:7] = quaternion.multiply(half.expand(4, 4), qpos[:, 3:7])
    turned = seen(env, {"qpos": qpos})
    assert turned["r" + "xyz"[axis]] == pytest.approx(-0.1 / UNITS[0], abs=0.05)


def test_feet_feel_their_share_of_the_weight(env: MimicEnv) -> None:
    weight = float(env.physics.body.model.body_mass.sum()) * GRAVITY
    touch = torch.tensor([0.1, 0.05, 0.4, 0.0]) * weight  # right foot and toes, left foot and toes
    errors = seen(env, {"touch": touch.expand(4, 4)})
    assert errors["right"] == pytest.approx(0.15 / BEARING) and errors["left"] == 1.0


def test_without_gains_they_are_joint_feedback(env: MimicEnv) -> None:
    reflexes = Reflexes(env.physics.body, env.task.action)
    position, velocity, balance = random_input(31)
    assert torch.equal(reflexes(position, velocity, balance), feedback(position, velocity, env.task.action))


def test_a_mirrored_state_has_the_mirrored_action(env: MimicEnv) -> None:
    reflexes, mirror = random_gains(env), mirrored(env)
    position, velocity, balance = random_input(31)
    turned = torch.cat([balance[:, :6], -balance[:, 6:12], balance[:, [13, 12]]], dim=1)
    trunk = [name in ("flex_extension", "lat_bending", "axial_rotation") for name in independent(env)]
    assert any(trunk)
    ours = reflexes(mirror(position), mirror(velocity), turned)
    assert torch.allclose(ours, mirror(reflexes(position, velocity, balance)), atol=1e-5)
    assert not torch.allclose(ours, reflexes(position, velocity, balance), atol=0.1)


def mirrored(env: MimicEnv) -> Callable[[Tensor], Tensor]:
    image = mirror_action(env.physics.body, "joint")
    return lambda x: x[:, image.index] * image.sign


def independent(env: MimicEnv) -> list[str]:
    body = env.physics.body
    return [body.joint_names[joint] for joint in body.independent_hinges]


def test_a_leg_that_bears_load_has_other_gains(env: MimicEnv) -> None:
    reflexes = Reflexes(env.physics.body, env.task.action)
    gains = reflexes.leg.clone()
    gains[0, 0, 0, 1, 0] = 2.0  # bearing: knee, on the turn about the lateral axis
    gains[0, 1, 1, 0, 5] = 3.0  # swinging: hip adduction, on sideways drift
    reflexes.leg.copy_(gains)
    balance = torch.zeros(1, 14)
    balance[0, 0], balance[0, 11], balance[0, 12], balance[0, 13] = 0.5, 0.2, 1.0, 0.0  # the right leg bears
    action = reflexes(torch.zeros(1, 31), torch.zeros(1, 31), balance)[0]
    found = {name: x for name, x in zip(independent(env), action.tolist(), strict=True) if x}
    assert found == pytest.approx({"knee_angle_r": 1.0, "hip_adduction_l": -0.6})


def test_every_world_may_have_gains_of_its_own(env: MimicEnv) -> None:
    each = random_gains(env, worlds=4)
    inputs, rows = random_input(31), torch.cat([getattr(each, name).flatten(1) for name in PARTS], dim=1)
    for world in range(4):
        one = Reflexes(env.physics.body, env.task.action)
        one.set_vector(rows[world])
        assert torch.equal(one.vector(), rows[world])
        assert torch.allclose(one(*inputs)[world], each(*inputs)[world], atol=1e-6)


def test_they_act_in_the_environment(env: MimicEnv) -> None:
    lengths = []
    for reflexes in (None, Reflexes(env.physics.body, env.task.action), random_gains(env)):
        env.use_reflexes(reflexes)
        begin(env)
        env.advance(noise(env), torch.ones(4, dtype=torch.bool))
        lengths.append(env.physics.state.act.clone())
    env.use_reflexes(None)
    assert torch.equal(lengths[0], lengths[1]) and not torch.allclose(lengths[0], lengths[2], atol=1e-3)


def test_refusals() -> None:
    assert leg_joints(load_body("toy_arm")) is None and leg_joints(load_body("myo_bimanual")) is None
    with pytest.raises(ValueError, match="no legs to balance on"):
        Reflexes(load_body("toy_arm"), load_recipe(["recipe=toy_arm"], cuda_available=False).task.action)
    with pytest.raises(RecipeError, match="no legs to balance on; set it to false"):
        make_env("recipe=bimanual_demo", "task.action.reflexes=true", clips=1, num_envs=1)
    for words, message in (
        (["recipe=toy_arm", "task.action.reflexes=true"], "reflexes act on joints"),
        (["recipe=fullbody_generalist", "task.action.reflexes=false", "evolution.steps=9"], "task.action.reflexes=false"),
        (["recipe=fullbody_generalist", "task.action.reflexes=true", "evolution.steps=9", "num_envs=7", "ppo.minibatches=1"],
         "an even number"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe([*words, "profile=cpu"], cuda_available=False)


def test_what_they_see_is_of_the_present_state(env: MimicEnv) -> None:
    state = begin(env, frame=[0, 5, 10, 15])
    assert env.balance is not None and torch.equal(env.balance_now, env.balance(env.context()))
    env.advance(noise(env), torch.ones(4, dtype=torch.bool))
    assert torch.equal(env.balance_now, env.balance(env.context())) and env.balance_now.abs().max() > 0.0
    env.begin_episodes(torch.tensor([True, False, False, True]))
    assert torch.equal(env.balance_now, env.balance(env.context()))
    kept = env.simulation_state()
    env.advance(noise(env, 1), torch.ones(4, dtype=torch.bool))
    env.load_simulation_state(kept)
    assert torch.equal(env.balance_now, env.balance(env.context())) and state is not None
