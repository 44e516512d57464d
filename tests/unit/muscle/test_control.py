from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch

from mm_torch.muscle.control import ComputedMuscleControl, ControlSettings, Target, acceleration_weights
from sim_models.registry import load_body


def _target(body: object, qpos: np.ndarray) -> Target:
    still = np.zeros((len(qpos), body.model.nv))
    return Target(qpos, still, still)


def test_the_arm_goes_where_it_is_asked_to_and_stays() -> None:
    body = load_body("toy_arm")
    control = ComputedMuscleControl(body)
    data = mujoco.MjData(body.model)
    data.qpos[:] = body.neutral_qpos
    goal = body.neutral_qpos + 0.3
    for _ in range(100):
        plan = control(data.qpos[None].copy(), data.qvel[None].copy(), data.act[None].copy(), _target(body, goal[None]))
        assert bool(((plan.excitation >= 0.0) & (plan.excitation <= 1.0)).all()) and plan.unsolved == 0
        data.ctrl[:] = plan.excitation[0].numpy()
        mujoco.mj_step(body.model, data, nstep=body.substeps)
        np.testing.assert_allclose(data.act, plan.act[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(data.qpos, goal, atol=5e-3)
    np.testing.assert_allclose(data.qvel, 0.0, atol=2e-2)


def test_expected_acceleration_is_what_the_simulation_does() -> None:
    body = load_body("myo_bimanual")
    control = ComputedMuscleControl(body, ControlSettings(stiffness=100.0, damping=20.0, horizon_s=0.015))
    data = mujoco.MjData(body.model)
    data.qpos[:] = body.neutral_qpos
    for _ in range(30):
        plan = control(data.qpos[None].copy(), data.qvel[None].copy(), data.act[None].copy(),
                       _target(body, body.neutral_qpos[None]))
        before = data.qvel.copy()
        data.ctrl[:] = plan.excitation[0].numpy()
        mujoco.mj_step(body.model, data, nstep=body.substeps)
    happened = (data.qvel - before)[body.couplings.independent_dof] / body.control_dt
    assert np.abs(happened - plan.acc[0].numpy()).max() < 0.5


def test_standing_carries_the_body_weight() -> None:
    body = load_body("myo_fullbody")
    control = ComputedMuscleControl(body)
    data = mujoco.MjData(body.model)
    data.qpos[:] = body.neutral_qpos
    weight = body.model.body_mass.sum() * 9.81
    for _ in range(25):
        state = data.qpos[None].copy(), data.qvel[None].copy(), data.act[None].copy()
        dynamics = control._linearise(*state)
        plan = control.decide(dynamics, torch.from_numpy(state[2]),
                              torch.from_numpy(control.wanted(*state[:2], _target(body, body.neutral_qpos[None]))),
                              dynamics.geom >= 0)
        data.ctrl[:] = plan.excitation[0].numpy()
        mujoco.mj_step(body.model, data, nstep=body.substeps)
    upward = float((plan.force * dynamics.rows[:, :, 2] * (dynamics.geom >= 0)).sum())
    assert upward == pytest.approx(weight, rel=0.2)
    assert np.abs(data.qpos[:3] - body.neutral_qpos[:3]).max() < 0.02


def test_each_world_is_solved_by_itself() -> None:
    body = load_body("toy_arm")
    control = ComputedMuscleControl(body)
    rng = np.random.default_rng(1)
    qpos = body.neutral_qpos + rng.uniform(-0.1, 0.1, (3, body.model.nq))
    qvel, act = rng.normal(0, 0.3, (3, body.model.nv)), rng.uniform(0, 0.5, (3, body.model.nu))
    goal = np.repeat(body.neutral_qpos[None], 3, axis=0)
    together = control(qpos, qvel, act, _target(body, goal)).excitation
    alone = control(qpos[1:2], qvel[1:2], act[1:2], _target(body, goal[1:2])).excitation
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=2e-3)


def test_weights_are_found_by_name() -> None:
    body = load_body("myo_fullbody")
    weights = acceleration_weights(body, ControlSettings(joint_weights=(("mtp_angle", 0.25),)))
    names = [body.joint_names[body.model.dof_jntid[d]] for d in body.couplings.independent_dof]
    assert weights[names.index("mtp_angle_l")] == weights[names.index("mtp_angle_r")] == 0.25
    assert weights[names.index("knee_angle_r")] == 1.0 and list(weights[:3]) == [2.0, 2.0, 3.0]
