"""The report: figures against direct computations, one page that needs nothing else, and clear errors."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from mm_torch.motion.clip import Clip, load_clip
from mm_torch.video import VideoError
from sim_models.registry import load_body
from tools import motion_report
from tools.report import pictures
from tools.report.measure import measure_directory
from tools.report.tables import FIGURES
from tools.retargeting.manifest import make_row, write_manifest

FRAMES = 40


def waving(body_name: str, amplitude: float) -> Clip:
    """Both arms wave; sites miss their targets by 1 cm, the right hand by 3 cm."""
    body = load_body(body_name)
    qpos = np.repeat(body.neutral_qpos[None], FRAMES, axis=0)
    wave = amplitude * (1.0 - np.cos(2 * np.pi * np.arange(FRAMES) / FRAMES))
    for joint in ("elbow_flex_r", "elbow_flex_l"):
        qpos[:, body.model.joint(joint).qposadr[0]] += wave
    error = np.full((FRAMES, len(body.site_names)), 0.01)
    error[:, body.site_names.index("right_hand_mimic")] = 0.03
    return Clip.from_qpos(body, qpos, 100.0, provenance={}, fit_error=error)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, amplitude in (("calm", 0.1), ("deep/wild <1>", 0.4)):
        waving("myo_bimanual", amplitude).save(folder / f"{name}.npz")
    waving("myo_bimanual", 0.1).save(folder / "trajectory" / "calm.npz")  # the original's files are no clips of ours
    write_manifest(folder / "manifest.csv", [
        make_row({"clip": "calm", "status": "ok"}, {"slip_p95": 0.04, "ms_per_frame": 1.5}),
        make_row({"clip": "deep/wild <1>", "status": "ok"}, {"slip_p95": 0.2, "ms_per_frame": 2.5}),
        make_row({"clip": "gone", "status": "failed", "reason": "gone.bvh: no frame rate", "source": "gone.bvh"}, {}),
    ])
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_page_and_tables(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    page = tmp_path / "r.html"
    assert motion_report.main([str(directory), f"out={page}", "strips=1"]) == 0
    assert "2 clips" in capsys.readouterr().out
    text = page.read_text()
    assert "2 clips, 80 frames" in text and "1 captures failed" in text and "gone.bvh: no frame rate" in text
    assert not re.search(r"(src|href)=['\"](?!data:)", text) and "http" not in text  # self-contained
    assert "deep/wild &lt;1&gt;" in text and "<1>" not in text
    assert text.count("data:image/") == 6  # figures, worst frames, sites twice, joints and one strip
    clips = {row["clip"]: row for row in read_csv(tmp_path / "r_clips.csv")}
    assert set(clips) == {"calm", "deep/wild <1>"}
    expected = 1e3 * np.sqrt((6 * 0.01**2 + 0.03**2) / 7)
    assert float(clips["calm"]["fit, mm"]) == pytest.approx(expected, rel=1e-4)
    assert clips["calm"]["frames"] == "40" and float(clips["calm"]["slip, 95 %, cm/s"]) == pytest.approx(4.0)
    summary = {row["figure"]: row for row in read_csv(tmp_path / "r_summary.csv")}
    slip = summary["slip, 95 %, cm/s"]
    assert (slip["worst clip"], slip["clips over it"]) == ("deep/wild <1>", "1") and float(slip["mean"]) == 12.0
    assert "<td class='n over' data-v='12.0'>12" in text  # beyond its bound of 10 cm/s, which holds for the mean
    sites = {row["site"]: row for row in read_csv(tmp_path / "r_sites.csv")}
    assert float(sites["right_hand"]["mean over clips"]) == pytest.approx(30.0, rel=1e-4)
    sides = {(row["figure"], row["of"]): row for row in read_csv(tmp_path / "r_sides.csv")}
    assert float(sides["fit, mm", "hand"]["left - right"]) == pytest.approx(-20.0, rel=1e-4)
    assert float(sides["range of motion, rad", "elbow_flex"]["left - right"]) == pytest.approx(0.0, abs=1e-9)
    joints = {row["joint"]: row for row in read_csv(tmp_path / "r_joints.csv")}
    assert float(joints["elbow_flex_r"]["range of motion"]) == pytest.approx(0.8, abs=1e-3)
    assert joints["elbow_flex_r"]["kind"] == "free" and joints["sternoclavicular_r2_r"]["kind"] == "coupled"


def test_figures_are_those_of_the_clip(directory: Path):
    collection = measure_directory(directory)
    clip = load_clip(directory / "deep" / "wild <1>.npz")
    measured = next(c for c in collection.clips if c.name == "deep/wild <1>")
    elbow = clip.qpos[:, collection.body.model.joint("elbow_flex_r").qposadr[0]]
    read = {figure.name: figure.read(measured) for figure in FIGURES}
    assert read["max_speed"] == pytest.approx(np.abs(np.diff(elbow)).max() * 100, rel=1e-5)
    assert read["coupler_max"] < 1e-12 and 0 <= read["qvel_error"] < 1e-6
    assert read["ms_per_frame"] == 2.5 and np.isnan(read["zmp_outside_mean_m"])
    low, high = collection.body.model.jnt_range[collection.body.hinge_ids].T
    values = clip.qpos[:, collection.body.hinge_qpos]
    outside = ((values < low - 1e-5) | (values > high + 1e-5)).mean()
    assert read["limit_pct"] == pytest.approx(100 * outside)


def test_stick_figures_where_nothing_renders(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_stage(*_: object) -> None:
        raise VideoError("no OpenGL backend works")

    monkeypatch.setattr(pictures, "Stage", no_stage)
    assert motion_report.main([str(directory), f"out={tmp_path / 'r.html'}", "strips=2"]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "stick figures, because no OpenGL backend works here" in text
    assert text.count("data:image/png") == 7 and "data:image/jpeg" not in text


def test_clips_without_manifest_and_without_errors(tmp_path: Path):
    body = load_body("toy_arm")
    qpos = body.neutral_qpos + np.linspace(0, 0.3, 12)[:, None] * np.ones(body.model.nq)
    clip = Clip.from_qpos(body, qpos, 100.0, provenance={})
    clip.save(tmp_path / "x.npz")
    assert motion_report.main([str(tmp_path), "strips=0"]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "Fit by site" not in text and "<h2>Strips" not in text
    row = read_csv(tmp_path / "report_clips.csv")[0]
    assert row["frames"] == "12" and "fit, mm" not in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "0 directories given"),
        (["nowhere"], "nowhere: no such directory"),
        (["{empty}"], "no clip"),
        (["{mixed}"], "holds clips of .* and"),
        (["{mixed}", "out=x.pdf"], "out=x.pdf: must end in .html"),
        (["{mixed}", "strip=3"], "unknown option 'strip'.*did you mean 'strips'"),
        (["{mixed}", "strips=-1"], "strips=-1"),
    ],
)
def test_wrong_commands(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    empty, mixed = tmp_path / "empty", tmp_path / "mixed"
    empty.mkdir()
    for name in ("toy_arm", "myo_bimanual"):
        body = load_body(name)
        Clip.from_qpos(body, np.repeat(body.neutral_qpos[None], 5, axis=0), 100.0, provenance={}).save(mixed / f"{name}.npz")
    assert motion_report.main([a.format(empty=empty, mixed=mixed) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error
