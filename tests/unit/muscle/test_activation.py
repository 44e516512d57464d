from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch

from mm_torch.muscle.activation import ActivationDynamics
from sim_models.registry import load_body
from sim_models.toy import toy_arm


def _dynamics() -> ActivationDynamics:
    return ActivationDynamics.from_body(load_body("toy_arm"), dtype=torch.float64)


def test_a_control_step_equals_mujoco() -> None:
    body, dynamics = load_body("toy_arm"), _dynamics()
    rng = np.random.default_rng(0)
    data = mujoco.MjData(body.model)
    for _ in range(20):
        mujoco.mj_resetData(body.model, data)
        act, excitation = rng.uniform(0, 1, body.model.nu), rng.uniform(-0.2, 1.2, body.model.nu)
        data.act[:], data.ctrl[:] = act, excitation
        mujoco.mj_step(body.model, data, nstep=body.substeps)
        ours = dynamics.advance(torch.from_numpy(act), torch.from_numpy(excitation))
        np.testing.assert_allclose(ours.numpy(), data.act, rtol=0, atol=1e-12)


def test_excitation_returns_to_where_a_control_step_came_from() -> None:
    dynamics = _dynamics()
    grid = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)
    act, excitation = (x.reshape(-1, 1).expand(-1, 6) for x in torch.meshgrid(grid, grid, indexing="ij"))
    target = dynamics.advance(act, excitation)
    torch.testing.assert_close(dynamics.excitation_for(act, target), excitation, rtol=0, atol=1e-9)


def test_reachable_targets_are_reached_in_single_precision() -> None:
    dynamics = ActivationDynamics.from_body(load_body("toy_arm"))
    generator = torch.Generator().manual_seed(1)
    act, excitation = torch.rand(500, 6, generator=generator), torch.rand(500, 6, generator=generator)
    target = dynamics.advance(act, excitation)
    reached = dynamics.advance(act, dynamics.excitation_for(act, target))
    torch.testing.assert_close(reached, target, rtol=0, atol=1e-6)


def test_targets_out_of_reach_take_the_nearest_excitation() -> None:
    dynamics = _dynamics()
    act = torch.tensor([[0.0, 1.0, 0.5, 0.2, 0.8, 0.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0, 0.5, 0.9, 0.1, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.0, 0.5, 1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(dynamics.excitation_for(act, target), expected, rtol=0, atol=1e-12)


def test_smoothed_time_constants_are_refused() -> None:
    body = toy_arm()  # a body of its own: it is broken below
    body.model.actuator_dynprm[2, 2] = 0.1
    with pytest.raises(ValueError, match=r"brachialis.*tausmooth"):
        ActivationDynamics.from_body(body)
