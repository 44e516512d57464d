"""Optional repairs: the published model stays the default, each fix changes what it names, and hashes tell."""

from __future__ import annotations

import numpy as np
import pytest

from sim_models.fixes import FIXES, PHANTOM_INERTIA, PHANTOMS, SHOULDER_ARMATURE, SHOULDERS
from sim_models.registry import BodyError, load_body


@pytest.mark.slow
@pytest.mark.parametrize("fix", FIXES)
def test_a_fixed_body_is_told_from_the_published_one(fix: str) -> None:
    published, fixed = load_body("myo_fullbody"), load_body("myo_fullbody", fixes=[fix])
    assert published.fixes == () and fixed.fixes == (fix,)
    assert published.model_hash != fixed.model_hash
    assert fixed.model.body_mass.sum() == published.model.body_mass.sum()


def test_phantoms_get_small_inertias_and_nothing_else_does() -> None:
    published, fixed = (load_body("myo_bimanual", fixes=f).model for f in ([], ["phantom_inertia"]))
    changed = {fixed.body(b).name for b in range(fixed.nbody)
               if not np.array_equal(fixed.body_inertia[b], published.body_inertia[b])}
    assert changed == {*PHANTOMS, "thorax"}
    assert fixed.body("clavphant_r").inertia == pytest.approx([PHANTOM_INERTIA] * 3)
    joints = [(fixed.joint(j), published.joint(j)) for j in range(fixed.njnt)]
    stiffened = {ours.name for ours, theirs in joints if ours.armature[0] != theirs.armature[0]}
    assert stiffened == set(SHOULDERS)
    assert fixed.joint("elv_angle_r").armature[0] == SHOULDER_ARMATURE


def test_left_path_is_the_mirror_image_of_the_right() -> None:
    model = load_body("myo_fullbody", fixes=["long_thoracic_left"]).model
    for s in range(model.nsite):
        name = model.site(s).name
        if name.startswith("LTpT_T12_l_"):
            right = model.site(name.replace("_l_", "_r_", 1)).pos
            np.testing.assert_array_equal(model.site(s).pos, right * [1, 1, -1])


def test_lat1_keeps_its_fibre_length() -> None:
    published, fixed = (load_body("myo_bimanual", fixes=f).model for f in ([], ["lat1_length"]))
    for name in ("LAT1", "LAT1_left"):
        before, after = published.actuator(name).lengthrange, fixed.actuator(name).lengthrange
        np.testing.assert_allclose(after - before, -0.11)


def test_knee_ranges_hold_what_the_couplings_ask_for() -> None:
    """Published, the knee drives joints out of their ranges; fixed, none, and no other range or default value changed."""
    excess, ranges = {}, {}
    for fixes in ((), ("knee_ranges",)):
        body = load_body("myo_fullbody", fixes=fixes)
        model, couplings, worst = body.model, body.couplings, 0.0
        for side in "rl":
            knee = model.joint(f"knee_angle_{side}")
            qpos = np.zeros((2001, model.nq))
            qpos[:, knee.qposadr[0]] = np.linspace(*knee.range, 2001)
            mine = couplings.driver_qpos == knee.qposadr[0]
            driven = [model.dof_jntid[dof] for dof in couplings.dependent_dof[mine]]
            low, high = model.jnt_range[driven].T
            values = couplings.values(qpos)[:, mine]
            worst = max(worst, (low - values).max(), (values - high).max())
        excess[fixes], ranges[fixes] = worst, model.jnt_range.copy()
    assert excess[()] == pytest.approx(2.4e-4, abs=2e-5)
    assert excess[("knee_ranges",)] < 1e-12
    change = np.abs(ranges[("knee_ranges",)] - ranges[()])
    names = {model.joint(j).name for j in np.flatnonzero(change.any(axis=1))}
    assert change.max() < 3e-4
    assert names and all(name.startswith("knee_angle_") and name.count("_") > 2 for name in names)


def test_bad_fixes_are_named() -> None:
    with pytest.raises(BodyError, match=r"unknown fix 'lat1_lenght'.*did you mean 'lat1_length'"):
        load_body("myo_fullbody", fixes=["lat1_lenght"])
    with pytest.raises(BodyError, match="does not apply"):
        load_body("myo_bimanual", fixes=["long_thoracic_left"])
