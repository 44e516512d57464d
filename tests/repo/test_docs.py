"""Every name that a run logs is defined in the documentation."""

from __future__ import annotations

import ast
import csv
import re
from pathlib import Path

import pytest

from mm_torch.task import reward
from mm_torch.task.metrics import tracking_errors

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """Names in code style in docs/metrics.md."""
    return set(re.findall(r"`([a-z_0-9]+)`", (REPO / "docs" / "metrics.md").read_text()))


def test_every_column_of_a_run_is_defined(toy_run: Path, documented: set[str]) -> None:
    with (toy_run / "metrics.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert len(header) > 20
    assert not [name for name in header if name not in documented]


def test_every_reward_term_and_tracking_error_is_defined(documented: set[str]) -> None:
    assert not [name for name in reward.TERMS if f"reward_{name}" not in documented]
    source = ast.parse((REPO / "mm_torch" / "task" / "metrics.py").read_text())
    names = {k.value for node in ast.walk(source) if isinstance(node, ast.Dict) for k in node.keys
             if isinstance(k, ast.Constant)}
    assert names and tracking_errors.__doc__ is not None
    assert names <= documented and all(name in tracking_errors.__doc__ for name in names)


def test_figures_of_an_update_are_defined(documented: set[str]) -> None:
    """Names written as dictionary keys in the learner's figures, also those that the toy run did not log."""
    source = ast.parse((REPO / "mm_torch" / "ppo" / "module.py").read_text())
    figures = next(n for n in ast.walk(source) if isinstance(n, ast.FunctionDef) and n.name == "_figures")
    tables = [node for node in ast.walk(figures) if isinstance(node, ast.Dict)]
    names = {key.value for table in tables for key in table.keys if isinstance(key, ast.Constant)}
    assert len(names) > 10
    assert not names - documented
