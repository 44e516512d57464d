"""The comparison with plain inverse kinematics says what it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.unit.retargeting.captures import walking_poses, write_amass
from tools import compare_ik


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.setitem(sys.modules, "daqp", None)  # import then fails
    with pytest.raises(compare_ik.CompareError, match=r"daqp is not installed: pip install -e '\.\[ik\]'"):
        compare_ik.require_mink()
    assert compare_ik.main([str(tmp_path / "x.bvh")]) == 2
    assert "pip install -e '.[ik]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "no capture given"), (["x.bvh", "bdy=toy_arm"], "unknown key 'bdy'")]
)
def test_a_wrong_command_is_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert compare_ik.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_both_ways_follow_the_same_targets(tmp_path: Path):
    pytest.importorskip("mink", reason="needs the extra ik")
    pytest.importorskip("daqp", reason="needs the extra ik")
    poses, trans = walking_poses(12, 50.0)
    write_amass(tmp_path / "walk.npz", poses, trans, 50.0)
    body = compare_ik.load_body("myo_bimanual")
    row = compare_ik.compare(body, tmp_path / "walk.npz", 50.0, 12)
    assert row.frames == 12 and row.ours_ms > 0.0 and row.plain_ms > 0.0
    assert np.isfinite([row.ours_rmse, row.plain_rmse]).all() and row.plain_rmse < 0.05
