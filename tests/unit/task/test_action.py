"""Joint actions, held actions and joint feedback: what reaches the muscles, and what an episode earns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mm_torch.config.schema import ActionConfig
from mm_torch.task.action import excite, spread
from sim_models.drive import joint_drive, peak_moments
from sim_models.registry import load_body
from tests.unit.task.worlds import ENDLESS, FRAMES, act, begin, make_env, noise


def test_joint_actions_drive_agonists_and_relax_antagonists() -> None:
    body = load_body("myo_fullbody")
    config = ActionConfig(space="joint", offset=0.3, scale=0.2)
    drive = torch.from_numpy(joint_drive(body))
    assert drive.shape == (31, 354)
    names = [body.joint_names[j] for j in body.independent_hinges]
    action = torch.zeros(1, 31, dtype=torch.float64)
    action[0, names.index("knee_angle_r")] = 1.0  # flexion
    excitation = excite(spread(action, drive), config.offset, config)[0]
    muscle = {name: float(excitation[i]) for i, name in enumerate(body.muscle_names)}
    assert muscle["bfsh_r"] > 0.31 and muscle["vaslat_r"] < 0.29 and muscle["vaslat_l"] == pytest.approx(0.3)


def test_a_joint_action_turns_its_joint() -> None:
    env = make_env("recipe=toy_arm", "task.action.space=joint", clips=1)
    assert env.action_spec.shape[-1] == 2
    before = env.reset()
    qpos = env.physics.state.qpos.clone()
    action = torch.zeros(env.action_spec.shape)
    action[:, 1] = 1.0
    for _ in range(5):
        before = env.step(before.set("action", action))["next"]
    assert (env.physics.state.qpos[:, 1] > qpos[:, 1] + 0.01).all()


def test_a_drive_turns_one_joint_alone_by_its_capacity() -> None:
    body = load_body("myo_fullbody")
    moments = peak_moments(body)
    capacity = np.minimum(moments.clip(min=0).sum(1), (-moments).clip(min=0).sum(1))
    turned = moments @ joint_drive(body).T / capacity[:, None]
    assert np.abs(turned - np.eye(len(turned))).max() < 0.01
    joints, (partner, _) = body.independent_hinges, body.mirror_joints
    of = {int(body.hinge_ids[k]): int(body.hinge_ids[p]) for k, p in enumerate(partner)}
    mirrored = [list(joints).index(of[int(j)]) for j in joints]
    drive = np.abs(joint_drive(body))
    paired = [k for k, j in enumerate(joints) if of[int(j)] != j]  # the published left and right legs differ by a per cent
    assert np.allclose(drive[paired], drive[mirrored][:, body.mirror_muscles][paired], atol=0.05)


HELD = ("recipe=toy_arm", "task.action.space=joint", "task.action.stiffness=2.0", "task.action.damping=0.1")


def test_a_held_action_is_the_same_action_repeated() -> None:
    held, single = (make_env(*HELD, *ENDLESS, f"task.action.hold_steps={n}") for n in (3, 1))
    states = [begin(held), begin(single)]
    rewards = []
    for seed in range(4):
        action = noise(held, seed)
        states[0] = act(held, states[0], action)
        total = torch.zeros(4, 1)
        for _ in range(3):
            states[1] = act(single, states[1], action)
            total += states[1]["reward"]
        rewards.append((states[0]["reward"], total / 3))
    assert torch.equal(states[0]["observation"], states[1]["observation"])
    assert all(torch.allclose(a, b) for a, b in rewards)
    assert torch.equal(held.steps, torch.full((4,), 12))


def test_an_episode_that_ends_while_an_action_is_held_keeps_its_last_observation() -> None:
    held, single = (make_env(*HELD, *ENDLESS, f"task.action.hold_steps={n}") for n in (4, 1))
    last = FRAMES - 1
    state = act(held, begin(held, frame=[last - 2, last - 9, 0, 0]), noise(held))
    reference = begin(single, frame=[last - 2, last - 9, 0, 0])
    rewards = []
    for _ in range(2):
        reference = act(single, reference, noise(held))
        rewards.append(reference["reward"][0])
    assert state["truncated"].flatten().tolist() == [True, False, False, False] and not state["terminated"].any()
    assert torch.equal(state["observation"][0], reference["observation"][0])
    assert state["reward"][0] == pytest.approx(float(sum(rewards)) / 4)
    assert held.steps.tolist() == [2, 4, 4, 4] and held.statistics.read()["episode_length"] == 2
    assert held.statistics.read()["reward"] == pytest.approx(4 * float(state["reward"].sum()) / 14)


def test_feedback_pulls_towards_the_reference() -> None:
    def error(stiffness: float) -> float:
        env = make_env(*HELD[:2], *ENDLESS, f"task.action.stiffness={stiffness}", f"task.action.damping={stiffness / 20}")
        state = begin(env)
        for _ in range(30):
            state = act(env, state, torch.zeros_like(noise(env)))
        return float(env.joint_errors()[0].abs().mean())

    assert error(4.0) < 0.5 * error(0.0)
