"""Trajectory files of MuscleMimic: the released ones, bare ones, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim_models.registry import load_body
from tools.retargeting import rotations
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.skeleton import CaptureError, JointMotion
from tools.retargeting.trajectory import load_trajectory

GOLDEN = Path(__file__).parents[3] / ".." / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden files are not beside the checkout")
NAMES = ("root", "knee_angle_r", "hip_flexion_r")


def content(frames: int = 8) -> dict[str, object]:
    """A bare file: a free joint, two hinges, frames that count up."""
    time = np.arange(frames, dtype=float)
    root = np.stack([time, 0 * time, 0 * time + 0.9, 0 * time + 1, 0 * time, 0 * time, 0 * time], axis=1)
    return dict(qpos=np.concatenate([root, 0.1 * time[:, None], 0.2 * time[:, None]], axis=1).astype(np.float32),
                joint_names=np.array(NAMES), jnt_type=np.array([0, 3, 3]), frequency=np.float64(100.0),
                split_points=np.array([0, frames]))


@needs_golden
@pytest.mark.parametrize(("file", "name"), [
    ("upstream_trajectory_fullbody.npz", "myo_fullbody"), ("MyoBimanualArm_reach_slow.npz", "myo_bimanual"),
    ("raw30_reach_slow.npz", "myo_fullbody"),
])  # fmt: skip
def test_released_files_hold_our_joints(file: str, name: str):
    motion = read_capture(GOLDEN / file, Options())  # auto: an npz with qpos
    assert isinstance(motion, JointMotion)
    body = load_body(name)
    with np.load(GOLDEN / file) as arrays:
        qpos, fps = arrays["qpos"], float(arrays["frequency"])
    assert motion.fps == fps and len(motion.qpos) == len(qpos)
    ours = np.zeros((len(qpos), body.model.nq))
    if motion.root is not None:
        ours[:, :7] = motion.root
    for joint, column in zip(motion.joint_names, motion.qpos.T, strict=True):
        ours[:, body.model.joint(joint).qposadr[0]] = column
    assert (motion.root is not None) == body.free_root
    np.testing.assert_allclose(ours, qpos, atol=1e-6)  # so joints, order and root are those of our body
    assert set(motion.joint_names) | {"root"} >= set(body.joint_names)


def test_bare_file_and_its_joint_order(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **content())
    motion = load_trajectory(tmp_path / "a.npz")
    assert motion.joint_names == NAMES[1:]
    np.testing.assert_allclose(motion.qpos[:, 1], 0.2 * np.arange(8.0), rtol=1e-6)
    np.testing.assert_allclose(motion.root[:, 0], np.arange(8.0))
    np.savez(tmp_path / "b.npz", qpos=content()["qpos"], joint_names=np.array(NAMES), frequency=50.0)
    assert load_trajectory(tmp_path / "b.npz").joint_names == NAMES[1:], "without types, the free joint is in front"
    np.savez(tmp_path / "c.npz", qpos=content()["qpos"][:, 7:], joint_names=np.array(NAMES[1:]), frequency=50.0)
    assert load_trajectory(tmp_path / "c.npz").root is None


def test_free_joint_may_stand_anywhere(tmp_path: Path):
    given = content()
    given["qpos"], given["joint_names"] = np.roll(given["qpos"], 1, axis=1), np.roll(np.array(NAMES), 1)
    given["jnt_type"] = np.array([3, 0, 3])
    np.savez(tmp_path / "a.npz", **given)
    motion = load_trajectory(tmp_path / "a.npz")
    assert motion.joint_names == ("hip_flexion_r", "knee_angle_r")
    np.testing.assert_allclose(motion.qpos, np.arange(8.0)[:, None] * [0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(motion.root[:, 3], 1.0)


def test_quaternion_is_made_a_unit_one(tmp_path: Path):
    given = content()
    given["qpos"] = given["qpos"] * np.where(np.arange(9) == 3, 1.005, 1.0)
    np.savez(tmp_path / "a.npz", **given)
    np.testing.assert_allclose(load_trajectory(tmp_path / "a.npz").root[:, 3], 1.0, atol=1e-12)


def test_pickled_metadata_is_not_read(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("metadata was unpickled",))

    np.savez(tmp_path / "a.npz", metadata=np.array(Trap(), dtype=object), **content())
    assert load_trajectory(tmp_path / "a.npz").fps == 100.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(split_points=np.array([0, 4, 8])), r"holds 2 motions.*a file of its own"),
        (dict(split_points=np.array([0, 99])), "do not fit 8 frames"),
        (dict(frequency=None), "no frame rate.*fps_in="),
        (dict(frequency=np.float64(0.0)), "frame rate 0 is no rate; give fps_in="),
        (dict(joint_names=np.array(NAMES[1:])), "9 columns of qpos do not fit 2 joint names"),
        (dict(jnt_type=np.array([0, 1, 3])), "do not fit"),
        (dict(qpos=np.zeros((8, 9))), "quaternion has length 0 at frame 0"),
        (dict(qpos=np.zeros(9)), "no table of frames"),
        (dict(qpos=content(1)["qpos"], split_points=np.array([0, 1])), "1 frame; a motion needs at least 4"),
        (dict(qpos=np.where(np.arange(9) == 8, np.nan, content()["qpos"])), "not finite at frame 0"),
        (dict(joint_names=None), "joint_names is missing; not a Trajectory file"),
        (dict(qpos=np.array([{}] * 8, dtype=object)), "holds pickled objects"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, change: dict, message: str):
    np.savez(tmp_path / "a.npz", **{k: v for k, v in (content() | change).items() if v is not None})
    with pytest.raises(CaptureError, match=f"a.npz.*{message}"):
        read_capture(tmp_path / "a.npz", Options(source="trajectory"))


def test_truncated_and_missing_files_are_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **content())
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:600])
    for name in ("b.npz", "c.npz"):
        with pytest.raises(CaptureError, match=f"{name}: truncated, missing.*copy it again"):
            load_trajectory(tmp_path / name)
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(CaptureError, match="a single array"):
        load_trajectory(tmp_path / "d.npy")


def test_rate_can_be_told(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **{k: v for k, v in content().items() if k != "frequency"})
    assert load_trajectory(tmp_path / "a.npz", fps_in=30.0).fps == 30.0


def test_resampling_keeps_time_and_turns_the_short_way():
    turn = np.linspace(3.0, 3.4, 5)  # past half a turn: the quaternion may change sign there
    root = np.concatenate([np.zeros((5, 3)), rotations.to_quaternion(rotations.about_axis(2, turn))], axis=1)
    root[3:, 3:] *= -1.0
    motion = JointMotion(40.0, ("knee_angle_r",), np.arange(5.0)[:, None], root).resample(100.0)
    assert len(motion.qpos) == 11 and motion.fps == 100.0
    np.testing.assert_allclose(motion.qpos[:, 0], np.arange(11) * 0.4)
    rotation = rotations.from_quaternion(motion.root[:, 3:])
    np.testing.assert_allclose(rotation, rotations.about_axis(2, 3.0 + 0.04 * np.arange(11)), atol=1e-9)


def test_mirror_twice_is_the_same(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **content())
    motion = load_trajectory(tmp_path / "a.npz")
    once, twice = motion.mirrored(), motion.mirrored().mirrored()
    assert once.joint_names == ("knee_angle_l", "hip_flexion_l") and twice.joint_names == motion.joint_names
    np.testing.assert_allclose(once.root[:, 0], -motion.root[:, 0])
    np.testing.assert_allclose(twice.root, motion.root)
    np.testing.assert_array_equal(twice.qpos, motion.qpos)
