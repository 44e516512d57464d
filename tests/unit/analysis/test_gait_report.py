"""The report as a person makes it: what it says of known walks, what it writes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mm_torch.evaluation.rollout_file import Rollout, write_rollout
from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_dir
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tests.unit.analysis.walks import SPEED, STRIDE, walking
from tools.analysis.norm_tables import GaitError
from tools.analysis.quantities import Signals
from tools.analysis.strides import find_strides, without_outliers
from tools.analysis.study import study
from tools.analysis.trial import LABELS, check_one_body, read_trials, trial_of
from tools.gait_report import main

MOCAP = Path(__file__).parents[3] / ".." / "shared" / "data" / "mocap"
needs_mocap = pytest.mark.skipif(not MOCAP.is_dir(), reason="captures are not beside the checkout")
LIBRARY = library_dir("myo_fullbody")


@pytest.fixture(scope="module")
def body() -> Embodiment:
    return load_body("myo_fullbody")


@pytest.fixture(scope="module")
def rollout(body: Embodiment) -> Rollout:
    return walking(body)


@pytest.fixture(scope="module")
def walk_file(rollout: Rollout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rollouts") / "walk.npz"
    write_rollout(path, rollout)
    return path


def report(out: Path, *words: object) -> dict:
    assert main([*map(str, words), f"out={out}"]) == 0
    return json.loads((out / "report.json").read_text())


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([*map(str, words), "out=never"]) == 2 and not Path("never").exists()
    return capsys.readouterr().err


def by_quantity(found: dict) -> dict[str, dict]:
    return {row["quantity"]: row for row in found["agreement"]}


# -- known walks ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("gait", "count"), [("walking", 8), ("running", 3)])
def test_the_norm_played_on_the_body_agrees_with_itself(gait: str, count: int):
    found = study(read_trials([Path(f"norm:{gait}")]))
    rows = [row for row in found.comparison if row["counts"]]
    assert len(rows) == count and found.results[0].gait == gait and found.mean_r > 0.999
    for row in rows:
        assert row["r"] > 0.99 and row["r_right"] > 0.99 and row["r_left"] > 0.99 and row["lag"] == 0
        assert row["rmse"] < 0.5 and row["within_1sd"] > 0.98


def test_the_floor_carries_the_body(body: Embodiment, rollout: Rollout):
    """The mean vertical force over strides is the weight, within 3 %; a body that weighs more than the force fails."""
    checks = study([trial_of("walk", rollout, body)]).results[0].checks
    assert checks[0]["value"] == pytest.approx(1.0, abs=0.03) and checks[0]["ok"] and checks[0]["unit"] == "body weights"
    assert checks[1]["value"] == pytest.approx(1.0, abs=0.03) and checks[1]["ok"]
    heavy = study([trial_of("walk", replace(rollout, mass_kg=1.1 * rollout.mass_kg), body)]).results[0].checks
    assert not heavy[0]["ok"] and heavy[0]["value"] == pytest.approx(1.0 / 1.1, abs=0.03)


def test_figures_moments_and_excitations_of_a_walk_with_forces(body: Embodiment, rollout: Rollout):
    found = study([trial_of("walk", rollout, body)])
    figures = found.results[0].figures
    assert figures["speed"] == pytest.approx(SPEED, abs=0.01) and figures["cadence"] == pytest.approx(117.0, abs=1.0)
    assert figures["stride_length"] == pytest.approx(SPEED * STRIDE, abs=0.01)
    assert figures["step_length_right"] + figures["step_length_left"] == pytest.approx(figures["stride_length"], abs=0.02)
    assert figures["step_width"] == pytest.approx(0.11, abs=0.02) and figures["flight"] == 0.0
    assert figures["stance_right"] == pytest.approx(60.3, abs=3.5)
    rows = {row["quantity"]: row for row in found.comparison}
    for joint in ("hip_flexion", "hip_adduction", "knee_angle", "ankle_angle"):  # published moments: signs, sides, kg
        assert rows[f"moment_{joint}"]["r"] > 0.99 and abs(rows[f"moment_{joint}"]["offset"]) < 0.01
    assert rows["force_vertical"]["r"] > 0.95
    for row in found.muscle_rows:
        assert abs(row["lag_ms"]) <= 20.0 and row["overlap"] >= 0.69 and row["r_lag"] > 0.95, row["muscle"]


def test_signs_of_floor_forces(body: Embodiment, rollout: Rollout):
    """The body walks along -y with its left to +x: -y propels, +x is outwards of the left foot and inwards of the right."""
    weight = 9.81 * rollout.mass_kg
    pushed = replace(rollout, foot_force=rollout.foot_force * [0.0, 0.0, 1.0] + [0.05 * weight, -0.2 * weight, 0.0])
    curves = study([trial_of("walk", pushed, body)]).results[0].curves
    for side, outwards in (("right", -5.0), ("left", 5.0)):
        np.testing.assert_allclose(curves["force_fore_aft"][side].mean, 20.0, atol=0.2)
        np.testing.assert_allclose(curves["force_lateral"][side].mean, outwards, atol=0.8)


def test_powers_are_moments_times_speeds(body: Embodiment, rollout: Rollout):
    trial = trial_of("walk", rollout, body)
    strides, _ = find_strides(trial)
    cut = Signals(trial).of_stride(strides[0])
    angle, time = np.radians(cut["knee_angle"]), STRIDE * np.linspace(0.0, 1.0, 101)
    expected = -cut["moment_knee_angle"] * np.gradient(angle, time)  # an extensor moment works while the knee extends
    assert np.corrcoef(expected, cut["power_knee_angle"])[0, 1] > 0.98


def test_a_late_excitation_shows_as_its_delay(body: Embodiment):
    names = "soleus, tibialis anterior"
    trials = [trial_of("walk", walking(body, delay=seconds), body) for seconds in (0.0, 0.08)]
    on_time, late = ({row["muscle"]: row for row in study([t], muscle_names=names).muscle_rows} for t in trials)
    assert set(late) == set(names.split(", "))
    for name, row in late.items():
        assert row["lag_ms"] - on_time[name]["lag_ms"] == pytest.approx(80.0, abs=15.0) and row["r"] < row["r_lag"]


def test_left_and_right_do_not_depend_on_the_direction_of_travel(body: Embodiment, rollout: Rollout):
    """Turned by 130 degrees about the vertical, every curve is the same."""
    angle = np.radians(130.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    half = np.array([np.cos(angle / 2), np.sin(angle / 2)])
    qpos = rollout.qpos.copy()
    w, x, y, z = rollout.qpos[:, 3:7].T
    qpos[:, :3] = rollout.qpos[:, :3] @ turn.T
    qpos[:, 3:7] = np.stack([half[0] * w - half[1] * z, half[0] * x - half[1] * y, half[0] * y + half[1] * x,
                             half[0] * z + half[1] * w], axis=1)
    turned = replace(rollout, qpos=qpos, com=rollout.com @ turn.T, site_position=rollout.site_position @ turn.T,
                     foot_force=rollout.foot_force @ turn.T)
    ours, theirs = (study([trial_of("walk", r, body)]) for r in (rollout, turned))
    for quantity in ours.quantities:
        for side in ("right", "left"):
            np.testing.assert_allclose(theirs.results[0].curves[quantity][side].mean,
                                       ours.results[0].curves[quantity][side].mean, atol=1e-6)
    assert theirs.results[0].figures == pytest.approx(ours.results[0].figures, nan_ok=True)


@needs_mocap
def test_a_measured_run_and_its_joint_angles(tmp_path: Path):
    found = report(tmp_path, MOCAP / "opensim_run" / "ik_output_run.mot")
    assert found["gait"] == "running" and found["mean_r"] is None  # 2.7 m/s, norm 2.5: shown, does not count
    rows = by_quantity(found)
    assert "speed mismatch" in rows["hip_flexion"]["note"] and rows["hip_flexion"]["r"] > 0.95
    assert rows["knee_angle"]["r"] > 0.9 and rows["knee_angle"]["r_lag"] > 0.98
    assert any("no complete stride of the left foot" in s for s in found["left_out"])


# -- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_report_is_whole(tmp_path: Path, walk_file: Path):
    found = report(tmp_path, walk_file)
    page = (tmp_path / "report.html").read_text()
    for text in ("Gait report: walking", "doi 10.7717/peerj.4640", "n = 24 people, 1.245 m/s", "CC BY 4.0", "Ground reaction",
                 "Joint moments and powers", "Muscle excitations", "floor force", "body weights"):
        assert text in page, text
    assert "src='data:image/png" in page and "http://" not in page
    names = {p.name for p in tmp_path.iterdir()}
    assert {f"report_{n}.png" for n in ("angles", "forces", "moments", "muscles")} <= names
    assert {f"report_{n}.csv" for n in ("agreement", "spatiotemporal", "muscles", "checks", "curves")} <= names
    assert len((tmp_path / "report_curves.csv").read_text().splitlines()) == 1 + 3 * 101 * (18 + 28)
    assert found["files"][0]["events_from"] == "floor force" and found["files"][0]["strides"][0]["side"] == "right"
    assert found["left_out"][0].startswith("No openly licensed norm")


def test_a_clip_says_what_it_lacks_and_earlier_pictures_go(tmp_path: Path):
    (tmp_path / "report_forces.png").write_bytes(b"of other files")
    found = report(tmp_path, LIBRARY / "walk.npz")
    assert "ground reaction, joint moments and powers, muscle excitations left out" in found["left_out"][0]
    assert not (tmp_path / "report_forces.png").exists() and "left out" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_several_files_have_a_row_each_and_one_of_all(tmp_path: Path, walk_file: Path):
    found = report(tmp_path, walk_file, LIBRARY / "walk.npz", LIBRARY / "walk_slow.npz", "joints=hip_flexion,knee_angle")
    rows = [row for row in found["agreement"] if row["quantity"] == "knee_angle"]
    names = [row["file"] for row in rows]
    assert len(set(names)) == 4 and names[-1] == "all files" and rows[-1]["note"] == "mean of 2 of 3 files"
    assert not rows[2]["counts"] and rows[2]["note"] == "speed mismatch: 0.99 m/s, norm 1.245 m/s"
    assert {row["quantity"] for row in found["agreement"]} == {"hip_flexion", "knee_angle"}


def test_labels_of_a_clip_come_before_its_soles(body: Embodiment, tmp_path: Path):
    clip = load_clip(LIBRARY / "walk.npz")
    phase = np.arange(len(clip.qpos)) / clip.fps / STRIDE
    contact = np.stack([(phase + lag) % 1.0 < 0.5 for lag in (0.5, 0.0)], axis=1)  # never both: a run by its labels
    replace(clip, contact_names=("toe_l", "heel_r"), contact=contact).save(tmp_path / "labelled.npz")
    trial = read_trials([tmp_path / "labelled.npz"])[0]
    assert trial.contact_from == LABELS and np.array_equal(trial.contact, contact[:, ::-1])


def test_a_reference_takes_the_place_of_a_band(tmp_path: Path):
    text = "\t".join(["Time", "RKneeAngleZ"]) + "\n" + "".join(f"{k}\t{60 * np.sin(k / 50):.3f}\n" for k in range(101))
    (tmp_path / "own.txt").write_text(text)
    found = report(tmp_path / "out", LIBRARY / "walk.npz", f"reference={tmp_path / 'own.txt'}")
    rows = by_quantity(found)
    assert rows["knee_angle"]["r"] < 0.9 < rows["hip_flexion"]["r"] and rows["knee_angle"]["within_1sd"] is None
    assert "own.txt" in found["norms"]["knee_angle"]["source"]


# -- what is refused --------------------------------------------------------------------------------------------------
def test_gaits_are_not_mixed_up(capsys: pytest.CaptureFixture[str]):
    told = refused(capsys, LIBRARY / "run.npz", "norm=walking")
    assert "run: is running (2.50 m/s" in told and "not to be compared with norm=walking; give norm=running" in told
    told = refused(capsys, LIBRARY / "walk.npz", LIBRARY / "run.npz")
    assert "run: is running" in told and "make a report of each gait" in told
    assert "norm=hopping: must be one of walking, running" in refused(capsys, LIBRARY / "walk.npz", "norm=hopping")


def test_no_complete_stride_is_told_with_what_was_found(capsys: pytest.CaptureFixture[str]):
    told = refused(capsys, LIBRARY / "squat_slow.npz")
    assert "squat_slow: no complete stride in" in told and "heel strikes: 0 right, 0 left, by height and speed" in told


def test_bodies_are_not_mixed_and_must_have_legs(capsys: pytest.CaptureFixture[str], tmp_path: Path, rollout: Rollout):
    arms = library_dir("myo_bimanual") / "clap.npz"
    assert "body myo_bimanual does not walk (no joint hip_flexion_r)" in refused(capsys, LIBRARY / "walk.npz", arms)
    write_rollout(tmp_path / "hands.npz", replace(rollout, body="nobody"))
    assert "nobody" in refused(capsys, tmp_path / "hands.npz")


def test_mixed_bodies_are_named(body: Embodiment, rollout: Rollout):
    """Only one body with legs is shipped, so another is made of it."""
    mine, other = (trial_of(n, rollout, b) for n, b in (("walk", body), ("run", replace(body, name="other_body"))))
    with pytest.raises(GaitError, match="run: body other_body, but walk has myo_fullbody; mixed bodies are not compared"):
        check_one_body([mine, mine, other])


def test_unknown_names_are_told_with_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path, rollout: Rollout):
    assert "joints=knee_angel: unknown" in (told := refused(capsys, LIBRARY / "walk.npz", "joints=knee_angel"))
    assert "did you mean 'knee_angle'?" in told
    assert "did you mean 'soleus'?" in refused(capsys, LIBRARY / "walk.npz", "muscles=soles")
    muscles = ("soleus_x", *rollout.muscle_names[1:])
    write_rollout(tmp_path / "odd.npz", replace(rollout, muscle_names=muscles))
    told = refused(capsys, tmp_path / "odd.npz")
    assert "odd.npz: unknown muscle 'soleus_x' for body myo_fullbody, nearest is 'soleus_" in told
    joints = tuple("knee" if n == "knee_angle_r" else n for n in rollout.joint_names)
    write_rollout(tmp_path / "odd.npz", replace(rollout, joint_names=joints))
    assert "odd.npz: unknown joint 'knee' for body myo_fullbody" in refused(capsys, tmp_path / "odd.npz")


def test_other_files_and_options_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert "no file given" in refused(capsys)
    (tmp_path / "walk.csv").write_text("a")
    assert "give rollouts or clips (.npz), or OpenSim" in refused(capsys, tmp_path / "walk.csv")
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    assert "bad.npz: " in refused(capsys, tmp_path / "bad.npz")
    assert "no such motion file" in refused(capsys, tmp_path / "none.npz")
    assert "unknown option 'norms'" in refused(capsys, LIBRARY / "walk.npz", "norms=walking")


def test_a_stride_of_odd_length_does_not_count(body: Embodiment, rollout: Rollout):
    strides, gait = find_strides(trial_of("walk", rollout, body))
    assert gait == "walking" and len(strides) == 6
    long = replace(strides[-1], stop=strides[-1].stop + 20)
    assert without_outliers([*strides[:-1], long]) == strides[:-1]
