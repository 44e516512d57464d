from __future__ import annotations

import csv
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from mm_torch.motion.clip import Clip, bind_to_body, load_clip
from mm_torch.motion.library import library_clips
from mm_torch.muscle.activation import ActivationDynamics
from mm_torch.muscle.equations import Reference, differentiate, equations_of_motion, smooth
from mm_torch.muscle.soles import SolePoints
from mm_torch.muscle.static import EFFORTS, relative_volumes, solve_activations
from mm_torch.sim.native import NativePhysics
from sim_models.embodiment import Embodiment
from sim_models.kinematics import lowest_points
from sim_models.registry import load_body
from tools.solve_activations import main


def _swing(body: Embodiment, seconds: float = 1.0) -> np.ndarray:
    t = np.arange(int(100 * seconds) + 1) / 100
    return np.stack([0.5 + 0.3 * np.sin(3 * t), 0.9 + 0.4 * np.sin(4 * t)], axis=1)


@pytest.mark.parametrize("name", ["toy_arm", "myo_bimanual"])
def test_equations_balance_what_the_simulator_does(name: str) -> None:
    """Forward dynamics at random states and activations fulfil the equations exactly, couplings included."""
    body = load_body(name)
    rng = np.random.default_rng(0)
    data = mujoco.MjData(body.model)
    ranges = body.joint_ranges[body.hinge_ids]
    middle = body.neutral_qpos.copy()
    middle[body.hinge_qpos] = ranges.mean(axis=1)
    for _ in range(3):
        qpos = body.couplings.enforce(middle + 0.05 * rng.standard_normal(body.model.nq))
        qvel = body.couplings.enforce_velocity(qpos, rng.standard_normal(body.model.nv))
        act = rng.uniform(0, 1, body.model.nu)
        data.qpos[:], data.qvel[:], data.act[:] = qpos, qvel, act
        mujoco.mj_forward(body.model, data)
        equations = equations_of_motion(
            body, Reference(qpos[None], qvel[None], data.qacc[None].copy()), SolePoints.of(body)
        )
        jacobian = body.couplings.jacobian(qpos)
        others = jacobian.T @ data.qfrc_constraint  # limits and contacts; the couplings drop out
        supplied = equations.muscle[0].numpy() @ act + others
        np.testing.assert_allclose(supplied, equations.load[0].numpy(), rtol=0, atol=1e-7)
        assert np.abs(supplied).max() > 1.0


def test_toy_motion_is_solved_and_followed_without_feedback() -> None:
    body = load_body("toy_arm")
    qpos = _swing(body)
    solution = solve_activations(body, qpos, 100.0)
    assert solution.act.shape == (len(qpos), 6) and solution.act.dtype == np.float32
    assert solution.act.min() >= 0 and solution.act.max() <= 1 and 0.01 < solution.act.mean() < 0.3
    assert solution.joint_residual.max() < 1e-2 and not solution.root_residual.any()
    physics, dynamics = NativePhysics(body, 1, threads=1), ActivationDynamics.from_body(body)
    reference = differentiate(body, qpos, 100.0, 0.015)
    act = torch.from_numpy(solution.act)
    start = (torch.from_numpy(a[:1]).float() for a in (reference.qpos, reference.qvel))
    physics.reset(torch.ones(1, dtype=torch.bool), *start, act[:1])
    for frame in range(50):
        physics.step(dynamics.excitation_for(physics.state.act, act[frame + 1 : frame + 2]))
    assert np.abs(physics.state.qpos.numpy()[0] - qpos[50]).max() < 0.02


def test_arm_clip_is_feasible_and_interpolation_changes_little() -> None:
    body = load_body("myo_bimanual")
    clip = load_clip(next(p for p in library_clips(body.name) if p.stem == "reach_forward_right"))
    qpos = bind_to_body(clip, body)[:150]
    solution = solve_activations(body, qpos, clip.fps)
    assert solution.joint_residual.mean() < 0.05 and solution.act.mean() < 0.1
    every = solve_activations(body, qpos, clip.fps, stride=1)
    assert np.abs(every.act - solution.act).mean() < 1e-3


def test_an_impossible_motion_leaves_a_residual() -> None:
    body = load_body("toy_arm")
    t = np.arange(101) / 100
    qpos = np.stack([0.5 + 0.8 * np.sin(25 * t), np.full_like(t, 0.9)], axis=1)
    solution = solve_activations(body, qpos, 100.0)
    assert solution.joint_residual.max() > 5.0 and solution.act.max() > 0.95


def test_standing_is_carried_by_the_floor() -> None:
    body = load_body("myo_fullbody")
    solution = solve_activations(body, np.repeat(body.neutral_qpos[None], 3, axis=0), 100.0)
    assert solution.root_residual.max() < 0.5 and solution.joint_residual.max() < 0.05
    assert 0.05 < solution.act.mean() < 0.2


def _root_force(body: Embodiment, qpos: np.ndarray) -> float:
    return float(np.linalg.norm(solve_activations(body, qpos, 100.0).root_residual[5, :3]))


def test_a_body_in_the_air_has_no_floor_and_needs_no_root_force_when_falling() -> None:
    body = load_body("myo_fullbody")
    qpos = np.repeat(body.neutral_qpos[None], 11, axis=0)
    qpos[:, 2] += 1.0
    weight = body.model.body_mass.sum() * 9.81
    assert _root_force(body, qpos) == pytest.approx(weight, rel=0.05)
    qpos[:, 2] -= 0.5 * 9.81 * (np.arange(11) / 100) ** 2
    assert _root_force(body, qpos) < 0.02 * weight


def test_sole_points_are_the_lowest_of_their_geoms() -> None:
    body = load_body("myo_fullbody")
    soles, data = SolePoints.of(body), mujoco.MjData(body.model)
    data.qpos[:] = body.neutral_qpos
    data.qpos[3:7] = np.array([0.95, 0.2, -0.1, 0.2]) / np.linalg.norm([0.95, 0.2, -0.1, 0.2])
    mujoco.mj_kinematics(body.model, data)
    heights = soles.lowest(data)[:, 2]
    for geom in np.unique(soles.geom):
        expected = lowest_points(body, data.qpos[None], np.array([geom]))[0, 0]
        assert heights[soles.geom == geom].min() == pytest.approx(expected, abs=1e-9)


def test_smoothing_keeps_constants_and_lines() -> None:
    line = np.linspace(0, 1, 40)[:, None]
    np.testing.assert_allclose(smooth(line, 2.0)[6:-6], line[6:-6], atol=1e-12)
    np.testing.assert_allclose(smooth(np.ones((5, 2)), 3.0), 1.0, atol=1e-12)
    assert smooth(line, 0.0) is line


def test_the_tool_rewrites_clips_and_a_bad_one_does_not_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = load_body("toy_arm")
    for name in ("a_short", "swing"):
        qpos = _swing(body)[: 2 if name == "a_short" else None]
        Clip.from_qpos(body, qpos, 100.0, provenance={"source": "test"}).save(tmp_path / f"{name}.npz")
    path, arguments = tmp_path / "swing.npz", [str(tmp_path), "body=toy_arm", "effort=volume", "smoothness=0.02"]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert "2 frames" in shown.err and "feasible 100 %" in shown.out and len(shown.out.splitlines()) == 1
    rows = list(csv.DictReader((tmp_path / "activations.csv").open()))
    assert [row["status"] for row in rows] == ["failed", "ok"] and float(rows[1]["feasible_pct"]) == 100.0
    clip = load_clip(path)
    assert clip.muscle_names == body.muscle_names and clip.act.shape == (101, 6) and clip.act.max() > 0
    assert clip.feasible.all() and clip.saturation.shape == clip.joint_residual.shape == (101,)
    assert not clip.root_residual.any()
    assert clip.provenance["source"] == "test" and clip.provenance["activations"]["effort"] == "volume"
    before = path.read_bytes()
    assert main([str(path)]) == 0 and "force=true" in capsys.readouterr().out and path.read_bytes() == before
    assert main([str(path), "effort=least"]) == 2 and "square, cube, volume" in capsys.readouterr().err
    assert clip.provenance["activations"]["fixes"] == []
    assert main([str(path), "force=true", "fixes=bent"]) == 1 and "'bent'" in capsys.readouterr().err


def test_efforts_are_least_where_they_are_asked_for() -> None:
    body = load_body("toy_arm")
    qpos, volumes = _swing(body), relative_volumes(body)
    act = {effort: solve_activations(body, qpos, 100.0, effort=effort).act.astype(float) for effort in EFFORTS}
    costs = {"square": lambda a: (a**2).sum(), "cube": lambda a: (a**3).sum(), "volume": lambda a: (volumes * a**2).sum()}
    for effort, cost in costs.items():
        others = [cost(act[other]) for other in costs if other != effort]
        assert cost(act[effort]) <= min(others) * 1.002, effort
    assert np.abs(act["cube"] - act["square"]).max() > 0.01


def test_smoothness_makes_activations_change_less() -> None:
    body = load_body("toy_arm")
    qpos = _swing(body)
    qpos[:, 1] += 0.02 * np.sin(0.4 * np.arange(len(qpos)))
    rough, smoothed = (solve_activations(body, qpos, 100.0, smoothness=s) for s in (0.0, 0.1))
    changes = [(np.diff(s.act, axis=0) ** 2).sum() for s in (rough, smoothed)]
    assert changes[1] < 0.95 * changes[0] and smoothed.joint_residual.max() < 0.1


@pytest.mark.slow
def test_the_floor_carries_the_body_over_a_stride_of_the_built_in_walk() -> None:
    """Inverse dynamics of the whole body asks for the same, since the residual at the root is small in the mean."""
    body = load_body("myo_fullbody")
    clip = load_clip(next(p for p in library_clips(body.name) if p.stem == "walk"))
    qpos = bind_to_body(clip, body)
    stride = _stride(qpos, body)
    solution = solve_activations(body, qpos[20 : 20 + stride + 1], clip.fps, stride=4)
    assert solution.foot_names == ("left", "right")
    vertical = solution.foot_force[:, :, 2]
    assert vertical.sum(axis=1).mean() / solution.weight == pytest.approx(1.0, abs=0.03)
    assert (vertical.min(axis=0) < 0.02 * solution.weight).all() and (vertical.max(axis=0) > 0.8 * solution.weight).all()
    standing = vertical > 0.2 * solution.weight
    ankles = [body.site_names.index(f"{side}_ankle_mimic") for side in solution.foot_names]
    place = clip.site_xpos[20 : 20 + stride + 1, ankles]
    assert np.linalg.norm(solution.foot_centre - place, axis=2)[standing].max() < 0.3  # m: within the foot


def _stride(qpos: np.ndarray, body: Embodiment) -> int:
    """Frames after which the pose repeats."""
    joints = qpos[:, body.hinge_qpos]
    away = np.abs(joints[20 + 60 : 20 + 160] - joints[20]).max(axis=1)
    return 60 + int(away.argmin())


def test_two_frames_are_too_few() -> None:
    body = load_body("toy_arm")
    with pytest.raises(ValueError, match="2 frames"):
        solve_activations(body, _swing(body)[:2], 100.0)
