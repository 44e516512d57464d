"""The solver: derivatives, the banded system, round trips, symmetry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tests.unit.retargeting.captures import walking_poses, write_amass
from tools.retargeting import rotations
from tools.retargeting.kinematics import MotionKinematics
from tools.retargeting.pipeline import Options, read_capture, retarget
from tools.retargeting.skeleton import Capture
from tools.retargeting.solve import Smoothness, solve, solve_smooth, target_term
from tools.retargeting.targets import Targets, build_targets


@pytest.fixture(scope="module", params=["myo_fullbody", "myo_bimanual"])
def body(request: pytest.FixtureRequest) -> Embodiment:
    return load_body(request.param)


def _capture(directory: Path, frames: int = 40, fps: float = 50.0) -> Capture:
    poses, trans = walking_poses(frames, fps)
    write_amass(directory / "walk.npz", poses, trans, fps)
    return read_capture(directory / "walk.npz", Options())


def test_jacobians_match_differences(body: Embodiment):
    kinematics, rng, eps = MotionKinematics(body), np.random.default_rng(3), 1e-6
    qpos = kinematics.step(np.tile(body.neutral_qpos, (2, 1)), 0.3 * rng.normal(size=(2, kinematics.dofs)))
    pose = kinematics.pose(qpos)
    position = kinematics.position_jacobian(pose)
    turn = kinematics.rotation_jacobian(pose)
    sole = kinematics.sole_jacobian(pose, pose.sole_low)
    for d in range(kinematics.dofs):
        step = eps * np.eye(kinematics.dofs)[[d, d]]
        up, down = kinematics.pose(kinematics.step(qpos, step)), kinematics.pose(kinematics.step(qpos, -step))
        np.testing.assert_allclose((up.body_pos - down.body_pos) / (2 * eps), position[..., d], atol=1e-6)
        spin = rotations.log(up.body_mat @ np.swapaxes(down.body_mat, -1, -2)) / (2 * eps)
        np.testing.assert_allclose(spin, turn[..., d], atol=1e-5)
        np.testing.assert_allclose(((up.sole_low - down.sole_low) / (2 * eps))[..., 2], sole[..., 2, d], atol=1e-5)


@pytest.mark.parametrize("frames", [4, 7])
def test_banded_system_equals_the_dense_one(frames: int):
    rng, dofs = np.random.default_rng(1), 5
    root = rng.normal(size=(frames, dofs, dofs))
    hessian = root @ np.swapaxes(root, 1, 2) + np.eye(dofs)
    weights, right, free = rng.random(dofs), rng.normal(size=(frames, dofs)), rng.random((frames, dofs)) > 0.2
    second = np.diff(np.eye(frames), n=2, axis=0)
    dense = np.kron(second.T @ second, np.diag(weights))
    for f in range(frames):
        dense[f * dofs : (f + 1) * dofs, f * dofs : (f + 1) * dofs] += hessian[f]
    wanted, kept = np.zeros(frames * dofs), free.ravel()
    wanted[kept] = np.linalg.solve(dense[np.ix_(kept, kept)], right.ravel()[kept])
    np.testing.assert_allclose(solve_smooth(hessian, weights, right, free).ravel(), wanted, atol=1e-12)


def _own_motion(kinematics: MotionKinematics, frames: int, fps: float) -> np.ndarray:
    """(F, Q) slow sines through the middle of every joint's range, the root turning and travelling."""
    low, high = kinematics.limits()
    hinge = np.isfinite(low)
    time = np.arange(frames)[:, None] / fps
    phase = np.linspace(0.0, np.pi, kinematics.dofs)
    low, high = np.where(hinge, low, 0.0), np.where(hinge, high, 0.0)
    middle, reach = 0.5 * (low + high), 0.5 * (high - low)
    wave = np.sin(2 * np.pi * 0.5 * time + phase)
    delta = np.zeros((frames, kinematics.dofs))
    delta[:, hinge] = middle[hinge] + 0.3 * reach[hinge] * wave[:, hinge]
    delta[:, ~hinge] = 0.2 * wave[:, ~hinge]
    neutral = np.tile(kinematics.body.neutral_qpos, (frames, 1))
    return kinematics.step(neutral, np.where(hinge, delta - kinematics.coordinates(neutral), delta))


def test_own_motion_is_recovered_within_a_millimetre(body: Embodiment):
    kinematics, fps = MotionKinematics(body), 50.0
    truth = _own_motion(kinematics, 40, fps)
    pose = kinematics.pose(truth)
    sites = np.arange(len(body.site_names))
    targets = Targets(pose.body_pos, np.ones(len(sites)), sites, pose.body_mat, np.full(len(sites), 0.05), 1.0)
    start = kinematics.step(truth, 0.2 * np.ones((40, kinematics.dofs)))
    term = target_term(kinematics, targets, kinematics.coordinates(body.neutral_qpos[None])[0])
    found = solve(kinematics, start, [term], Smoothness(20.0, fps), 30, tolerance=1e-9)
    error = np.linalg.norm(kinematics.pose(found).body_pos - pose.body_pos, axis=-1)
    before = np.linalg.norm(kinematics.pose(start).body_pos - pose.body_pos, axis=-1)
    assert before.max() > 0.05, "started at the solution"
    assert error.max() < 1e-3


def test_unreachable_targets_stop_at_the_limits(body: Embodiment):
    kinematics = MotionKinematics(body)
    start = np.tile(body.neutral_qpos, (6, 1))
    pose = kinematics.pose(start)
    sites = np.arange(len(body.site_names))
    scattered = pose.body_pos + np.random.default_rng(0).normal(scale=0.5, size=pose.body_pos.shape)
    targets = Targets(scattered, np.ones(len(sites)), sites, pose.body_mat, np.full(len(sites), 0.01), 1.0)
    term = target_term(kinematics, targets, kinematics.coordinates(body.neutral_qpos[None])[0])
    found = solve(kinematics, start, [term], Smoothness(20.0, 50.0), 15)
    low, high = kinematics.limits()
    coordinates = kinematics.coordinates(found)
    assert (coordinates >= low - 1e-12).all() and (coordinates <= high + 1e-12).all()
    assert ((coordinates == low) | (coordinates == high)).any(), "no limit was reached: the test shows nothing"
    assert np.abs(body.couplings.residual(found)).max() <= 1e-9


def test_t_pose_comes_back_as_a_t_pose(tmp_path: Path, body: Embodiment):
    poses = np.zeros((10, 52, 3))
    poses[:, 0, 0] = np.pi / 2
    write_amass(tmp_path / "t.npz", poses, np.zeros((10, 3)), 100.0)
    qpos, _, metrics = retarget(body, read_capture(tmp_path / "t.npz", Options()), 100.0)
    pose = MotionKinematics(body).pose(qpos)
    at = {name.removesuffix("_mimic"): pose.body_pos[5, k] for k, name in enumerate(body.site_names)}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        arm = at[f"{side}_hand"] - at[f"{side}_shoulder"]
        assert sign * arm[0] > 0.99 * np.linalg.norm(arm)
        if body.free_root:
            leg = at[f"{side}_ankle"] - at[f"{side}_hip"]
            assert -leg[2] > 0.99 * np.linalg.norm(leg)
            assert at[f"{side}_toes"][1] < at[f"{side}_ankle"][1] - 0.1, "the feet do not face -Y"
    assert metrics.rmse_cm < 1.5 and metrics.limit_violations == 0 and metrics.penetration_mm < 5.0


def test_mirrored_capture_gives_the_mirrored_motion(tmp_path: Path, body: Embodiment):
    kinematics, capture = MotionKinematics(body), _capture(tmp_path)
    plain, _, _ = retarget(body, capture, 50.0)
    mirrored, _, _ = retarget(body, capture.mirrored(), 50.0)
    assert np.abs(mirrored - plain).max() > 0.1, "the capture is symmetric: the test shows nothing"
    there, back = kinematics.pose(mirrored).body_pos, kinematics.pose(plain).body_pos
    reflected = back[:, body.mirror_sites] * np.array([-1.0, 1.0, 1.0])
    if not body.free_root:  # the fixed trunk stands beside the world's origin
        reflected[..., 0] += (there - reflected)[..., 0].mean()
    assert np.abs(there - reflected).max() < 2e-3


def test_targets_keep_the_lengths_of_the_body(tmp_path: Path, body: Embodiment):
    targets = build_targets(body, _capture(tmp_path))
    names = [name.removesuffix("_mimic") for name in body.site_names]
    rest = MotionKinematics(body).pose(body.neutral_qpos[None]).body_pos[0]
    pairs = [("shoulder", "elbow"), ("elbow", "hand")] + [("hip", "knee"), ("knee", "ankle")] * body.free_root
    for a, b in pairs:
        i, j = names.index(f"left_{a}"), names.index(f"left_{b}")
        length = np.linalg.norm(targets.position[:, i] - targets.position[:, j], axis=-1)
        np.testing.assert_allclose(length, np.linalg.norm(rest[i] - rest[j]), atol=1e-12)
