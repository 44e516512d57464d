"""The reference bank gives back the clips: gathering, clamping, resampling on exact timestamps, velocities."""

from __future__ import annotations

from functools import cache

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_torch.maths import quaternion
from mm_torch.motion.bank import ReferenceBank
from mm_torch.motion.clip import Clip, MotionError
from mm_torch.motion.resample import interpolate_linearly, resample
from sim_models.embodiment import Embodiment
from sim_models.kinematics import reference_velocity, site_motion
from sim_models.registry import load_body

LENGTHS = (40, 7, 121)


def smooth_motion(body: Embodiment, frames: int, fps: float, seed: int = 0) -> np.ndarray:
    """An analytic motion (F, Q): every independent joint swings, a free root travels and turns at a constant rate."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames) / fps
    qpos = np.repeat(body.neutral_qpos[None], frames, axis=0)
    for joint in body.independent_hinges:
        low, high = body.joint_ranges[joint]
        middle, swing = (low + high) / 2, 0.2 * (high - low)
        qpos[:, body.model.jnt_qposadr[joint]] = middle + swing * np.sin(2 * np.pi * rng.uniform(0.3, 1.0) * time)
    if body.free_root:
        qpos[:, :3] += np.outer(time, rng.normal(size=3))
        turn = torch.from_numpy(np.outer(time, rng.normal(size=3)))
        qpos[:, 3:7] = quaternion.from_rotation_vector(turn).numpy()
    return body.couplings.enforce(qpos)


@cache
def toy_bank(acts: bool = True) -> tuple[ReferenceBank, list[Clip]]:
    body = load_body("toy_arm")
    rng = np.random.default_rng(3)
    clips = [
        Clip.from_qpos(body, smooth_motion(body, n, 100.0, seed), 100.0, provenance={}, name=f"clip{seed}",
                       act=rng.uniform(size=(n, 6)) if acts and seed != 1 else None)
        for seed, n in enumerate(LENGTHS)
    ]
    return ReferenceBank.build(body, clips), clips


# -- gathering --------------------------------------------------------------------------------------------------------
starts = st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 200)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(starts, st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_gather_equals_the_clip_and_never_leaves_it(requests: list[tuple[int, int]], ahead: list[int]) -> None:
    bank, clips = toy_bank()
    clip, frame = (torch.tensor(column) for column in zip(*requests, strict=True))
    rows = bank.gather(clip[:, None], frame[:, None] + torch.tensor(ahead))
    assert rows.qpos.shape == (len(requests), len(ahead), 2) and rows.site_xvel.shape[2:] == (3, 6)
    for i, (c, f) in enumerate(requests):
        for k, step in enumerate(ahead):
            source = min(max(f + step, 0), LENGTHS[c] - 1)
            np.testing.assert_allclose(rows.qpos[i, k], clips[c].qpos[source], rtol=0, atol=1e-6)
            np.testing.assert_allclose(rows.qvel[i, k], clips[c].qvel[source], rtol=0, atol=1e-5)
            np.testing.assert_allclose(rows.site_xpos[i, k], clips[c].site_xpos[source], rtol=0, atol=1e-6)


def test_boundaries_belong_to_their_own_clip() -> None:
    bank, clips = toy_bank()
    assert bank.lengths.tolist() == list(LENGTHS) and bank.offsets.tolist() == [0, 40, 47]
    for index, clip in enumerate(clips):
        c = torch.tensor([index, index])
        rows = bank.gather(c, torch.tensor([0, LENGTHS[index] - 1])).qpos
        np.testing.assert_allclose(rows, clip.qpos[[0, -1]], atol=1e-6)


def test_activations_are_gathered_and_zero_where_a_clip_has_none() -> None:
    bank, clips = toy_bank()
    act = bank.activations(torch.tensor([0, 1, 2]), torch.tensor([5, 5, 500]))
    assert act is not None and act.dtype == torch.float32
    np.testing.assert_allclose(act[0], clips[0].act[5], atol=1e-3)
    assert (act[1] == 0).all()
    np.testing.assert_allclose(act[2], clips[2].act[-1], atol=1e-3)
    without, _ = toy_bank(acts=False)
    assert without.activations(torch.tensor([0]), torch.tensor([0])) is None


def test_memory_figure_counts_every_packed_array() -> None:
    frames, q, v, s = sum(LENGTHS), 2, 2, 3
    expected = 4 * frames * (q + v + s * (3 + 4 + 6))
    assert toy_bank(acts=False)[0].memory_bytes == expected
    assert toy_bank()[0].memory_bytes == expected + 2 * frames * 6


def test_a_bank_without_clips_is_refused() -> None:
    with pytest.raises(MotionError, match="no motion to train on"):
        ReferenceBank.build(load_body("toy_arm"), [])


# -- resampling -------------------------------------------------------------------------------------------------------
def test_equal_rates_change_nothing() -> None:
    body = load_body("myo_fullbody")
    qpos = smooth_motion(body, 12, 100.0)
    assert np.array_equal(resample(body, qpos, 100.0, 100.0), qpos)


@pytest.mark.parametrize("name", ["toy_arm", "myo_bimanual", "myo_fullbody"])
@pytest.mark.parametrize(("fps", "frames", "expected"), [(120.0, 121, 101), (30.0, 31, 101), (59.94, 60, 99)])
def test_frame_k_is_the_motion_at_its_own_time(name: str, fps: float, frames: int, expected: int) -> None:
    body = load_body(name)
    ours = resample(body, smooth_motion(body, frames, fps), fps, 100.0)
    truth = smooth_motion(body, expected, 100.0)
    assert ours.shape == truth.shape
    tolerance = 1e-4 if fps > 100 else 5e-3
    scalar = body.hinge_qpos
    np.testing.assert_allclose(ours[:, scalar], truth[:, scalar], atol=tolerance)
    assert np.abs(body.couplings.residual(ours)).max(initial=0.0) == 0.0
    if body.free_root:
        np.testing.assert_allclose(ours[:, :3], truth[:, :3], atol=1e-9)
        angle = quaternion.angle_between(torch.from_numpy(ours[:, 3:7]), torch.from_numpy(truth[:, 3:7]))
        assert angle.max() < 1e-9  # constant angular velocity: spherical interpolation is exact


def test_root_takes_the_shorter_arc_when_the_quaternion_changes_sign() -> None:
    body = load_body("myo_fullbody")
    qpos = smooth_motion(body, 31, 30.0)
    flipped = qpos.copy()
    flipped[::2, 3:7] *= -1.0
    a, b = (torch.from_numpy(resample(body, q, 30.0, 100.0)[:, 3:7]) for q in (qpos, flipped))
    assert quaternion.angle_between(a, b).max() < 1e-9
    torch.testing.assert_close(b.norm(dim=-1), torch.ones(len(b), dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.floats(10.0, 250.0))
def test_first_frame_stays_and_nothing_lies_after_the_end(frames: int, fps: float) -> None:
    body = load_body("toy_arm")
    qpos = smooth_motion(body, frames, fps)
    ours = resample(body, qpos, fps, 100.0)
    np.testing.assert_allclose(ours[0], qpos[0], atol=1e-12)
    duration = (frames - 1) / fps
    assert (len(ours) - 1) / 100.0 <= duration + 1e-9 and len(ours) / 100.0 > duration - 1e-9


def test_activations_are_interpolated_linearly() -> None:
    values = np.arange(7.0)[:, None] * np.array([1.0, -2.0])
    ours = interpolate_linearly(values, 30.0, 100.0, 21)
    np.testing.assert_allclose(ours, (np.arange(21) * 0.3)[:, None] * np.array([1.0, -2.0]), atol=1e-12)
    np.testing.assert_allclose(interpolate_linearly(values, 30.0, 100.0, 40)[-1], values[-1])


# -- velocities -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["toy_arm", "myo_bimanual", "myo_fullbody"])
def test_integrating_the_reference_velocity_gives_the_motion_back(name: str) -> None:
    body = load_body(name)
    dt = body.control_dt
    qpos = smooth_motion(body, 60, 100.0, seed=4)
    qvel = reference_velocity(body, qpos, dt)
    for f in range(1, 59):  # central difference: two frames from one side to the other
        there = qpos[f - 1].copy()
        mujoco.mj_integratePos(body.model, there, qvel[f], 2 * dt)
        np.testing.assert_allclose(there, qpos[f + 1], atol=1e-9)
    drift = qpos[0].copy()
    for f in range(59):
        mujoco.mj_integratePos(body.model, drift, (qvel[f] + qvel[f + 1]) / 2, dt)
    np.testing.assert_allclose(drift, qpos[-1], atol=5e-3)


def test_bank_velocities_belong_to_the_resampled_motion() -> None:
    body = load_body("myo_fullbody")
    clip = Clip.from_qpos(body, smooth_motion(body, 61, 120.0, seed=5), 120.0, provenance={}, name="walkabout")
    bank = ReferenceBank.build(body, [clip])
    qpos = resample(body, clip.qpos, 120.0, 100.0)
    qvel = reference_velocity(body, qpos, 0.01)
    np.testing.assert_allclose(bank.frames.qvel, qvel, atol=1e-4)
    sites = site_motion(body, qpos, qvel)
    np.testing.assert_allclose(bank.frames.site_xpos, sites.position, atol=1e-5)
    np.testing.assert_allclose(bank.frames.site_xvel, sites.velocity, atol=1e-4)
    moved = (bank.frames.site_xpos[2:] - bank.frames.site_xpos[:-2]) / 0.02
    np.testing.assert_allclose(bank.frames.site_xvel[1:-1, :, 3:], moved, atol=0.05)
