"""The manifest: its columns, what makes a clip count as unchanged, and that it is always whole."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mm_torch.motion.clip import Clip
from sim_models.registry import load_body
from tools.retargeting import manifest
from tools.retargeting.atomic import remove_leftovers, replacing
from tools.retargeting.manifest import COLUMNS, ManifestError, make_row, read_manifest, stamp, write_manifest

# The first columns as they are promised, in their order.
PROMISED = [
    "clip", "status", "reason", "source", "source_hash", "config_hash", "frames", "rmse_m", "limit_pct",
    "limit_pct_independent", "coupler_max", "penetration_pct", "penetration_max_m", "float_max_m", "slip_median", "slip_p95",
    "tendon_jump_max", "qvel_error", "ms_per_frame",
]


def row(name: str, **extra: str) -> manifest.Row:
    return make_row({"clip": name, "status": "ok"} | extra, {})


def test_columns_begin_as_promised_and_are_unique():
    assert list(COLUMNS[: len(PROMISED)]) == PROMISED
    assert len(set(COLUMNS)) == len(COLUMNS) and "self_collision_max_m" in COLUMNS and "body" in COLUMNS


def test_rows_survive_a_round_trip_sorted_by_name(tmp_path: Path):
    odd = row("a, \"quoted\" (1)", status="failed", reason="two\n  lines, with a comma")
    figures = make_row({"clip": "b", "status": "ok"}, {"frames": 12, "rmse_m": 0.0123456789, "slip_p95": float("nan"),
                                                       "worst_site": "head", "scale": None, "no_such_column": 1.0})
    write_manifest(tmp_path / "m.csv", [figures, odd])
    rows = read_manifest(tmp_path / "m.csv")
    assert list(rows) == ["a, \"quoted\" (1)", "b"]
    assert rows["b"] == figures and rows["b"]["rmse_m"] == "0.0123457" and rows["b"]["slip_p95"] == ""
    assert rows["b"]["frames"] == "12" and rows["b"]["scale"] == "" and "no_such_column" not in rows["b"]
    assert rows["a, \"quoted\" (1)"]["reason"] == "two lines, with a comma"


def test_no_file_is_no_row_and_another_table_is_an_error(tmp_path: Path):
    assert read_manifest(tmp_path / "none.csv") == {}
    (tmp_path / "other.csv").write_text("name,value\nx,1\n")
    with pytest.raises(ManifestError, match=r"other\.csv: no column 'clip'; move the file away"):
        read_manifest(tmp_path / "other.csv")


def test_an_older_manifest_with_fewer_figures_is_read(tmp_path: Path):
    (tmp_path / "old.csv").write_text("clip,status,reason,source,source_hash,config_hash\nx,ok,,x.bvh,1,2\n")
    assert read_manifest(tmp_path / "old.csv")["x"]["rmse_m"] == ""


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path):
    write_manifest(tmp_path / "m.csv", [row("a")])
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "m.csv", "w") as file:
        file.write("half a li")
        raise KeyboardInterrupt
    assert list(read_manifest(tmp_path / "m.csv")) == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.csv"]


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(tmp_path: Path):
    for name in (".walk (1).npz.abc.tmp", ".walk (12).npz.abc.tmp", "walk (1).npz"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path / "walk (1).npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".walk (12).npz.abc.tmp", "walk (1).npz"]


def test_source_hash_is_sha256_over_all_files_in_order(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    assert manifest.file_hash(tmp_path / "a") == hashlib.sha256(b"one").hexdigest()
    assert manifest.file_hash(tmp_path / "a", tmp_path / "b") == hashlib.sha256(b"onetwo").hexdigest()


def test_config_hash_follows_settings_and_body():
    arms, settings = load_body("myo_bimanual"), {"fps": 100.0, "stages": {"cutoff": 6.0}, "units": None}
    first = manifest.config_hash(arms, settings)
    assert first == manifest.config_hash(arms, dict(reversed(settings.items())))
    assert first != manifest.config_hash(arms, settings | {"stages": {"cutoff": 5.0}})
    assert first != manifest.config_hash(load_body("toy_arm"), settings)


def test_stamp_of_a_clip(tmp_path: Path):
    body, path = load_body("toy_arm"), tmp_path / "x.npz"
    provenance = {"source_hash": "s", "config_hash": "c"}
    Clip.from_qpos(body, np.repeat(body.neutral_qpos[None], 3, axis=0), 100.0, provenance=provenance).save(path)
    assert stamp(path) == ("s", "c")
    path.write_bytes(path.read_bytes()[:-40])
    assert stamp(path) is None
    assert stamp(tmp_path / "none.npz") is None


def test_a_directory_belongs_to_one_run_at_a_time(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from tools.retargeting.manifest import ManifestError, locked\n"
        "try:\n    locked(Path(sys.argv[1])).__enter__()\nexcept ManifestError as error:\n    print(error)"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(tmp_path)]
    with manifest.locked(tmp_path):
        held = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert "another run is writing there" in held
    assert subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout == ""
