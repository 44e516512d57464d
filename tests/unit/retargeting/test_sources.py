"""AMC and AMASS: golden forward kinematics on CMU files, and what the readers accept and refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.retargeting.captures import walking_poses, write_amass
from tools.retargeting import asf, bvh, rotations, smplh
from tools.retargeting.body_model import SMPLH_PARENTS
from tools.retargeting.readers import Options, read_capture
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
        (dict(frames=np.zeros(16)), "neither poses nor root_orient"),
        (dict(betas=np.zeros(16), gender="male"), "a shape and no motion.*leave it out"),
        (dict(poses=np.zeros((5, 60)), trans=np.zeros((5, 3)), mocap_framerate=60.0), r"\(5, 60\).*156 \(SMPL\+H\) or 165"),
        (dict(poses=np.zeros((5, 72)), trans=np.zeros((5, 3)), mocap_framerate=60.0), r"\(5, 72\).*another model"),
        (dict(poses=np.zeros(156), trans=np.zeros((5, 3)), mocap_framerate=60.0), r"\(156,\)"),
        (dict(poses=np.zeros((5, 156)), trans=np.zeros((4, 3)), mocap_framerate=60.0), "does not fit 5 frames"),
        (dict(poses=np.zeros((5, 156)), mocap_framerate=60.0), "does not fit 5 frames"),
        (dict(poses=np.zeros((0, 156)), trans=np.zeros((0, 3)), mocap_framerate=60.0), "0 frames; the file is empty"),
        (dict(root_orient=np.zeros((5, 3)), pose_body=np.zeros((5, 60)), trans=np.zeros((5, 3))), "do not fit"),
        (dict(poses=np.zeros((5, 156)), trans=np.zeros((5, 3)), mocap_framerate="fast"), "no number.*fps_in="),
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
    trans[:, 1] -= 3.0  # away from the plane z = 0 of the Y-up file, on which the body might lie
    trans[:, 2] = 1.2 + smplh.STAND_IN_JOINTS[0, 1]  # as if of a model whose origin is above the pelvis, on the floor
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


@pytest.mark.parametrize("gender", ["female", b"female", np.array(["female"]), np.array(b"female")])
def test_gender_is_read_however_it_is_stored(tmp_path: Path, gender: object):
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "a.npz", poses, trans, 60.0, gender=gender)
    assert smplh.load_amass(tmp_path / "a.npz").provenance["gender"] == "female"


def test_a_pickled_label_is_left_out(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "a.npz", poses, trans, 60.0, gender=np.array("male", dtype=object))
    assert smplh.load_amass(tmp_path / "a.npz", up="z").provenance["gender"] == "unknown"


def test_columns_of_smplx_files_mean_the_same(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "a.npz", poses, trans, 60.0)
    write_amass(tmp_path / "b.npz", np.concatenate([poses, np.zeros((8, 3, 3))], axis=1), trans, 60.0)
    a, b = smplh.load_amass(tmp_path / "a.npz"), smplh.load_amass(tmp_path / "b.npz")
    np.testing.assert_array_equal(a.points, b.points)
    assert (a.provenance["format"], b.provenance["format"]) == ("AMASS SMPL+H", "AMASS SMPL-X")


def test_a_shape_is_used_with_a_model_of_its_family_only(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    joints = np.concatenate([smplh.STAND_IN_JOINTS, smplh.STAND_IN_JOINTS[[20] * 15 + [21] * 15]])
    shapes = np.zeros((52, 3, 16))
    shapes[..., 0] = 0.1 * joints
    np.savez(tmp_path / "model.npz", joint_template=joints, joint_shapes=shapes, parents=np.array(SMPLH_PARENTS))
    betas = np.eye(16)[0]
    write_amass(tmp_path / "h.npz", poses, trans, 60.0, betas=betas)
    write_amass(tmp_path / "ten.npz", poses, trans, 60.0, betas=betas[:10])
    write_amass(tmp_path / "x.npz", np.concatenate([poses, np.zeros((8, 3, 3))], axis=1), trans, 60.0, betas=np.ones(300))
    captures = {k: smplh.load_amass(tmp_path / f"{k}.npz", model=tmp_path / "model.npz") for k in ("h", "ten", "x")}
    thigh = {k: np.linalg.norm(c.point("left_knee")[0] - c.point("left_hip")[0]) for k, c in captures.items()}
    assert thigh["h"] == pytest.approx(thigh["ten"]) == pytest.approx(1.1 * thigh["x"])
    assert captures["h"].provenance["subject_shape"] == "16 betas of the file"
    assert "betas are those of SMPL-X" in captures["x"].provenance["subject_shape"]
    assert "model.npz (SMPL+H" in captures["h"].provenance["body_model"]
    stand_in = smplh.load_amass(tmp_path / "h.npz").provenance
    assert stand_in["body_model"] == "stand-in (CC0)" and "mean" in stand_in["subject_shape"]


def test_a_missing_model_file_says_what_to_download(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "a.npz", poses, trans, 60.0)
    with pytest.raises(CaptureError, match=r"gone\.npz.*mano\.is\.tue\.mpg\.de.*convert_smplh\.py"):
        smplh.load_amass(tmp_path / "a.npz", model=tmp_path / "gone.npz")


def test_a_body_that_lies_does_not_decide_which_axis_is_vertical(tmp_path: Path):
    poses, trans = walking_poses(8, 60.0)
    poses[:, 0] = 0.0  # of a Z-up file: on its back along y
    for shift in ([0.0, 3.0, 0.1], [0.0, 0.5, 0.1]):  # far from the plane y = 0; by chance with the feet on it
        write_amass(tmp_path / "a.npz", poses, trans + shift, 60.0)
        with pytest.raises(CaptureError, match=r"upright along y.*give up=y or up=z"):
            smplh.load_amass(tmp_path / "a.npz")
    assert smplh.load_amass(tmp_path / "a.npz", up="z").provenance["up"] == "z"
    poses[:, 0] = [0.0, 0.0, np.pi / 2]  # along x: AMASS is Z-up, of others nobody knows
    write_amass(tmp_path / "b.npz", poses, trans, 60.0)
    assert smplh.load_amass(tmp_path / "b.npz").provenance["up"] == "z"
    np.savez(tmp_path / "c.npz", poses=poses.reshape(8, -1), trans=trans, mocap_framerate=60.0)
    with pytest.raises(CaptureError, match=r"stands along no axis.*up=y or up=z"):
        smplh.load_amass(tmp_path / "c.npz")


@pytest.mark.parametrize("rate", [0.0, -30.0, np.nan])
def test_a_frame_rate_that_is_none_is_refused(tmp_path: Path, rate: float):
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "a.npz", poses, trans, rate)
    with pytest.raises(CaptureError, match=r"frame rate .* is no rate; give fps_in="):
        read_capture(tmp_path / "a.npz", Options())


def test_a_path_in_centimetres_is_noticed(tmp_path: Path):
    poses, trans = walking_poses(60, 60.0)
    write_amass(tmp_path / "a.npz", poses, trans * 100.0, 60.0)
    with pytest.raises(CaptureError, match=r"moves at 80 m/s.*units=cm"):
        read_capture(tmp_path / "a.npz", Options())
    walked = read_capture(tmp_path / "a.npz", Options(units="cm")).point("left_hip")
    np.testing.assert_allclose(walked[-1] - walked[0], trans[-1] - trans[0], atol=1e-9)


def test_one_frame_is_no_motion(tmp_path: Path):
    poses, trans = walking_poses(1, 60.0)
    write_amass(tmp_path / "a.npz", poses, trans, 60.0)
    with pytest.raises(CaptureError, match="1 frame; a motion needs at least 4"):
        read_capture(tmp_path / "a.npz", Options())


@needs_mocap
def test_whole_turns_of_the_root_are_survived():
    capture = read_capture(MOCAP / "cmu_amc" / "05_11.amc", Options())  # two turns: its angles jump by 360 degrees
    turn = np.swapaxes(capture.segment("pelvis")[:-1], 1, 2) @ capture.segment("pelvis")[1:]
    assert np.linalg.norm(rotations.log(turn), axis=-1).max() * capture.fps < 20.0
    assert capture.provenance["lead_in"] == 0


@needs_mocap
def test_amc_units_and_damage(tmp_path: Path):
    for name in ("02.asf", "02_01.amc"):
        (tmp_path / name).write_bytes((MOCAP / "cmu_amc" / name).read_bytes())
    lines = (tmp_path / "02_01.amc").read_text().splitlines()
    (tmp_path / "02_02.amc").write_text("\n".join(lines[:-3]))
    with pytest.raises(CaptureError, match=r"is missing in frame 343 of 343.*truncated"):
        read_capture(tmp_path / "02_02.amc", Options())
    skeleton = (tmp_path / "02.asf").read_text()
    for old, new, message in (("angle deg", "angle rad", "radians"), ("begin", "begun", "damaged"),
                              ("length 0.45", "length 0", "damaged"), ("lfemur", "lfemurs", "lfemur is missing"),
                              ("length 0.45", "length 1", "a leg .* is 0.377 m long; give the metres of one unit")):
        (tmp_path / "02.asf").write_text(skeleton.replace(old, new))
        with pytest.raises(CaptureError, match=message):
            read_capture(tmp_path / "02_01.amc", Options())
