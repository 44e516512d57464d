"""Readers: golden forward kinematics on CMU files, and what the AMASS reader accepts and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.retargeting.captures import walking_poses, write_amass
from tools.retargeting import asf, bvh, rotations, smplh
from tools.retargeting.skeleton import POINTS, SEGMENTS, CaptureError

MOCAP = Path(__file__).parents[3] / ".." / "shared" / "data" / "mocap"
needs_mocap = pytest.mark.skipif(not MOCAP.is_dir(), reason="captures are not beside the checkout")


@needs_mocap
def test_amc_forward_kinematics_matches_golden_positions():
    bones, unit = asf.read_asf(MOCAP / "cmu_amc" / "02.asf")
    ends, _ = asf.forward(bones, unit, *asf.read_amc(MOCAP / "cmu_amc" / "02_01.amc", bones))
    golden = {
        ("root", 0): (0.5881, 0.9429, -1.6990), ("ltibia", 0): (0.5738, 0.0658, -1.3736),
        ("lwrist", 0): (0.7955, 0.8150, -1.7680), ("head", 0): (0.5675, 1.5574, -1.6877),
        ("root", 171): (0.5670, 0.9871, -0.0405), ("rtibia", 171): (0.4866, 0.2299, -0.1834),
        ("root", 342): (0.6222, 0.9879, 1.6625), ("lwrist", 342): (0.8296, 0.9910, 1.8821),
    }  # fmt: skip
    for (bone, frame), position in golden.items():
        np.testing.assert_allclose(ends[bone][frame], position, atol=1e-4, err_msg=f"{bone} at frame {frame}")


@needs_mocap
def test_bvh_forward_kinematics_matches_golden_positions():
    joints, values, step = bvh.read_bvh(MOCAP / "cmu_bvh" / "09_01.bvh")
    positions, _ = bvh.forward(joints, values, bvh.DAZ.unit)
    golden = {
        ("hip", 10): (-0.0124, 0.7909, -1.2687), ("lFoot", 10): (-0.0423, 0.1038, -1.4030),
        ("rHand", 10): (-0.1834, 0.9355, -1.1472), ("hip", 100): (-0.0137, 0.8114, 1.3518),
        ("head", 100): (0.0369, 1.4057, 1.4617),
    }  # fmt: skip
    for (joint, frame), position in golden.items():
        np.testing.assert_allclose(positions[joint][frame], position, atol=1e-4, err_msg=f"{joint} at frame {frame}")
    assert 1.0 / step == pytest.approx(120.0, rel=1e-4)


@needs_mocap
@pytest.mark.parametrize("name", ["12_01_motionbuilder.bvh", "09_01.bvh"])
def test_bvh_lead_in_is_dropped(name: str):
    _, values, _ = bvh.read_bvh(MOCAP / "cmu_bvh" / name)
    capture = bvh.load_bvh(MOCAP / "cmu_bvh" / name)
    assert len(values) - len(capture.points) == (1 if "motionbuilder" in name else 6)
    wrist = capture.point("left_wrist")
    speed = np.linalg.norm(np.diff(wrist, axis=0), axis=1) * capture.fps
    assert speed.max() < 10.0, "the blend out of the T-pose remains"


@needs_mocap
def test_every_source_faces_where_it_walks():
    for capture in (asf.load_amc(MOCAP / "cmu_amc" / "02_01.amc"), bvh.load_bvh(MOCAP / "cmu_bvh" / "09_01.bvh"),
                    bvh.load_bvh(MOCAP / "cmu_bvh" / "12_01_motionbuilder.bvh")):
        path = capture.point("left_hip")[-1] - capture.point("left_hip")[0]
        facing = -capture.segment("pelvis")[:, :, 1].mean(axis=0)  # our standing pose faces -Y
        assert path @ facing > 0.95 * np.linalg.norm(path) * np.linalg.norm(facing)


def test_amc_without_skeleton_names_the_remedy(tmp_path: Path):
    (tmp_path / "33_01.amc").write_text("1\nroot 0 0 0 0 0 0\n")
    with pytest.raises(CaptureError, match=r"33\.asf.*asf="):
        asf.load_amc(tmp_path / "33_01.amc")


def test_bvh_of_unknown_skeleton_is_refused(tmp_path: Path):
    (tmp_path / "x.bvh").write_text(
        "HIERARCHY ROOT Torso { OFFSET 0 0 0 CHANNELS 3 Xposition Yposition Zposition End Site { OFFSET 0 1 0 } } "
        "MOTION Frames: 1 Frame Time: 0.01 1 2 3"
    )
    with pytest.raises(CaptureError, match="unknown skeleton with root 'Torso'"):
        bvh.load_bvh(tmp_path / "x.bvh")


@pytest.mark.parametrize("key", smplh.RATE_KEYS)
def test_both_spellings_of_the_frame_rate(tmp_path: Path, key: str):
    poses, trans = walking_poses(8, 120.0)
    np.savez(tmp_path / "a.npz", poses=poses.reshape(8, -1), trans=trans, **{key: 120.0})
    assert smplh.load_amass(tmp_path / "a.npz").fps == 120.0


def test_split_pose_layout_equals_poses(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "a.npz", poses, trans, 60.0, gender=b"male")
    np.savez(tmp_path / "b.npz", root_orient=poses[:, 0], pose_body=poses[:, 1:22].reshape(8, -1), trans=trans,
             mocap_frame_rate=60.0, betas=np.zeros(300))
    a, b = smplh.load_amass(tmp_path / "a.npz"), smplh.load_amass(tmp_path / "b.npz")
    np.testing.assert_array_equal(a.points, b.points)
    np.testing.assert_array_equal(a.segments, b.segments)


def test_missing_frame_rate_names_the_remedy(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    np.savez(tmp_path / "a.npz", poses=poses.reshape(8, -1), trans=trans)
    with pytest.raises(CaptureError, match="fps_in="):
        smplh.load_amass(tmp_path / "a.npz")
    assert smplh.load_amass(tmp_path / "a.npz", fps_in=30.0).fps == 30.0


@needs_mocap
def test_smplx_sample_needs_a_rate_and_is_found_to_be_y_up():
    path = MOCAP / "smplx_npz" / "apose_to_handsFront_smplx.npz"
    with pytest.raises(CaptureError, match="fps_in="):
        smplh.load_amass(path)
    capture = smplh.load_amass(path, fps_in=30.0)
    assert capture.provenance["up"] == "y"
    assert (capture.point("left_shoulder")[:, 2] > capture.point("left_ankle")[:, 2] + 1.0).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dict(betas=np.zeros(16)), "neither poses nor root_orient"),
        (dict(poses=np.zeros((5, 60)), trans=np.zeros((5, 3)), mocap_framerate=60.0), "do not fit"),
        (dict(poses=np.zeros((5, 156)), trans=np.zeros((4, 3)), mocap_framerate=60.0), "do not fit"),
        (dict(poses=np.zeros((5, 156)), mocap_framerate=60.0), "do not fit"),
    ],
)
def test_unusable_amass_files_are_refused(tmp_path: Path, content: dict, message: str):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(CaptureError, match=message):
        smplh.load_amass(tmp_path / "a.npz")


def test_pickled_and_truncated_files_are_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", poses=np.array([{"code": 1}], dtype=object))
    with pytest.raises(CaptureError, match="pickled"):
        smplh.load_amass(tmp_path / "a.npz")
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "b.npz", poses, trans, 60.0)
    (tmp_path / "c.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:2000])
    with pytest.raises(CaptureError, match="copy it again"):
        smplh.load_amass(tmp_path / "c.npz")


def test_values_that_are_not_finite_are_refused(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    trans[3] = np.nan
    write_amass(tmp_path / "a.npz", poses, trans, 60.0)
    with pytest.raises(CaptureError, match="not finite at frame 3"):
        smplh.load_amass(tmp_path / "a.npz").check("a")


def test_y_up_and_z_up_files_give_the_same_capture(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "z.npz", poses, trans, 60.0)
    offset = smplh.STAND_IN_JOINTS[0]
    to_y = rotations.about_axis(0, -np.pi / 2)
    poses_y = poses.copy()
    poses_y[:, 0] = rotations.log(to_y @ rotations.exp(poses[:, 0]))
    write_amass(tmp_path / "y.npz", poses_y, (trans + offset) @ to_y.T - offset, 60.0)
    z, y = smplh.load_amass(tmp_path / "z.npz"), smplh.load_amass(tmp_path / "y.npz")
    assert (z.provenance["up"], y.provenance["up"]) == ("z", "y")
    np.testing.assert_allclose(y.points, z.points, atol=1e-12)
    np.testing.assert_allclose(y.segments, z.segments, atol=1e-12)


def test_shape_needs_a_model_file(tmp_path: Path):
    regressor = np.eye(52)
    template = np.zeros((52, 3))
    template[:22] = smplh.STAND_IN_JOINTS
    shapes = template[..., None] * np.array([0.1] + [0.0] * 9)
    np.savez(tmp_path / "SMPLH_NEUTRAL.npz", v_template=template, shapedirs=shapes, J_regressor=regressor)
    tall = smplh.rest_joints(tmp_path / "SMPLH_NEUTRAL.npz", np.array([1.0, 0.0]))
    np.testing.assert_allclose(tall, 1.1 * smplh.STAND_IN_JOINTS)
    np.savez(tmp_path / "bad.npz", v_template=template)
    with pytest.raises(CaptureError, match="J_regressor is missing"):
        smplh.rest_joints(tmp_path / "bad.npz", np.zeros(10))


def test_t_pose_has_the_standard_orientation(tmp_path: Path):
    poses = np.zeros((5, 52, 3))
    poses[:, 0, 0] = np.pi / 2
    write_amass(tmp_path / "t.npz", poses, np.zeros((5, 3)), 60.0)
    capture = smplh.load_amass(tmp_path / "t.npz")
    assert capture.points.shape == (5, len(POINTS), 3)
    for name in SEGMENTS:
        turn = rotations.log(capture.segment(name)[0])
        wanted = {"left_hand": -np.pi / 2, "right_hand": np.pi / 2}.get(name, 0.0)  # raised sideways from hanging
        np.testing.assert_allclose(turn, [0.0, wanted, 0.0], atol=1e-9, err_msg=name)
    assert capture.point("left_wrist")[0, 0] > capture.point("left_shoulder")[0, 0] > 0.0


def test_resampling_keeps_time_and_survives_angle_jumps(tmp_path: Path):
    poses, trans = walking_poses(121, 120.0)
    poses[60:, 0] *= 1.0 - 2.0 * np.pi / np.linalg.norm(poses[60:, 0], axis=1, keepdims=True)  # the same turns
    write_amass(tmp_path / "a.npz", poses, trans, 120.0)
    capture = smplh.load_amass(tmp_path / "a.npz").resample(100.0)
    assert len(capture.points) == 101
    np.testing.assert_allclose(np.diff(capture.point("left_hip")[:, 1]), -0.008, atol=1e-6)
    np.testing.assert_allclose(rotations.log(capture.segment("pelvis")), 0.0, atol=1e-9)
