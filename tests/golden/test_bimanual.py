"""Task kernels against the numbers of the original environment (arms with fingers), fed with its stored MuJoCo fields."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mm_torch.config.load import load_recipe
from mm_torch.config.schema import Recipe
from mm_torch.maths import quaternion
from mm_torch.motion.bank import Reference, ReferenceBank
from mm_torch.sim.physics import PhysicsState
from mm_torch.task import observation, termination
from mm_torch.task.action import excite
from mm_torch.task.context import BodyTensors, StepContext
from mm_torch.task.reward import TERMS, Reward
from sim_models.registry import load_body

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers of the original are not on this machine")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "bimanual.npz") as file:
        return {k: file[k] for k in file.files}


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((GOLDEN / "bimanual.json").read_text())


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(["recipe=bimanual_generalist", "compat=upstream", "body.fingers=true"], cuda_available=True)


def site_velocity(xpos: Tensor, cvel: Tensor, com: Tensor) -> Tensor:
    arm = xpos - com[:, None]
    return torch.cat([cvel[..., :3], cvel[..., 3:] + torch.linalg.cross(cvel[..., :3], arm, dim=-1)], dim=-1)


@pytest.fixture(scope="module")
def context(golden: dict[str, np.ndarray], facts: dict, recipe: Recipe) -> StepContext:
    body = load_body("myo_bimanual", fingers=True)
    g = {k: torch.from_numpy(v).double() for k, v in golden.items() if v.dtype.kind == "f"}
    order = facts["mimic"]["traj_index_of_goal_site"]
    assert list(body.site_names) == facts["mimic"]["goal_site_names"]
    splits = torch.from_numpy(golden["th_split_points"]).long()
    ref_xpos, com = g["th_site_xpos"][:, order], g["th_subtree_com_root"]
    frames = Reference(
        qpos=g["th_qpos"], qvel=g["th_qvel"], site_xpos=ref_xpos,
        site_xquat=quaternion.from_matrix(g["th_site_xmat"][:, order].reshape(-1, len(order), 3, 3)),
        site_xvel=site_velocity(ref_xpos, g["th_cvel_parent"][:, order], com),
    )
    bank = ReferenceBank(names=("a", "b"), lengths=splits.diff(), offsets=splits[:-1], frames=frames, act=None, fps=100)
    n = len(golden["in_qpos"])
    state = PhysicsState(
        qpos=g["in_qpos"], qvel=g["in_qvel"], act=g["in_act"], site_xpos=g["out_site_xpos"],
        site_xquat=quaternion.from_matrix(g["out_site_xmat"].reshape(n, -1, 3, 3)),
        site_xvel=site_velocity(g["out_site_xpos"], g["out_body_cvel"], g["out_subtree_com_root"]),
        muscle_length=g["out_actuator_length"], muscle_velocity=g["out_actuator_velocity"],
        muscle_force=g["out_actuator_force"], touch=torch.zeros(n, 0).double(), failed=torch.zeros(n).bool(),
    )
    tensors = BodyTensors(body, torch.device("cpu"))
    return StepContext(
        body=tensors, state=state, bank=bank, clip=torch.from_numpy(golden["in_traj_no"]).long(),
        frame=torch.from_numpy(golden["in_subtraj_step"]).long(), origin=torch.zeros(n, 3).double(),
        action=g["in_action"], excitation=g["in_ctrl"],
        lookahead=torch.tensor(recipe.task.lookahead_steps),
    )


def test_observation(context: StepContext, golden: dict[str, np.ndarray], recipe: Recipe) -> None:
    ours = observation.observe(context, recipe.task.observation)
    assert ours.shape == (32, 1597)
    torch.testing.assert_close(ours, torch.from_numpy(golden["out_obs"]).double(), rtol=1e-5, atol=2e-6)


def test_reward_terms(context: StepContext, golden: dict[str, np.ndarray], recipe: Recipe) -> None:
    names = {"upstream_qpos": "qpos", "upstream_qvel": "qvel", "site_position": "rpos", "upstream_rquat": "rquat",
             "upstream_rvel_rot": "rvel_rot", "upstream_rvel_lin": "rvel_lin"}
    assert set(recipe.task.reward) == set(names)
    for ours, theirs in names.items():
        value = torch.exp(-recipe.task.reward[ours].scale * TERMS[ours](context))
        expected = torch.from_numpy(golden[f"rew_train__reward_{theirs}"]).double()
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9, msg=lambda m, o=ours: f"{o}: {m}")
    total, _ = Reward(recipe.task.reward, recipe.task.penalty)(context)
    torch.testing.assert_close(total, torch.from_numpy(golden["rew_train__reward_total"]).double(), rtol=1e-6, atol=1e-9)


def test_termination(context: StepContext, golden: dict[str, np.ndarray], recipe: Recipe) -> None:
    ours = termination.Termination(recipe.task.termination)(context)
    assert ours.tolist() == golden["out_absorbing"].astype(bool).tolist()
    deviation = termination.absolute_site_deviation(context)
    torch.testing.assert_close(deviation, torch.from_numpy(golden["out_mean_abs_site_dev"]).double(), rtol=1e-6, atol=0)


def test_action_map(golden: dict[str, np.ndarray], recipe: Recipe) -> None:
    action = torch.from_numpy(golden["map_action"]).double()
    ours = excite(action, recipe.task.action.offset, recipe.task.action)
    torch.testing.assert_close(ours, torch.from_numpy(golden["map_ctrl"]).double(), rtol=1e-6, atol=1e-9)
