"""Distances between parts of the body, and motions in which they would pass through each other."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
import warp as wp

from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.retargeting.collision import SelfCollision
from tools.retargeting.contact import REACH, CollisionTerm, Stiffness
from tools.retargeting.distances import project
from tools.retargeting.kinematics import MotionKinematics
from tools.retargeting.launch import Launcher
from tools.retargeting.metrics import touching
from tools.retargeting.pipeline import retarget
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.solve import Normal

WALK = Path(__file__).parents[4] / "shared/data/mocap/cmu_amc/02_01.amc"
FRAMES = 30


@pytest.fixture(scope="module", params=["myo_fullbody", "myo_bimanual"])
def body(request: pytest.FixtureRequest) -> Embodiment:
    return load_body(request.param)


def _tangle(kinematics: MotionKinematics) -> torch.Tensor:
    """Poses in which many parts touch."""
    neutral = kinematics.tensor(np.tile(kinematics.body.neutral_qpos, (FRAMES, 1)))
    rng = np.random.default_rng(1)
    qpos = kinematics.step(neutral, kinematics.tensor(0.3 * rng.normal(size=(FRAMES, kinematics.dofs))))
    coordinates = kinematics.coordinates(qpos)
    return kinematics.step(qpos, coordinates.clamp(kinematics.low, kinematics.high) - coordinates)


def test_distances_equal_mujocos(body: Embodiment):
    kinematics = MotionKinematics(body)
    collision, qpos, model = SelfCollision(kinematics), _tangle(kinematics), body.model
    near = collision.candidates(kinematics.pose(qpos), 0.1)
    ours: dict[int, list[float]] = {f: [] for f in range(FRAMES)}
    for frame, distance in zip(near.frame.tolist(), collision.distance(kinematics.pose(qpos), near).tolist(), strict=True):
        ours[frame].append(distance)
    data, compared = mujoco.MjData(model), 0
    for f in range(FRAMES):
        data.qpos[:] = qpos[f].numpy()
        mujoco.mj_kinematics(model, data)
        theirs = [mujoco.mj_geomDistance(model, data, a, b, 0.1, None)
                  for a, b in zip(model.pair_geom1, model.pair_geom2, strict=True)]
        near = sorted(d for d in theirs if -0.03 < d < 0.1 - 1e-6)
        np.testing.assert_allclose(near, sorted(d for d in ours[f] if -0.03 < d < 0.1 - 1e-6), atol=1e-5)
        compared += len(near)
    assert compared > FRAMES


@wp.kernel(enable_backward=False)
def _project(
    point: wp.array(dtype=wp.vec3d), axes: wp.array(dtype=wp.vec3d), distance: wp.array(dtype=wp.float64),
    normal: wp.array(dtype=wp.vec3d),
):
    k = wp.tid()
    d, n = project(point[k], axes[k])
    distance[k] = d
    normal[k] = n


def _projected(point: torch.Tensor, axes: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    distance, normal = torch.empty(len(point), dtype=torch.float64), torch.empty_like(point)
    Launcher(torch.device("cpu"))(_project, len(point), point, axes, distance, normal)
    return distance.numpy(), normal.numpy()


def test_points_are_projected_onto_ellipsoids():
    rng = np.random.default_rng(0)
    axes, point = rng.uniform(0.03, 0.2, (200, 3)), rng.normal(scale=0.3, size=(200, 3))
    distance, normal = _projected(torch.as_tensor(point), torch.as_tensor(axes))
    surface = point - distance[:, None] * normal
    outside = ((point / axes) ** 2).sum(1) > 1.0
    np.testing.assert_allclose(((surface / axes) ** 2).sum(1)[outside], 1.0, atol=1e-6)
    sphere, radius = torch.tensor([[0.3, -0.4, 0.0]], dtype=torch.float64), torch.full((1, 3), 0.2, dtype=torch.float64)
    assert _projected(sphere, radius)[0].item() == pytest.approx(0.3, abs=1e-9)
    assert _projected(0.2 * sphere, radius)[0].item() == pytest.approx(-0.1, abs=1e-9)


def test_the_repelling_row_sets_in_smoothly_and_has_the_gradient_of_its_cost(body: Embodiment):
    kinematics, eps = MotionKinematics(body), 1e-7
    collision, qpos = SelfCollision(kinematics), _tangle(kinematics)
    near = collision.candidates(kinematics.pose(qpos), REACH)
    near = near.where(collision.distance(kinematics.pose(qpos), near) > -0.03)
    assert len(near.pair) > FRAMES
    term = CollisionTerm(collision, near, Stiffness(0.0, 0.0, 0.0, 5.0, 0.0, REACH))
    normal = Normal.zeros(FRAMES, kinematics)
    term(kinematics.pose(qpos), normal)
    assert float(normal.cost.sum()) > 0.0

    def cost(at: torch.Tensor) -> torch.Tensor:
        there = Normal.zeros(FRAMES, kinematics)
        term(kinematics.pose(at), there)
        return there.cost

    for d in range(kinematics.dofs):
        step = torch.zeros(FRAMES, kinematics.dofs, dtype=torch.float64)
        step[:, d] = eps
        slope = (cost(kinematics.step(qpos, step)) - cost(kinematics.step(qpos, -step))) / (4 * eps)
        error = (slope - normal.gradient[:, d]).abs()
        assert error.median() < 1e-6
        assert np.percentile(error.numpy(), 90) < 1e-3  # closest points may jump between the ends of parallel capsules


def test_pairs_of_other_geoms_are_refused():
    spec = mujoco.MjSpec.from_string("""<mujoco><worldbody>
      <body name="a"><joint name="j" range="-1 1"/><geom name="g" type="box" size=".1 .1 .1"/></body>
      <body name="b"><joint name="k" range="-1 1"/><geom name="h" size=".1"/></body></worldbody>
      <contact><pair geom1="g" geom2="h"/></contact></mujoco>""")
    body = Embodiment("two", spec.compile(), {"a_mimic": "a"}, {}, (), 0, 1, 1)
    with pytest.raises(ValueError, match="geom 'g' is in a contact pair but no sphere, capsule or ellipsoid"):
        SelfCollision(MotionKinematics(body))


@pytest.mark.skipif(not WALK.is_file(), reason=f"{WALK} is not there (motion capture data, see README)")
def test_a_captured_walk_does_not_pass_through_itself_or_the_floor():
    body = load_body("myo_fullbody")
    motion = retarget(body, read_capture(WALK, Options()).resample(100.0), 100.0)
    figures = touching(body, motion.qpos)
    assert motion.widened > 0.005, "the feet would not touch: the test shows nothing"
    assert figures["self_collision_max_m"] < 2e-3
    assert figures["penetration_max_m"] < 2e-3 and figures["penetration_pct"] <= 0.2
