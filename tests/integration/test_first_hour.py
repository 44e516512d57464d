"""The first hour runs as written: every command of the page and every cell of the notebook, with less training."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mm_torch import evaluate, export, play
from mm_torch.config.load import load_recipe
from mm_torch.config.options import read_options
from mm_torch.video import VideoError, gl_backend

DOCS = Path(__file__).parents[2] / "docs"
PAGE, NOTEBOOK = DOCS / "first_hour.md", DOCS / "first_hour.ipynb"
OPTIONS = {
    "evaluate": evaluate.OPTIONS, "export": export.OPTIONS, "play": play.OPTIONS, "bodies": {}, "doctor": {"disk": "."},
}
SHORTER = {
    "max_minutes=10": "max_minutes=0.3", "recipe=toy_arm": "recipe=toy_arm total_steps=16384",
    "video=": "seconds=1 width=160 height=120 video=",
}


def commands() -> list[str]:
    """Command lines of the page that call mm_torch or what it made."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python ")]


def cells() -> Iterator[str]:
    """Commands of the notebook."""
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebook")
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            yield from (line.split(" | ")[0] for line in cell.source.splitlines() if line.startswith("python "))


def check(command: str) -> None:
    """Raise where a command has an option or a recipe that does not exist."""
    words = shlex.split(command.replace("$MINUTES", "1").replace("$TOY_STEPS", "10000"))
    if words[1] == "-m":
        verb = words[2].removeprefix("mm_torch.")
        if verb == "train":
            load_recipe(words[3:], cuda_available=False)
        else:
            read_options(words[3:], OPTIONS[verb])


def test_every_command_has_the_options_it_is_given() -> None:
    assert {shlex.split(c)[2] for c in commands()} >= {f"mm_torch.{verb}" for verb in (*OPTIONS, "train")}
    for command in [*commands(), *cells()]:
        check(command)
    with pytest.raises(ValueError, match="unknown option 'cheese'"):
        check("python -m mm_torch.play cheese=1")


def test_pictures_and_pages_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text() + NOTEBOOK.read_text())
    assert len(targets) > 8 and not [t for t in targets if not (DOCS / t).is_file()]


def test_the_notebook_carries_no_results() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [c for c in notebook.cells if c.cell_type == "code" and (c.outputs or c.execution_count)]


@pytest.fixture
def surroundings() -> dict[str, str]:
    """Environment in which ``python`` is the one that runs the tests."""
    try:
        gl_backend()
    except VideoError as error:
        pytest.skip(str(error))
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


@pytest.mark.slow
def test_the_page_runs_as_written(surroundings: dict[str, str], tmp_path: Path) -> None:
    shown = ""
    for command in commands():
        for long, short in SHORTER.items():
            command = command.replace(long, short)
        done = subprocess.run(shlex.split(command), cwd=tmp_path, env=surroundings, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        shown = done.stdout
    assert shown.count("as evaluated") == 2  # the exported policy, which comes last
    for name in ("play", "drink", "walk", "toy", "arms"):
        assert (tmp_path / f"{name}.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_the_notebook_runs_as_written(surroundings: dict[str, str], tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebook")
    pytest.importorskip("ipykernel", reason="needs the extra notebook")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=surroundings | {"MINUTES": "0.3", "TOY_STEPS": "16384"})
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 1
    assert sum("<video" in o.get("data", {}).get("text/html", "") for o in outputs) == 2
    shown = "".join(o.get("text", "") for o in notebook.cells[-1].outputs)  # may come in pieces
    assert shown.count("as evaluated") == 2
    nbformat.write(notebook, tmp_path / "executed.ipynb")
