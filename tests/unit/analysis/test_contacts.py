"""When feet stand: hysteresis, bounces, and both ways against each other and against a measured trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_dir
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.analysis import contacts
from tools.analysis.replay import replay_angles
from tools.analysis.strides import heel_strikes

RUN = Path(__file__).parents[3] / ".." / "shared" / "data" / "mocap" / "opensim_run"


@pytest.fixture(scope="module")
def body() -> Embodiment:
    return load_body("myo_fullbody")


def test_force_between_the_thresholds_keeps_what_was():
    at, level = [0, 10, 20, 40, 50, 62, 68, 90, 105, 120, 130, 140], [0, 0, 40, 40, 0, 0, 700, 700, 40, 40, 0, 0]
    force = np.interp(np.arange(140), at, level)[:, None] * [1.0, 0.0]
    contact = contacts.by_force(force, 1000.0, 100.0)[:, 0]  # 40 N: above what ends a contact, below what begins one
    rises = heel_strikes(contact)
    assert len(rises) == 1 and abs(rises[0] - 62) <= 2
    assert contact[65:120].all() and not contact[125:].any()
    assert not contacts.by_force(force, 1000.0, 100.0)[:, 1].any()


def test_short_contacts_and_gaps_do_not_count():
    contact = np.zeros(100, dtype=bool)
    contact[[10, 11]] = True
    contact[30:80] = True
    contact[50:53] = False
    found = contacts.debounced(contact, 5)
    assert not found[:30].any() and found[30:80].all() and not found[80:].any()
    at_the_end = contact.copy()
    at_the_end[97:] = True
    assert contacts.debounced(at_the_end, 5)[97:].all()  # it may go on behind the end


@pytest.mark.parametrize(("name", "stride", "stance", "tolerance"), [
    ("walk", 120 / 117, 0.603, 0.035), ("walk_slow", 120 / 97.9, 0.618, 0.03), ("walk_fast", 120 / 134, 0.591, 0.03),
    ("run", 120 / 178, 0.40, 0.06),
])
def test_soles_tell_the_heel_strikes_of_the_built_in_gaits(body, name: str, stride: float, stance: float, tolerance: float):
    clip = load_clip(library_dir(body.name) / f"{name}.npz")
    contact = contacts.by_soles(body, clip.qpos, clip.fps)
    for side, phase in ((0, 0.0), (1, 0.5)):
        strikes = heel_strikes(contact[:, side]) / clip.fps
        away = (strikes / stride - phase + 0.5) % 1.0 - 0.5
        assert len(strikes) >= 3 and np.abs(away).max() * stride < 0.018
        first, last = heel_strikes(contact[:, side])[[0, -1]]
        assert contact[first:last, side].mean() == pytest.approx(stance, abs=tolerance)


@pytest.mark.skipif(not RUN.is_dir(), reason="captures are not beside the checkout")
def test_soles_tell_the_contacts_of_a_measured_run_as_its_force_plates_do(body):
    rollout = replay_angles(body, RUN / "ik_output_run.mot")
    contact = contacts.by_soles(body, rollout.qpos, rollout.control_rate)
    text = (RUN / "grf_run.mot").read_text().split("endheader")[1].split("\n")
    rows = [line.split() for line in text if line.strip()]
    column = {name: k for k, name in enumerate(rows[0])}
    plates = np.array(rows[1:], dtype=float)
    for side, letter in enumerate("RL"):
        on = plates[:, column[f"{letter}_ground_force_vy"]] > 30.0
        time = plates[:, column["time"]]
        struck, left = time[heel_strikes(on)[0]], time[heel_strikes(~on)[0]]
        ours = heel_strikes(contact[:, side]) / rollout.control_rate
        away = heel_strikes(~contact[:, side]) / rollout.control_rate
        assert np.abs(ours - struck).min() < 0.035 and np.abs(away - left).min() < 0.025
