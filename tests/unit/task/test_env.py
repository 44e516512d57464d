"""The environment: specs, reward at the reference, observations, ends of episodes, failed worlds, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import check_env_specs, step_mdp

from mm_torch import build
from mm_torch.config.schema import ActionConfig
from mm_torch.maths import quaternion
from mm_torch.motion.bank import ReferenceBank
from mm_torch.motion.clip import Clip
from mm_torch.sim.native import NativePhysics
from mm_torch.task import observation
from mm_torch.task.action import excite
from mm_torch.task.env import MimicEnv
from mm_torch.task.metrics import tracking_errors
from sim_models.registry import load_body
from tests.unit.task.worlds import ENDLESS, FRAMES, act, begin, library_clip, make_env, noise, recipe


def observed(env: MimicEnv) -> Tensor:
    return observation.observe(env.context(), env.task.observation)


UPSTREAM = {
    "myo_fullbody": ("recipe=fullbody_generalist", "compat=upstream"),
    "myo_bimanual": ("recipe=bimanual_generalist", "compat=upstream", "body.fingers=true"),
}


# -- contract ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["toy_arm", "bimanual_demo"])
def test_specs_hold(name: str) -> None:
    check_env_specs(make_env(f"recipe={name}"))


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (UPSTREAM["myo_fullbody"], 2418),
        (UPSTREAM["myo_bimanual"], 1597),
        ((*UPSTREAM["myo_bimanual"], "task.lookahead_steps=[0]"), 701),
    ],
    ids=["fullbody", "bimanual", "bimanual_no_lookahead"],
)
def test_upstream_observation_sizes(words: tuple[str, ...], size: int) -> None:
    env = make_env(*words, clips=1, num_envs=1)
    assert begin(env)["observation"].shape == (1, size)
    edges = [0, *(part.end for part in env.layout)]
    assert [part.start for part in env.layout] == edges[:-1] and edges[-1] == size


# -- at the reference -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "total"),
    [
        (UPSTREAM["myo_fullbody"], 1.21),
        (UPSTREAM["myo_bimanual"], 4.2),
        (("recipe=fullbody_generalist",), None),
        (("recipe=bimanual_generalist",), None),
        (("recipe=toy_arm",), 1.0),
    ],
    ids=["fullbody_upstream", "bimanual_upstream", "fullbody", "bimanual", "toy"],
)
def test_reward_is_the_sum_of_weights_exactly_at_the_reference(words: tuple[str, ...], total: float | None) -> None:
    env = make_env(*words, "task.reset_activations=zero", clips=1)
    begin(env, 0, [0, 7, 30, FRAMES - 1])
    context = env.context()
    value, parts = env.reward(context)
    most = sum(term.weight for term in env.task.reward.values() if term is not None)
    torch.testing.assert_close(value, torch.full((4,), most), rtol=0, atol=1e-5)
    for name, part in zip(env.reward.names, parts, strict=True):
        torch.testing.assert_close(part, torch.ones(4), rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, error in tracking_errors(context).items():
        assert error.max() < 2e-5, name
    assert total is None or most == pytest.approx(total)


def test_reward_falls_away_from_the_reference() -> None:
    env = make_env("recipe=toy_arm")
    state = begin(env)
    for seed in range(5):
        step = act(env, state, noise(env, seed))
    assert (step["reward"] < 0.999).all() and (step["reward"] > 0).all()


def test_reset_takes_the_activations_that_fit_the_pose() -> None:
    env = make_env("recipe=toy_arm", act=True)
    begin(env, 1, [0, 5, 9, 30])
    expected = library_clip(load_body("toy_arm"), 1, act=True).act[[0, 5, 9, 30]]
    np.testing.assert_allclose(env.physics.state.act, expected, atol=1e-3)
    zero = make_env("recipe=toy_arm", "task.reset_activations=zero", act=True)
    begin(zero)
    assert (zero.physics.state.act == 0).all()


# -- what the policy sees ---------------------------------------------------------------------------------------------
def turn(qpos: np.ndarray, angle: float) -> np.ndarray:
    """A free-root motion in a world turned about z."""
    rotation = quaternion.from_rotation_vector(torch.tensor([0.0, 0.0, angle], dtype=torch.float64))
    out = qpos.copy()
    out[:, :3] = quaternion.rotate(rotation, torch.from_numpy(qpos[:, :3])).numpy()
    out[:, 3:7] = quaternion.multiply(rotation.expand(len(qpos), 4), torch.from_numpy(qpos[:, 3:7])).numpy()
    return out


@pytest.fixture(scope="module")
def walker() -> Clip:
    return library_clip(load_body("myo_fullbody"))


@pytest.mark.parametrize("compat", ["corrected", "upstream"])
def test_only_the_corrected_observation_ignores_the_heading(walker: Clip, compat: str) -> None:
    settings, body = recipe("recipe=fullbody_generalist", f"compat={compat}"), load_body("myo_fullbody")
    angles = [0.0, 1.1, -2.5]
    clips = [Clip.from_qpos(body, turn(walker.qpos, a), walker.fps, provenance={}) for a in angles]
    env = build.build_env(settings, NativePhysics(body, 3, 1), ReferenceBank.build(body, clips))
    state = begin(env, [0, 1, 2], 10)
    state = act(env, state, noise(env, same=True))  # a tracking error, the same in every heading
    drift = torch.tensor([[0.2 * np.cos(a), 0.2 * np.sin(a), 0.0] for a in angles], dtype=torch.float32)
    env.origin += drift
    seen = observed(env)
    assert torch.isfinite(seen).all()
    value, _ = env.reward(env.context())
    scale = seen[0].abs().clamp_min(1.0)
    spread = ((seen - seen[0]) / scale).abs().max()
    if compat == "corrected":
        assert spread < 2e-3
        torch.testing.assert_close(value, value[:1].expand(3), rtol=0, atol=1e-3)
    else:
        assert spread > 0.1


def test_the_policy_sees_its_own_root_error() -> None:
    for compat, seen in (("corrected", True), ("upstream", False)):
        env = make_env("recipe=fullbody_generalist", f"compat={compat}", clips=1, num_envs=1)
        begin(env, 0, 10)
        before = observed(env)
        env.origin += torch.tensor([0.3, -0.1, 0.0])
        change = (observed(env) - before).abs().max().item()
        assert (change > 0.1) is seen, f"{compat}: {change}"


def test_lookahead_shows_the_frames_ahead_of_the_present_one() -> None:
    env = make_env("recipe=toy_arm", "task.lookahead_steps=[0,3,500]")
    begin(env, 1, 20)
    qpos = library_clip(load_body("toy_arm"), 1).qpos
    part = next(p for p in env.layout if p.name == "ref_joint_error")
    expected = qpos[[20, 23, FRAMES - 1]] - qpos[20]
    np.testing.assert_allclose(env.current_observation[0, part.start : part.end], expected.ravel(), atol=1e-6)


# -- ends of episodes -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("start", [0, 1, 40, FRAMES - 2])
def test_an_episode_from_frame_s_lasts_to_the_last_frame(start: int) -> None:
    env = make_env("recipe=toy_arm", *ENDLESS)
    state, steps = begin(env, 1, start), 0
    while not state["done"].any():
        state = act(env, state, noise(env, steps))
        steps += 1
        assert env.frame.tolist() == [start + steps] * 4
    assert steps == FRAMES - 1 - start
    assert state["truncated"].all() and not state["terminated"].any()


def test_the_horizon_truncates() -> None:
    env = make_env("recipe=toy_arm", *ENDLESS, "task.horizon_steps=5")
    state = begin(env)
    for step in range(5):
        state = act(env, state, noise(env, step))
        assert state["truncated"].all().item() is (step == 4)


def test_random_starts_leave_enough_of_the_clip() -> None:
    env = make_env("recipe=toy_arm", num_envs=512)
    env.reset()
    assert env.frame.max() == FRAMES - 1 - env.task.min_episode_steps and env.frame.min() == 0
    assert set(env.clip.tolist()) == {0, 1}


def test_truncation_keeps_the_true_last_observation() -> None:
    env = make_env("recipe=toy_arm", *ENDLESS)
    state = begin(env, 0, [FRAMES - 3, 0, FRAMES - 3, 5])
    for step in range(2):
        taken = env.step(state.clone().set("action", noise(env, step)))
        last = observed(env)
        following = env.maybe_reset(step_mdp(taken))
        state = following
    ended = taken["next", "done"].squeeze(-1)
    assert ended.tolist() == [True, False, True, False] and torch.equal(ended, taken["next", "truncated"].squeeze(-1))
    torch.testing.assert_close(taken["next", "observation"], last)
    new = following["observation"]
    assert (new[ended] != last[ended]).any(dim=1).all()
    assert torch.equal(new[~ended], last[~ended])
    torch.testing.assert_close(new, env.current_observation)


def test_deviation_terminates_and_is_no_truncation() -> None:
    env = make_env("recipe=toy_arm", "task.termination.absolute_site_deviation=1e-4")
    step = act(env, begin(env), noise(env))
    assert step["terminated"].all() and step["done"].all() and not step["truncated"].any()
    env.threshold_scale.fill_(1e4)  # a curriculum loosens it
    assert not act(env, begin(env), noise(env))["terminated"].any()


def test_a_partial_reset_leaves_the_other_worlds_alone() -> None:
    env = make_env("recipe=toy_arm", *ENDLESS)
    state = begin(env)
    for seed in range(3):
        state = act(env, state, noise(env, seed))
    before = {name: value.clone() for name, value in vars(env.physics.state).items()}
    mask = torch.tensor([True, False, False, True])
    env.reset(TensorDict({"_reset": mask[:, None]}, batch_size=[4]))
    for name, value in vars(env.physics.state).items():
        assert torch.equal(value[~mask], before[name][~mask]), name
    assert env.steps.tolist() == [0, 3, 3, 0]
    assert not torch.equal(env.physics.state.qpos[mask], before["qpos"][mask])


# -- failed worlds ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("poison", [float("inf"), 1e30])
def test_a_failed_world_terminates_is_counted_and_reset(poison: float) -> None:
    env, healthy = (make_env("recipe=toy_arm", *ENDLESS) for _ in range(2))
    state, other = begin(env), begin(healthy)
    physics, mask = env.physics, torch.tensor([False, True, False, False])
    last_seen = env.current_observation.clone()
    before = physics.state
    physics.reset(mask, before.qpos.clone(), torch.full_like(before.qvel, poison), before.act.clone())
    taken = env.step(state.set("action", noise(env)))
    undisturbed = healthy.step(other.set("action", noise(env)))["next"]
    step = taken["next"]
    assert physics.state.failed.tolist() == mask.tolist() and physics.errors.item() == 1
    assert step["terminated"].squeeze(-1).tolist() == mask.tolist()
    assert step["done"][1] and not step["truncated"].any()
    assert step["reward"][1] == 0.0
    assert torch.isfinite(step["observation"]).all() and torch.equal(step["observation"][1], last_seen[1])
    for name in ("observation", "reward"):
        assert torch.equal(step[name][~mask], undisturbed[name][~mask])
    following = env.maybe_reset(step_mdp(taken))
    assert torch.isfinite(following["observation"]).all() and not physics.state.failed.any()
    assert torch.isfinite(physics.state.qpos).all() and torch.isfinite(physics.state.qvel).all()
    figures = env.statistics.read()
    assert figures["failed_worlds"] == pytest.approx(0.25)
    assert figures["episodes"] == 1 and figures["early_termination_rate"] == 1
    assert all(np.isfinite(value) for value in figures.values())
    later = act(env, following, noise(env, 1))
    assert torch.isfinite(later["reward"]).all() and not later["terminated"].any()


# -- actions ----------------------------------------------------------------------------------------------------------
def test_the_corrected_map_wastes_no_half_of_the_range() -> None:
    config = ActionConfig()
    ours = excite(torch.tensor([[-7.0, -1.0, 0.0, 0.5, 1.0, 7.0]]), config.offset, config)
    assert ours.tolist() == [[0.0, 0.0, 0.5, 0.75, 1.0, 1.0]]
    upstream = recipe(*UPSTREAM["myo_bimanual"]).task.action
    theirs = excite(torch.tensor([[-7.0, -0.5, 0.0, 0.5, 7.0]]), upstream.offset, upstream)
    assert theirs.tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]]


@pytest.mark.parametrize("words", [("recipe=toy_arm",), UPSTREAM["myo_bimanual"]], ids=["corrected", "upstream"])
def test_the_simulator_gets_excitations_from_0_to_1(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    env, given = make_env(*words, clips=1), []
    step = env.physics.step
    monkeypatch.setattr(env.physics, "step", lambda ctrl, running: (given.append(ctrl.clone()), step(ctrl, running)))
    act(env, begin(env), 5 * noise(env))
    assert given[0].min() == 0.0 and given[0].max() == 1.0


def test_actions_may_start_from_the_activations_of_the_frame_they_lead_to() -> None:
    env = make_env("recipe=toy_arm", "task.action.base=reference", act=True)
    act(env, begin(env, 0, 10), torch.zeros(env.action_spec.shape))
    expected = library_clip(load_body("toy_arm"), 0, act=True).act[11]
    np.testing.assert_allclose(env.context().excitation[0], expected, atol=1e-3)


# -- statistics, sampling, state --------------------------------------------------------------------------------------
def test_statistics_are_the_means_of_what_happened() -> None:
    env = make_env("recipe=toy_arm", num_envs=6)
    state = env.reset()
    rewards, errors, lengths, returns, early = [], [], [], [], []
    running, length = torch.zeros(6), torch.zeros(6)
    for seed in range(40):
        taken = env.step(state.clone().set("action", noise(env, seed)))
        step = taken["next"]
        errors.append(tracking_errors(env.context())["relative_site_error"].clone())
        value, done = step["reward"].squeeze(-1), step["done"].squeeze(-1)
        rewards.append(value)
        running, length = running + value, length + 1
        lengths += length[done].tolist()
        returns += running[done].tolist()
        early += step["terminated"].squeeze(-1)[done].tolist()
        running, length = running * ~done, length * ~done
        state = env.maybe_reset(step_mdp(taken))
    figures = env.statistics.read()
    assert len(lengths) > 3 and figures["episodes"] == len(lengths)
    assert figures["reward"] == pytest.approx(torch.stack(rewards).mean().item(), rel=1e-5)
    assert figures["relative_site_error"] == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert figures["episode_length"] == pytest.approx(np.mean(lengths))
    assert figures["episode_return"] == pytest.approx(np.mean(returns), rel=1e-5)
    assert figures["early_termination_rate"] == pytest.approx(np.mean(early))
    env.statistics.clear()
    assert env.statistics.read() == {"episodes": 0.0}


def test_adaptive_sampling_changes_which_clips_are_drawn() -> None:
    counts = {}
    for adaptive in ("false", "true"):
        env = make_env("recipe=toy_arm", f"sampling.adaptive={adaptive}", num_envs=1024)
        for _ in range(30):
            env.sampler.update(torch.tensor([10.0, 10.0]), torch.tensor([10.0, 0.0]))
        env.reset()
        counts[adaptive] = (env.clip == 0).float().mean().item()
    assert counts["false"] == pytest.approx(0.5, abs=0.08)
    assert counts["true"] > 0.9  # 95 % by the weights; the floor of 10 % keeps the easy clip alive
    assert counts["true"] < 1.0


def test_same_seed_same_starts_and_another_seed_others() -> None:
    draws = []
    for seed in (3, 3, 4):
        env = make_env("recipe=toy_arm", num_envs=64, seed=seed)
        env.reset()
        draws.append(torch.stack([env.clip, env.frame]))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("words", [("recipe=toy_arm",), ("recipe=bimanual_demo",)], ids=["toy", "bimanual"])
def test_a_restored_environment_goes_on_bit_for_bit(words: tuple[str, ...]) -> None:
    def run(env: MimicEnv, state: TensorDict, seeds: range) -> tuple[TensorDict, list[Tensor]]:
        seen = []
        for seed in seeds:
            taken, state = env.step_and_maybe_reset(state.clone().set("action", noise(env, seed)))
            seen.append(torch.cat([taken["next", "observation"], taken["next", "reward"]], dim=1))
        return state, seen

    env, restored = make_env(*words), make_env(*words, seed=9)
    state, _ = run(env, env.reset(), range(6))
    saved = env.simulation_state()
    _, expected = run(env, state, range(6, 40))
    restored.load_simulation_state(saved)
    _, ours = run(restored, restored.reset(), range(6, 40))
    for step, (a, b) in enumerate(zip(expected, ours, strict=True)):
        assert torch.equal(a, b), f"step {step} after the restoration differs"
