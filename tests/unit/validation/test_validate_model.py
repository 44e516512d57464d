"""The checks of models: self-tests on small models, and what was measured on the published ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
import pytest

from sim_models.registry import PUBLISHED
from tools.validate_model import load_subject, main
from tools.validation import force_length, inertia, jumps, moment_arms, symmetry
from tools.validation.subject import Subject

ARM = """<body name='arm_{s}' pos='{x} 0 0'><joint name='j_{s}' axis='1 0 0' range='-1 1' limited='true'/>
<geom name='g_{s}' type='capsule' size='.02' fromto='0 0 0 0 0 -.3' mass='1'/><site name='b_{s}' pos='{b} .03 -.1'/></body>
<site name='a_{s}' pos='{a} .05 .1'/>"""
MUSCLE = "<muscle name='m_{s}' tendon='t_{s}' lengthrange='.15 .3'/>"
PAIR = ("<mujoco><compiler autolimits='true'/><worldbody>" + ARM.format(s="r", x=0.2, b=0.01, a=0.21)
        + ARM.format(s="l", x=-0.2, b=-0.01, a=-0.21) + "</worldbody><tendon>"
        + "".join(f"<spatial name='t_{s}'><site site='a_{s}'/><site site='b_{s}'/></spatial>" for s in "rl")
        + "</tendon><actuator>" + "".join(MUSCLE.format(s=s) for s in "rl") + "</actuator></mujoco>")
# Two points 10 cm from the axis of a cylinder of 5 cm radius, one turning about it. The path goes the side site's way round
# until the turning point stands opposite the side site (45 deg), at -135 deg; there it drops to the straight line.
JUMPING = """<mujoco><worldbody><site name='p' pos='-.1 0 0'/><site name='side' pos='.0707107 0 .0707107'/>
<geom name='wrap' type='cylinder' size='.05 .1' euler='90 0 0' contype='0' conaffinity='0'/>
<body><joint name='turn' axis='0 -1 0' range='-250 90' limited='true'/>
<geom size='.01' pos='.1 0 0' mass='1'/><site name='q' pos='.1 0 0'/></body></worldbody>
<tendon><spatial name='t'><site site='p'/><geom geom='wrap' sidesite='side'/><site site='q'/></spatial></tendon>
<actuator><muscle name='m' tendon='t' lengthrange='.1 .3'/></actuator></mujoco>"""
WRAP_JUMP = np.radians(-135)
WRAP_STEP = 2 * 0.1 * np.sin(np.radians(60)) + 0.05 * np.radians(315 - 120) - 2 * 0.1 * np.sin(np.radians(22.5))  # m


def pair(**moved: float) -> Subject:
    spec = mujoco.MjSpec.from_string(PAIR)
    for site, offset in moved.items():
        spec.site(site).pos = spec.site(site).pos + np.array([0.0, offset, 0.0])
    return Subject("pair", spec.compile())


CHECKS = (symmetry.frames, symmetry.masses, symmetry.parameters, symmetry.paths, symmetry.arms, symmetry.contacts,
          symmetry.unpaired)


def test_a_mirrored_model_has_no_asymmetry() -> None:
    assert [f for check in CHECKS for f in check(pair())] == []


def test_large_path_error_is_an_error_of_the_moment_arm() -> None:
    found = list(symmetry.arms(pair(b_l=0.02)))
    assert [(f.level, f.element) for f in found] == [("ERROR", "m_l")]
    assert found[0].value > 1.0


@pytest.mark.parametrize("muscle", ["BIClong", "PQ_left"])
def test_site_moved_by_1_mm_flags_exactly_that_muscle(muscle: str) -> None:
    spec = PUBLISHED["myo_bimanual"]()
    model = spec.compile()
    assert list(symmetry.paths(Subject("arms", model))) == []
    tendon = model.actuator(muscle).trnid[0]
    site = model.site(int(model.wrap_objid[model.tendon_adr[tendon]]))
    model.site_pos[site.id, 0] += 1e-3
    found = list(symmetry.paths(Subject("arms", model)))
    right = muscle.removesuffix("_left")
    assert [f.element for f in found] == [f"{right}, {right}_left"]
    assert found[0].value == pytest.approx(1.0, abs=1e-3)


def test_wrap_jump_is_found_where_it_is() -> None:
    subject = Subject("jump", mujoco.MjModel.from_xml_string(JUMPING))
    joint = subject.joints[0]
    found = list(jumps.discontinuities(subject, subject.neutral, subject.sweeps[joint]))
    assert len(found) == 1
    assert found[0][1] == pytest.approx(WRAP_JUMP, abs=1e-5)
    assert found[0][2] == pytest.approx(WRAP_STEP, abs=1e-5)
    (finding,) = jumps.neutral(subject)
    assert (finding.level, finding.element) == ("ERROR", "m")


def test_smooth_path_has_no_jump() -> None:
    assert list(jumps.neutral(pair())) == []


@pytest.mark.parametrize("body", ["myo_fullbody", "myo_bimanual"])
def test_inertia_errors_are_the_nine_attachment_frames(body: str) -> None:
    found = {f.element for f in inertia.phantom(load_subject(body, []))}
    frames = {f"{n}_{s}" for n in ("clavphant", "scapphant", "humphant", "humphant1") for s in "rl"}
    assert found == frames | {"thorax"}
    assert list(inertia.phantom(load_subject(body, ["phantom_inertia"]))) == []


@cache
def published(body: str) -> Subject:
    return load_subject(body, [])


def test_segments_off_from_both_tables() -> None:
    subject = published("myo_fullbody")
    assert subject.model.body_mass.sum() == pytest.approx(84.270, abs=5e-4)
    warned = {f.element for f in inertia.fractions(subject) if f.level == "WARN"}
    assert warned == {"head and neck", "lumbar", "pelvis and sacrum"}


LIMB = """<mujoco><worldbody><body name='humerus_r'><joint axis='1 0 0' range='-1 1' limited='true'/>
<geom type='cylinder' size='.04' fromto='0 0 {top} 0 0 {bottom}' mass='2'/><geom type='cylinder' size='.04'
fromto='0 0 {bottom} 0 0 {top}' mass='1'/><body name='ulna_r' pos='0 0 -.3'><geom size='.02' mass='1'/></body></body>
</worldbody></mujoco>"""


@pytest.mark.parametrize(("top", "bottom", "levels"), [(0.0, -0.26, {"INFO"}), (-0.2, -0.3, {"WARN"})])
def test_centre_and_radius_of_a_rod(top: float, bottom: float, levels: set[str]) -> None:
    found = list(inertia.limbs(Subject("rod", mujoco.MjModel.from_xml_string(LIMB.format(top=top, bottom=bottom)))))
    assert [(f.element, f.check) for f in found] == [("upper arm", "inertia.centre"), ("upper arm", "inertia.radius")]
    assert {f.level for f in found} == levels
    height = top - bottom
    assert found[0].value == pytest.approx(-100 * (top + bottom) / 2 / 0.3)
    assert found[1].value == pytest.approx(100 * np.sqrt(height**2 / 12 + 0.04**2 / 4) / 0.3)


def test_limbs_beside_the_tables() -> None:
    found = {(f.check, f.element): f for f in inertia.limbs(published("myo_fullbody"))}
    centres = {limb: f.value for (check, limb), f in found.items() if check == "inertia.centre"}
    known = {"upper arm": 48.5, "forearm": 45.1, "thigh": 48.2, "shank": 43.8}  # the thigh's without its patella
    assert centres == pytest.approx(known, abs=0.3)
    radii = {limb: f.value for (check, limb), f in found.items() if check == "inertia.radius"}
    assert radii == pytest.approx({"upper arm": 27.2, "forearm": 30.4, "thigh": 35.1, "shank": 35.6}, abs=0.3)
    assert [key for key, f in found.items() if f.level != "INFO"] == [("inertia.centre", "thigh")]
    arms = {f.element: f.level for f in inertia.limbs(published("myo_bimanual"))}
    assert arms == {"upper arm": "INFO", "forearm": "INFO"}


def test_dead_muscles_of_the_arms_and_their_repair() -> None:
    dead = [f.element for f in force_length.dead(published("myo_bimanual")) if f.level == "ERROR"]
    assert dead == ["LAT1", "LAT1_left"]
    repaired = force_length.dead(load_subject("myo_bimanual", ["lat1_length"]))
    assert [f.element for f in repaired if f.level == "ERROR"] == []


def test_moment_arms_beside_published_ones() -> None:
    subject = load_subject("myo_bimanual", [])
    joints = [subject.model.joint(name).id for name in ("elbow_flex_r", "shoulder_elv_r")]
    subject.sweeps = {j: subject.sweep(subject.neutral, j, 66) for j in joints}
    found = {f.element: f.value for f in moment_arms.compare(subject)}
    elbow = {"BRD": 10.2, "BIClong": 11.9, "BRA": 6.4, "ECRL": 1.8, "FCR": 8.8, "ECU": 4.6, "ANC": 3.2, "TRIlong": 3.2}
    for muscle, value in elbow.items():  # measured before, in another posture of the forearm
        assert found[f"{muscle} at elbow_flex_r"] == pytest.approx(value, abs=1.3)
    assert len(found) == 19 and "TMAJ at shoulder_elv_r" in found
    assert list(moment_arms.compare(pair())) == []


@pytest.mark.parametrize(("arguments", "told"), [
    (["body=myo_fulbody"], "did you mean 'myo_fullbody'"),
    (["body=myo_bimanual", "fixes=phantom_inerta"], "did you mean 'phantom_inertia'"),
    (["body=toy_arm", "fixes=lat1_length"], "does not apply"),
    (["bdy=toy_arm"], "bdy"),
])
def test_bad_options_are_named(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_report_of_the_toy(tmp_path: Path) -> None:
    assert main(["body=toy_arm", f"json={tmp_path / 'toy.json'}", f"out={tmp_path / 'page'}"]) == 0
    content = json.loads((tmp_path / "toy.json").read_text())
    assert content["mass_kg"] == pytest.approx(8.0) and content["verdicts"]["ERROR"] == 0
    assert {"level", "check", "element", "value"} <= set(content["findings"][0])
    assert "Model validation: toy_arm" in (tmp_path / "page" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("body", "more"), [
    ("myo_bimanual", set()), ("myo_fullbody", {"rect_abd_r", "rect_abd_l", "LTpT_T12_l"})])
def test_errors_of_the_published_models(body: str, more: set[str], tmp_path: Path) -> None:
    assert main([f"body={body}", f"json={tmp_path / 'all.json'}"]) == 1
    findings = json.loads((tmp_path / "all.json").read_text())["findings"]
    errors = [f["element"] for f in findings if f["level"] == "ERROR"]
    frames = {f"{n}_{s}" for n in ("clavphant", "scapphant", "humphant", "humphant1") for s in "rl"} | {"thorax"}
    assert len(errors) == len(set(errors))
    assert set(errors) == frames | {"LAT1", "LAT1_left", "SUP", "SUP_left"} | more
    jumping = {f["element"] for f in findings if f["check"] == "jump.random"}
    assert {"TMAJ", "LAT3", "DELT1"} <= {name.removesuffix("_left") for name in jumping}
