"""Pushes change momentum by their impulse; weak muscles are those that were named."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from mm_torch.config.load import RecipeError
from mm_torch.evaluation.perturbation import Push, Pushes, muscles_named, read_strength, weakened
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body


@pytest.fixture(scope="module")
def toy() -> Embodiment:
    return load_body("toy_arm")


@pytest.fixture(scope="module")
def full() -> Embodiment:
    return load_body("myo_fullbody")


def test_a_push_gives_the_body_its_impulse(full: Embodiment) -> None:
    pushes = Pushes(full, Push(30.0), 100.0)
    data = mujoco.MjData(full.model)
    data.qpos[:] = full.neutral_qpos
    impulse = np.array([0.0, 30.0, 0.0])
    data.qvel[:] = pushes.velocity_change(full.neutral_qpos, impulse)
    mujoco.mj_forward(full.model, data)
    mujoco.mj_subtreeVel(full.model, data)
    np.testing.assert_allclose(data.subtree_linvel[0] * full.model.body_mass.sum(), impulse, atol=1e-6)
    np.testing.assert_allclose(full.couplings.enforce_velocity(data.qpos, data.qvel), data.qvel, atol=1e-9)
    pelvis = data.cvel[full.model.body("pelvis").id]
    assert np.linalg.norm(pelvis[:3]) > 0.1  # it turns, too: it is pushed below the centre of mass


def test_pushes_fall_one_an_interval_and_depend_on_clip_and_seed_alone(full: Embodiment) -> None:
    pushes = Pushes(full, Push(30.0, every=0.5), 100.0)
    schedule = pushes.schedule(7, 0, 400)
    assert 7 <= len(schedule) <= 8
    assert sorted({step // 50 for step in schedule}) == sorted(step // 50 for step in schedule)
    for impulse in schedule.values():
        assert np.linalg.norm(impulse) == pytest.approx(30.0) and impulse[2] == 0.0
    again = pushes.schedule(7, 0, 400)
    assert list(again) == list(schedule)
    assert list(pushes.schedule(7, 1, 400)) != list(schedule) != list(pushes.schedule(8, 0, 400))


def test_impossible_pushes_are_refused(toy: Embodiment) -> None:
    with pytest.raises(RecipeError, match=r"cannot move.*hand_mimic"):
        Pushes(toy, Push(1.0), 100.0)
    with pytest.raises(RecipeError, match=r"no such mimic site; try .*hand_mimic"):
        Pushes(toy, Push(1.0, site="hand"), 100.0)
    with pytest.raises(RecipeError, match="shorter than a control step"):
        Pushes(toy, Push(1.0, every=0.001, site="hand_mimic"), 100.0)


def test_names_stand_for_muscles(full: Embodiment) -> None:
    def named(name: str) -> set[str]:
        return {full.muscle_names[i] for i in muscles_named(full, name)}

    assert named("soleus") == {"soleus_r", "soleus_l"}
    assert named("soleus_l") == {"soleus_l"}
    assert named("glmax") == {f"glmax{i}_{s}" for i in (1, 2, 3) for s in "rl"}
    assert named("glmax_r") == {f"glmax{i}_r" for i in (1, 2, 3)}
    assert named("DELT1") == {"DELT1", "DELT1_left"} and named("DELT1_left") == {"DELT1_left"}
    assert named("DELT_right") == {"DELT1", "DELT2", "DELT3"}
    assert len(named("right_leg")) == len(full.muscle_groups["right_leg"])
    with pytest.raises(RecipeError, match="no such muscle or group; try soleus"):
        named("solues")


def test_weak_muscles_pull_less_and_the_others_as_before(full: Embodiment) -> None:
    weak = weakened(full, {"soleus": 0.5, "tibant_r": 0.0})

    def force(body: Embodiment) -> np.ndarray:
        data = mujoco.MjData(body.model)
        data.qpos[:] = body.neutral_qpos
        data.qpos[body.model.joint("ankle_angle_r").qposadr] = 0.3  # stretches the soleus: passive force as well
        data.act[:] = 0.7
        mujoco.mj_forward(body.model, data)
        return data.actuator_force.copy()

    factor = np.ones(full.model.nu)
    factor[muscles_named(full, "soleus")] = 0.5
    factor[muscles_named(full, "tibant_r")] = 0.0
    before = force(full)
    assert before[muscles_named(full, "soleus")].max() < -500
    np.testing.assert_allclose(force(weak), before * factor, atol=1e-9)
    assert weakened(full, {}) is full
    with pytest.raises(RecipeError, match="0 or more"):
        weakened(full, {"soleus": -1.0})


def test_strengths_are_read() -> None:
    assert read_strength("soleus:0.5,right_leg:0.8") == (("soleus", 0.5), ("right_leg", 0.8))
    assert read_strength("") == ()
    for text in ("soleus", "soleus:weak"):
        with pytest.raises(RecipeError, match="NAME:FACTOR"):
            read_strength(text)
