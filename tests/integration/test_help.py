"""Every verb and every tool says with ``--help`` what it does and shows how it is called, and ends with 0."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


def commands() -> list[str]:
    """Files of the verbs and tools that a person runs."""
    files = [*(REPO / "mm_torch").glob("*.py"), *(REPO / "tools").glob("*.py")]
    return sorted(p.relative_to(REPO).as_posix() for p in files if '__name__ == "__main__"' in p.read_text())


def test_the_search_finds_verbs_and_tools() -> None:
    assert {"mm_torch/train.py", "mm_torch/doctor.py", "tools/retarget.py"} <= set(commands())


@pytest.mark.parametrize("file", [f for f in commands() if f != "mm_torch/policy/run_policy.py"])  # part of a bundle
def test_help(file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [file, "--help"])
    try:
        runpy.run_path(str(REPO / file), run_name="__main__")
    except SystemExit as end:
        assert not end.code
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) >= 3
    assert "python -m mm_torch." in shown or "python tools/" in shown
    assert not list(tmp_path.iterdir())
