"""The command: what it refuses, how it names clips, what it makes again, and both bodies from end to end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from mm_torch.motion.clip import Clip, load_clip
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tests.unit.retargeting.captures import walking_poses, write_amass
from tools import retarget
from tools.report.measure import measure_directory
from tools.report.tables import FIGURES as REPORTED
from tools.retargeting import jobs, pipeline
from tools.retargeting.inputs import UsageError, find_sources
from tools.retargeting.jobs import Job, run_parallel
from tools.retargeting.manifest import read_manifest
from tools.retargeting.metrics import Metrics
from tools.retargeting.readers import Options
from tools.retargeting.settings import SETTINGS, parse
from tools.retargeting.skeleton import CaptureError

ROOT = Path(__file__).parents[3]
SUFFIXES = (".npz", ".amc", ".bvh")
BODY = "body=myo_bimanual"
FIGURES = Metrics(10, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


# -- the command line -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bdy=myo_fullbody"], "unknown key 'bdy'.*did you mean 'body'"),
        (["--write-trajektory"], "unknown key 'write_trajektory'.*did you mean 'write_trajectory'"),
        ([], r"body is missing: give body=myo_fullbody\|myo_bimanual"),
        (["fixes=knee_range", "body=myo_fullbody", "out=x"], "fixes=knee_range: no 'knee_range'.*did you mean knee_ranges"),
        (["body=fullbody", "out=x"], r"body=fullbody: choose myo_fullbody\|myo_bimanual; did you mean myo_fullbody"),
        (["body=myo_fullbody"], "out is missing: give out=DIR"),
        (["body=myo_fullbody", "out=x", "out=y"], r"out is given twice \(x and y\)"),
        (["body=myo_fullbody", "out=x", "source=c3d"], r"source=c3d: choose auto\|"),
        (["body=myo_fullbody", "out=x", "fps=fast"], r"fps=fast: a number from 1 to 10000 \(1/s\) is needed"),
        (["body=myo_fullbody", "out=x", "fps=0"], "fps=0: a number from 1"),
        (["body=myo_fullbody", "out=x", "fps_in=nan"], "fps_in=nan: a number from 1"),
        (["body=myo_fullbody", "out=x", "workers=0"], "workers=0: a whole number from 1"),
        (["body=myo_fullbody", "out=x", "workers=1.5"], "workers=1.5: a whole number"),
        (["body=myo_fullbody", "out=x", "activations=yes"], r"activations=yes: choose true\|false"),
        (["body=myo_fullbody", "out=x", "units=feet"], r"units=feet: choose m\|cm\|mm\|inch or a number of metres"),
        (["body=myo_fullbody", "out=x", "units=-1"], "units=-1: choose"),
        (["body=myo_fullbody", "out=x", "asf=none.asf"], "asf=none.asf: no such file"),
        (["body=myo_fullbody", "out=x", "smplh_model=none.npz"], r"no such file; register at .*convert_smplh\.py"),
        (["body=myo_fullbody", "out=x", "--write-trajectory", "fps=50"], "fps=50: write_trajectory needs fps=100"),
        (["body=myo_fullbody", "out=x"], "no inputs"),
        (["nowhere/*.amc", "body=myo_fullbody", "out=x"], r"nowhere/\*.amc: no motion capture found"),
    ],
)
def test_wrong_commands_are_one_line_and_exit_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    assert retarget.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_help_names_every_setting(capsys: pytest.CaptureFixture):
    assert retarget.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {key}=" in text for key in SETTINGS)
    assert "Examples:" in text and "Exit status" in text and "(default 100.0)" in text and "(required)" in text


def test_settings_have_types_and_defaults(tmp_path: Path):
    inputs, values = parse(["a.bvh", "--write-trajectory", "out=o", "workers=3", "body=myo_fullbody", "fps_in=59.94"])
    assert inputs == ["a.bvh"] and values["write_trajectory"] is True and values["workers"] == 3
    assert values["out"] == Path("o") and values["fps_in"] == 59.94 and values["fps"] == 100.0 and values["asf"] is None
    odd = tmp_path / "fps=30.bvh"
    odd.touch()
    assert parse([str(odd), "out=o", "body=myo_fullbody"])[0] == [str(odd)]  # a file that looks like a setting


# -- inputs -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("KIT/3/walk_poses.npz", "KIT/4/walk_poses.npz", "KIT/4/shape.npz", "KIT/4/neutral_stagei.npz",
                 "KIT/4/A2 - turn (1).bvh", "KIT/4/note.txt", "KIT/4/.half.npz", "out/old.npz", "x_analysis.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(inputs: list[str], out: Path) -> list[str]:
    return [source.name for source in find_sources(inputs, SUFFIXES, out)]


def test_directories_and_patterns_keep_their_folders(tree: Path):
    assert names([str(tree)], tree / "out") == ["KIT/3/walk_poses", "KIT/4/A2 - turn (1)", "KIT/4/walk_poses"]
    assert names([f"{tree}/KIT/*/*_poses.npz"], tree / "out") == ["3/walk_poses", "4/walk_poses"]
    assert names([f"{tree}/**/*.bvh"], tree / "out") == ["KIT/4/A2 - turn (1)"]
    assert names([str(tree / "KIT/3/walk_poses.npz")], tree / "out") == ["walk_poses"]


def test_a_file_named_twice_is_one_clip(tree: Path):
    assert names([str(tree / "KIT/3"), f"{tree}/KIT/3/*.npz"], tree / "out") == ["walk_poses"]


def test_two_clips_of_one_name_are_refused_by_naming_both(tree: Path):
    files = [str(tree / f"KIT/{k}/walk_poses.npz") for k in (3, 4)]
    with pytest.raises(UsageError, match=r"KIT/3/walk_poses\.npz and .*KIT/4/walk_poses\.npz would both .* walk_poses\.npz"):
        find_sources(files, SUFFIXES, tree / "out")
    (tree / "KIT/3/walk_poses.bvh").touch()
    with pytest.raises(UsageError, match=r"walk_poses\.bvh and .*walk_poses\.npz would both"):
        find_sources([str(tree / "KIT")], SUFFIXES, tree / "out")


def test_a_split_selects_and_says_what_it_lacks(tree: Path, capsys: pytest.CaptureFixture):
    sources = find_sources([str(tree)], SUFFIXES, tree / "out")
    split = tree / "some.txt"
    split.write_text("# two of three\nKIT/4/walk_poses\nKIT/9/run_poses\n")
    assert [s.name for s in retarget.chosen(sources, split)] == ["KIT/4/walk_poses"]
    assert "1 motions found, 1 are not among the inputs, e.g. KIT/9/run_poses" in capsys.readouterr().out
    split.write_text("KIT/9/run_poses\n")
    with pytest.raises(UsageError, match="none of its motions is among the 3 captures"):
        retarget.chosen(sources, split)


# -- what is made, and what is made again -----------------------------------------------------------------------------
def stub(body: Embodiment, path: Path, options: Options, name: str) -> tuple[Clip, Metrics]:
    """Makes a clip without solving anything: the first byte of the file decides how the arms are held."""
    content = path.read_bytes()
    if content == b"bad":
        raise CaptureError(f"{path}: no frame rate; give fps_in=")
    if content == b"bug":
        raise KeyError("poses")
    if content == b"stop":
        raise KeyboardInterrupt
    qpos = np.repeat(body.neutral_qpos[None], 10, axis=0) + 1e-3 * content[0] * np.linspace(0, 1, 10)[:, None]
    return Clip.from_qpos(body, qpos, options.fps, provenance={"file": path.name}, name=name), FIGURES


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command on ``tmp_path/in`` with the stub in place of the solver."""
    monkeypatch.setattr(jobs, "make_clip", stub)
    for name, content in (("a.bvh", "1"), ("sub/b.bvh", "2"), ("sub/c.bvh", "3")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(content)
    return lambda *words, out="out": retarget.main([str(tmp_path / "in"), BODY, f"out={tmp_path / out}", *words])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.npz"))}


def test_manifest_and_clips(command: Callable[..., int], tmp_path: Path):
    assert command() == 0
    rows = read_manifest(tmp_path / "out" / "manifest.csv")
    assert list(contents(tmp_path / "out")) == ["a.npz", "sub/b.npz", "sub/c.npz"]
    assert list(rows) == ["a", "sub/b", "sub/c"]
    row = rows["sub/b"]
    assert (row["status"], row["reason"], row["frames"], row["rmse_m"], row["body"]) == ("ok", "", "10", "0.01", BODY[5:])
    assert row["source"].endswith("in/sub/b.bvh") and len(row["source_hash"]) == len(row["config_hash"]) == 64
    assert not [p for p in (tmp_path / "out").rglob("*") if p.name.endswith((".tmp", ".json"))]


def test_a_rerun_makes_only_what_changed(command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "out"

    def rerun(*words: str) -> str:
        before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
        assert command(*words) == 0
        said = capsys.readouterr().out.splitlines()[-1]
        made = [p for p in out.rglob("*.npz") if p.parent.name != "trajectory" and p.stat().st_mtime_ns != before.get(p)]
        assert said.startswith(f"{len(made)} clips made, {3 - len(made)} unchanged, 0 failed of 3"), said
        return " ".join(sorted(p.stem for p in made if "trajectory" not in p.parts))

    assert rerun() == "a b c"
    assert rerun() == ""
    (tmp_path / "in" / "sub" / "b.bvh").write_text("7")
    assert rerun() == "b"
    (out / "a.npz").unlink()
    assert rerun() == "a"
    (out / "sub" / "c.npz").write_bytes((out / "sub" / "c.npz").read_bytes()[:-30])  # truncated
    assert rerun() == "c"
    assert rerun("fps=50") == "a b c"
    assert rerun("fps=50") == ""
    (out / "manifest.csv").unlink()
    assert rerun("fps=50") == "a b c"


def test_files_beside_the_capture_count_as_source(command: Callable[..., int], tmp_path: Path,
                                                  capsys: pytest.CaptureFixture):
    (tmp_path / "in" / "09_01.amc").write_text("4")
    (tmp_path / "in" / "09.asf").write_text("bones")
    for content, said in (("bones", "4 clips made, 0 unchanged"), ("bones", "0 clips made, 4 unchanged"),
                          ("longer bones", "1 clips made, 3 unchanged")):
        (tmp_path / "in" / "09.asf").write_text(content)
        assert command() == 0
        assert said in capsys.readouterr().out


def test_other_settings_of_the_stages_make_everything_again(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert command() == 0
    first = read_manifest(tmp_path / "out" / "manifest.csv")["a"]["config_hash"]
    monkeypatch.setattr(pipeline, "config", lambda: {"smoother": True})
    assert command() == 0
    assert read_manifest(tmp_path / "out" / "manifest.csv")["a"]["config_hash"] != first


def test_a_failing_clip_is_listed_and_the_others_are_there(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert command() == 0
    (tmp_path / "in" / "a.bvh").write_text("bad")
    (tmp_path / "in" / "sub" / "b.bvh").write_text("bug")
    assert command() == 1
    said = capsys.readouterr()
    rows = read_manifest(tmp_path / "out" / "manifest.csv")
    assert rows["a"]["status"] == "failed" and rows["a"]["reason"].endswith("a.bvh: no frame rate; give fps_in=")
    assert rows["a"]["frames"] == "" and len(rows["a"]["source_hash"]) == 64
    assert "KeyError" in rows["sub/b"]["reason"] and "Traceback" in said.err
    assert rows["sub/c"]["status"] == "ok"
    assert list(contents(tmp_path / "out")) == ["sub/c.npz"]  # the clip of the earlier file does not pass for this one
    assert "0 clips made, 1 unchanged, 2 failed of 3" in said.out and "failed: a: " in said.err
    assert command() == 1  # what failed is tried again
    (tmp_path / "in" / "a.bvh").write_text("1")
    (tmp_path / "in" / "sub" / "b.bvh").write_text("2")
    assert command() == 0


def test_rows_of_other_inputs_stay(command: Callable[..., int], tmp_path: Path):
    assert command() == 0
    (tmp_path / "more.bvh").write_text("5")
    assert retarget.main([str(tmp_path / "more.bvh"), BODY, f"out={tmp_path / 'out'}"]) == 0
    assert list(read_manifest(tmp_path / "out" / "manifest.csv")) == ["a", "more", "sub/b", "sub/c"]


def test_one_directory_holds_one_body(command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture):
    assert command() == 0
    assert retarget.main([str(tmp_path / "in"), "body=myo_fullbody", f"out={tmp_path / 'out'}"]) == 2
    assert "holds clips of myo_bimanual (a); choose another directory" in capsys.readouterr().err


def test_trajectories_are_added_without_making_clips_again(command: Callable[..., int], tmp_path: Path):
    assert command() == 0
    clips = contents(tmp_path / "out")
    assert command("--write-trajectory") == 0
    after = contents(tmp_path / "out")
    assert {k: v for k, v in after.items() if not k.startswith("trajectory/")} == clips
    assert set(after) - set(clips) == {"trajectory/a.npz", "trajectory/sub/b.npz", "trajectory/sub/c.npz"}
    assert command("write_trajectory=true", out="other") == 0
    assert contents(tmp_path / "other") == after  # from the clip on disk or the one in memory: the same file
    (tmp_path / "in" / "a.bvh").write_text("9")
    assert command() == 0
    assert not (tmp_path / "out" / "trajectory" / "a.npz").exists()  # it would belong to the clip before


def test_a_clip_may_not_stand_where_trajectories_go(command: Callable[..., int], tmp_path: Path,
                                                     capsys: pytest.CaptureFixture):
    (tmp_path / "in" / "trajectory").mkdir()
    (tmp_path / "in" / "trajectory" / "d.bvh").write_text("1")
    assert command() == 2
    assert "out/trajectory is kept for the original's files" in capsys.readouterr().err


def test_a_stopped_run_goes_on_and_ends_like_an_uninterrupted_one(command: Callable[..., int], tmp_path: Path):
    (tmp_path / "in" / "sub" / "b.bvh").write_text("stop")
    assert command() == 130
    assert list(read_manifest(tmp_path / "out" / "manifest.csv")) == ["a"]
    (tmp_path / "in" / "sub" / "b.bvh").write_text("2")
    (tmp_path / "out" / "sub").mkdir()
    (tmp_path / "out" / "sub" / ".b.npz.killed.tmp").write_text("half")  # what kill -9 leaves
    assert command() == 0 and command(out="other") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
    assert not list((tmp_path / "out").rglob("*.tmp"))


# -- several processes, and the real stages ---------------------------------------------------------------------------
def write_walks(folder: Path, count: int) -> None:
    folder.mkdir()
    for k in range(count):
        poses, trans = walking_poses(60, 60.0, arms=-1.2 + 0.1 * k)
        write_amass(folder / f"walk{k}.npz", poses, trans, 60.0)


def start(folder: Path, out: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "tools/retarget.py", str(folder), BODY, f"out={out}", "activations=false", *words]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background, and inherited
    try:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)


def finish(process: subprocess.Popen) -> str:
    return process.communicate(timeout=300)[0]


def wait_for_rows(out: Path, count: int) -> None:
    end = time.monotonic() + 200
    while len(read_manifest(out / "manifest.csv")) < count:
        assert time.monotonic() < end, "no clip was made"
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_and_stopped_runs_end_like_one_that_was_left_alone(tmp_path: Path):
    write_walks(tmp_path / "in", 5)
    calm = start(tmp_path / "in", tmp_path / "calm")
    text = finish(calm)
    assert calm.returncode == 0, text
    for number, way, code in ((1, signal.SIGKILL, -9), (2, signal.SIGINT, 130)):
        out = tmp_path / f"out{number}"
        hit = start(tmp_path / "in", out, f"workers={number}")
        wait_for_rows(out, 1)
        os.killpg(hit.pid, way)
        text = finish(hit)
        assert hit.returncode == code, text
        assert "Traceback" not in text
        assert 1 <= len(read_manifest(out / "manifest.csv")) < 5
        again = start(tmp_path / "in", out, f"workers={number}")
        text = finish(again)
        assert again.returncode == 0 and not text.splitlines()[-1].startswith("5 clips made"), text
        assert contents(out) == contents(tmp_path / "calm")  # and whatever the number of workers
        assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_a_worker_that_is_killed_fails_its_clip_and_the_rest_goes_on(tmp_path: Path):
    os.mkfifo(tmp_path / "stuck.bvh")  # reading it waits for ever
    made = [
        Job(name, tmp_path / f"{name}.bvh", tmp_path / f"{name}.npz", tmp_path / "t" / f"{name}.npz", False, "")
        for name in ("stuck", "missing", "absent")
    ]
    outcomes = {}
    for job, outcome in run_parallel(made, BODY[5:], Options(), 2):
        outcomes[job.name] = outcome
        if len(outcomes) == 2:
            for child in active_children():
                os.kill(child.pid, signal.SIGKILL)
    assert set(outcomes) == {"stuck", "missing", "absent"} and {o.status for o in outcomes.values()} == {"failed"}
    assert "stuck.bvh: the process that worked on it was killed (SIGKILL)" in outcomes["stuck"].reason
    assert "No such file" in outcomes["missing"].reason
    assert not active_children()


@pytest.mark.slow
@pytest.mark.parametrize("body_name", ["myo_fullbody", "myo_bimanual"])
def test_batch_with_a_broken_file(tmp_path: Path, body_name: str):
    poses, trans = walking_poses(90, 60.0)
    write_amass(tmp_path / "walk.npz", poses, trans, 60.0)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    done = subprocess.run(
        [sys.executable, "tools/retarget.py", str(tmp_path), f"body={body_name}", f"out={tmp_path / 'out'}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 1, done.stderr
    rows = read_manifest(tmp_path / "out" / "manifest.csv")
    assert rows["broken"]["status"] == "failed" and "broken.npz" in rows["broken"]["reason"]
    clip, body = load_clip(tmp_path / "out" / "walk.npz"), load_body(body_name)
    figures = {k: float(rows["walk"][k]) for k in ("rmse_m", "limit_pct_independent", "penetration_max_m", "ms_per_frame")}
    assert clip.qpos.shape == (149, body.model.nq) and clip.fps == 100.0
    assert clip.fit_error.shape == (149, len(body.site_names))
    assert figures["rmse_m"] < 0.04 and figures["limit_pct_independent"] == 0 and figures["penetration_max_m"] < 0.01
    assert figures["ms_per_frame"] > 0
    assert np.abs(body.couplings.residual(clip.qpos)).max() <= 1e-6
    measured = measure_directory(tmp_path / "out").clips[0]  # the report measures the file; both must say the same
    again = {f.name: f.read(measured) for f in REPORTED}
    for name in ("rmse_m", "limit_pct", "coupler_max", "penetration_pct", "penetration_max_m", "tendon_jump_max",
                 "self_collision_max_m", "jerk_p95", *(["float_max_m"] if body.free_root else [])):
        assert again[name] == pytest.approx(float(rows["walk"][name]), rel=2e-3, abs=1e-9), name
