"""Bursts, windows on a closed cycle, and the delay of an excitation."""

from __future__ import annotations

import numpy as np
import pytest

from sim_models.registry import load_body
from tools.analysis import muscles
from tools.analysis.norm_tables import GaitError, windows


def test_a_window_that_goes_round_is_on_at_both_ends():
    mask = windows("walking")["tibialis anterior"].mask  # 56 to 111 %
    assert mask[0] and mask[11] and not mask[12] and not mask[55] and mask[56] and mask[99]


def test_short_bursts_and_gaps_are_closed_over_the_end_of_the_cycle():
    curve = np.zeros(100)
    curve[[98, 99, 0, 1, 2, 3]] = 1.0  # six long over the end
    curve[40:70] = 1.0
    curve[50:53] = 0.0  # a gap of three
    curve[80:83] = 1.0  # a burst of three
    on = muscles.bursts(curve)
    assert on[98:].all() and on[:4].all() and on[40:70].all() and not on[70:98].any() and not on[4:40].any()
    assert not muscles.bursts(np.full(100, 0.3)).any()


@pytest.mark.parametrize("delay", [-0.12, -0.05, 0.0, 0.08, 0.15])
def test_the_delay_of_an_excitation_is_found(delay: float):
    window = windows("walking")["soleus"]
    stride = 1.0
    late = np.roll(window.mask.astype(float), round(100 * delay))
    found = muscles.score(np.append(late, late[0]), window, stride)
    assert found["lag_ms"] == pytest.approx(1e3 * delay, abs=5.0) and found["r_lag"] == pytest.approx(1.0)
    assert found["onset"] == pytest.approx(100 * delay) and found["end"] == pytest.approx(100 * delay)
    assert (found["overlap"] == 1.0) == (delay == 0.0)


def test_a_silent_muscle_has_no_correlation_and_no_overlap():
    found = muscles.score(np.zeros(101), windows("walking")["soleus"], 1.0)
    assert found["overlap"] == 0.0 and found["recall"] == 0.0 and np.isnan(found["r"]) and np.isnan(found["lag_ms"])


def test_every_electrode_stands_for_muscles_of_the_body():
    body = load_body("myo_fullbody")
    names = muscles.table("emg")["muscles"]
    for side, suffix in enumerate("rl"):
        found = {m: [body.muscle_names[i] for i in muscles.electrodes(body, m, side)] for m in names}
        assert all(n.endswith(f"_{suffix}") for row in found.values() for n in row)
        assert len(found["erector spinae"]) == 38 and len(found["gluteus maximus"]) == 3
    assert set(names) >= set(windows("walking")) | set(windows("running"))
    with pytest.raises(GaitError, match=r"muscle 'soleus': body toy_arm has no actuator soleus_r"):
        muscles.electrodes(load_body("toy_arm"), "soleus", 0)
