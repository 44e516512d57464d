"""The throw and the pour of the picture: within limits, true to their names, possible for the muscles, not in the library."""

from __future__ import annotations

import re
from functools import cache

import mujoco
import numpy as np
import pytest

from mm_torch.config.load import RecipeError
from mm_torch.motion.clip import Clip
from mm_torch.motion.library import library_clips
from sim_models.registry import load_body
from tools.library.acceptance import measure
from tools.library.arms import FPS, arm_motions
from tools.library.bimanual import perform
from tools.library.strip import STRIP_MOTIONS, THROWN
from tools.make_strip import chosen, main
from tools.solve_activations import with_activations

pytestmark = pytest.mark.slow  # solves activations


@cache
def made(name: str) -> Clip:
    body = load_body("myo_bimanual")
    return with_activations(body, next(perform(body, {name: STRIP_MOTIONS[name]})))[0]


def angle(clip: Clip, joint: str) -> np.ndarray:
    """Joint angle (F,) in degrees."""
    return np.rad2deg(clip.qpos[:, load_body(clip.body).model.joint(joint).qposadr[0]])


def places(clip: Clip, *names: str) -> np.ndarray:
    """Origins (F, len(names), 3) of bodies relative to the shoulder: outward, forward, upward, in m."""
    model = load_body(clip.body).model
    data, out = mujoco.MjData(model), []
    for qpos in clip.qpos:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        out.append([data.body(name).xpos - data.body("humerus_r").xpos for name in names])
    return np.array(out) * [-1.0, -1.0, 1.0]


@pytest.mark.parametrize(("name", "hand_speed"), [("throw_right", 2.5), ("pour_right", 1.0)])
def test_the_arm_can_do_it(name: str, hand_speed: float) -> None:
    clip = made(name)
    found = measure(load_body(clip.body), clip)
    assert found.margin > np.deg2rad(5.0) and found.coupling < 1e-9 and found.overlap == 0.0
    assert found.hand_speed < hand_speed and found.acceleration < 60.0
    assert clip.feasible.all() and clip.joint_residual.max() < 0.5
    rest = np.abs(clip.qpos[[0, -1]] - clip.qpos[0]).max()
    assert rest < 1e-9 and np.abs(clip.qvel[[0, -1]]).max() < 1e-9  # from rest to the same rest


def test_a_throw_goes_overarm_and_stretches_the_elbow() -> None:
    clip = made("throw_right")
    wrist = places(clip, "lunate_r")[:, 0]
    forward = np.gradient(wrist[:, 1], 1.0 / FPS)
    fastest = forward.argmax()
    elbow = angle(clip, "elbow_flex_r")
    assert forward[fastest] > 1.8  # m/s
    assert wrist[fastest, 2] > 0.05  # m above the shoulder
    assert np.gradient(elbow, 1.0 / FPS)[fastest] < -150.0  # degrees/s
    assert elbow[:fastest].max() > 110.0 and elbow[fastest:].min() < THROWN["elbow_flex"] + 1.0
    assert wrist[fastest - 20, 1] < 0.15 and wrist[fastest + 20, 1] > 0.4  # m: from beside the shoulder to an arm's length


def test_a_pour_turns_the_forearm_and_keeps_the_wrist() -> None:
    clip = made("pour_right")
    turning = slice(150, 380)  # 1.5 to 3.8 s
    turn = angle(clip, "pro_sup_r")[turning]
    assert turn.max() - turn.min() > 70.0 and turn.max() < 67.0  # degrees; the supinator jumps at 67.7
    elbow, wrist = places(clip, "ulna_r", "lunate_r")[turning].transpose(1, 0, 2)
    assert np.ptp(wrist, axis=0).max() < 0.01  # m
    assert np.abs(wrist[:, 2] + 0.17).max() < 0.02  # m: the height of the chest
    pitch = np.rad2deg(np.arctan2(wrist[:, 2] - elbow[:, 2], np.linalg.norm((wrist - elbow)[:, :2], axis=1)))
    assert np.abs(pitch).max() < 15.0  # degrees


def test_policies_never_train_on_them() -> None:
    assert not set(STRIP_MOTIONS) & set(arm_motions())
    assert {path.stem for path in library_clips("myo_bimanual")} == set(arm_motions())


def test_rows_are_motions_of_both_kinds_in_their_times() -> None:
    rows = chosen(load_body("myo_bimanual"), "pour_right:0.5-3,clap")
    assert [(clip.name, start, stop) for clip, start, stop in rows] == [("pour_right", 0.5, 3.0), ("clap", 0.0, 5.0)]
    assert all(clip.act.shape == (len(clip.qpos), 64) for clip, _, _ in rows)
    with pytest.raises(RecipeError, match=r"clips=throw_right: no motion of toy_arm; choose from .*swing"):
        chosen(load_body("toy_arm"), "throw_right")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("clips=jump", "clips=jump: no motion of myo_bimanual; choose from .*clap.*throw_right"),
        ("clips=clap:1", "clips=clap:1: write NAME or NAME:FROM-TO"),
        ("clips=clap:3-2", "clips=clap:3-2: give two times from 0 to 5 s, the earlier first"),
        ("clips=clap:1-nan", "clips=clap:1-nan: give two times from 0 to 5 s"),
        ("frames=0", "frames=0: give at least 1"),
    ],
)
def test_bad_words_are_named(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])
