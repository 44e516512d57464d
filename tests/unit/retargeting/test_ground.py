"""Floor and contacts."""

from __future__ import annotations

import numpy as np
import pytest

from tools.retargeting.ground import Soles, fit_floor, gaussian, label_contacts, runs, slow_height


def _steps(frames: int = 400, fps: float = 100.0, slope: float = 0.0, raised: float = 0.0) -> Soles:
    """Two feet (heel and toe each) that stand and swing in turn along y."""
    center, height = np.zeros((frames, 4, 3)), np.zeros((frames, 4))
    for foot in range(2):
        phase = (np.arange(frames) + 50 * foot) % 100
        swing = np.clip((phase - 60) / 40.0, 0.0, 1.0)
        y = 1.0 * ((np.arange(frames) + 50 * foot) // 100 + swing) + 0.5 * foot
        lift = 0.1 * np.sin(np.pi * swing)
        for part in range(2):
            k = 2 * foot + part
            center[:, k, 1] = y + 0.15 * part
            height[:, k] = raised + lift + slope * center[:, k, 1]
            center[:, k, 2] = height[:, k] + 0.02
    return Soles([np.array([k]) for k in range(4)], center, height)


def test_a_tilted_floor_is_found():
    floor = fit_floor(_steps(slope=0.016, raised=0.03), 100.0)
    assert floor.slope[1] == pytest.approx(0.016, abs=2e-3)
    assert abs(floor.slope[0]) < 1e-4
    assert floor.height == pytest.approx(0.03, abs=6e-3)
    turn, shift = floor.levelling()
    for y in (0.0, 4.0):
        levelled = turn @ np.array([0.0, y, 0.03 + 0.016 * y]) + shift
        assert abs(levelled[2]) < 6e-3


def test_standing_says_nothing_about_tilt():
    soles = _steps()
    still = Soles(soles.groups, np.repeat(soles.center[:1], 200, axis=0), np.repeat(soles.height[:1], 200, axis=0))
    still.height[:, 2:] += 0.01
    assert fit_floor(still, 100.0).tilt < 0.6


def test_without_rest_the_lowest_height_is_the_floor():
    center = np.zeros((50, 4, 3))
    center[..., 0] = np.arange(50)[:, None] * 0.05
    floor = fit_floor(Soles([np.array([k]) for k in range(4)], center, np.full((50, 4), 0.2)), 100.0)
    assert not floor.found and floor.height == pytest.approx(0.2)


def test_contacts_are_the_stances():
    label = label_contacts(_steps(), 100.0)
    assert len(runs(label[:, 0])) == 4
    for start, stop in runs(label[:, 0]):
        assert 40 <= stop - start <= 75
    assert not label[80, 0] and label[80, 2]


def test_short_contacts_go_and_short_breaks_close():
    soles = _steps()
    soles.height[30:32, 0] = 0.2
    soles.height[70:77, 0], soles.center[70:77, 0] = 0.2, soles.center[70, 0]
    soles.height[72:75, 0] = 0.0
    label = label_contacts(soles, 100.0)
    assert label[25:35, 0].all() and not label[70:77, 0].any()


def test_slow_height_follows_floating_steps_slowly():
    soles = _steps(raised=0.05)
    assert slow_height(soles, 100.0) == pytest.approx(0.05, abs=5e-3)
    soles.height[200:] -= 0.02
    drift = slow_height(soles, 100.0)
    assert np.abs(np.diff(drift)).max() * 100.0 < 0.1, "the correction moves faster than 10 cm/s"


def test_gaussian_keeps_constants_and_length():
    assert gaussian(np.full(30, 2.5), 5.0) == pytest.approx(np.full(30, 2.5))
