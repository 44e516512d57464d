"""Which reader a file gets, what it is told, lead-ins, and the motions that hold angles of our joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.retargeting.captures import walking_poses, write_amass, write_bvh, write_mapping
from tools.retargeting import rotations
from tools.retargeting.lead_in import find_lead_in
from tools.retargeting.readers import READERS, SUFFIXES, Options, read_capture, source_files
from tools.retargeting.skeleton import Capture, CaptureError, JointMotion
from tools.retargeting.units import metres

MOCAP = Path(__file__).parents[3] / ".." / "shared" / "data" / "mocap"


def test_the_suffix_decides_and_the_keys_of_an_npz_too(tmp_path: Path):
    assert set(SUFFIXES.values()) <= set(READERS)
    poses, trans = walking_poses(8, 60.0)
    write_amass(tmp_path / "a.NPZ", poses, trans, 60.0)
    (tmp_path / "a.NPZ.npz").rename(tmp_path / "a.NPZ")  # numpy adds its suffix
    assert isinstance(read_capture(tmp_path / "a.NPZ", Options()), Capture)
    names = ("elbow_flex_r", "elbow_flex_l")
    np.savez(tmp_path / "t.npz", qpos=np.zeros((5, 2)), joint_names=np.array(names), frequency=50.0)
    motion = read_capture(tmp_path / "t.npz", Options())
    assert isinstance(motion, JointMotion) and motion.fps == 50.0 and motion.joint_names == names
    with pytest.raises(CaptureError, match="is missing"):
        read_capture(tmp_path / "a.NPZ", Options(source="trajectory"))
    (tmp_path / "a.fbx").write_text("")
    with pytest.raises(CaptureError, match=r"no reader for suffix '\.fbx'; name one with source=amass\|"):
        read_capture(tmp_path / "a.fbx", Options())


def test_rate_and_frames_are_checked_by_every_reader(tmp_path: Path):
    np.savez(tmp_path / "t.npz", qpos=np.zeros((5, 1)), joint_names=np.array(["elbow_flex_r"]), frequency=0.0)
    with pytest.raises(CaptureError, match="frame rate 0 is no rate; give fps_in="):
        read_capture(tmp_path / "t.npz", Options())
    assert read_capture(tmp_path / "t.npz", Options(fps_in=20.0)).fps == 20.0
    assert len(read_capture(tmp_path / "t.npz", Options(fps_in=20.0, lead_in=1)).qpos) == 4
    with pytest.raises(CaptureError, match="after lead_in=3: 2 frames"):
        read_capture(tmp_path / "t.npz", Options(fps_in=20.0, lead_in=3))
    qpos = np.zeros((5, 1))
    qpos[2] = np.nan
    np.savez(tmp_path / "t.npz", qpos=qpos, joint_names=np.array(["elbow_flex_r"]), frequency=20.0)
    with pytest.raises(CaptureError, match="not finite at frame 2"):
        read_capture(tmp_path / "t.npz", Options())


def test_source_files_are_those_that_decide_the_result(tmp_path: Path):
    rig = write_mapping(tmp_path / "rig.yaml")
    model = tmp_path / "model.npz"
    model.write_bytes(b"")
    options = Options(mapping=rig, smplh_model=model, asf=tmp_path / "gone.asf")
    assert source_files(Path("a.bvh"), options) == [Path("a.bvh"), rig]
    assert source_files(Path("a.npz"), options) == [Path("a.npz"), model]
    assert source_files(Path("a.amc"), options) == [Path("a.amc")]  # the reader says what is missing
    (tmp_path / "07.asf").write_text("")
    assert source_files(tmp_path / "07_01.amc", Options()) == [tmp_path / "07_01.amc", tmp_path / "07.asf"]
    assert source_files(Path("a.mot"), options) == [Path("a.mot")]


def test_units_are_names_or_metres():
    assert (metres("cm"), metres("inch"), metres("0.5")) == (0.01, 0.0254, 0.5)
    for text in ("0", "-1", "nan", "inf", "feet", ""):
        with pytest.raises(CaptureError, match=r"choose m\|cm\|mm\|inch"):
            metres(text)


# -- lead-in ----------------------------------------------------------------------------------------------------------
def track(speeds: list[float], fps: float = 100.0) -> np.ndarray:
    """A point (F, 1, 3) m that moves along x with given speeds in m/s."""
    x = np.concatenate([[0.0], np.cumsum(speeds)]) / fps
    return np.stack([x, 0 * x, 0 * x], axis=1)[:, None]


@pytest.mark.parametrize(
    ("speeds", "frames"),
    [
        ([60.0], 1),  # one frame, then the motion
        ([27.0, 25.0, 22.0, 15.0, 6.0, 1.5], 6),  # a blend and its fading end
        ([0.0] * 20 + [40.0], 21),  # a pose that is held
        ([0.0] * 20 + [40.0, 30.0], 23),  # what follows several jumps may be the end of a blend
        ([], 0),
        ([9.0, 8.0], 0),  # fast, but people are
        ([3.0] * 20 + [40.0], 0),  # a glitch in a motion
        ([0.0] * 150 + [40.0], 0),  # long after the beginning
        ([30.0] * 40, 0),  # too long for a blend
    ],
)
def test_a_lead_in_is_a_still_pose_and_a_jump(speeds: list[float], frames: int):
    motion = list(2.0 + np.sin(np.arange(300) / 10.0))
    assert find_lead_in(track(speeds + motion), 100.0) == frames


def test_a_sprint_has_no_lead_in():
    feet = 10.0 + 10.0 * np.sin(2 * np.pi * 2.0 * np.arange(200) / 100.0 + np.pi / 2)  # up to 20 m/s, and so from the start
    assert find_lead_in(track(list(feet)), 100.0) == 0


@pytest.mark.skipif(not MOCAP.is_dir(), reason="captures are not beside the checkout")
def test_lead_ins_of_real_captures_are_found():
    for name in ("14_05", "13_11", "06_01"):
        capture = read_capture(MOCAP / "cmu_bvh" / f"{name}.bvh", Options(lead_in=0))
        assert find_lead_in(capture.points, capture.fps) == 6, name
    for name in ("02_01", "05_11", "07_11", "11_01"):
        assert read_capture(MOCAP / "cmu_amc" / f"{name}.amc", Options()).provenance["lead_in"] == 0, name


def test_a_lead_in_is_found_reported_and_overridden(tmp_path: Path):
    poses, trans = walking_poses(60, 60.0)
    poses[0, 1:] = 0.0
    trans[0] += [0.0, 2.0, 0.0]
    write_amass(tmp_path / "a.npz", poses, trans, 60.0)
    found = read_capture(tmp_path / "a.npz", Options())
    assert len(found.points) == 59 and found.provenance["lead_in"] == 1 and found.provenance["lead_in_from"] == "a jump"
    told = read_capture(tmp_path / "a.npz", Options(lead_in=5))
    assert len(told.points) == 55 and told.provenance["lead_in_from"] == "told"
    assert len(read_capture(tmp_path / "a.npz", Options(lead_in=0)).points) == 60
    with pytest.raises(CaptureError, match=r"lead-in of 58 frames \(told\) leaves 2 of 60"):
        read_capture(tmp_path / "a.npz", Options(lead_in=58))


def test_frames_that_a_mapping_drops_are_dropped(tmp_path: Path):
    write_bvh(tmp_path / "a.bvh", frames=40)
    rig = write_mapping(tmp_path / "rig.yaml", unit="m", drop_frames=3)
    capture = read_capture(tmp_path / "a.bvh", Options(mapping=rig))
    assert len(capture.points) == 37 and capture.provenance["lead_in_from"] == "known of the format"


# -- angles of our joints ---------------------------------------------------------------------------------------------
def joint_motion() -> JointMotion:
    time = np.arange(21) / 20.0
    turn = rotations.about_axis(2, 2.0 * np.pi * time)  # once round: quaternions change their sign on the way
    root = np.concatenate([np.stack([time, 2 * time, 0 * time + 1], axis=1), rotations.to_quaternion(turn)], axis=1)
    names = ("hip_flexion_r", "hip_flexion_l", "lat_bending", "flex_extension", "L1_L2_LB")
    return JointMotion(20.0, names, np.stack([time, -time, 0.1 * time, 0.2 * time, 0.3 * time], axis=1), root)


def test_joint_motion_is_resampled_on_exact_timestamps():
    motion = joint_motion()
    fine = motion.resample(100.0)
    assert len(fine.qpos) == 101 and fine.duration == motion.duration == 1.0
    time = np.arange(101) / 100.0
    np.testing.assert_allclose(fine.qpos[:, 0], time, atol=1e-12)
    np.testing.assert_allclose(fine.root[:, 1], 2.0 * time, atol=1e-12)
    wanted = rotations.about_axis(2, 2.0 * np.pi * time)
    np.testing.assert_allclose(rotations.from_quaternion(fine.root[:, 3:]), wanted, atol=1e-6)


def test_joint_motion_is_mirrored_and_mirrored_back():
    motion = joint_motion()
    mirrored = motion.mirrored()
    assert mirrored.joint_names == ("hip_flexion_l", "hip_flexion_r", "lat_bending", "flex_extension", "L1_L2_LB")
    np.testing.assert_allclose(mirrored.qpos[:, 2:], motion.qpos[:, 2:] * [-1.0, 1.0, -1.0])
    np.testing.assert_allclose(mirrored.root[:, :3], motion.root[:, :3] * [-1.0, 1.0, 1.0])
    back = mirrored.mirrored()
    assert back.joint_names == motion.joint_names
    np.testing.assert_allclose(back.qpos, motion.qpos)
    np.testing.assert_allclose(rotations.from_quaternion(back.root[:, 3:]), rotations.from_quaternion(motion.root[:, 3:]),
                               atol=1e-12)
