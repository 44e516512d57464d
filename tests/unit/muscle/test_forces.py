from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch

from mm_torch.muscle.forces import MuscleForces
from sim_models.registry import load_body
from sim_models.toy import toy_arm


@pytest.mark.parametrize("name", ["toy_arm", "myo_bimanual", "myo_fullbody"])
def test_forces_and_their_slope_equal_mujoco(name: str) -> None:
    body = load_body(name)
    model, data = body.model, mujoco.MjData(body.model)
    forces, rng = MuscleForces.from_body(body), np.random.default_rng(0)
    for _ in range(5):
        data.qpos[:] = body.neutral_qpos
        low, high = model.jnt_range[body.hinge_ids].T
        data.qpos[body.hinge_qpos] = rng.uniform(low, high)
        data.qvel[:] = rng.normal(0.0, 8.0, model.nv)
        data.act[:] = act = rng.uniform(0.0, 1.0, model.nu)
        mujoco.mj_forward(model, data)
        length, velocity = (torch.from_numpy(a.copy())[None] for a in (data.actuator_length, data.actuator_velocity))
        found = forces(length, velocity)
        total = (found.passive + found.active * torch.from_numpy(act))[0].numpy()
        np.testing.assert_allclose(total, data.actuator_force, rtol=1e-9, atol=1e-9 * body.peak_force.max())
        step = 1e-7
        after, before = forces(length, velocity + step).active, forces(length, velocity - step).active
        np.testing.assert_allclose(
            found.slope.numpy(), ((after - before) / (2 * step)).numpy(), rtol=1e-3, atol=1e-4 * body.peak_force.max()
        )


def test_other_actuators_are_refused() -> None:
    body = toy_arm()  # a body of its own: it is broken below
    body.model.actuator_gaintype[2] = mujoco.mjtGain.mjGAIN_FIXED
    with pytest.raises(ValueError, match=r"brachialis.*no muscle gain"):
        MuscleForces.from_body(body)
