"""MuJoCo Warp against native MuJoCo, and the promises of the Warp back end.  Slow: kernels build for half a minute."""

from __future__ import annotations

import copy
from collections.abc import Callable

import mujoco
import mujoco_warp
import pytest
import torch
from torch import Tensor

from mm_torch.sim import warp, warp_worlds
from mm_torch.sim.native import NativePhysics
from mm_torch.sim.physics import Physics, PhysicsError
from sim_models.registry import load_body

pytestmark = pytest.mark.slow

BODIES = ("toy_arm", "myo_bimanual", "myo_fullbody")
WORLDS = 3
CONTROL_STEPS = 40  # of 5 substeps
TOLERANCE = {  # largest absolute difference over 200 substeps; measured: a tenth of it or less
    "qpos": 5e-4, "qvel": 1e-2, "act": 1e-6, "site_xpos": 1e-4, "site_xquat": 1e-4, "site_xvel": 1e-2,
    "muscle_length": 1e-4, "muscle_velocity": 1e-3, "muscle_force": 2.0, "touch": 1.0,
}


def excitations(name: str, steps: int, seed: int = 0, worlds: int = WORLDS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, worlds, load_body(name).model.nu, generator=generator)


def state_of(physics: Physics) -> dict[str, Tensor]:
    return {name: getattr(physics.state, name).clone() for name in (*TOLERANCE, "failed")}


def poison(physics: Physics) -> None:
    for name in ("site_xpos", "site_xquat", "site_xvel", "muscle_length", "muscle_velocity", "muscle_force", "touch"):
        getattr(physics.state, name).fill_(1e6)


def start(physics: Physics, act: float = 0.0) -> None:
    every = torch.ones(physics.num_envs, dtype=torch.bool)
    qpos = torch.as_tensor(physics.body.neutral_qpos, dtype=torch.float32).expand(physics.num_envs, -1)
    physics.reset(every, qpos, torch.zeros_like(physics.state.qvel), torch.full_like(physics.state.act, act))


def assert_close(ours: Physics, theirs: Physics, when: str) -> None:
    for name, bound in TOLERANCE.items():
        difference = (getattr(ours.state, name) - getattr(theirs.state, name)).abs()
        assert difference.numel() == 0 or float(difference.max()) <= bound, f"{name} {when}: {float(difference.max())}"


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], rows: Tensor | None = None) -> None:
    for name in ours:
        a, b = (ours[name], theirs[name]) if rows is None else (ours[name][rows], theirs[name][rows])
        assert torch.equal(a, b), name


@pytest.fixture(scope="module")
def build() -> Callable[..., Physics]:
    built: dict[tuple[str, int], Physics] = {}

    def get(name: str, worlds: int = WORLDS) -> Physics:
        """A back end that other tests used before: every test starts with a reset."""
        key = (name, worlds)
        if key not in built:
            built[key] = warp.WarpPhysics(load_body(name), worlds, "cpu")
        start(built[key])
        built[key].check()
        return built[key]

    return get


@pytest.mark.parametrize("name", BODIES)
def test_random_excitation_follows_native(name: str, build: Callable[..., Physics]) -> None:
    """200 substeps from the neutral pose.

    The seed matters: where a contact of an arm opens or closes one substep earlier in one back end, that arm's ``qpos``
    differs by up to 8e-4 rad and its ``qvel`` by 5e-2 rad/s for some steps (one world in eight), with more solver
    iterations, too; forces at equal states agree to single precision throughout.
    """
    ours, theirs = build(name), NativePhysics(load_body(name), WORLDS, threads=1)
    poison(ours), poison(theirs)
    start(ours), start(theirs)
    assert_close(ours, theirs, "after the reset")
    for step, excitation in enumerate(excitations(name, CONTROL_STEPS)):
        poison(ours), poison(theirs)
        ours.step(excitation), theirs.step(excitation)
        assert_close(ours, theirs, f"after step {step}")
    assert float(ours.state.act.mean()) > 0.2  # the muscles were in fact driven
    assert int(ours.errors) == int(theirs.errors) == 0
    ours.check()


@pytest.mark.parametrize("name", ("myo_bimanual", "myo_fullbody"))
def test_reset_into_a_moving_state_follows_native(name: str, build: Callable[..., Physics]) -> None:
    ours, theirs = build(name), NativePhysics(load_body(name), WORLDS, threads=1)
    for excitation in excitations(name, 5):
        theirs.step(excitation)
    source = state_of(theirs)
    every = torch.ones(WORLDS, dtype=torch.bool)
    poison(ours), poison(theirs)
    for physics in (ours, theirs):
        physics.reset(every, source["qpos"], source["qvel"], source["act"])
    assert float(source["qvel"].abs().max()) > 0.1
    assert_close(ours, theirs, "after the reset")


def test_state_is_the_simulators_memory(build: Callable[..., Physics]) -> None:
    physics = build("toy_arm")
    data, state = physics.worlds.data, physics.state
    for tensor, array in (
        (state.qpos, data.qpos), (state.qvel, data.qvel), (state.act, data.act),
        (state.muscle_length, data.actuator_length), (state.muscle_velocity, data.actuator_velocity),
        (state.muscle_force, data.actuator_force), (physics.worlds.integrated["ctrl"], data.ctrl),
    ):
        assert tensor.data_ptr() == array.ptr and tuple(tensor.shape) == tuple(array.shape)
    pointers = [getattr(state, name).data_ptr() for name in TOLERANCE]
    physics.step(excitations("toy_arm", 1)[0])
    start(physics)
    physics.load_state_dict(physics.state_dict())
    assert pointers == [getattr(state, name).data_ptr() for name in TOLERANCE]


def test_masked_reset_leaves_other_worlds_alone(build: Callable[..., Physics]) -> None:
    physics = build("myo_fullbody")
    drive = excitations("myo_fullbody", 8)
    for excitation in drive[:4]:
        physics.step(excitation)
    before, integrated = state_of(physics), physics.state_dict()
    for excitation in drive[4:]:
        physics.step(excitation)
    undisturbed = state_of(physics)
    physics.load_state_dict(integrated)

    mask = torch.tensor([False, True, False])
    garbage = torch.full_like(physics.state.qpos, float("nan"))
    garbage[1] = torch.as_tensor(physics.body.neutral_qpos, dtype=torch.float32)
    physics.reset(mask, garbage, torch.zeros_like(physics.state.qvel), torch.full_like(physics.state.act, 0.3))
    after, saved = state_of(physics), physics.state_dict()
    assert_same(after, before, ~mask)
    assert torch.equal(saved["qacc_warmstart"][~mask], integrated["qacc_warmstart"][~mask])
    assert integrated["qacc_warmstart"][1].abs().max() > 0 and not saved["qacc_warmstart"][1].any()
    assert not saved["time"][1] and saved["time"][0] > 0
    assert torch.equal(after["qpos"][1], garbage[1]) and torch.equal(after["act"][1], torch.full((354,), 0.3))
    assert float((after["muscle_force"][1] - before["muscle_force"][1]).abs().max()) > 1.0
    for excitation in drive[4:]:
        physics.step(excitation)
    assert_same(state_of(physics), undisturbed, ~mask)


def test_state_dict_continues_bit_for_bit(build: Callable[..., Physics]) -> None:
    physics = build("myo_fullbody")
    drive = excitations("myo_fullbody", 8, seed=3)
    for excitation in drive[:4]:
        physics.step(excitation)
    saved, shown = physics.state_dict(), state_of(physics)
    for excitation in drive[4:]:
        physics.step(excitation)
    expected = state_of(physics)
    start(physics, act=0.7)
    poison(physics)
    physics.load_state_dict(saved)
    assert_same(state_of(physics), shown)
    for excitation in drive[4:]:
        physics.step(excitation)
    assert_same(state_of(physics), expected)


@pytest.mark.parametrize("value", (float("nan"), float("inf"), 1e30))
def test_failed_world_is_counted_and_poisons_nobody(value: float, build: Callable[..., Physics]) -> None:
    physics = build("myo_fullbody")
    drive = excitations("myo_fullbody", 6, seed=5)
    for excitation in drive:
        physics.step(excitation)
    expected = state_of(physics)
    assert not expected["failed"].any()

    start(physics)
    errors = int(physics.errors)
    for step, excitation in enumerate(drive):
        if step == 2:
            physics.state.qvel[1] = value
        physics.step(excitation)
    actual = state_of(physics)
    others = torch.tensor([True, False, True])
    assert actual["failed"].tolist() == [False, True, False]
    assert int(physics.errors) == errors + 4  # the world failed in each of the last four steps and was not reset
    assert not (actual["qvel"][1].abs() <= 1e10).all()  # never repaired silently
    assert_same(actual, expected, others)

    physics.check()
    start(physics)
    assert not physics.state.failed.any()
    for excitation in drive:
        physics.step(excitation)
    assert_same(state_of(physics), expected)


def launched(monkeypatch: pytest.MonkeyPatch, program: Callable[[], None]) -> set[str]:
    names: set[str] = set()
    launch = warp.wp.launch

    def note(kernel: object, *arguments: object, **named: object) -> None:
        names.add(warp_worlds.kernel_name(kernel))
        launch(kernel, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(warp.wp, "launch", note)
        program()
    return names


def test_idle_kernels_exist_and_are_left_out(build: Callable[..., Physics], monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo Warp launches them by these names; that nothing changes without them, the parity tests show."""
    physics = build("myo_fullbody")
    idle = set(warp_worlds.idle_kernels(physics.body.model))
    assert idle == {*warp_worlds.DRAWING, *warp_worlds.TENDON_PASSIVE}
    plain = launched(monkeypatch, lambda: mujoco_warp.step(physics.model, physics.worlds.data))
    assert idle <= plain
    ours = launched(monkeypatch, lambda: physics.step(torch.zeros_like(physics.state.act)))
    assert plain - idle <= ours and not ours & idle


def test_tendons_that_do_something_keep_their_kernels() -> None:
    model = copy.copy(load_body("myo_fullbody").model)
    model.tendon_stiffness[0] = 1.0
    assert warp_worlds.idle_kernels(model) == warp_worlds.DRAWING


def test_more_resets_than_worlds_kept_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warp, "RESET_WORLDS", 2)
    body = load_body("myo_bimanual")
    ours, theirs = warp.WarpPhysics(body, 6, "cpu"), NativePhysics(body, 6, threads=1)
    for excitation in excitations("myo_bimanual", 3, worlds=6):
        ours.step(excitation), theirs.step(excitation)
    mask = torch.tensor([True, False, True, True, True, True])
    pose = torch.as_tensor(body.neutral_qpos, dtype=torch.float32) + 0.01 * torch.arange(6.0)[:, None]
    for physics in (ours, theirs):
        physics.reset(mask, pose, torch.full_like(physics.state.qvel, 0.1), torch.full_like(physics.state.act, 0.2))
    assert_close(ours, theirs, "after the reset")


def test_constraint_overflow_raises_with_the_figure_needed() -> None:
    body = load_body("myo_fullbody")
    data = mujoco.MjData(body.model)
    data.qpos[:] = body.neutral_qpos
    mujoco.mj_forward(body.model, data)
    physics = warp.WarpPhysics(body, 1, "cpu", constraint_budget=8)
    with pytest.raises(PhysicsError, match=rf"constraint_budget is 8: raise it to {data.nefc} or more"):
        physics.check()
    physics.check()  # reported once


def test_contact_overflow_raises_with_the_figure_needed() -> None:
    physics = warp.WarpPhysics(load_body("myo_fullbody"), 2, "cpu", contact_budget=1)
    physics.step(torch.zeros(2, 354))
    with pytest.raises(PhysicsError, match=r"contact_budget is 1: raise it to \d+ or more") as caught:
        physics.check()
    needed = int(str(caught.value).rsplit("raise it to ", 1)[1].split()[0])
    enough = warp.WarpPhysics(load_body("myo_fullbody"), 2, "cpu", contact_budget=needed)
    enough.step(torch.zeros(2, 354))
    enough.check()


@pytest.mark.gpu
@pytest.mark.parametrize("name", BODIES)
def test_captured_programs_equal_eager_ones(name: str) -> None:
    captured, eager = (warp.WarpPhysics(load_body(name), 16, "cuda") for _ in range(2))
    assert len(captured._graphs) == 3
    eager._graphs.clear()
    mask = torch.arange(16, device="cuda") % 3 == 0
    neutral = torch.as_tensor(captured.body.neutral_qpos, dtype=torch.float32, device="cuda").expand(16, -1)
    for step, excitation in enumerate(excitations(name, 10, worlds=16).cuda()):
        for physics in (captured, eager):
            physics.step(excitation)
            if step == 5:
                state = physics.state
                physics.reset(mask, neutral, torch.zeros_like(state.qvel), torch.full_like(state.act, 0.2))
            torch.cuda.synchronize()
    for field, bound in TOLERANCE.items():  # sums by atomics differ in their last bits
        difference = (getattr(captured.state, field) - getattr(eager.state, field)).abs()
        assert difference.numel() == 0 or float(difference.max()) <= bound, field
    captured.check()
