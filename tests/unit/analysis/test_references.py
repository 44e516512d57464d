"""Files that users download: made here in their published layouts, and refused where they are something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tools.analysis.norm_tables import GaitError, bands
from tools.analysis.references import find_files, read_references

MEANS = {name: bands("walking")[name].mean for name in ("hip_flexion", "knee_angle", "ankle_angle")}


def write_fukuchi(path: Path, knee: float = 0.0, rows: int = 101, running: bool = False) -> Path:
    joints = ("hipAngZ25", "kneeAngZ25", "ankleAngZ25") if running else ("HipAngleZ", "KneeAngleZ", "AnkleAngleZ")
    names = [f"{side}{joint}" for side in "RL" for joint in joints]
    lines = ["\t".join(["PercGcycle" if running else "Time", *names])]
    for k in range(rows):
        values = [MEANS["hip_flexion"][k], MEANS["knee_angle"][k] + knee, MEANS["ankle_angle"][k]]
        lines.append("\t".join(f"{v:.4f}" for v in [k, *values, *values]))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_step(path: Path) -> Path:
    """A cycle as Gait120 stores it: OpenSim signs, knee negative in flexion."""
    columns = {"time": np.arange(101) / 100.0, "hip_flexion_r": MEANS["hip_flexion"], "knee_angle_r": -MEANS["knee_angle"],
               "ankle_angle_r": MEANS["ankle_angle"], "hip_flexion_l": np.zeros(101), "knee_angle_l": -MEANS["knee_angle"]}
    rows = "\n".join("\t".join(f"{v:.5f}" for v in row) for row in np.stack(list(columns.values()), axis=1))
    head = f"Coordinates\nversion=1\nnRows=101\nnColumns={len(columns)}\ninDegrees=yes\nendheader\n"
    path.write_text(head + "\t".join(columns) + "\n" + rows + "\n")
    return path


def test_fukuchi_walking_and_running_texts(tmp_path: Path):
    for running in (False, True):
        found = read_references(write_fukuchi(tmp_path / f"{running}.txt", running=running)).angles
        assert set(found) == set(MEANS)
        for name, mean in MEANS.items():
            np.testing.assert_allclose(found[name].mean, mean, atol=1e-3)


def test_a_directory_is_averaged_and_has_a_spread(tmp_path: Path):
    for k, knee in enumerate((-3.0, 0.0, 3.0)):
        write_fukuchi(tmp_path / f"WBDS0{k}walkT05ang.txt", knee)
    write_fukuchi(tmp_path / "WBDS01walkT08ang.txt", 90.0)
    (tmp_path / "WBDS01walkT05grf.txt").write_text("raw forces")
    band = read_references(tmp_path / "*T05ang.txt").angles["knee_angle"]
    all_speeds = read_references(tmp_path).angles["knee_angle"]  # and no raw forces
    np.testing.assert_allclose(all_speeds.mean, MEANS["knee_angle"] + 22.5, atol=1e-3)
    np.testing.assert_allclose(band.mean, MEANS["knee_angle"], atol=1e-3)
    np.testing.assert_allclose(band.sd, np.std([-3, -3, 0, 0, 3, 3], ddof=1), atol=1e-3)


def test_a_step_of_gait120_counts_right_only_and_knees_flex_positive(tmp_path: Path):
    found = read_references(write_step(tmp_path / "Step01.mot")).angles
    np.testing.assert_allclose(found["hip_flexion"].mean, MEANS["hip_flexion"], atol=1e-3)  # not the left's zeros
    np.testing.assert_allclose(found["knee_angle"].mean, MEANS["knee_angle"], atol=1e-3)


def test_of_gait120_only_level_walking_counts(tmp_path: Path):
    for task in ("LevelWalking", "StairAscent"):
        (tmp_path / "S001" / "JointAngle" / task / "Trial01").mkdir(parents=True)
        write_step(tmp_path / "S001" / "JointAngle" / task / "Trial01" / "Step01.mot")
    assert [p.parts[-3] for p in find_files(tmp_path)] == ["LevelWalking"]


def test_emg_of_gait120_structs(tmp_path: Path):
    wave = 0.5 + 0.5 * np.sin(np.linspace(0, 2 * np.pi, 101))
    step = {"EMGs_interpolated": {"GastrocnemuisMedialis": wave, "SoleusMedialis": 2 * wave}}
    savemat(tmp_path / "ConvertedData.mat", {"LevelWalking": {"Trial01": {"nSteps": 1, "Step01": step}}})
    found = read_references(tmp_path / "ConvertedData.mat").envelopes
    assert set(found) == {"gastrocnemius medialis", "soleus"}
    np.testing.assert_allclose(found["soleus"].mean, 2 * wave)


def test_what_cannot_be_read_is_told(tmp_path: Path):
    with pytest.raises(GaitError, match=r"60 rows below a heading, 101 are needed"):
        read_references(write_fukuchi(tmp_path / "short.txt", rows=60))
    (tmp_path / "other.txt").write_text("a\tb\n" + "1\t2\n" * 101)
    with pytest.raises(GaitError, match="no column RHipAngleZ"):
        read_references(tmp_path / "other.txt")
    (tmp_path / "bad.mat").write_bytes(b"no matlab file" * 20)
    with pytest.raises(GaitError, match=r"bad\.mat: .*save it in MATLAB with -v7"):
        read_references(tmp_path / "bad.mat")
    savemat(tmp_path / "empty.mat", {"LevelWalking": {"Trial01": {"Step01": {"EMGs_filt": np.zeros(3)}}}})
    with pytest.raises(GaitError, match=r"no LevelWalking\.TrialNN\.StepNN\.EMGs_interpolated.*table2struct"):
        read_references(tmp_path / "empty.mat")
    savemat(tmp_path / "task.mat", {"StairAscent": 1.0})
    with pytest.raises(GaitError, match="no struct 'LevelWalking'"):
        read_references(tmp_path / "task.mat")
    (tmp_path / "walk.c3d").write_bytes(b"\x02\x50")
    with pytest.raises(GaitError, match=r"a \.c3d file.*export angles"):
        read_references(tmp_path / "walk.c3d")
    with pytest.raises(GaitError, match="no such file"):
        read_references(tmp_path / "nowhere.txt")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(GaitError, match="no file of that pattern or below"):
        read_references(tmp_path / "nothing")
