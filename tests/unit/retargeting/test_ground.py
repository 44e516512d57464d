"""Floor, contacts, and the feet's rows in the solver."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch

from sim_models.kinematics import lowest_points
from sim_models.registry import load_body
from tools.retargeting import rotations
from tools.retargeting.contact import ContactTerm, Schedule, Stiffness
from tools.retargeting.corrections import calibrate_feet, carry_on
from tools.retargeting.ground import (
    Soles,
    bridge,
    fit_floor,
    gaussian,
    label_contacts,
    part_motion,
    runs,
    slow_height,
    support,
    travel,
)
from tools.retargeting.kinematics import MotionKinematics
from tools.retargeting.pipeline import retarget, sites_of
from tools.retargeting.skeleton import JointMotion
from tools.retargeting.soles import floor_surface, solid_geoms
from tools.retargeting.solve import Normal
from tools.retargeting.stages import fill_track, solver_for

FPS = 100.0


def _soles(center: np.ndarray, height: np.ndarray) -> Soles:
    return Soles(center, height, np.linalg.norm(np.gradient(center, 1.0 / FPS, axis=0), axis=-1))


def _steps(frames: int = 400, slope: float = 0.0, raised: float = 0.0) -> Soles:
    """Two feet (heel and toe each) that stand and swing in turn along y."""
    center, height = np.zeros((frames, 4, 3)), np.zeros((frames, 4))
    for foot in range(2):
        phase = (np.arange(frames) + 50 * foot) % 100
        swing = np.clip((phase - 60) / 40.0, 0.0, 1.0)
        y = 1.0 * ((np.arange(frames) + 50 * foot) // 100 + swing) + 0.5 * foot
        lift = 0.1 * np.sin(np.pi * swing)
        for part in range(2):
            k = 2 * foot + part
            center[:, k, 1] = y + 0.15 * part
            height[:, k] = raised + lift + slope * center[:, k, 1]
            center[:, k, 2] = height[:, k] + 0.02
    return _soles(center, height)


def test_a_tilted_floor_is_found():
    floor = fit_floor(_steps(slope=0.016, raised=0.03), FPS)
    assert floor.slope[1] == pytest.approx(0.016, abs=3e-3)
    assert abs(floor.slope[0]) < 1e-4
    turn, shift = floor.levelling()
    for y in (0.0, 4.0):
        levelled = turn @ np.array([0.0, y, 0.03 + 0.016 * y]) + shift
        assert abs(levelled[2]) < 8e-3


def test_inclined_feet_and_standing_say_nothing_about_tilt():
    soles = _steps()
    inclined = replace(soles, height=soles.height + np.array([0.0, 0.03, 0.0, 0.03]))  # toes up by 3 cm
    assert fit_floor(inclined, FPS).tilt < 0.05
    still = _soles(np.repeat(soles.center[:1], 200, axis=0), np.repeat(soles.height[:1], 200, axis=0))
    still.height[:, 2:] += 0.01
    assert fit_floor(still, FPS).tilt < 0.05


def test_without_rest_the_lowest_height_is_the_floor():
    center = np.zeros((50, 4, 3))
    center[..., 0] = np.arange(50)[:, None] * 0.05
    floor = fit_floor(_soles(center, np.full((50, 4), 0.2)), FPS)
    assert not floor.found and floor.height == pytest.approx(0.2)


def test_contacts_are_the_stances():
    soles = _steps()
    label = label_contacts(soles, np.zeros(400), FPS)
    assert len(runs(label[:, 0])) == 4
    for start, stop in runs(label[:, 0]):
        assert 40 <= stop - start <= 75
    assert not label[80, 0] and label[80, 2]


def test_a_fast_bodys_feet_may_skate_more():
    soles = _steps()
    skating = replace(soles, speed=soles.speed + 0.4)
    assert not label_contacts(skating, np.zeros(400), FPS).any()
    fast = label_contacts(skating, np.full(400, 1.5), FPS)
    assert [stop - start for start, stop in runs(fast[:, 0])] == [
        stop - start for start, stop in runs(label_contacts(soles, np.zeros(400), FPS)[:, 0])]


def test_short_contacts_go_and_short_breaks_close():
    soles = _steps()
    soles.height[30:32, 0] = 0.2
    soles.height[70:77, 0], soles.speed[70:77, 0] = 0.2, 0.0
    soles.height[72:75, 0] = 0.0
    label = label_contacts(soles, np.zeros(400), FPS)
    assert label[25:35, 0].all() and not label[70:77, 0].any()


def test_slow_height_follows_floating_steps_slowly():
    soles = _steps(raised=0.05)
    assert slow_height(soles, FPS) == pytest.approx(0.05, abs=5e-3)
    soles.height[200:] -= 0.02
    assert np.abs(np.diff(slow_height(soles, FPS))).max() * FPS < 0.1, "the correction moves faster than 10 cm/s"


def test_slow_height_goes_down_a_step_and_not_up_with_a_lifted_foot():
    """Footholds far below the plane are ground; a sole that rests far above it is a foot in the air."""
    soles = _steps()
    soles.height[200:] -= 0.15
    assert slow_height(soles, FPS)[300:] == pytest.approx(-0.15, abs=5e-3)
    soles.height[200:] += 0.3
    assert slow_height(soles, FPS)[300:] == pytest.approx(0.0, abs=5e-3)


def test_gaussian_keeps_constants_and_length():
    assert gaussian(np.full(30, 2.5), 5.0) == pytest.approx(np.full(30, 2.5))


def test_travel_is_the_speed_of_the_body():
    assert travel(np.outer(np.arange(200), [0.012, 0.005]), FPS) == pytest.approx(np.full(200, 1.3))


def test_a_bridge_holds_where_it_must_and_is_smooth_between():
    frames, rate = 200, np.array([2.0 * np.pi * 1.5 / FPS])
    weight = np.zeros((frames, 1))
    weight[:60], weight[140:] = 1.0, 1.0
    track = np.zeros((frames, 1, 3))
    track[:60, 0, 0], track[60:140, 0, 0], track[140:, 0, 0] = 0.02, 5.0, 0.04
    smooth = bridge(track, weight, rate, 60.0)[:, 0, 0]  # no frame is farther from a weight than that
    assert smooth[:40] == pytest.approx(0.02, abs=1.5e-3) and smooth[160:] == pytest.approx(0.04, abs=1.5e-3)
    assert smooth.max() < 0.06, "the bridge followed the track where it has no weight"
    assert np.abs(np.diff(smooth, n=2)).max() < 2e-5
    dense = np.diff(np.eye(frames), n=2, axis=0)
    matrix = np.diag(weight[:, 0] + 1e-3) + dense.T @ dense / rate**4
    np.testing.assert_allclose(smooth, np.linalg.solve(matrix, weight[:, 0] * track[:, 0, 0]), atol=1e-9)


def test_a_bridge_lets_go_where_no_contact_follows():
    """A correction that was growing at the last contact does not grow on to the end, but fades; the first part is held."""
    rate = np.array([2.0 * np.pi * 1.5 / FPS])
    weight, track = np.zeros((300, 1)), np.zeros((300, 1, 3))
    weight[:100], track[:100, 0, 0] = 1.0, 0.03 + 2e-4 * np.arange(100)
    smooth = bridge(track, weight, rate, 20.0)[:, 0, 0]
    assert smooth[:90] == pytest.approx(track[:90, 0, 0], abs=2e-3)
    assert smooth.max() < 0.06 and np.abs(smooth[180:]).max() < 5e-3


def test_tracks_are_filled_linearly():
    assert fill_track(np.array([0.0, 2.0, 6.0]), 6, 2) == pytest.approx([0.0, 1.0, 2.0, 4.0, 6.0, 6.0])


# -- the full body's soles ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kinematics() -> MotionKinematics:
    return MotionKinematics(load_body("myo_fullbody"))


def _poses(kinematics: MotionKinematics, frames: int = 20, size: float = 0.3) -> torch.Tensor:
    neutral = kinematics.tensor(np.tile(kinematics.body.neutral_qpos, (frames, 1)))
    rng = np.random.default_rng(2)
    return kinematics.step(neutral, kinematics.tensor(size * rng.normal(size=(frames, kinematics.dofs))))


def test_lowest_points_of_all_solid_geoms_are_exact(kinematics: MotionKinematics):
    model = kinematics.body.model
    solid = np.flatnonzero((model.geom_contype != 0) & (model.geom_bodyid != 0))
    surface, qpos = floor_surface(kinematics, solid), _poses(kinematics)
    low = surface.lowest(kinematics.pose(qpos))[..., 2].numpy()
    mine = np.stack([low[:, surface.geoms == g].min(axis=1) for g in solid], axis=1)
    np.testing.assert_allclose(mine, lowest_points(kinematics.body, qpos.numpy(), solid), atol=1e-9)


def test_heel_ball_and_toes_are_found_on_both_feet(kinematics: MotionKinematics):
    surface = floor_surface(kinematics, np.zeros(0, dtype=int))
    assert surface.names == ("heel_l", "ball_l", "toe_l", "heel_r", "ball_r", "toe_r")
    center, height = surface.parts(kinematics.pose(kinematics.tensor(kinematics.body.neutral_qpos[None])))
    heel, ball, toe = center[0, :3, 1]
    assert heel > ball + 0.1 and ball > toe, "the body faces -y"
    assert (height < 0.01).all()


def test_a_rolling_part_does_not_slide(kinematics: MotionKinematics):
    """A body that turns about the lowest point of its heel moves the heel's centre, not the material on the floor."""
    surface = floor_surface(kinematics, np.zeros(0, dtype=int))
    neutral = kinematics.tensor(kinematics.body.neutral_qpos[None])
    low = surface.lowest(kinematics.pose(neutral))[0]
    heel = int(np.flatnonzero(surface.groups == 0)[low[np.flatnonzero(surface.groups == 0), 2].argmin()])
    pivot, angle = low[heel].numpy(), np.array([-0.01, 0.0, 0.01])
    qpos = neutral.repeat(3, 1)
    quat, turn = np.zeros(4), np.zeros(9)
    for f, a in enumerate(angle):
        mujoco.mju_axisAngle2Quat(quat, np.array([1.0, 0.0, 0.0]), a)
        mujoco.mju_quat2Mat(turn, quat)
        qpos[f, 3:7] = torch.as_tensor(quat)
        qpos[f, :3] = torch.as_tensor(pivot + turn.reshape(3, 3) @ (neutral[0, :3].numpy() - pivot))
    velocity, _ = part_motion(surface, kinematics.pose(qpos), FPS)
    center, _ = surface.parts(kinematics.pose(qpos))
    assert np.linalg.norm(np.gradient(center[:, 0], 1.0 / FPS, axis=0)[1]) > 0.015, "the heel does not turn"
    assert np.linalg.norm(velocity[1, 0]) < 2e-3


def test_contact_rows_have_the_gradient_of_their_cost(kinematics: MotionKinematics):
    surface = floor_surface(kinematics, np.zeros(0, dtype=int))
    qpos, eps = _poses(kinematics, 4, 0.02), 1e-7
    contact = np.ones((4, 6), dtype=bool)
    schedule = Schedule.of(surface, Soles.of(surface, kinematics.pose(qpos), FPS), contact, FPS)
    term = ContactTerm(kinematics, surface, schedule, Stiffness(20.0, 6.0, 0.0, 6.0, 0.0005, 0.008))
    normal = Normal.zeros(4, kinematics)
    term(kinematics.pose(qpos), normal)
    normal.assemble(kinematics.pose(qpos))
    assert float(normal.cost.sum()) > 1e-3, "no row is active: the test shows nothing"

    def cost(at: torch.Tensor) -> torch.Tensor:
        there = Normal.zeros(4, kinematics)
        term(kinematics.pose(at), there)
        return there.cost

    for d in (2, 3, 4, 23, 26, 30, 36):
        step = torch.zeros(4, kinematics.dofs, dtype=torch.float64)
        step[:, d] = eps
        slope = (cost(kinematics.step(qpos, step)) - cost(kinematics.step(qpos, -step))) / (4 * eps)
        np.testing.assert_allclose(normal.gradient[:, d], slope, atol=1e-5)


def test_inclined_feet_are_calibrated():
    solver = solver_for(load_body("myo_fullbody"), FPS)
    qpos = solver.kinematics.tensor(np.tile(solver.body.neutral_qpos, (40, 1)))
    targets, _ = sites_of(solver.body, qpos.numpy())
    level = calibrate_feet(solver.skeleton, solver.soles, solver.kinematics.pose(qpos), solver.neutral, targets, FPS)
    assert all(np.abs(turn - np.eye(3)).max() < 1e-9 for turn in level.values()) and len(level) == 4
    for side in "lr":
        qpos[:, solver.body.model.joint(f"ankle_angle_{side}").qposadr[0]] += 0.2
    targets, _ = sites_of(solver.body, qpos.numpy())
    feet = calibrate_feet(solver.skeleton, solver.soles, solver.kinematics.pose(qpos), solver.neutral, targets, FPS)
    for name in ("left_ankle", "right_ankle"):
        angle = np.arccos(np.clip((np.trace(feet[name]) - 1.0) / 2.0, -1.0, 1.0))
        assert angle == pytest.approx(0.2, abs=0.02)


def test_a_correction_is_carried_on_by_the_swinging_foot():
    solver = solver_for(load_body("myo_fullbody"), FPS)
    targets, _ = sites_of(solver.body, np.tile(solver.body.neutral_qpos, (100, 1)))
    sites = targets.position.copy()
    names = solver.skeleton.names
    ankle = names.index("left_ankle")
    held = {"left": np.r_[np.ones(40), np.zeros(60)], "right": np.zeros(100)}
    sites[:40, [ankle, names.index("left_toes")], 0] += 0.02
    moved = carry_on(sites, targets, held, {s: np.zeros(100) for s in held}, names, FPS)
    shift = moved.position[:, ankle, 0] - targets.position[:, ankle, 0]
    assert shift[:30] == pytest.approx(0.02, abs=2e-3) and shift[50] > 0.01
    assert np.abs(np.diff(shift)).max() * FPS < 0.2, "the foot snaps back"
    np.testing.assert_allclose(moved.position[:, names.index("right_ankle")], targets.position[:, names.index("right_ankle")])


def test_a_body_that_is_given_in_the_floor_is_brought_out_and_stands_still():
    """Feet that skate by 10 cm/s and dip 2 cm into the floor, with hands on it at the end."""
    body = load_body("myo_fullbody")
    qpos = np.tile(body.neutral_qpos, (60, 1))
    hips = [body.model.joint(f"hip_flexion_{s}").qposadr[0] for s in "lr"]
    qpos[:, hips[0]] += 0.1 * np.sin(np.arange(60) * 0.1)
    qpos[:, 0] += 0.001 * np.arange(60)
    names = tuple(body.joint_names[j] for j in body.independent_hinges)
    motion = JointMotion(FPS, names, qpos[:, body.model.jnt_qposadr[body.independent_hinges]], qpos[:, :7])
    made = retarget(body, motion, FPS)
    kinematics = MotionKinematics(body)
    surface = floor_surface(kinematics, np.zeros(0, dtype=int))
    velocity, height = part_motion(surface, kinematics.pose(kinematics.tensor(made.qpos)), FPS)
    assert height.min() > -1e-3
    inner = made.contact.copy()
    inner[[0, -1]] = False
    inner[1:-1] &= made.contact[2:] & made.contact[:-2]
    assert inner.mean() > 0.3, "there is hardly a contact: the test shows nothing"
    assert np.percentile(np.linalg.norm(velocity[..., :2], axis=-1)[inner], 95) < 0.05


def test_hands_that_are_given_in_the_floor_come_out_of_it_and_carry_no_one_knows_how_much():
    """On all fours, hands 5 cm too deep, standing up at the end."""
    solver = solver_for(load_body("myo_fullbody"), FPS)
    body, frames = solver.body, 120
    down = np.clip(2.0 - np.arange(frames) / 40.0, 0.0, 1.0)
    qpos = np.tile(body.neutral_qpos, (frames, 1))
    for joint, angle in {"hip_flexion": 2.0, "knee_angle": 0.8, "elv_angle": 1.57, "shoulder_elv": 1.6}.items():
        for side in "lr":
            qpos[:, body.model.joint(f"{joint}_{side}").qposadr[0]] += angle * down
    qpos = body.couplings.enforce(qpos)
    half = 0.5 * 2.15 * down
    pitch = np.stack([np.cos(half), np.sin(half), np.zeros(frames), np.zeros(frames)], axis=1)  # about the axis to the left
    qpos[:, 3:7] = rotations.to_quaternion(rotations.from_quaternion(pitch) @ rotations.from_quaternion(qpos[:, 3:7]))
    solid = solid_geoms(body.model)
    hands = ["ph" in body.model.body(int(body.model.geom_bodyid[g])).name for g in solid]
    feet = np.isin(solid, np.concatenate(list(body.foot_geom_ids.values())))
    qpos[:, 2] -= lowest_points(body, qpos, solid)[:, feet].min(axis=1)
    assert lowest_points(body, qpos, solid)[:40, hands].min() < -0.03, "the hands are above the floor: the test shows nothing"
    names = tuple(body.joint_names[j] for j in body.independent_hinges)
    motion = JointMotion(FPS, names, qpos[:, body.model.jnt_qposadr[body.independent_hinges]], qpos[:, :7])
    made = retarget(body, motion, FPS)
    height = lowest_points(body, made.qpos, solid)
    assert height.min() > -1e-3
    assert height[:40, hands].min() < 0.03, "the hands are off the floor"
    surface = floor_surface(solver.kinematics, solid)
    carries = support(surface, solver.kinematics.pose(solver.kinematics.tensor(made.qpos)), made.contact)[1].any(axis=1)
    assert not carries[:40].any() and carries[-30:].all()
