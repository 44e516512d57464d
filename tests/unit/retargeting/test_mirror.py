"""A mirrored capture gives the mirror image of the motion, to 1e-3 rad."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tests.unit.retargeting.captures import walking_poses, write_amass
from tools.retargeting.pipeline import retarget
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.skeleton import Capture
from tools.retargeting.symmetry import symmetric

MOCAP = Path(__file__).parents[4] / "shared/data/mocap"


@pytest.fixture(scope="module", params=["myo_fullbody", "myo_bimanual"])
def body(request: pytest.FixtureRequest) -> Embodiment:
    return load_body(request.param)


def _difference(body: Embodiment, capture: Capture) -> tuple[float, float]:
    """Largest difference of joints (rad, m) and root (m, 1) between one motion and the other's mirror image."""
    plain, other = retarget(body, capture, 100.0).qpos, retarget(body, capture.mirrored(), 100.0).qpos
    assert np.abs(other - plain).max() > 0.05, "the capture is symmetric: the test shows nothing"
    error = np.abs(body.couplings.enforce(body.mirror_qpos(plain)) - other)
    return float(error[:, body.hinge_qpos].max()), float(error[:, :7].max()) if body.free_root else 0.0


def test_a_made_up_walk(tmp_path: Path, body: Embodiment):
    poses, trans = walking_poses(60, 100.0)
    write_amass(tmp_path / "walk.npz", poses, trans, 100.0)
    joints, root = _difference(body, read_capture(tmp_path / "walk.npz", Options()).resample(100.0))
    assert joints < 1e-3 and root < 1e-3


@pytest.mark.skipif(not MOCAP.is_dir(), reason=f"{MOCAP} is not there (motion capture data, see README)")
@pytest.mark.parametrize("name", ["cmu_amc/02_01.amc", "cmu_bvh/09_01.bvh"])
def test_captured_motions(body: Embodiment, name: str):
    joints, root = _difference(body, read_capture(MOCAP / name, Options()).resample(100.0))
    assert joints < 1e-3 and root < 1e-3


def test_the_solvers_body_is_symmetric_and_hardly_another(body: Embodiment):
    even = symmetric(body)
    rng = np.random.default_rng(0)
    low, high = body.joint_ranges[body.independent_hinges].T
    qpos = body.neutral_qpos.copy()
    qpos[body.model.jnt_qposadr[body.independent_hinges]] = low + (high - low) * rng.uniform(0.3, 0.7, len(low))
    qpos = body.couplings.enforce(qpos)
    data, published = mujoco.MjData(even.model), mujoco.MjData(body.model)
    places = []
    for positions in (qpos, body.couplings.enforce(body.mirror_qpos(qpos))):
        data.qpos[:], published.qpos[:] = positions, positions
        mujoco.mj_kinematics(even.model, data)
        mujoco.mj_kinematics(body.model, published)
        places.append(data.xpos[body.site_body_ids].copy())
        np.testing.assert_allclose(places[-1], published.xpos[body.site_body_ids], atol=1.5e-3)
    reflected = places[0][body.mirror_sites] * np.array([-1.0, 1.0, 1.0])
    reflected[:, 0] += 0.0 if body.free_root else (places[1] - reflected)[:, 0].mean()
    np.testing.assert_allclose(reflected, places[1], atol=1e-9)
