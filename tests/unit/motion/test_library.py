"""The built-in motion library: complete, loadable, in range, feet on the floor, reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from mm_torch.motion.clip import MotionError, bind_to_body, load_clip
from mm_torch.motion.library import library_clips, library_dir
from sim_models.kinematics import lowest_sole
from sim_models.registry import load_body
from tools.library.acceptance import measure
from tools.library.curves import Periodic, minimum_jerk, window
from tools.library.fullbody import GAITS
from tools.library.norms import curve
from tools.library.sole import Foot
from tools.make_library import build_clips, compact

LEAST = {"toy_arm": 4, "myo_bimanual": 12, "myo_fullbody": 12}
FIRST = {"toy_arm": "swing", "myo_bimanual": "reach_forward_right", "myo_fullbody": "stand"}


@pytest.mark.parametrize("name", LEAST)
def test_every_clip_is_usable(name: str) -> None:
    body = load_body(name)
    clips = library_clips(name)
    assert len(clips) >= LEAST[name]
    ids = body.independent_hinges
    adr, (low, high) = body.model.jnt_qposadr[ids], body.joint_ranges[ids].T
    for path in clips:
        clip = load_clip(path)
        qpos = bind_to_body(clip, body)
        assert clip.fps == 100.0 and 2.0 <= clip.duration <= 8.0, path.stem
        assert np.abs(body.couplings.residual(clip.qpos)).max(initial=0.0) <= 1e-6, path.stem
        assert (qpos[:, adr] >= low - 1e-6).all() and (qpos[:, adr] <= high + 1e-6).all(), path.stem
        assert np.abs(clip.qpos - qpos).max() <= 1e-6, path.stem
        assert {"source", "licence", "tool", "parameters"} <= clip.provenance.keys(), path.stem
        if body.feet:
            assert lowest_sole(body, qpos[::4]) >= -5e-3, path.stem


@pytest.mark.parametrize("name", ["walk", "walk_slow", "walk_fast", "run"])
def test_gait_walks_forward_without_sliding(name: str) -> None:
    body = load_body("myo_fullbody")
    clip = load_clip(library_dir("myo_fullbody") / f"{name}.npz")
    figures = measure(body, clip, airborne=name == "run")
    assert figures.failures() == []
    travel = clip.qpos[-1, :2] - clip.qpos[0, :2]
    assert travel[1] < -3.0 and abs(travel[0]) < 0.1  # the body faces -y
    assert figures.speed == pytest.approx(clip.provenance["parameters"]["speed"], abs=0.03)
    assert clip.provenance["doi"].startswith("10.7717/peerj") and clip.provenance["licence"] == "CC BY 4.0"


@pytest.mark.parametrize("name", ["walk", "walk_big_arms", "walk_fast", "walk_slow"])
def test_a_walk_has_the_published_angles(name: str) -> None:
    clip = load_clip(library_dir("myo_fullbody") / f"{name}.npz")
    body, stride = load_body("myo_fullbody"), 120.0 / clip.provenance["parameters"]["cadence"]
    phase, contact = np.arange(len(clip.qpos)) / clip.fps / stride, GAITS[name][0].contact
    for side, lag in (("r", 0.0), ("l", 0.5)):
        for joint in ("hip_flexion", "knee_angle", "ankle_angle"):
            angle = clip.qpos[:, body.model.joint(f"{joint}_{side}").qposadr[0]]
            assert np.corrcoef(angle, curve("walking", joint)(phase + lag + contact))[0, 1] >= 0.99, (joint, side)


def test_acceptance_finds_faults() -> None:
    body = load_body("myo_fullbody")
    clip = load_clip(library_dir("myo_fullbody") / "walk.npz")
    clip.qpos[:, 2] -= 0.02
    clip.qpos[:, 1] *= 1.5
    found = " ".join(measure(body, clip).failures())
    assert "under the floor" in found and "slips" in found


@pytest.mark.parametrize("name", FIRST)
def test_regenerating_gives_the_stored_clip(name: str) -> None:
    made = compact(next(build_clips(load_body(name))))
    stored = load_clip(library_dir(name) / f"{FIRST[name]}.npz")
    assert made.name == stored.name
    np.testing.assert_allclose(made.qpos, stored.qpos, atol=1e-4)
    np.testing.assert_allclose(made.site_xpos, stored.site_xpos, atol=1e-4)


def test_unknown_body_is_named() -> None:
    with pytest.raises(MotionError, match=r"centipede.*myo_bimanual"):
        library_clips("centipede")
    with pytest.raises(ValueError, match="no library motions"):
        build_clips(type("Body", (), {"name": "centipede"})())


def test_curves_start_and_stop_at_rest() -> None:
    x = np.linspace(-0.5, 1.5, 2001)
    y = minimum_jerk(x)
    assert y[0] == 0.0 and y[-1] == 1.0
    assert np.abs(np.gradient(y, x)[[500, 1500]]).max() < 1e-3
    assert window(np.array([0.0, 1.0, 2.0]), 0.0, 2.0, 0.5).tolist() == [0.0, 1.0, 0.0]


def test_periodic_series_reproduces_its_samples() -> None:
    phase = np.arange(51) / 50
    samples = np.cos(2 * np.pi * phase) + 0.3 * np.sin(6 * np.pi * phase)
    np.testing.assert_allclose(Periodic(samples, 5)(phase), samples, atol=1e-12)


def test_rolling_foot_touches_the_floor_and_does_not_slip() -> None:
    foot = Foot(load_body("myo_fullbody"))
    pitch = np.deg2rad(np.linspace(15.0, 2.0, 60))  # on the heel: the bone's origin turns about the contact
    rolled = foot.roll(pitch, np.zeros(60), 0.0)
    lowest = [foot.sole(r, 0.0)[:, 2].min() + o[2] for r, o in zip(rolled.rotation, rolled.origin, strict=True)]
    np.testing.assert_allclose(lowest, 0.0, atol=1e-12)
    moved = -(rolled.origin[-1, 1] - rolled.origin[0, 1])
    turned = np.trapezoid(rolled.origin[:, 2], -pitch)  # no slip: dx = height * dpitch
    assert moved == pytest.approx(turned, abs=5e-4)
