"""The solver: derivatives, the banded system, round trips, limits, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from mm_torch.motion.clip import Clip, MotionError, load_clip
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tests.unit.retargeting.captures import walking_poses, write_amass
from tools.retargeting import rotations
from tools.retargeting.kinematics import MotionKinematics, Pose
from tools.retargeting.limits import NARROWED, limited_kinematics
from tools.retargeting.metrics import (
    contacts_and_tendons,
    fit_error,
    jump_of_the_motion,
    limits,
    measure,
    tendon_jump,
)
from tools.retargeting.pipeline import config, retarget, sites_of
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.skeleton import POINTS, SEGMENTS, Capture, CaptureError, JointMotion
from tools.retargeting.solve import Normal, Smoothness, solve, solve_smooth
from tools.retargeting.stages import Solver, solver_for
from tools.retargeting.targets import Skeleton, Targets, TargetTerm, build_targets


@pytest.fixture(scope="module", params=["myo_fullbody", "myo_bimanual"])
def body(request: pytest.FixtureRequest) -> Embodiment:
    return load_body(request.param)


def _capture(directory: Path, frames: int = 40, fps: float = 50.0) -> Capture:
    poses, trans = walking_poses(frames, fps)
    write_amass(directory / "walk.npz", poses, trans, fps)
    return read_capture(directory / "walk.npz", Options())


def _scattered(kinematics: MotionKinematics, frames: int, size: float = 0.3) -> torch.Tensor:
    start = kinematics.tensor(np.tile(kinematics.body.neutral_qpos, (frames, 1)))
    rng = np.random.default_rng(3)
    return kinematics.step(start, kinematics.tensor(size * rng.normal(size=(frames, kinematics.dofs))))


def test_kinematics_equal_mujoco(body: Embodiment):
    kinematics = MotionKinematics(body)
    qpos = _scattered(kinematics, 3)
    pose, data = kinematics.pose(qpos), mujoco.MjData(body.model)
    sites = kinematics.points(body.site_body_ids, np.zeros((len(body.site_names), 3))).at(pose)
    for f in range(3):
        data.qpos[:] = qpos[f].numpy()
        mujoco.mj_kinematics(body.model, data)
        np.testing.assert_allclose(sites[f], data.xpos[body.site_body_ids], atol=1e-12)
        for b in body.site_body_ids:
            turn = pose.rotation[f, kinematics.chain.body_link[b]].numpy() @ kinematics.chain.body_place[b][:, :3]
            np.testing.assert_allclose(turn, data.xmat[b].reshape(3, 3), atol=1e-12)


def test_screws_match_differences(body: Embodiment):
    kinematics, eps = MotionKinematics(body), 1e-6
    qpos = _scattered(kinematics, 2)
    pose = kinematics.pose(qpos)
    local = np.random.default_rng(0).normal(scale=0.1, size=(len(body.site_names), 3))
    points = kinematics.points(body.site_body_ids, local)
    at = points.at(pose).numpy()
    linear, angular = np.zeros((2, *at.shape, kinematics.dofs))
    above = [set(kinematics.chain.above[link]) for link in points.links]
    for v, dof in enumerate(kinematics.screw_dofs):
        column, screw = int(kinematics.column_of_dof[dof]), pose.screw[:, v].numpy()
        for p in [p for p, dofs in enumerate(above) if dof in dofs and column >= 0]:
            angular[:, p, :, column] += screw[:, :3]
            linear[:, p, :, column] += screw[:, 3:] + np.cross(screw[:, :3], at[:, p])
    turn = lambda p: p.rotation[:, points.links.long()].numpy()  # noqa: E731
    for d in range(kinematics.dofs):
        step = eps * torch.eye(kinematics.dofs, dtype=torch.float64)[[d, d]]
        up, down = kinematics.pose(kinematics.step(qpos, step)), kinematics.pose(kinematics.step(qpos, -step))
        np.testing.assert_allclose((points.at(up) - points.at(down)) / (2 * eps), linear[..., d], atol=1e-6)
        spin = rotations.log(turn(up) @ np.swapaxes(turn(down), -1, -2)) / (2 * eps)
        np.testing.assert_allclose(spin, angular[..., d], atol=1e-5)


def test_target_rows_have_the_gradient_of_their_cost(body: Embodiment, tmp_path: Path):
    kinematics = limited_kinematics(body)
    targets = build_targets(body, _capture(tmp_path)).at(np.arange(3))
    term, qpos, eps = TargetTerm(kinematics, targets), _scattered(kinematics, 3, 0.2), 1e-6
    normal = Normal.zeros(3, kinematics)
    term(kinematics.pose(qpos), normal)
    normal.assemble(kinematics.pose(qpos))

    def cost(at: torch.Tensor) -> torch.Tensor:
        there = Normal.zeros(3, kinematics)
        term(kinematics.pose(at), there)
        return there.cost

    for d in range(0, kinematics.dofs, 3):
        step = torch.zeros(3, kinematics.dofs, dtype=torch.float64)
        step[:, d] = eps
        slope = (cost(kinematics.step(qpos, step)) - cost(kinematics.step(qpos, -step))) / (4 * eps)
        np.testing.assert_allclose(normal.gradient[:, d], slope, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("frames", [4, 7])
def test_banded_system_equals_the_dense_one(frames: int):
    rng, dofs = np.random.default_rng(1), 5
    root = rng.normal(size=(frames, dofs, dofs))
    hessian, link = root @ np.swapaxes(root, 1, 2) + np.eye(dofs), rng.normal(size=(frames - 1, 2, dofs))
    weights, right, free = rng.random(dofs), rng.normal(size=(frames, dofs)), rng.random((frames, dofs)) > 0.2
    second, first = np.diff(np.eye(frames), n=2, axis=0), np.diff(np.eye(frames), axis=0)
    dense = np.kron(second.T @ second, np.diag(weights)) + 0.3 * np.eye(frames * dofs)
    for f in range(frames):
        dense[f * dofs : (f + 1) * dofs, f * dofs : (f + 1) * dofs] += hessian[f]
    for f in range(frames - 1):
        rows = np.kron(first[f], link[f])
        dense += rows.T @ rows
    tensor = lambda x: torch.as_tensor(x, dtype=torch.float64)  # noqa: E731
    normal = Normal.zeros(frames, MotionKinematics(load_body("myo_bimanual")), slice(0, dofs))
    normal.hessian += tensor(hessian)
    normal.coupling -= tensor(np.swapaxes(link, 1, 2) @ link)
    normal.close()
    found = solve_smooth(normal, tensor(np.full((frames, dofs), 0.3)), tensor(weights), tensor(right), torch.as_tensor(free))
    wanted, kept = np.zeros(frames * dofs), free.ravel()
    wanted[kept] = np.linalg.solve(dense[np.ix_(kept, kept)], right.ravel()[kept])
    np.testing.assert_allclose(found.ravel(), wanted, atol=1e-12)


def test_a_window_of_dofs_leaves_the_others_alone(tmp_path: Path):
    body = load_body("myo_fullbody")
    kinematics = limited_kinematics(body)
    targets = build_targets(body, _capture(tmp_path)).at(np.arange(8))
    start = _scattered(kinematics, 8, 0.05)
    window = slice(23, 37)
    found = solve(kinematics, start, [TargetTerm(kinematics, targets)], Smoothness(6.0, 50.0), 4, window=window)
    moved = kinematics.difference(start, found).abs().amax(dim=0)
    clipped = kinematics.coordinates(start).clamp(kinematics.low, kinematics.high) - kinematics.coordinates(start)
    outside = [d for d in range(kinematics.dofs) if not window.start <= d < window.stop]
    np.testing.assert_allclose(moved[outside], clipped.abs().amax(dim=0)[outside], atol=1e-9)
    assert (moved[window] > 1e-3).all()


def test_steps_that_overshoot_far_are_damped_until_one_goes_downhill():
    kinematics, column = limited_kinematics(load_body("myo_bimanual")), 4
    start = kinematics.tensor(np.tile(kinematics.body.neutral_qpos, (5, 1)))
    coordinates = kinematics.coordinates(start)
    middle = coordinates.clone()
    middle[:, column] = 0.5 * (kinematics.low + kinematics.high)[column]
    start = kinematics.step(start, middle + 1e-3 - coordinates)

    def bowl(pose: Pose, normal: Normal) -> None:
        """1 + 1000 x^2, whose square curves 250 times as much at x = 1e-3 as its Gauss-Newton Hessian says."""
        x = kinematics.coordinates(pose.qpos)[:, column] - middle[:, column]
        value, slope = 1.0 + 1e3 * x**2, 2e3 * x
        normal.hessian[:, column, column] += slope**2
        normal.gradient[:, column] += slope * value
        normal.cost += value**2

    found = solve(kinematics, start, [bowl], Smoothness(20.0, 50.0), 5, damping=1e-3)
    off = (kinematics.coordinates(found) - middle)[:, column].abs()
    assert off.max() < 5e-4, off


def test_targets_that_are_not_finite_are_an_error(tmp_path: Path):
    body = load_body("myo_bimanual")
    kinematics = limited_kinematics(body)
    targets = build_targets(body, _capture(tmp_path))
    targets.turn[3, 0] = np.nan
    start = kinematics.tensor(np.tile(body.neutral_qpos, (len(targets.position), 1)))
    with pytest.raises(ArithmeticError, match=r"of \d+ frames are not positive definite: targets or weights are not"):
        solve(kinematics, start, [TargetTerm(kinematics, targets)], Smoothness(6.0, 50.0), 3)


def _own_motion(kinematics: MotionKinematics, frames: int, fps: float) -> torch.Tensor:
    """(F, Q) slow sines through the middle of every joint's range, the root turning and travelling."""
    low, high = kinematics.low.numpy(), kinematics.high.numpy()
    hinge = np.isfinite(low)
    wave = np.sin(2 * np.pi * 0.5 * np.arange(frames)[:, None] / fps + np.linspace(0.0, np.pi, kinematics.dofs))
    delta = 0.2 * wave
    delta[:, hinge] = 0.5 * (low[hinge] + high[hinge]) + 0.15 * (high[hinge] - low[hinge]) * wave[:, hinge]
    neutral = kinematics.tensor(np.tile(kinematics.body.neutral_qpos, (frames, 1)))
    coordinates = kinematics.coordinates(neutral).numpy()
    return kinematics.step(neutral, kinematics.tensor(np.where(hinge, delta - coordinates, delta)))


def _own_targets(kinematics: MotionKinematics, qpos: torch.Tensor) -> Targets:
    body, pose = kinematics.body, kinematics.pose(qpos)
    sites = np.arange(len(body.site_names))
    at = kinematics.points(body.site_body_ids, np.zeros((len(sites), 3))).at(pose).numpy()
    links, place = kinematics.chain.body_link[body.site_body_ids], kinematics.chain.body_place[body.site_body_ids]
    turn = pose.rotation[:, links].numpy() @ place[:, :, :3]
    return Targets(at, np.ones(len(sites)), sites, turn, np.full(len(sites), 0.05), 1.0)


def test_own_motion_is_recovered_within_a_millimetre(body: Embodiment):
    kinematics, fps = limited_kinematics(body), 50.0
    truth = _own_motion(kinematics, 40, fps)
    targets = _own_targets(kinematics, truth)
    start = kinematics.step(truth, torch.full((40, kinematics.dofs), 0.2, dtype=torch.float64))
    assert fit_error(body, start.numpy(), targets.position).max() > 0.05, "started at the solution"
    found = solve(kinematics, start, [TargetTerm(kinematics, targets)], Smoothness(20.0, fps), 30, tolerance=1e-9)
    assert fit_error(body, found.numpy(), targets.position).max() < 1e-3


def test_unreachable_targets_stop_at_the_limits(body: Embodiment):
    kinematics = limited_kinematics(body)
    start = kinematics.tensor(np.tile(body.neutral_qpos, (6, 1)))
    targets = _own_targets(kinematics, start)
    far = targets.position + np.random.default_rng(0).normal(scale=0.5, size=targets.position.shape)
    term = TargetTerm(kinematics, replace(targets, position=far))
    found = solve(kinematics, start, [term], Smoothness(20.0, 50.0), 15)
    coordinates = kinematics.coordinates(found)
    assert (coordinates >= kinematics.low - 1e-12).all() and (coordinates <= kinematics.high + 1e-12).all()
    at_end = (coordinates == kinematics.low) | (coordinates == kinematics.high)
    assert at_end.any(), "no limit was reached: the test shows nothing"
    assert np.abs(body.couplings.residual(found.numpy())).max() <= 1e-9


def test_no_coupled_joint_is_out_of_range_at_the_ends_of_its_drivers_range(body: Embodiment):
    kinematics = limited_kinematics(body)
    least = []
    for ends in (kinematics.low, kinematics.high):
        inside = torch.where(torch.isfinite(ends), ends, torch.zeros_like(ends))
        neutral = kinematics.tensor(body.neutral_qpos[None])
        figures = limits(body, kinematics.step(neutral, inside - kinematics.coordinates(neutral)).numpy())
        assert figures["limit_pct"] == 0.0
        least.append(figures["elevation_min_rad"])
    assert least[0] == pytest.approx(NARROWED["shoulder_elv"][0])


def test_pronation_stays_on_one_side_of_the_supinators_jump(body: Embodiment):
    kinematics, largest = limited_kinematics(body), []
    joint = body.model.joint("pro_sup_r")
    column = int(kinematics.column_of_dof[joint.dofadr[0]])
    for most in (float(kinematics.high[column]), joint.range[1]):
        qpos = np.tile(body.neutral_qpos, (120, 1))
        qpos[:, joint.qposadr[0]] = np.linspace(joint.range[0], most, 120)
        largest.append(tendon_jump(contacts_and_tendons(body.model, qpos)[2], body.model.tendon_length0)[0])
    assert largest[0] < 0.05 < 0.4 < largest[1], largest


def test_the_cost_of_an_acceleration_calms_a_hanging_arms_plane(body: Embodiment):
    kinematics, fps, frames = limited_kinematics(body), 50.0, 60
    qpos = np.tile(body.neutral_qpos, (frames, 1))
    plane = body.model.joint("elv_angle_l").qposadr[0]
    qpos[:, body.model.joint("shoulder_elv_l").qposadr[0]] = 0.15
    qpos[:, plane] = 1.2 * np.sin(2.0 * np.pi * 1.5 * np.arange(frames) / fps)
    truth = kinematics.enforce(kinematics.tensor(qpos))
    targets = _own_targets(kinematics, truth)
    column = int(kinematics.column_of_dof[body.model.joint("elv_angle_l").dofadr[0]])
    fastest, error = [], []
    for cost in ({}, {column: 2e-3}):
        found = solve(kinematics, truth, [TargetTerm(kinematics, targets)], Smoothness(20.0, fps, cost=cost), 10)
        fastest.append(np.abs(np.diff(found[:, plane].numpy(), n=2)).max() * fps**2)
        error.append(fit_error(body, found.numpy(), targets.position).max())
    assert fastest[0] > 60.0 and fastest[1] < 0.3 * fastest[0], fastest
    assert error[1] < error[0] + 0.025, error


def test_the_pelvis_follows_pushes_and_flights_and_swallows_as_quick_a_sway():
    body, fps, frames = load_body("myo_fullbody"), 100.0, 100
    solver = solver_for(body, fps)
    error = []
    for axis in (2, 1):
        truth = np.tile(body.neutral_qpos, (frames, 1))
        truth[:, axis] += 0.05 * np.sin(2.0 * np.pi * 3.0 * np.arange(frames) / fps)
        truth = solver.kinematics.tensor(truth)
        found = solver.follow(truth, _own_targets(solver.kinematics, truth), [], 8)
        error.append(float((found - truth)[10:-10, axis].abs().max()))
    assert error[0] < 0.02 < 0.025 < error[1], error


@pytest.mark.gpu
def test_a_gpu_finds_the_same_motion():
    body, fps = load_body("myo_fullbody"), 100.0
    targets, outward = sites_of(body, _own_motion(limited_kinematics(body), 40, fps).numpy())
    here, there = (Solver(body, fps, device).run(targets, None, outward) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.qpos, here.qpos, atol=1e-6)


def _t_pose(body: Embodiment, frames: int = 12) -> tuple[Capture, np.ndarray]:
    """A capture of the body's own T-pose, and where its sites are (S, 3) m."""
    skeleton, qpos = Skeleton(body), body.neutral_qpos.copy()
    for side in "lr":
        qpos[body.model.joint(f"shoulder_elv_{side}").qposadr[0]] = np.pi / 2
    place, turn = skeleton._fk(qpos)
    points, segments = np.zeros((frames, len(POINTS), 3)), np.tile(np.eye(3), (frames, len(SEGMENTS), 1, 1))
    for k, name in enumerate(POINTS):
        site = name.replace("wrist", "hand")
        missing = np.array([0.1 * name.startswith("left"), 0.0, {"hip": 1.0, "knee": 0.5}.get(name.split("_")[1], 0.0)])
        points[:, k] = place[skeleton.names.index(site)] if site in skeleton.names else missing
    for k, name in enumerate(SEGMENTS):
        site = {"trunk": "upper_body"}.get(name, name.replace("foot", "ankle"))
        if site in skeleton.names:
            s = skeleton.names.index(site)
            segments[:, k] = turn[s] @ skeleton.rest_mat[s].T
    return Capture(100.0, points, segments), place


def test_t_pose_comes_back_within_a_millimetre(body: Embodiment):
    capture, place = _t_pose(body)
    motion = retarget(body, capture, 100.0)
    assert fit_error(body, motion.qpos, np.tile(place, (12, 1, 1))).max() < 1e-3


def test_a_motion_of_joint_angles_is_followed(body: Embodiment):
    kinematics, fps = limited_kinematics(body), 100.0
    truth = _own_motion(kinematics, 30, fps).numpy()
    if body.free_root:
        truth[:, 3:7] = body.neutral_qpos[3:7]
    hinges = [j for j in body.hinge_ids if j in set(body.independent_hinges)]
    names = tuple(body.joint_names[j] for j in hinges)
    motion = JointMotion(fps, names, truth[:, body.model.jnt_qposadr[hinges]], truth[:, :7] if body.free_root else None)
    made = retarget(body, motion, fps)
    assert np.sqrt((fit_error(body, made.qpos, made.targets.position) ** 2).mean()) < 0.03
    assert np.abs(body.couplings.residual(made.qpos)).max() < 1e-9
    if body.free_root:
        with pytest.raises(CaptureError, match="has no root, which myo_fullbody needs"):
            retarget(body, replace(motion, root=None), fps)
    with pytest.raises(CaptureError, match=r"none of the motion's joints \(strange \.\.\.\) belongs to"):
        retarget(body, replace(motion, joint_names=("strange",), qpos=motion.qpos[:, :1]), fps)


@pytest.mark.parametrize("frames", [4, 5, 9])
def test_the_shortest_motions_go_through(body: Embodiment, tmp_path: Path, frames: int):
    capture = _capture(tmp_path, frames, 100.0)
    motion = retarget(body, capture.resample(100.0), 100.0)
    assert motion.qpos.shape == (frames, body.model.nq) and np.isfinite(motion.qpos).all()


def test_targets_keep_the_lengths_of_the_body(tmp_path: Path, body: Embodiment):
    targets = build_targets(body, _capture(tmp_path))
    skeleton = Skeleton(body)
    pairs = [("shoulder", "elbow"), ("elbow", "hand")] + [("hip", "knee"), ("knee", "ankle")] * body.free_root
    for a, b in pairs:
        i, j = skeleton.names.index(f"left_{a}"), skeleton.names.index(f"left_{b}")
        length = np.linalg.norm(targets.position[:, i] - targets.position[:, j], axis=-1)
        np.testing.assert_allclose(length, skeleton.length(f"left_{a}", f"left_{b}"), atol=1e-12)


def test_figures_count_what_is_put_in(body: Embodiment):
    qpos = np.tile(body.neutral_qpos, (10, 1))
    elbow = body.model.joint("elbow_flex_r").qposadr[0]
    qpos[:5, elbow] = body.model.joint("elbow_flex_r").range[1] + 0.01
    sites = limited_kinematics(body).points(body.site_body_ids, np.zeros((len(body.site_names), 3)))
    at = sites.at(limited_kinematics(body).pose(torch.as_tensor(qpos))).numpy()
    figures = measure(body, qpos, 100.0, wanted=at + np.array([0.0, 0.0, 0.02]))
    assert figures.rmse_m == pytest.approx(0.02)
    joints = body.model.jnt_limited[body.hinge_ids].sum()
    assert figures.limit_pct == pytest.approx(100.0 * 0.5 / joints, abs=100.0 * 6 / joints)
    assert figures.limit_pct_independent > 0.0 and figures.coupler_max < 1e-9 and figures.qvel_error < 1e-6


def test_a_tendon_jump_is_what_is_faster_than_before():
    steady = np.linspace(1.0, 1.2, 100)[:, None]
    assert tendon_jump(steady, np.ones(1)) == (0.0, -1)
    jumping = np.hstack([steady, steady + 0.1 * (np.arange(100) > 50)[:, None]])
    size, which = tendon_jump(jumping, np.ones(2))
    assert which == 1 and size == pytest.approx(0.1 + 0.2 / 99, abs=1e-6)


def test_jumps_of_the_solver_fast_motions_and_the_models_own_are_told_apart():
    spec = mujoco.MjSpec.from_string("""<mujoco><worldbody><site name="s" pos="0 0 1"/>
      <body name="a"><joint name="j" axis="0 1 0" range="-2 2"/>
        <geom size=".01" pos="0 0 -.1"/><site name="e" pos="0.2 0 .3"/></body></worldbody>
      <tendon><spatial name="t"><site site="s"/><site site="e"/></spatial></tendon></mujoco>""")
    body = Embodiment("one", spec.compile(), {"a_mimic": "a"}, {}, (), 0, 1, 1)
    leap, rush = (np.linspace(0.0, 0.2, 41)[:, None] + 0.6 * np.clip((np.arange(41.0) - 20.0) / steps, 0.0, 1.0)[:, None]
                  for steps in (1, 3))
    for qpos, cause in ((leap, "solver"), (rush, "motion")):
        length = contacts_and_tendons(body.model, qpos)[2]
        size, found = jump_of_the_motion(body, qpos, length)
        assert size == pytest.approx(tendon_jump(length, body.model.tendon_length0)[0]) and size > 0.05 and found == cause
    arms = load_body("myo_bimanual")
    qpos, turn = np.tile(arms.neutral_qpos, (120, 1)), arms.model.joint("pro_sup_r")
    qpos[:, turn.qposadr[0]] = np.linspace(*turn.range, 120)
    assert jump_of_the_motion(arms, qpos, contacts_and_tendons(arms.model, qpos)[2]) == (0.0, "model")


def test_contacts_are_stored_in_the_clip_and_missing_in_older_ones(tmp_path: Path):
    body = load_body("myo_fullbody")
    clip = Clip.from_qpos(body, np.tile(body.neutral_qpos, (5, 1)), 100.0, provenance={})
    contact = np.random.default_rng(0).random((5, 2)) > 0.5
    replace(clip, contact_names=("heel_l", "toe_l"), contact=contact).save(tmp_path / "new.npz")
    back = load_clip(tmp_path / "new.npz")
    assert back.contact_names == ("heel_l", "toe_l") and (back.contact == contact).all()
    arrays = dict(np.load(tmp_path / "new.npz"))
    np.savez(tmp_path / "old.npz", **{k: v for k, v in arrays.items() if not k.startswith("contact")})
    old = load_clip(tmp_path / "old.npz")
    assert old.contact_names == () and not old.contact.size
    np.savez(tmp_path / "wrong.npz", **(arrays | {"contact": contact[:3]}))
    with pytest.raises(MotionError, match="contact has shape"):
        load_clip(tmp_path / "wrong.npz")


def test_settings_are_plain_text():
    settings = config()
    assert settings["tools.retargeting.stages"]["FINE"] == "6.0"
    assert all(isinstance(v, str) for module in settings.values() for v in module.values())
