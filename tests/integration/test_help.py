"""Every verb and every tool says with ``--help`` what it does, its options, exit status and an example, and ends with 0."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PLACES = ("mm_torch", "mm_torch/motion", "tools")


def commands() -> list[str]:
    """Files of the verbs and tools that a person runs."""
    files = [p for place in PLACES for p in (REPO / place).glob("*.py")]
    return sorted(p.relative_to(REPO).as_posix() for p in files if '__name__ == "__main__"' in p.read_text())


def options(file: str) -> set[str]:
    """Names in the table of options that a command reads its words against; none where it has no such table."""
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    return set(getattr(module, "OPTIONS", ()))


def test_the_search_finds_verbs_and_tools() -> None:
    assert {"mm_torch/train.py", "mm_torch/doctor.py", "mm_torch/motion/splits.py", "tools/retarget.py"} <= set(commands())
    assert "relative_site_deviation" in options("mm_torch/evaluate.py")


@pytest.mark.parametrize("file", commands())
def test_help(file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [file, "--help"])
    try:
        runpy.run_path(str(REPO / file), run_name="__main__")
    except SystemExit as end:
        assert not end.code
    shown, errors = capsys.readouterr()
    call = f"python {file}" if file.startswith("tools/") else f"python -m {file.removesuffix('.py').replace('/', '.')}"
    head, *rest = shown.split("Example", 1)
    assert call in head.replace("\n", " ") or file.endswith("splits.py"), "the first lines show how it is called"
    assert rest and call in rest[0], "an example shows a whole command"
    assert re.search(r"[Ee]xit(s| status| code)", shown)
    assert max(map(len, shown.splitlines())) <= 126
    assert not errors and not list(tmp_path.iterdir())
    missing = {name for name in options(file) if not re.search(rf"\b{name}\b", shown)}
    assert not missing, f"{file} --help does not mention {missing}"
