"""Clips on disk: round trip, atomic writes, and one line for every file that cannot be used."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mm_torch.motion.bank import ReferenceBank, find_clips, load_bank
from mm_torch.motion.clip import Clip, MotionError, bind_activations, bind_to_body, load_clip
from mm_torch.motion.library import DATA, library_clips
from sim_models.registry import load_body

GOLDEN = Path(__file__).parents[3] / ".." / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the original's files are not on this machine")


def toy_clip(frames: int = 30, act: bool = True) -> Clip:
    body = load_body("toy_arm")
    time = np.arange(frames) / 100.0
    qpos = np.stack([0.3 + 0.2 * np.sin(time), 1.0 + 0.3 * np.cos(2 * time)], axis=1)
    return Clip.from_qpos(
        body, qpos, 100.0, provenance={"source": "made for a test", "licence": "none"}, name="wiggle",
        act=np.random.default_rng(0).uniform(size=(frames, 6)) if act else None,
    )


def one_line(error: pytest.ExceptionInfo[MotionError], *parts: str) -> None:
    """The message is one line that holds all the parts."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def rewrite(path: Path, **changes: Any) -> Path:
    """Save a clip again with some entries replaced (None: left out)."""
    toy_clip().save(path)
    with np.load(path) as file:
        arrays = {k: file[k] for k in file.files} | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


# -- round trip -------------------------------------------------------------------------------------------------------
def test_round_trip(tmp_path: Path) -> None:
    clip = toy_clip()
    clip.save(tmp_path / "wiggle.npz")
    again = load_clip(tmp_path / "wiggle.npz")
    assert np.array_equal(again.qpos, clip.qpos)
    for name, tolerance in (("qvel", 1e-5), ("site_xpos", 1e-6), ("site_xquat", 1e-6), ("act", 1e-3)):
        np.testing.assert_allclose(getattr(again, name), getattr(clip, name), atol=tolerance)
    for name in ("body", "fps", "joint_names", "site_names", "muscle_names", "provenance", "name"):
        assert getattr(again, name) == getattr(clip, name)
    assert again.duration == pytest.approx(0.29)


def test_no_entry_of_a_saved_clip_is_pickled(tmp_path: Path) -> None:
    toy_clip(act=False).save(tmp_path / "plain.npz")
    with np.load(tmp_path / "plain.npz", allow_pickle=False) as file:
        assert all(file[k].dtype != object for k in file.files)


def test_saving_makes_the_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    toy_clip().save(tmp_path / "a" / "b" / "wiggle.npz")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["wiggle.npz"]


@pytest.mark.parametrize("broken", ["savez_compressed", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "wiggle.npz"
    toy_clip(20).save(path)
    before = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np if broken == "savez_compressed" else os, broken, fail)
        with pytest.raises(OSError, match="no space"):
            toy_clip(30).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["wiggle.npz"]


# -- files that cannot be used ----------------------------------------------------------------------------------------
def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(MotionError) as error:
        find_clips(tmp_path / "nowhere")
    one_line(error, "nowhere", "no such file or directory", "motions=")


def test_directory_without_clips(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no motion here")
    with pytest.raises(MotionError) as error:
        find_clips(tmp_path)
    one_line(error, str(tmp_path), "no clip", "tools/retarget.py")


def test_clips_are_found_recursively_and_one_file_is_itself(tmp_path: Path) -> None:
    for name in ("b.npz", "a/c.npz", ".hidden.npz"):
        toy_clip(3).save(tmp_path / name)
    assert [p.name for p in find_clips(tmp_path)] == ["c.npz", "b.npz"]
    assert find_clips(tmp_path / "b.npz") == [tmp_path / "b.npz"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MotionError) as error:
        load_clip(tmp_path / "gone.npz")
    one_line(error, "gone.npz", "no such motion file")


@pytest.mark.parametrize("frames", [0, 1])
def test_empty_clip(tmp_path: Path, frames: int) -> None:
    path = rewrite(tmp_path / "short.npz", qpos=np.zeros((frames, 2)))
    with pytest.raises(MotionError) as error:
        load_clip(path)
    one_line(error, "short.npz", f"{frames} frames", "at least 2")


def test_not_finite(tmp_path: Path) -> None:
    qpos = toy_clip().qpos.copy()
    qpos[7, 1] = np.nan
    with pytest.raises(MotionError) as error:
        load_clip(rewrite(tmp_path / "nan.npz", qpos=qpos))
    one_line(error, "nan.npz", "not finite from frame 7")


@pytest.mark.parametrize("fps", [0.0, -30.0, np.nan, np.inf])
def test_bad_frame_rate(tmp_path: Path, fps: float) -> None:
    with pytest.raises(MotionError) as error:
        load_clip(rewrite(tmp_path / "rate.npz", fps=np.float64(fps)))
    one_line(error, "rate.npz", "frame rate", str(fps))


def test_activations_of_another_shape(tmp_path: Path) -> None:
    with pytest.raises(MotionError) as error:
        load_clip(rewrite(tmp_path / "act.npz", act=np.zeros((30, 5))))
    one_line(error, "act.npz", "(30, 5)")


@pytest.mark.parametrize("kept", [0, 10, 200, -40])
def test_truncated(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.npz"
    toy_clip().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MotionError) as error:
        load_clip(path)
    one_line(error, "cut.npz", "write or copy it again" if kept != 10 else "cut.npz")


def test_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "bent.npz"
    toy_clip().save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(MotionError) as error:
        load_clip(path)
    one_line(error, "bent.npz")


class Bomb:
    """Would leave a mark if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = rewrite(tmp_path / "bomb.npz", provenance=np.array([Bomb(mark)], dtype=object))
    with pytest.raises(MotionError) as error:
        load_clip(path)
    one_line(error, "bomb.npz", "pickled objects")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(MotionError) as error:
        load_clip(tmp_path / "bare.npz")
    one_line(error, "bare.npz")
    assert not mark.exists()


def test_unknown_schema(tmp_path: Path) -> None:
    with pytest.raises(MotionError) as error:
        load_clip(rewrite(tmp_path / "future.npz", schema_version=np.int64(99)))
    one_line(error, "future.npz", "schema 99", "reads 1 and 2")


def test_missing_key(tmp_path: Path) -> None:
    with pytest.raises(MotionError) as error:
        load_clip(rewrite(tmp_path / "lame.npz", joint_names=None))
    one_line(error, "lame.npz", "joint_names")


def test_some_other_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "poses.npz", poses=np.zeros((5, 156)), trans=np.zeros((5, 3)))
    with pytest.raises(MotionError) as error:
        load_clip(tmp_path / "poses.npz")
    one_line(error, "poses.npz", "poses, trans", "tools/retarget.py")


# -- binding to a body ------------------------------------------------------------------------------------------------
def test_clip_of_another_body(tmp_path: Path) -> None:
    toy_clip().save(tmp_path / "arm.npz")
    with pytest.raises(MotionError) as error:
        load_bank(load_body("myo_bimanual"), [tmp_path / "arm.npz"])
    one_line(error, "arm", "toy_arm", "myo_bimanual", "retarget")


def test_same_joints_but_another_body() -> None:
    clip = toy_clip()
    object.__setattr__(clip, "body", "other_arm")
    with pytest.raises(MotionError) as error:
        bind_to_body(clip, load_body("toy_arm"))
    one_line(error, "wiggle", "other_arm", "toy_arm")


def test_columns_that_do_not_match_the_joint_names(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "wide.npz", qpos=np.zeros((30, 3)), act=np.zeros((0, 0)))
    with pytest.raises(MotionError) as error:
        bind_to_body(load_clip(path), load_body("toy_arm"))
    one_line(error, "wide", "3 columns")


def test_bad_files_are_left_out_of_a_bank_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy_clip().save(tmp_path / "good.npz")
    rewrite(tmp_path / "bad.npz", qpos=np.full((30, 2), np.nan))
    bank = load_bank(load_body("toy_arm"), find_clips(tmp_path))
    assert bank.names == ("good",)
    assert "bad.npz" in caplog.text and "left out" in caplog.text


def test_joints_are_matched_by_name_and_fingers_may_be_missing() -> None:
    arms, with_fingers = load_body("myo_bimanual"), load_body("myo_bimanual", fingers=True)
    clip = load_clip(library_clips("myo_bimanual")[0])
    qpos = bind_to_body(clip, with_fingers)
    assert qpos.shape == (len(clip.qpos), with_fingers.model.nq)
    for name in arms.joint_names:
        theirs, ours = arms.model.joint(name).qposadr[0], with_fingers.model.joint(name).qposadr[0]
        np.testing.assert_allclose(qpos[:, ours], clip.qpos[:, theirs], atol=1e-6)
    shuffled = Clip.from_qpos(arms, clip.qpos, clip.fps, provenance={})
    order = np.random.default_rng(0).permutation(len(arms.joint_names))
    object.__setattr__(shuffled, "joint_names", tuple(arms.joint_names[i] for i in order))
    object.__setattr__(shuffled, "qpos", clip.qpos[:, order])
    np.testing.assert_allclose(bind_to_body(shuffled, arms), bind_to_body(clip, arms), atol=1e-12)


def test_activations_are_matched_by_name() -> None:
    body = load_body("toy_arm")
    clip = toy_clip()
    object.__setattr__(clip, "muscle_names", tuple(reversed(clip.muscle_names)))
    act = bind_activations(clip, body)
    assert act is not None
    np.testing.assert_allclose(act, clip.act[:, ::-1], atol=1e-6)
    assert bind_activations(toy_clip(act=False), body) is None


# -- the built-in library and upstream files --------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(p.name for p in DATA.iterdir() if p.is_dir()))
def test_built_in_clips_bind_and_tell_where_they_come_from(name: str) -> None:
    body = load_body(name)
    for path in library_clips(name):
        clip = load_clip(path)
        qpos = bind_to_body(clip, body)
        limited = body.hinge_ids[body.model.jnt_limited[body.hinge_ids].astype(bool)]
        low, high = body.model.jnt_range[limited].T
        values = qpos[:, body.model.jnt_qposadr[limited]]
        assert (values >= low - 2e-3).all() and (values <= high + 2e-3).all(), path.name
        assert clip.provenance, path.name


def test_body_without_built_in_motions() -> None:
    with pytest.raises(MotionError) as error:
        library_clips("centipede")
    one_line(error, "centipede", "toy_arm", "motions=")


@needs_golden
@pytest.mark.parametrize(
    ("file", "name"),
    [("upstream_trajectory_fullbody.npz", "myo_fullbody"), ("MyoBimanualArm_reach_slow.npz", "myo_bimanual")],
)
def test_trajectory_of_the_original_loads(file: str, name: str) -> None:
    body = load_body(name)
    clip = load_clip(GOLDEN / file)
    with np.load(GOLDEN / file, allow_pickle=False) as source:
        stored, sites, order = source["qpos"], source["site_xpos"], source["site_names"].tolist()
    bank = ReferenceBank.build(body, [clip])
    assert bank.lengths.tolist() == [len(stored)]
    np.testing.assert_allclose(bank.frames.qpos, stored, atol=5e-3)  # couplings are made exact
    ours = bank.frames.site_xpos[:, [body.site_names.index(n) for n in order]]
    np.testing.assert_allclose(ours, sites, atol=5e-3)


@needs_golden
def test_trajectory_with_several_motions_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", qpos=np.zeros((9, 2)), joint_names=np.array(["shoulder", "elbow"]),
             frequency=np.float64(100), split_points=np.array([0, 4, 9]))
    with pytest.raises(MotionError) as error:
        load_clip(tmp_path / "two.npz")
    one_line(error, "two.npz", "2 motions")


def test_activations_of_a_body_with_other_fixes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    body, clip = load_body("toy_arm"), toy_clip()
    ReferenceBank.build(body, [clip])
    assert not caplog.records
    ReferenceBank.build(body, [clip, replace(clip, provenance={"activations": {"fixes": ["knee_ranges"]}})])
    assert "1 clips (wiggle) are of a body with fixes ['knee_ranges'], here they are []" in caplog.text
    ReferenceBank.build(body, [replace(toy_clip(act=False), provenance={"activations": {"fixes": ["knee_ranges"]}})])
    assert len(caplog.records) == 1
    for odd in ("none", {"fixes": 3}, {"effort": "square"}):
        assert replace(clip, provenance={"activations": odd}).solved_fixes == ()
