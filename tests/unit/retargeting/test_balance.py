"""Zero-moment point, hull of the contacts, and the correction that brings one over the other."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from sim_models.kinematics import reference_velocity
from sim_models.registry import load_body
from tools.retargeting.balance import (
    FARTHEST,
    KEEP,
    ROUGH,
    SHRINK,
    Dynamics,
    before_smoothing,
    dynamics,
    inverse_dynamics,
    joint_moment,
    outside,
    shift,
)

FPS = 100.0


def _motion(frames: int = 60) -> np.ndarray:
    body = load_body("myo_fullbody")
    qpos = np.tile(body.neutral_qpos, (frames, 1))
    time = np.arange(frames) / FPS
    qpos[:, 0] += 0.05 * np.sin(6.0 * time)
    qpos[:, 3:7] = [0.9, 0.1, 0.2, 0.3]
    qpos[:, 3:7] /= np.linalg.norm(qpos[0, 3:7])
    for side, sign in (("l", 1.0), ("r", -1.0)):
        qpos[:, body.model.joint(f"hip_flexion_{side}").qposadr[0]] = 0.3 + 0.3 * sign * np.sin(5.0 * time)
        qpos[:, body.model.joint(f"elbow_flex_{side}").qposadr[0]] = 0.7 + 0.3 * np.cos(5.0 * time)
    return body.couplings.enforce(qpos)


def test_at_rest_the_point_is_below_the_centre_of_mass():
    body = load_body("myo_fullbody")
    qpos = np.repeat(_motion()[:1], 6, axis=0)
    data = mujoco.MjData(body.model)
    data.qpos[:] = qpos[0]
    mujoco.mj_kinematics(body.model, data)
    mujoco.mj_comPos(body.model, data)
    motion = dynamics(body, qpos, FPS)
    np.testing.assert_allclose(motion.point, np.tile(data.subtree_com[0, :2], (6, 1)), atol=1e-9)
    assert motion.load == pytest.approx(np.ones(6)) and motion.height[0] == pytest.approx(data.subtree_com[0, 2])


def test_in_motion_the_point_follows_from_momentum():
    body, qpos = load_body("myo_fullbody"), _motion()
    model, data = body.model, mujoco.MjData(body.model)
    angular, com = np.empty((len(qpos), 3)), np.empty((len(qpos), 3))
    for f, velocity in enumerate(reference_velocity(body, qpos, 1.0 / FPS)):
        data.qpos[:], data.qvel[:] = qpos[f], velocity
        for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_comVel, mujoco.mj_subtreeVel):
            stage(model, data)
        angular[f], com[f] = data.subtree_angmom[0], data.subtree_com[0]
    spin = np.gradient(angular, 1.0 / FPS, axis=0)
    force = model.body_mass.sum() * (np.gradient(np.gradient(com, 1.0 / FPS, axis=0), 1.0 / FPS, axis=0)
                                     + np.array([0.0, 0.0, 9.81]))
    x = com[:, 0] - (com[:, 2] * force[:, 0] + spin[:, 1]) / force[:, 2]
    y = com[:, 1] - (com[:, 2] * force[:, 1] - spin[:, 0]) / force[:, 2]
    inner = slice(5, -5)
    motion = dynamics(body, qpos, FPS)
    assert np.ptp(motion.point[inner], axis=0).min() > 0.005, "the point hardly moves: the test shows nothing"
    np.testing.assert_allclose(motion.point[inner], np.stack([x, y], axis=1)[inner], atol=2e-3)


def test_distance_to_the_hull():
    corners = np.tile(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [9.0, 9.0]]), (4, 1, 1))
    valid = np.tile(np.array([True] * 4 + [False]), (4, 1))
    valid[3] = False
    distance, normal = outside(np.array([[0.5, 0.4], [1.3, 0.5], [2.0, 2.0], [7.0, 7.0]]), corners, valid)
    assert distance == pytest.approx([-0.4, 0.3, np.sqrt(2.0), 0.0], abs=1e-3)
    np.testing.assert_allclose(normal[1], [1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(normal[2], np.sqrt(0.5) * np.ones(2), atol=0.02)


def test_the_shift_is_the_least_squares_solution():
    rng, frames = np.random.default_rng(0), 80
    motion = Dynamics(0.1 * rng.normal(size=(frames, 2)), np.ones(frames), 0.9 + 0.01 * rng.normal(size=frames))
    corners, valid = 0.1 * rng.normal(size=(frames, 6, 2)), rng.random((frames, 6)) > 0.3
    valid[30:34] = False
    before = 0.01 * rng.normal(size=(frames, 2))
    middle = np.where(valid[..., None], corners, 0.0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)[:, None]
    distance, normal = outside(motion.point, middle[:, None] + SHRINK * (corners - middle[:, None]), valid)
    wish = -np.clip(distance, 0.0, FARTHEST)[:, None] * normal
    lever = motion.height / 9.81 * FPS**2
    pendulum = np.eye(frames)
    for t in range(1, frames - 1):
        pendulum[t, t - 1 : t + 2] += lever[t] * np.array([-1.0, 2.0, -1.0])
    stands = valid.any(axis=1).astype(float)
    third = np.diff(np.eye(frames), n=3, axis=0) * FPS**3
    matrix = pendulum.T @ (stands[:, None] * pendulum) + KEEP * np.eye(frames) + ROUGH * third.T @ third
    wanted = np.linalg.solve(matrix, pendulum.T @ (stands[:, None] * wish) - KEEP * before)
    np.testing.assert_allclose(shift(motion, corners, valid, FPS, before), wanted, atol=1e-6)


def test_smoothing_undoes_what_comes_before_it():
    """A track sharpened for a cut-off is itself again after the acceleration penalty of that cut-off, up to its ends."""
    rng, frames, cutoff = np.random.default_rng(0), 40, 2.0 * np.pi * 4.0 / FPS
    track = rng.normal(size=(frames, 2)).cumsum(axis=0)
    second = np.diff(np.eye(frames), n=2, axis=0)
    smoothed = np.linalg.solve(np.eye(frames) + second.T @ second / cutoff**4, before_smoothing(track, cutoff))
    np.testing.assert_allclose(smoothed, track, atol=1e-9)


def test_a_point_beside_the_feet_comes_over_them():
    """A pendulum that sways by 3 cm at 1.5 Hz above a small foot."""
    frames = 300
    time = np.arange(frames) / FPS
    sway = np.stack([0.03 * np.sin(2 * np.pi * 1.5 * time), np.zeros(frames)], axis=1)
    height = np.full(frames, 0.9)

    def point(place: np.ndarray) -> np.ndarray:
        return place - 0.9 / 9.81 * np.gradient(np.gradient(place, 1.0 / FPS, axis=0), 1.0 / FPS, axis=0)

    corners = np.tile(0.05 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]), (frames, 1, 1))
    valid, inner, moved = np.ones((frames, 4), dtype=bool), slice(60, -60), np.zeros((frames, 2))
    first = np.maximum(outside(point(sway), corners, valid)[0], 0.0)[inner].mean()
    for _ in range(3):
        motion = Dynamics(point(sway + moved), np.ones(frames), height)
        moved = moved + shift(motion, corners, valid, FPS, moved)
    last = np.maximum(outside(point(sway + moved), corners, valid)[0], 0.0)[inner].mean()
    assert first > 0.05 and last < 0.1 * first
    assert np.abs(moved).max() < 0.04


def test_flight_and_short_motions_ask_for_nothing():
    motion = Dynamics(np.ones((40, 2)), np.zeros(40), np.ones(40))
    assert not shift(motion, np.zeros((40, 2, 2)), np.ones((40, 2), dtype=bool), FPS).any()
    short = Dynamics(np.ones((4, 2)), np.ones(4), np.ones(4))
    assert not shift(short, np.zeros((4, 2, 2)), np.ones((4, 2), dtype=bool), FPS).any()


@pytest.mark.parametrize("joint", ["elv_angle_r", "shoulder_elv_l"])
def test_the_moment_about_a_joint_does_the_work_of_the_motion(joint: str):
    body = load_body("myo_bimanual")
    time = np.arange(200) / FPS
    qpos = np.tile(body.neutral_qpos, (len(time), 1))
    for name, angle in (("shoulder_elv_r", 0.8), ("shoulder_elv_l", 0.8), ("elbow_flex_r", 1.0)):
        qpos[:, body.model.joint(name).qposadr[0]] = angle
    address = body.model.joint(joint).qposadr[0]
    qpos[:, address] += 0.5 * np.sin(4.0 * time)
    qpos = body.couplings.enforce(qpos)
    power = joint_moment(body, qpos, inverse_dynamics(body, qpos, FPS)[0], joint) * np.gradient(qpos[:, address], 1.0 / FPS)
    model, data, energy = body.model, mujoco.MjData(body.model), []
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    for position, velocity in zip(qpos, reference_velocity(body, qpos, 1.0 / FPS), strict=True):
        data.qpos[:], data.qvel[:] = position, velocity
        mujoco.mj_forward(model, data)
        springs = 0.5 * (model.jnt_stiffness * (position - model.qpos_spring) ** 2).sum()
        energy.append(data.energy.sum() - springs - _tendon_energy(model, data))
    np.testing.assert_allclose(power[3:-3], np.gradient(energy, 1.0 / FPS)[3:-3], atol=0.02 * np.abs(power).max())


def _tendon_energy(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    low, high = model.tendon_lengthspring.T
    beyond = np.maximum(data.ten_length - high, 0.0) + np.minimum(data.ten_length - low, 0.0)
    return float(0.5 * (model.tendon_stiffness * beyond**2).sum())
