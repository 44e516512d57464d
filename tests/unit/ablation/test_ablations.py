"""The ablation tool: what it runs, what it repeats, and what it concludes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mm_torch.config.load import RecipeError
from tools.ablation.curves import QUANTITIES, Setting, read_curves, smooth
from tools.ablation.verdict import MARK, into_page, judge
from tools.ablations import main


def write_run(directory: Path, steps: int, **values: float) -> None:
    """A run of ten iterations with constant values, as a run of ``mm_torch.train`` leaves it."""
    directory.mkdir(parents=True)
    row = dict.fromkeys(QUANTITIES, 0.5) | values
    with (directory / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["control_steps", *QUANTITIES])
        writer.writeheader()
        writer.writerows(row | {"control_steps": (k + 1) * steps // 10, "seconds": float(k + 1)} for k in range(10))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three settings of the toy's recipe with two seeds: a single epoch ends best and is calm."""
    late, kl = {1: 0.8, 3: 0.6, 10: 0.5}, {1: 0.01, 3: 0.1, 10: 1.0}
    for epochs in late:
        for seed in range(2):
            run_dir = tmp_path / f"epochs{epochs}_minibatches8" / f"seed{seed}"
            write_run(run_dir, 4096, reward=late[epochs] + 0.01 * seed, kl=kl[epochs] * (1 + 0.1 * seed))
    return tmp_path


def test_finished_runs_are_not_repeated_and_the_result_is_written(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "page.md").write_text(f"# Before\n{MARK}\nold\n{MARK}\nafter\n")
    words = ["recipe=toy_arm", "total_steps=4096", "epochs=10,1,3", "minibatches=8", "seeds=2"]
    assert main([f"out={runs}", *words, f"page={runs / 'page.md'}"]) == 0
    told = capsys.readouterr().out
    assert "mm_torch.train" not in told
    assert "A single epoch ends best: **holds**" in told
    assert "A single epoch stays calm, reuse does not (largest KL): **holds**" in told
    assert "More epochs learn faster at first: **the opposite holds**" in told
    page = (runs / "page.md").read_text()
    assert page.startswith("# Before\n") and page.endswith("\nafter\n") and "\nold\n" not in page
    assert "| 10 | 8 | 256 | 2 |" in page
    assert (runs / "ablations.png").stat().st_size > 10_000 and (runs / "images" / "ablations.png").exists()


@pytest.mark.slow
def test_a_begun_run_goes_on_and_a_missing_one_is_made(tmp_path: Path) -> None:
    words = [f"out={tmp_path}", "recipe=toy_arm", "epochs=1", "minibatches=8", "seeds=1"]
    assert main([*words, "total_steps=2048"]) == 0
    assert main([*words, "total_steps=4096"]) == 0
    curves = read_curves(Setting(1, 8, 2048), tmp_path)
    assert curves is not None and curves.steps.tolist() == [2048.0, 4096.0]


def test_bad_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["epochs=1,x"], "epochs=1,x: give whole numbers above 0"), (["minibatches=0"], "minibatches=0: give whole"),
        (["recipe=toy_leg"], "unknown recipe 'toy_leg'"), (["train=false"], "no runs there"),
        (["epoch=1"], "did you mean 'epochs'"),
        (["minibatches=3", "recipe=toy_arm", "seeds=1"], "do not divide into ppo.minibatches=3"),
    ):
        assert main([f"out={tmp_path / 'none'}", *words]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(RecipeError, match="two lines"):
        into_page("text", tmp_path / "missing.md")


def test_a_difference_counts_beyond_the_spread_of_the_seeds() -> None:
    low, high, wide = np.array([1.0, 1.1, 0.9]), np.array([2.0, 2.1, 1.9]), np.array([-1.0, 1.5, 4.0])
    assert judge([high], [low]) == "**holds**"
    assert judge([low], [high]) == "**the opposite holds**"
    assert judge([wide], [low]).startswith("not decided")
    assert judge([high], [low, high]) == "holds in part"
    assert judge([high[:1]], [low]) == "not decided (one seed)"


def test_smoothing_keeps_a_line_and_averages_the_past() -> None:
    line = np.arange(100.0)[None]
    assert smooth(np.ones((2, 100))).tolist() == np.ones((2, 100)).tolist()
    assert smooth(line)[0, 50] == pytest.approx(line[0, 46:51].mean())
