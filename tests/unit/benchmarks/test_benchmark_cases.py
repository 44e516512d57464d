"""The benchmark measures what it says: parts add up, minibatches keep their size, histories are read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mm_torch.config.load import RecipeError
from tools import benchmark
from tools.benchmarks import history, memory, ratios
from tools.benchmarks.iteration import PARTS, RATES, Case, measure
from tools.benchmarks.plots import draw
from tools.benchmarks.sweep import START, _extrapolate, shortened, sweep


@pytest.fixture(scope="module")
def figures() -> dict[str, float | int | str]:
    return measure(Case("toy_arm", worlds=4, rollout_steps=5, minibatches=3, iterations=1))


def test_parts_of_an_iteration_add_up(figures: dict[str, float]) -> None:
    assert sum(figures[f"{name}_share"] for name in PARTS) == pytest.approx(1.0)
    assert all(figures[f"{name}_share"] > 0 for name in PARTS)
    physics, environment, rollout, update, training = (figures[f"{name}_steps_per_s"] for name in RATES)
    assert physics > environment > rollout > training > 0
    assert 1 / rollout + 1 / update == pytest.approx(1 / training)


def test_minibatches_divide_the_rollout(figures: dict[str, float]) -> None:
    assert figures["minibatches"] == 2  # of 20 samples
    assert Case("toy_arm", worlds=1).divided == 25 and Case("toy_arm", worlds=16).divided == 32


def test_a_shortened_iteration_keeps_the_size_of_its_minibatches() -> None:
    case = shortened(Case("toy_arm", worlds=1024), hold=4, rate=1300.0, seconds=10.0)
    assert (case.rollout_steps, case.minibatches) == (3, 2)
    assert pytest.approx(1024 * 50 / 32, rel=0.1) == 1024 * 3 / 2
    assert shortened(case, 4, 1.0, 1.0).rollout_steps == 1
    assert shortened(Case("toy_arm", worlds=2), 4, 1300.0, 10.0).rollout_steps == 50


def test_memory_is_predicted_from_the_last_two_cases() -> None:
    assert _extrapolate([(0, 0.0), (16, 1.0), (64, 1.3)], 256) == pytest.approx(1.3 + 192 * 0.3 / 48)
    assert _extrapolate([(0, 0.0), (16, 1.0)], 8192) == 1.0


@pytest.mark.slow
def test_a_first_case_that_is_faster_than_planned_is_measured_as_asked() -> None:
    case = Case("toy_arm", worlds=64, rollout_steps=4, minibatches=2, iterations=1)
    assert shortened(case, hold=1, rate=START, seconds=2.0).rollout_steps == 1
    (figures,) = sweep(case, [64], hold=1, seconds=2.0, memory_gb=20.0)
    assert figures["rollout_steps"] == 4


@pytest.mark.slow
def test_raw_warp_is_measured_beside_the_environment() -> None:
    figures = measure(Case("toy_arm", worlds=2, sim="warp", rollout_steps=2, minibatches=1, iterations=1))
    assert figures["raw_steps_per_s"] > 0 and figures["environment_steps_per_s"] > 0  # which is faster depends
    assert "device_gb" not in figures or figures["device_gb"] > 0


def test_ratios_are_of_rates_on_the_same_control_steps() -> None:
    result = ratios.run("toy_arm", num_envs=8, rounds=1, steps=64)
    assert 0.02 < result["train_ratio"] < 5.0 and 0.02 < result["env_ratio"] < 5.0  # a busy machine adds to either side
    assert {"raw_steps_per_s", "env_steps_per_s", "train_steps_per_s"} <= set(result)


def test_history_keeps_every_case_with_its_surroundings(tmp_path: Path, figures: dict[str, float]) -> None:
    book = tmp_path / "new" / "history.jsonl"
    for worlds in (4, 8):
        history.append(book, figures | {"worlds": worlds})
    records = history.read(book)
    assert [r["worlds"] for r in records] == [4, 8]
    assert records[0]["cores"] >= 1 and "mujoco" in records[0]["versions"] and records[0]["device"]
    draw(records, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RecipeError, match="no sweep"):
        draw([{"case": "ratios"}], tmp_path / "none.png")


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_broken_history_is_named(tmp_path: Path, line: str) -> None:
    book = tmp_path / "history.jsonl"
    book.write_text(json.dumps({"case": "x"}) + "\n" + line + "\n")
    with pytest.raises(RecipeError, match="line 2"):
        history.read(book)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sweep=many", "sweep=many"), ("sweep=0", "at least one"), ("body=nobody", "choose from"),
        ("against=no-such-revision", "no-such-revision"), (f"myosuite={sys.executable}", "myosuite==3.0.0"),
        ("nun_envs=3", "num_envs"), ("plot=x.png", "a sweep writes one"),
    ],
)
def test_bad_options_are_named(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        benchmark.main([word, f"history={tmp_path / 'none.jsonl'}"])


def test_predicted_memory_grows_with_the_worlds() -> None:
    few, many = (memory.predict("toy_arm", worlds, ["ppo.minibatches=1"]) for worlds in (16, 32))
    assert many["rollout_gb"] == pytest.approx(2 * few["rollout_gb"])
    assert few["simulation_gb"] < many["simulation_gb"] < 2 * few["simulation_gb"]
    assert few["networks_gb"] == many["networks_gb"]


@pytest.mark.slow
def test_another_revision_is_measured_in_turn(tmp_path: Path) -> None:
    book = tmp_path / "history.jsonl"
    benchmark.main(["body=toy_arm", "against=HEAD", "num_envs=4", "rounds=1", "steps=4", "repeats=1", f"history={book}"])
    (record,) = history.read(book)
    assert record["other_raw_steps_per_s"] > 0 and record["raw_steps_per_s"] > 0
