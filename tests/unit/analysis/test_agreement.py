"""Figures of agreement: a norm with itself, shifted, offset, and with what has no correlation."""

from __future__ import annotations

import numpy as np
import pytest

from tools.analysis.agreement import agreement, best_lag
from tools.analysis.norm_tables import GAITS, GaitError, bands, windows

EVERY = [(gait, name) for gait in GAITS for name in bands(gait)]


@pytest.mark.parametrize(("gait", "name"), EVERY)
def test_a_norm_agrees_with_itself(gait: str, name: str):
    band = bands(gait)[name]
    found = agreement(band.mean, band.mean, band.sd)
    assert found.r == pytest.approx(1.0) and found.cosine == pytest.approx(1.0) and found.vaf == 1.0
    assert found.rmse == found.rmse_shape == found.offset == found.lag == 0.0
    if band.sd is not None:
        assert found.within_1sd == found.within_2sd == 1.0
    else:
        assert np.isnan(found.within_1sd)


@pytest.mark.parametrize("shift", [-12, -3, 1, 7, 15])
@pytest.mark.parametrize("name", ["hip_flexion", "knee_angle", "ankle_angle", "force_vertical"])
def test_a_shift_is_recovered_as_the_lag(name: str, shift: int):
    mean = bands("walking")[name].mean
    later = np.roll(mean[:-1], shift)
    found = agreement(np.append(later, later[0]), mean, None)
    assert found.lag == shift and found.r_lag == pytest.approx(1.0, abs=1e-9) and found.r < 0.999


def test_an_offset_is_told_apart_from_the_form():
    band = bands("walking")["hip_flexion"]
    found = agreement(band.mean + 10.0, band.mean, band.sd)
    assert found.offset == pytest.approx(10.0) == found.rmse and found.rmse_shape == pytest.approx(0.0, abs=1e-9)
    assert found.r == pytest.approx(1.0) and found.within_1sd == 0.0 and found.within_2sd == 1.0  # SD 6.4 to 7.3 degrees


def test_opposite_curves_and_constants():
    mean = np.sin(np.linspace(0, 2 * np.pi, 101))
    assert agreement(-mean, mean, None).r == pytest.approx(-1.0)
    assert np.isnan(agreement(np.ones(101), mean, None).r)
    assert best_lag(np.ones(100), mean[:-1], 15)[0] == 0


def test_every_norm_says_where_it_comes_from():
    for gait in GAITS:
        for cited in [b.citation for b in bands(gait).values()] + [w.citation for w in windows(gait).values()]:
            assert cited.source and cited.doi and cited.licence and cited.people and cited.speed > 0 and "n = " in cited.line


def test_key_points_of_the_published_curves():
    """Peaks as the papers give them (spec: hip 32.3 at 89 %, -8.1 at 54 %; knee 62.3 at 74 %; ankle -13.6 at 65 %)."""
    walk, run = bands("walking"), bands("running")
    assert walk["hip_flexion"].mean.argmin() == 54 and walk["hip_flexion"].mean.min() == pytest.approx(-8.1)
    assert walk["knee_angle"].mean.argmax() == 74 and walk["knee_angle"].mean.max() == pytest.approx(62.3)
    assert abs(int(walk["ankle_angle"].mean.argmin()) - 65) <= 1
    assert run["knee_angle"].mean.max() == pytest.approx(92.4)
    assert walk["moment_ankle_angle"].mean.min() == pytest.approx(-89.0 / 62.0)


def test_an_unknown_gait_is_an_error():
    with pytest.raises(GaitError, match="norm=hopping: must be one of walking, running"):
        bands("hopping")
