from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch

from mm_torch.muscle.dynamics import Linearisation
from sim_models.registry import load_body


def _state(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A state inside the feasible ranges, consistent with the couplings, high above the floor."""
    body, rng = load_body(name), np.random.default_rng(seed)
    qpos, joints = body.neutral_qpos.copy(), body.independent_hinges
    low, high = body.joint_ranges[joints].T
    address = body.model.jnt_qposadr[joints]
    qpos[address] = np.clip(qpos[address] + rng.uniform(-0.1, 0.1, len(joints)), low + 0.05, high - 0.05)
    if body.free_root:
        qpos[2] += 1.0
    qpos = body.couplings.enforce(qpos)
    qvel = body.couplings.enforce_velocity(qpos, rng.normal(0.0, 1.0, body.model.nv))
    return qpos, qvel, rng.uniform(0.0, 0.3, body.model.nu)


@pytest.mark.parametrize("name", ["toy_arm", "myo_bimanual", "myo_fullbody"])
def test_accelerations_equal_mujoco_with_hard_couplings(name: str) -> None:
    body = load_body(name)
    qpos, qvel, act = _state(name, 3)
    found = Linearisation(body, 0.0)(qpos[None], qvel[None], act[None])
    force = torch.bmm(found.muscle, torch.from_numpy(act)[None, :, None])[:, :, 0] + found.load
    acc = torch.linalg.solve(found.mass, force)[0].numpy()

    model, data = body.model, mujoco.MjData(body.model)
    data.qpos[:], data.qvel[:], data.act[:] = qpos, qvel, act
    mujoco.mj_forward(model, data)
    # virtual work: what MuJoCo's unconstrained forces leave along the couplings vanishes at our acceleration
    span = body.couplings.jacobian(qpos)
    step = 1e-6
    ahead = np.empty(model.nq)
    ahead[:] = qpos
    mujoco.mj_integratePos(model, ahead, qvel, step)
    change = (body.couplings.jacobian(body.couplings.enforce(ahead)) - span) / step
    full = span @ acc + change @ qvel[body.couplings.independent_dof]
    inertial = np.empty(model.nv)
    mujoco.mj_mulM(model, data, inertial, full)
    left = span.T @ (inertial + data.qfrc_bias - data.qfrc_passive - data.qfrc_actuator)
    scale = np.abs(span.T @ data.qfrc_actuator).max() + np.abs(span.T @ data.qfrc_bias).max()
    np.testing.assert_allclose(left, 0.0, atol=1e-4 * scale)


def test_no_constraints_in_the_air_and_the_soles_on_the_ground() -> None:
    body = load_body("myo_fullbody")
    linearise = Linearisation(body, 0.015)
    qpos, qvel, act = _state("myo_fullbody", 3)
    assert int(linearise(qpos[None], qvel[None], act[None]).geom.max()) == -1
    standing = body.neutral_qpos.copy()
    standing[2] -= 0.002
    two = linearise(np.stack([qpos, standing]), np.zeros((2, body.model.nv)), np.stack([act, act]))
    ground = two.geom >= 0
    assert not ground[0].any() and ground[1].sum() >= 8
    assert bool((two.rows[1][ground[1]][:, 2] > 0.0).all())  # an edge pushes the root up
    assert bool((two.stiffening >= 1.0).all() and (two.regulariser > 0.0).all())


def test_damping_over_the_step_adds_to_the_inertia() -> None:
    body = load_body("myo_bimanual")
    state = [a[None] for a in _state("myo_bimanual", 5)]
    added = Linearisation(body, 0.01)(*state).mass - Linearisation(body, 0.0)(*state).mass
    eigenvalues = torch.linalg.eigvalsh(added)
    assert eigenvalues.min() > -1e-9 and eigenvalues.max() > 1e-3
