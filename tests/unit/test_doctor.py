"""The doctor says what is missing, for what, and how to get it; its exit code says whether training works."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import pytest

from mm_torch import doctor
from mm_torch.config.load import RecipeError
from mm_torch.doctor import BAD, NONE, OK, Finding

REQUIRES = ("torch>=2.13", "numpy>=2", "old>=3", "absent>=1", "mink>=1.3; extra == 'ik'", "onnx>=1; extra == 'onnx'",
            "elsewhere>=1; sys_platform == 'atari'")
HERE = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "old": "2.9", "mink": "1.3.0"}


def version_of(name: str) -> str:
    if name not in HERE:
        raise metadata.PackageNotFoundError(name)
    return HERE[name]


def test_packages_are_held_to_their_requirements() -> None:
    found = {f.what: f for f in doctor.packages(REQUIRES, version_of)}
    assert [found[name].state for name in ("torch", "numpy", "old", "absent")] == [OK, OK, BAD, BAD]
    assert found["old"].text == "2.9; pip install 'old>=3'"
    assert found["absent"].text == "not installed; pip install 'absent>=1'"
    assert "elsewhere" not in found and "mink" not in found
    assert found["extra ik"].state == OK
    assert found["extra onnx"].state == NONE and "lacks onnx: pip install 'mm_torch[onnx]'" in found["extra onnx"].text
    assert found["extra smpl"].state == NONE  # an installation too old to know the extra


def test_every_extra_of_the_package_has_a_purpose() -> None:
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text()
    section = setup.split("[options.extras_require]")[1].split("[options.")[0]
    extras = {line.split("=")[0].strip() for line in section.splitlines() if line and not line.startswith(" ")}
    assert extras == set(doctor.EXTRAS)


def test_a_working_installation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    doctor.main([f"disk={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok    torch ") for line in lines)
    assert any("toy_arm" in line and "recipes" in line for line in lines)
    assert any("4 built in for toy_arm" in line for line in lines)
    assert any(line.startswith("ok    policy") and "in the box" in line for line in lines)
    assert any("MoBL-ARMS" in line for line in lines)
    assert any(line.startswith("Training works") for line in lines)


def test_what_stands_in_the_way_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "look", lambda disk: iter([Finding(OK, "a", "1"), Finding(BAD, "b", "2")]))
    with pytest.raises(SystemExit) as stop:
        doctor.main([])
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Training does not work yet: b"


def test_report_is_aligned() -> None:
    assert doctor.report([Finding(OK, "a", "1"), Finding(NONE, "long", "2")]).splitlines() == [
        "ok    a     1", "none  long  2", "Training works: python -m mm_torch.train recipe=toy_arm",
        "Not here, and needed only for what their lines say: long",
    ]


def test_a_full_disk_and_none_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=10**8)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda directory: full)
    assert doctor.disk_space(tmp_path).state == BAD
    with pytest.raises(RecipeError, match="no such directory"):
        doctor.disk_space(tmp_path / "nowhere")
