"""The command line: what it refuses, and both bodies from end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mm_torch.motion.clip import load_clip
from sim_models.registry import load_body
from tests.unit.retargeting.captures import walking_poses, write_amass
from tools import retarget

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bdy=myo_fullbody"], "unknown key 'bdy'.*did you mean 'body'"),
        ([], "body is missing"),
        (["body=atlas", "out=x"], r"body 'atlas' is unknown: give body=myo_fullbody\|myo_bimanual"),
        (["body=myo_fullbody"], "out is missing"),
        (["body=myo_fullbody", "out=x", "source=c3d"], "source 'c3d' is unknown"),
        (["body=myo_fullbody", "out=x", "fps=fast"], "fps=fast"),
        (["body=myo_fullbody", "out=x", "asf=none.asf"], "no such file"),
        (["body=myo_fullbody", "out=x"], "no inputs"),
        (["nowhere/*.amc", "body=myo_fullbody", "out=x"], "no motion capture found"),
    ],
)
def test_wrong_commands_are_one_line_and_exit_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    assert retarget.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_equal_names_are_told_apart(tmp_path: Path):
    paths = [tmp_path / "a" / "x.amc", tmp_path / "a" / "x.bvh", tmp_path / "b" / "x.bvh", tmp_path / "y.npz"]
    assert retarget.clip_names(paths) == ["x_amc", "a_x_bvh", "b_x_bvh", "y"]


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
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["clips"]["broken"]["status"] == "failed" and "broken.npz" in manifest["clips"]["broken"]["error"]
    clip, body = load_clip(tmp_path / "out" / "walk.npz"), load_body(body_name)
    metrics = manifest["clips"]["walk"]["metrics"]
    assert clip.qpos.shape == (149, body.model.nq) and clip.fps == 100.0
    assert clip.fit_error.shape == (149, len(body.site_names))
    assert metrics["rmse_cm"] < 4.0 and metrics["limit_violations"] == 0 and metrics["penetration_mm"] < 10.0
    assert np.abs(body.couplings.residual(clip.qpos)).max() <= 1e-6
