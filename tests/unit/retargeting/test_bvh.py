"""BVH: recognised skeletons, mappings of others, units, vertical axes, rest poses and damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.retargeting.captures import FIGURE, Y_UP, Y_UP_FACING_X, Z_UP_FACING_MINUS_Y, write_bvh, write_mapping
from tools.retargeting import bvh, mapping, rotations
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.skeleton import SEGMENTS, CaptureError

MOCAP = Path(__file__).parents[3] / ".." / "shared" / "data" / "mocap"
needs_mocap = pytest.mark.skipif(not MOCAP.is_dir(), reason="captures are not beside the checkout")


def read(path: Path, **options: object):
    return read_capture(path, Options(**options))


@needs_mocap
def test_forward_kinematics_matches_golden_positions():
    joints, values, step = bvh.read_bvh(MOCAP / "cmu_bvh" / "09_01.bvh")
    positions, _ = bvh.forward(joints, values, 0.01)
    golden = {
        ("hip", 10): (-0.0124, 0.7909, -1.2687), ("lFoot", 10): (-0.0423, 0.1038, -1.4030),
        ("rHand", 10): (-0.1834, 0.9355, -1.1472), ("hip", 100): (-0.0137, 0.8114, 1.3518),
        ("head", 100): (0.0369, 1.4057, 1.4617),
    }  # fmt: skip
    for (joint, frame), position in golden.items():
        np.testing.assert_allclose(positions[joint][frame], position, atol=1e-4, err_msg=f"{joint} at frame {frame}")
    assert 1.0 / step == pytest.approx(120.0, rel=1e-4)


@needs_mocap
@pytest.mark.parametrize(
    ("name", "rig", "frames"), [("12_01_motionbuilder", "cgspeed_motionbuilder", 1), ("09_01", "cgspeed_daz", 6)]
)
def test_known_skeletons_are_recognised_and_their_lead_in_is_dropped(name: str, rig: str, frames: int):
    path = MOCAP / "cmu_bvh" / f"{name}.bvh"
    _, values, _ = bvh.read_bvh(path)
    capture = read(path)
    assert capture.provenance["skeleton"] == rig and "NSF EIA-0196217" in capture.provenance["acknowledgement"]
    assert len(values) - len(capture.points) == frames == capture.provenance["lead_in"]
    assert len(values) == len(read(path, lead_in=0).points)
    speed = np.linalg.norm(np.diff(capture.point("left_wrist"), axis=0), axis=1) * capture.fps
    assert speed.max() < 10.0, "the blend out of the T-pose remains"


@pytest.mark.parametrize("axes", [Z_UP_FACING_MINUS_Y, Y_UP_FACING_X], ids=["z up", "facing x"])
def test_a_mapped_skeleton_is_the_same_whatever_axes_its_file_has(tmp_path: Path, axes: np.ndarray):
    write_bvh(tmp_path / "a.bvh", axes=Y_UP)
    write_bvh(tmp_path / "b.bvh", axes=axes)
    rig = write_mapping(tmp_path / "rig.yaml", unit="m")
    a, b = read(tmp_path / "a.bvh", mapping=rig), read(tmp_path / "b.bvh", mapping=rig)
    np.testing.assert_allclose(b.points, a.points, atol=1e-6)
    np.testing.assert_allclose(b.segments, a.segments, atol=1e-6)
    assert a.provenance["skeleton"] == "rig"
    assert (a.provenance["up"], b.provenance["up"]) == ("y", "z" if axes[2, 1] == 1.0 else "y")
    path = a.point("left_hip")[-1] - a.point("left_hip")[0]
    np.testing.assert_allclose(path, [0.0, -0.39, 0.0], atol=1e-6)  # forward is -Y of our world
    assert (a.point("left_hip")[:, 0] > a.point("right_hip")[:, 0]).all()
    back = a.point("left_knee")[25, 1] - a.point("left_hip")[25, 1]
    assert back == pytest.approx(0.42 * np.sin(np.radians(20.0)), abs=0.01), "a positive turn about left swings the leg back"


@pytest.mark.parametrize(("unit", "name"), [(0.01, "cm"), (0.001, "mm"), (0.0254, "inch")])
def test_the_wrong_unit_is_an_error_that_names_the_right_one(tmp_path: Path, unit: float, name: str):
    write_bvh(tmp_path / "a.bvh", unit=unit)
    rig = write_mapping(tmp_path / "rig.yaml", unit="m")
    with pytest.raises(CaptureError, match=f"a leg .* is .* m long.*units={name}"):
        read(tmp_path / "a.bvh", mapping=rig)
    for told in (name, str(unit)):
        leg = np.linalg.norm(read(tmp_path / "a.bvh", mapping=rig, units=told).point("left_knee")[0]
                             - read(tmp_path / "a.bvh", mapping=rig, units=told).point("left_hip")[0])
        assert leg == pytest.approx(np.hypot(0.42, 0.01), abs=1e-6)


def test_inches_are_not_taken_for_the_centimetres_of_a_mapping(tmp_path: Path):
    write_bvh(tmp_path / "a.bvh", unit=0.0254)
    rig = write_mapping(tmp_path / "rig.yaml", unit="cm")
    with pytest.raises(CaptureError, match="units=inch"):
        read(tmp_path / "a.bvh", mapping=rig)


def test_a_unit_that_nobody_names_is_asked_for(tmp_path: Path):
    write_bvh(tmp_path / "a.bvh")
    rig = write_mapping(tmp_path / "rig.yaml")
    with pytest.raises(CaptureError, match=r"names no unit.*units=m\|cm\|mm\|inch"):
        read(tmp_path / "a.bvh", mapping=rig)
    with pytest.raises(CaptureError, match="units=foot: choose m"):
        read(tmp_path / "a.bvh", mapping=rig, units="foot")
    assert read(tmp_path / "a.bvh", mapping=rig, units="m").provenance["unit_m"] == 1.0


def test_orientations_are_calibrated_where_the_rest_pose_says_nothing(tmp_path: Path):
    write_bvh(tmp_path / "a.bvh", frames=101)
    plain = read(tmp_path / "a.bvh", mapping=write_mapping(tmp_path / "rig.yaml", unit="m"))
    rig = write_mapping(tmp_path / "none.yaml", unit="m", rest="none")
    with pytest.raises(CaptureError, match="up=y or up=z"):
        read(tmp_path / "a.bvh", mapping=rig)
    found = read(tmp_path / "a.bvh", mapping=rig, up="y")
    np.testing.assert_array_equal(found.points, plain.points)
    apart = np.linalg.norm(rotations.log(np.swapaxes(plain.segments, 2, 3) @ found.segments), axis=-1)
    for name, angle in zip(SEGMENTS, np.degrees(apart.max(axis=0)), strict=True):
        assert angle < 15.0, f"{name} is off by {angle:.1f} degrees"


def test_a_rest_pose_that_does_not_stand_is_noticed(tmp_path: Path):
    write_bvh(tmp_path / "a.bvh")
    rig = write_mapping(tmp_path / "rig.yaml", unit="m", up="z")
    with pytest.raises(CaptureError, match=r"does not stand upright along z.*rest: none"):
        read(tmp_path / "a.bvh", mapping=rig)


def test_unknown_skeleton_lists_its_joints_and_asks_for_a_mapping(tmp_path: Path):
    write_bvh(tmp_path / "a.bvh")
    with pytest.raises(CaptureError, match=r"unknown skeleton with root 'bone_pelvis'.*mapping=FILE\.yaml.*bone_left_wrist"):
        read(tmp_path / "a.bvh")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("joints: [hip]", "a mapping has the key joints"),
        ("joints: {pelvis: hip}\nunits: cm", "unknown key 'units'; did you mean unit?"),
        ("joints: {left_hipp: hip}", "unknown key 'left_hipp'; did you mean left_hip?"),
        ("joints: {pelvis: hip}", "joints lacks trunk, left_hip"),
        ("joints: {pelvis: [", "no YAML"),
        ("{}\nup: x", "up: 'x'; choose y or z"),
        ("{}\nrest: tpose", "rest: 'tpose'; choose zero or none"),
        ("{}\ndrop_frames: -1", "drop_frames: -1; a number of frames"),
        ("{}\nunit: foot", "units=foot"),
        ("!!python/object/apply:os.system [exit]", "no YAML"),
    ],
)
def test_a_bad_mapping_names_the_key(tmp_path: Path, text: str, message: str):
    whole = "joints: {" + ", ".join(f"{name}: {name}" for name in FIGURE) + "}"
    (tmp_path / "rig.yaml").write_text(text.replace("{}", whole))
    with pytest.raises(CaptureError, match=message.replace("?", r"\?")):
        mapping.read_rig(tmp_path / "rig.yaml")


def test_a_mapping_of_another_skeleton_names_the_joint(tmp_path: Path):
    write_bvh(tmp_path / "a.bvh")
    rig = write_mapping(tmp_path / "rig.yaml", prefix="bone", unit="m")
    with pytest.raises(CaptureError, match=r"no joint 'bonepelvis', which mapping rig .* pelvis; did you mean 'bone_pelvis'"):
        read(tmp_path / "a.bvh", mapping=rig)
    with pytest.raises(CaptureError, match=r"gone\.yaml: No such file"):
        read(tmp_path / "a.bvh", mapping=tmp_path / "gone.yaml")


def test_frame_time_zero_and_damaged_files_are_refused(tmp_path: Path):
    write_bvh(tmp_path / "a.bvh")
    rig = write_mapping(tmp_path / "rig.yaml", unit="m")
    text = (tmp_path / "a.bvh").read_text()
    for content, message in (
        (text.replace("Frame Time: 0.01", "Frame Time: 0"), "frame time 0 s is none; give the frame rate with fps_in="),
        (text[: len(text) // 2], "truncated or damaged|the file is damaged"),
        (text[:-40], "truncated or damaged"),
        (text.replace("Frames: 40", "Frames: many"), "the file is damaged"),
        (text.replace("MOTION", "MOVES"), "not a BVH file"),
    ):
        (tmp_path / "b.bvh").write_text(content)
        with pytest.raises(CaptureError, match=message):
            read(tmp_path / "b.bvh", mapping=rig)
    (tmp_path / "c.bvh").write_text(text.replace("Frame Time: 0.01", "Frame Time: 0").replace("Frames: ", "Frames:"))
    assert read(tmp_path / "c.bvh", mapping=rig, fps_in=50.0).fps == 50.0
