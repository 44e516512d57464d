"""Frames in which a limb leaps are bridged; everything else of a capture stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.retargeting.captures import walking_poses, write_amass
from tools.retargeting import rotations
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.repair import LIMBS, MOST_TWIST, crossings, repaired
from tools.retargeting.skeleton import POINTS, SEGMENTS, Capture

FPS = 100.0
LEG = ("knee", "ankle", "toes")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """A clean walk of 0.8 s."""
    path = tmp_path_factory.mktemp("walk") / "walk.npz"
    write_amass(path, *walking_poses(80, FPS), FPS)
    return read_capture(path, Options())


def leaping(capture: Capture, frames: slice, angle: float = 1.5) -> Capture:
    """The capture with its right leg turned about the hip by an angle (rad) at some frames."""
    points, segments = capture.points.copy(), capture.segments.copy()
    turn, hip = rotations.about_axis(1, angle), points[frames, POINTS.index("right_hip")]
    for point in LEG:
        at = POINTS.index(f"right_{point}")
        points[frames, at] = hip + (points[frames, at] - hip) @ turn.T
    for part in ("foot", "toes"):
        segments[frames, SEGMENTS.index(f"right_{part}")] = turn @ segments[frames, SEGMENTS.index(f"right_{part}")]
    return replace(capture, points=points, segments=segments)


def test_clean_capture_stays(walk: Capture) -> None:
    """A walk comes back as it is, and its provenance says nothing of a repair."""
    assert repaired(walk) is walk


@pytest.mark.parametrize("frames", [slice(40, 44), slice(0, 3), slice(77, 80)], ids=["inside", "start", "end"])
def test_leap_is_bridged(walk: Capture, frames: slice) -> None:
    """A leap within the capture comes close to the true leg; at an end the nearest good pose is held."""
    broken = leaping(walk, frames)
    mended = repaired(broken)
    legs = [POINTS.index(f"right_{point}") for point in LEG]
    error = np.linalg.norm(mended.points - walk.points, axis=2)
    assert np.linalg.norm(broken.points - walk.points, axis=2).max() > 0.5
    assert error[:, legs].max() < (0.01 if frames.start else 0.08) if frames.stop < 80 else error[:, legs].max() < 0.08
    others = [k for k in range(len(POINTS)) if k not in legs]
    np.testing.assert_allclose(mended.points[:, others], walk.points[:, others], atol=1e-12)
    assert set(mended.provenance["repaired"]) == {"right leg"}
    assert mended.provenance["repaired_share"] == pytest.approx(mended.provenance["repaired"]["right leg"] / 80)


@pytest.mark.parametrize("frames", [slice(0, 15), slice(65, 80)], ids=["start", "end"])
def test_a_broken_end_is_cut_off(walk: Capture, frames: slice) -> None:
    """What is left is the clean walk, and the provenance says how many frames are missing at either end."""
    kept = repaired(leaping(walk, frames))
    first, last = kept.provenance["cut"]
    assert 15 <= (last if frames.start else first) <= 25 and min(first, last) == 0 and "repaired" not in kept.provenance
    np.testing.assert_array_equal(kept.points, walk.points[first : 80 - last])
    np.testing.assert_array_equal(kept.segments, walk.segments[first : 80 - last])


def test_an_end_that_is_half_of_the_capture_is_held_instead(walk: Capture) -> None:
    """Trunks wrung for most of a capture leave too little to go on with; the last good posture of the trunk is held."""
    segments, trunk = walk.segments.copy(), SEGMENTS.index("trunk")
    segments[30:, trunk] = rotations.about_axis(2, 3.0) @ segments[30:, trunk]
    mended = repaired(replace(walk, segments=segments))
    assert len(mended.points) == 80 and mended.provenance["repaired"]["trunk"] == 50


def test_what_lies_between_two_leaps_goes_too(walk: Capture) -> None:
    """Frames that look calm between a leap out and a leap back are not kept; bone lengths are."""
    mended = repaired(leaping(walk, slice(36, 43)))
    knee, hip = POINTS.index("right_knee"), POINTS.index("right_hip")
    assert np.linalg.norm(mended.points - walk.points, axis=2).max() < 0.02
    length = np.linalg.norm(mended.points[:, knee] - mended.points[:, hip], axis=1)
    assert np.ptp(length) < 1e-6


def test_pelvis_that_leaps_takes_hips_and_legs_along(walk: Capture) -> None:
    """A pelvis that jumps by a right angle and stays is turned over some frames, legs with it."""
    points, segments = walk.points.copy(), walk.segments.copy()
    turn = rotations.about_axis(2, 1.2)
    middle = 0.5 * (points[:, [POINTS.index("left_hip")]] + points[:, [POINTS.index("right_hip")]])
    points[40:] = middle[40:] + (points[40:] - middle[40:]) @ turn.T
    segments[40:] = turn @ segments[40:]
    mended = repaired(replace(walk, points=points, segments=segments))
    assert set(mended.provenance["repaired"]) == {"pelvis"}
    pelvis = mended.segment("pelvis")
    speed = np.linalg.norm(rotations.log(np.swapaxes(pelvis[:-1], 1, 2) @ pelvis[1:]), axis=1) * FPS
    assert speed.max() < 16.0
    thigh = mended.point("left_knee") - mended.point("left_hip")
    seen = np.einsum("fji,fj->fi", pelvis, thigh)
    wanted = np.einsum("fji,fj->fi", walk.segment("pelvis"), walk.point("left_knee") - walk.point("left_hip"))
    np.testing.assert_allclose(seen, wanted, atol=1e-9)


def test_mirror_image(walk: Capture) -> None:
    """The repair of a mirrored capture is the mirror image of the repair."""
    broken = leaping(walk, slice(40, 44))
    one, other = repaired(broken.mirrored()), repaired(broken).mirrored()
    np.testing.assert_allclose(one.points, other.points, atol=1e-9)
    np.testing.assert_allclose(one.segments, other.segments, atol=1e-9)


def turned_leg(capture: Capture, axis: int, angle: np.ndarray) -> Capture:
    """The capture with its right leg turned about the hip by angles (F,) rad about an axis of the world."""
    points, hip = capture.points.copy(), capture.points[:, POINTS.index("right_hip")]
    turn = rotations.about_axis(axis, angle)
    for point in LEG:
        at = POINTS.index(f"right_{point}")
        points[:, at] = hip + np.einsum("fij,fj->fi", turn, points[:, at] - hip)
    return replace(capture, points=points)


def test_leg_that_passes_through_the_other_goes_around(walk: Capture) -> None:
    """A right leg that is crossed before the left one and swings back through it is bridged, not one that stays there."""
    legs = [limb for limb in LIMBS if limb.name.endswith("leg")]
    phase = np.linspace(0.0, np.pi, 80)
    crossed = turned_leg(walk, 1, -0.5 * np.sin(phase) ** 2)
    before, through = (turned_leg(crossed, 0, angle) for angle in (np.full(80, -1.0), -1.0 * np.cos(phase)))
    assert repaired(before) is before
    assert len(crossings(through, *legs))
    mended = repaired(through)
    assert not len(crossings(mended, *legs))
    assert len(mended.provenance["repaired"]) == 1
    assert 0.0 < mended.provenance["repaired_share"] < 0.9


def test_limbs_that_cross_in_a_capture_of_a_few_frames_stay(walk: Capture) -> None:
    """There is nothing to build a bridge on."""
    legs = [limb for limb in LIMBS if limb.name.endswith("leg")]
    crossed = turned_leg(walk, 1, np.full(80, -0.5))
    through = turned_leg(crossed, 0, -1.0 * np.cos(np.linspace(0.0, np.pi, 80)))
    step = int(crossings(through, *legs)[0])
    few = replace(through, points=through.points[step - 1 : step + 3], segments=through.segments[step - 1 : step + 3])
    assert len(crossings(few, *legs))
    assert np.array_equal(repaired(few).points, few.points)


def test_trunk_that_is_wrung_is_bridged(walk: Capture) -> None:
    """A trunk that turns by half a turn from the pelvis and back, slowly, is no motion: the frames beyond are bridged."""
    segments = walk.segments.copy()
    angle = 3.0 * np.sin(np.linspace(0.0, np.pi, 80)) ** 2
    segments[:, SEGMENTS.index("trunk")] = rotations.about_axis(2, angle) @ segments[:, SEGMENTS.index("trunk")]
    mended = repaired(replace(walk, segments=segments))
    turn = np.linalg.norm(rotations.log(np.swapaxes(mended.segment("pelvis"), 1, 2) @ mended.segment("trunk")), axis=1)
    assert turn.max() < MOST_TWIST + 0.2
    assert mended.provenance["repaired"]["trunk"] == pytest.approx(np.sum(angle > MOST_TWIST), abs=10)


def test_setting_switches_it_off(tmp_path: Path) -> None:
    """``repair=false`` leaves the file's own frames."""
    poses, trans = walking_poses(80, FPS)
    poses[40:44, 2, 0] -= 1.8
    write_amass(tmp_path / "leap.npz", poses, trans, FPS)
    mended, raw = (read_capture(tmp_path / "leap.npz", Options(repair=flag)) for flag in (True, False))
    assert "repaired" in mended.provenance
    assert "repaired" not in raw.provenance
    assert np.linalg.norm(mended.points - raw.points, axis=2).max() > 0.3
