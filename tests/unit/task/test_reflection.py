from __future__ import annotations

import numpy as np
import pytest
import torch

from mm_torch import build
from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.config.schema import Recipe
from mm_torch.maths import quaternion
from mm_torch.ppo.policy import Agent
from mm_torch.task import observation
from mm_torch.task.env import MimicEnv
from mm_torch.task.mirror import TERMS, mirror_action, mirror_observation
from sim_models.embodiment import Embodiment

BODIES = {"fullbody_generalist": "joint", "bimanual_demo": "joint"}


def _env(recipe_name: str) -> tuple[Recipe, Embodiment, MimicEnv]:
    terms = [t for t in TERMS if recipe_name.startswith("full") or not t.startswith(("root", "ref_root"))]
    recipe = load_recipe(
        [f"recipe={recipe_name}", "num_envs=2", "sim=native", f"task.observation=[{','.join(terms)}]", "net.symmetric=true"],
        cuda_available=False,
    )
    body = build.build_body(recipe)
    bank = build.build_bank(recipe, body, torch.device("cpu"))
    return recipe, body, build.build_env(recipe, build.build_physics(recipe, body, 2, 1), bank)


def _mirrored_states(body: Embodiment, env: MimicEnv) -> None:
    """World 0 in a random posture, world 1 in its mirror image; the reference is the mid-plane neutral posture."""
    rng = np.random.default_rng(3)
    qpos = body.neutral_qpos.copy()
    joints = body.independent_hinges
    low, high = body.joint_ranges[joints].T
    qpos[body.model.jnt_qposadr[joints]] = rng.uniform(0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high)
    qvel = rng.normal(size=body.model.nv) * 0.1
    if body.free_root:
        qpos[:3] += rng.normal(size=3) * 0.1
        turn = quaternion.multiply(torch.tensor([0.9, 0.1, -0.2, 0.3]) / 0.974679, torch.as_tensor(qpos[3:7]).float())
        qpos[3:7] = (turn / turn.norm()).numpy()
    qpos, qvel = body.couplings.enforce(qpos), body.couplings.jacobian(body.couplings.enforce(qpos)) @ (
        qvel[body.couplings.independent_dof]
    )
    act = rng.uniform(size=body.model.nu)
    both = [torch.as_tensor(np.stack(pair)).float() for pair in (
        (qpos, body.mirror_qpos(qpos)), (qvel, body.mirror_qvel(qvel)), (act, act[body.mirror_muscles]),
    )]
    env.physics.reset(torch.ones(2, dtype=torch.bool), *both)


@pytest.mark.parametrize("name", list(BODIES))
def test_mirrored_state_has_mirrored_observation_and_action(name: str) -> None:
    recipe, body, env = _env(name)
    frames = env.bank.frames
    neutral = body.couplings.enforce(body.neutral_qpos)
    frames.qpos[:] = torch.as_tensor(0.5 * (neutral + body.mirror_qpos(neutral))).float()
    frames.qvel[:] = 0.0
    env.reset()
    env.origin.zero_()
    # the reference sites: those of the mid-plane posture
    env.physics.reset(torch.ones(2, dtype=torch.bool), frames.qpos[:2], frames.qvel[:2], env._excitation)
    state = env.physics.state
    frames.site_xpos[:] = state.site_xpos[0]
    _mirrored_states(body, env)
    observed = torch.cat([observation.TERMS[n](env.context()) for n in recipe.task.observation], dim=1)
    layout = [(s.name, s.start, s.end) for s in env.layout]
    reflection = mirror_observation(body, layout)
    keep = torch.ones(observed.shape[1], dtype=torch.bool)
    for term, start, end in layout:
        if term in ("phase", "ref_activation", "touch"):  # of the clip, and of contacts that the postures lack
            keep[start:end] = False
    mirrored = observed[0][reflection.index] * reflection.sign
    error = ((mirrored - observed[1]).abs() / (1e-3 + observed.abs().amax(0)))[keep]
    assert error.median() < 1e-5  # the published models are not perfectly symmetric: a few muscle lengths differ
    by_term = {term: (mirrored - observed[1])[start:end].abs().max().item()
               for term, start, end in layout if start < end and keep[start]}
    for term, value in by_term.items():
        assert value < (2.0 if term.startswith("muscle") else 2e-3), (term, value)
    assert torch.equal(reflection.index[reflection.index], torch.arange(len(reflection.index)))  # an involution

    agent = Agent.of(recipe, body, layout, env.action_spec.shape[-1])
    agent.take_in(observed)
    action, value = agent.mean_action(observed[:1]), agent.value(observed[:1])
    image = observed[:1, reflection.index] * reflection.sign
    act = mirror_action(body, BODIES[name])
    assert action.abs().max() > 1e-4
    assert torch.allclose(agent.mean_action(image), action[:, act.index] * act.sign, atol=1e-6)
    assert torch.allclose(agent.value(image), value, atol=1e-6)


def test_terms_without_mirror_image_are_refused() -> None:
    recipe = load_recipe(["recipe=fullbody_demo", "compat=upstream"], cuda_available=False)
    with pytest.raises(RecipeError, match=r"net\.symmetric.*upstream_goal_concise"):
        mirror_observation(build.build_body(recipe), [("upstream_goal_concise", 0, 5)])
