"""Whole runs on the toy arm: files, resuming, seeds, fine-tuning, signals, refusals, variants."""

from __future__ import annotations

import csv
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mm_torch.callbacks.checkpoint import KEY, read_checkpoint
from mm_torch.callbacks.records import COLUMNS
from mm_torch.command import run_command
from mm_torch.config.load import to_recipe, to_yaml
from mm_torch.evaluation.job import warn_of_leakage
from mm_torch.train import main, recipe_from
from mm_torch.training import train

REPO = Path(__file__).parents[2]
TINY = (
    "recipe=toy_arm", "profile=cpu", "sim=native", "num_envs=8", "threads=1", "ppo.rollout_steps=24",
    "ppo.minibatches=4", "net.hidden=[16,16]", "net.init_std=1.0",
)
ITERATION = 8 * 24
CLOCK = {"seconds", "steps_per_s", "collect_share"}  # columns that depend on the machine's mood
SUMMARY = {"iteration", "control_steps", "seconds", "steps_per_s", "reward", "episode_length",
           "early_termination_rate", "relative_site_error", "kl", "policy_std"}
CURRICULA = (
    "sampling.adaptive=true", "curriculum.termination=true", "curriculum.reward=true",
    "curriculum.reward_terms=[site_position]", "task.horizon_steps=10", "task.termination.absolute_site_deviation=0.5",
)
MUON = ("ppo.optimiser.kind=muon", "ppo.optimiser.lr=0.01", "ppo.epochs=2", "net.kind=residual")


def run(folder: Path, *words: str, iterations: int = 2) -> Path:
    """Train the tiny toy."""
    return train(recipe_from([*TINY, f"total_steps={iterations * ITERATION}", f"run_dir={folder}", *words]))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def timeless(folder: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows(folder)]


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested containers by path."""
    if isinstance(tree, dict):
        return {k: v for name, branch in tree.items() for k, v in flat(branch, f"{path}/{name}").items()}
    if isinstance(tree, list | tuple):
        return {k: v for i, branch in enumerate(tree) for k, v in flat(branch, f"{path}/{i}").items()}
    return {path: tree}


def differences(a: Any, b: Any) -> list[str]:
    """Paths of the leaves that are not bitwise equal."""
    a, b = flat(a), flat(b)
    equal = {
        path for path in a.keys() & b.keys()
        if (torch.equal(a[path], b[path]) if isinstance(a[path], torch.Tensor) else a[path] == b[path])
    }
    return sorted((a.keys() | b.keys()) - equal)


def learned(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    extra = checkpoint[KEY]
    return {name: checkpoint[name] for name in ("state_dict", "optimizer_states")} | {
        name: extra[name] for name in ("simulation", "curricula", "rng", "iteration", "control_steps", "score")
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four iterations without interruption."""
    return run(tmp_path_factory.mktemp("runs") / "straight", iterations=4)


# -- files ------------------------------------------------------------------------------------------------------------
def test_a_run_leaves_its_files(straight: Path) -> None:
    names = {str(p.relative_to(straight)) for p in straight.rglob("*") if p.is_file()}
    assert {"recipe.yaml", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"} <= names
    assert not [n for n in names if "tmp" in n]
    recipe = to_recipe(OmegaConf.load(straight / "recipe.yaml"))
    assert recipe.num_envs == 8 and to_yaml(recipe) == (straight / "recipe.yaml").read_text()


def test_metrics_have_a_row_an_iteration(straight: Path) -> None:
    table = rows(straight)
    assert list(table[0])[: len(COLUMNS)] == list(COLUMNS) and set(COLUMNS) == SUMMARY
    assert [int(row["iteration"]) for row in table] == [1, 2, 3, 4]
    assert [int(row["control_steps"]) for row in table] == [ITERATION * i for i in (1, 2, 3, 4)]
    for row in table:
        for name in SUMMARY - {"episode_length", "early_termination_rate"}:
            assert float(row[name]) == float(row[name]), name  # not NaN
        assert 0 <= float(row["reward"]) <= 1 and float(row["steps_per_s"]) > 0
        assert float(row["failed_worlds"]) == 0 and float(row["skipped_steps"]) == 0
    assert any(float(row["kl"]) != 0 for row in table)


def test_tensorboard_shows_every_column_over_control_steps(straight: Path) -> None:
    events = EventAccumulator(str(straight / "tensorboard"))
    events.Reload()
    tags = {tag.split("/")[-1]: tag for tag in events.Tags()["scalars"]}
    assert set(rows(straight)[0]) <= set(tags)
    reward = events.Scalars(tags["reward"])
    assert [point.step for point in reward] == [ITERATION * i for i in (1, 2, 3, 4)]
    assert reward[-1].value == pytest.approx(float(rows(straight)[-1]["reward"]), rel=1e-6)


def test_checkpoints_hold_no_code_and_say_what_they_are(straight: Path) -> None:
    for name in ("last", "best"):
        checkpoint = torch.load(straight / "checkpoints" / f"{name}.ckpt", weights_only=True)
        extra = checkpoint[KEY]
        assert extra["recipe"]["recipe"] == "toy_arm" and extra["body"] == "toy_arm"
        assert extra["layout"][0] == ["joint_position", 0, 2] and extra["layout"][-1][2] == 18
        assert {"torch", "mujoco"} <= extra["versions"].keys() and len(extra["model_hash"]) == 16
    assert last(straight)[KEY]["iteration"] == 4


# -- the same again ---------------------------------------------------------------------------------------------------
def test_same_seed_reproduces_and_another_differs(straight: Path, tmp_path: Path) -> None:
    again, other = run(tmp_path / "again", iterations=4), run(tmp_path / "other", "seed=1", iterations=4)
    assert timeless(again) == timeless(straight)
    assert differences(learned(last(again)), learned(last(straight))) == []
    assert timeless(other) != timeless(straight)
    assert differences(last(other)["state_dict"], last(straight)["state_dict"])


@pytest.mark.parametrize("words", [(), CURRICULA, MUON, ("ppo.upstream=true",)],
                         ids=["plain", "curricula", "muon", "upstream"])
def test_resumed_equals_uninterrupted_bit_for_bit(
    words: tuple[str, ...], straight: Path, tmp_path: Path
) -> None:
    whole = straight if not words else run(tmp_path / "whole", *words, iterations=4)
    parts = run(tmp_path / "parts", *words, "max_minutes=0", iterations=4)
    assert len(rows(parts)) == 1
    train(recipe_from([f"resume={parts}", "max_minutes=0"]))
    assert len(rows(parts)) == 2
    train(recipe_from([f"resume={parts / 'checkpoints' / 'last.ckpt'}"]))
    assert timeless(parts) == timeless(whole)
    assert differences(learned(last(parts)), learned(last(whole))) == []


def test_sampler_and_curricula_move_and_survive(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", *CURRICULA)
    extra = last(folder)[KEY]
    assert extra["curricula"].keys() == {"termination", "reward"}
    assert (extra["simulation"]["sampler"]["done_average"] != 10.0).any()  # the prior
    states = flat(extra["curricula"])
    assert any(not torch.equal(v, w) for v, w in zip(
        states.values(), flat(last(run(tmp_path / "one", *CURRICULA, iterations=1))[KEY]["curricula"]).values(),
        strict=True))


def test_a_finished_run_is_not_resumed_unless_it_gets_more_steps(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = run(tmp_path / "run")
    assert "total_steps" in refused(capsys, [f"resume={folder}"])
    train(recipe_from([f"resume={folder}", f"total_steps={3 * ITERATION}"]))
    assert [int(row["iteration"]) for row in rows(folder)] == [1, 2, 3]


def test_rows_after_the_checkpoint_are_replaced_on_resume(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "max_minutes=0", iterations=3)
    table = (folder / "metrics.csv").read_text().splitlines()
    columns = table[1].split(",")
    unsaved = ",".join(["2", str(2 * ITERATION), *columns[2:]])  # died before saving
    (folder / "metrics.csv").write_text("\n".join([*table, unsaved]) + "\n")
    train(recipe_from([f"resume={folder}"]))
    assert [int(row["iteration"]) for row in rows(folder)] == [1, 2, 3]
    assert [int(row["control_steps"]) for row in rows(folder)] == [ITERATION, 2 * ITERATION, 3 * ITERATION]


# -- fine-tuning ------------------------------------------------------------------------------------------------------
def test_fine_tuning_starts_from_weights_and_statistics(straight: Path, tmp_path: Path) -> None:
    folder = train(recipe_from([
        "recipe=toy_arm", "num_envs=8", "threads=1", "ppo.rollout_steps=24", "ppo.minibatches=4",
        f"init_from={straight / 'checkpoints' / 'last.ckpt'}", "ppo.reset_std=0.05", "ppo.optimiser.lr=0",
        f"total_steps={ITERATION}", f"run_dir={tmp_path / 'tuned'}",
    ]))
    start, tuned = last(straight), last(folder)
    assert tuned[KEY]["iteration"] == 1 and list(tuned[KEY]["recipe"]["net"]["hidden"]) == [16, 16]
    changed = differences(start["state_dict"], tuned["state_dict"])
    assert changed and all("log_std" in n or "normaliser" in n for n in changed)  # the learning rate is 0
    assert float(rows(folder)[0]["policy_std"]) == pytest.approx(0.05, rel=1e-5)
    counts = [c["state_dict"]["agent.normaliser.count"].item() for c in (start, tuned)]
    assert counts[1] == pytest.approx(counts[0] + ITERATION)


# -- variants ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        ("ppo.upstream=true",),
        ("net.kind=residual", "net.hidden=[16,16,16,16]", "ppo.optimiser.kind=muon"),
        ("net.kind=moe", "net.hidden=[16,16,16]", "net.moe.layers=[1]", "net.moe.experts=4", "ppo.optimiser.kind=muon",
         "ppo.optimiser.schedule=warmup_cosine"),
        ("ppo.normalise_reward=false", "ppo.optimiser.schedule=constant", "net.learnable_std=false"),
        ("task.action.base=reference", "task.reset_activations=zero", "net.observation_clip=null"),
    ],
    ids=["upstream", "residual_muon", "moe_muon", "plain_rewards", "reference_actions"],
)
def test_variants_learn_something(words: tuple[str, ...], tmp_path: Path) -> None:
    table = rows(run(tmp_path / "run", *words))
    assert len(table) == 2
    for row in table:
        for name in ("reward", "kl", "policy_loss", "value_loss", "gradient_norm"):
            assert abs(float(row[name])) < 1e6, name
        assert float(row["gradient_norm"]) > 0 and float(row["skipped_steps"]) == 0


# -- refusals: one line, exit code 2 ----------------------------------------------------------------------------------
def refused(capsys: pytest.CaptureFixture, words: list[str]) -> str:
    """The only line that a refused command prints to stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(main, words, None)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def tiny(folder: Path, *words: str) -> list[str]:
    return [*TINY, f"total_steps={ITERATION}", f"run_dir={folder}", *words]


def test_checkpoint_of_another_observation(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, tiny(tmp_path / "run", f"init_from={straight / 'checkpoints' / 'last.ckpt'}",
                                "task.lookahead_steps=[1]"))
    for part in ("last.ckpt", "observation layout", "18 entries", "here 14", "ref_joint_error"):
        assert part in line
    assert not (tmp_path / "run").exists()
    assert "observation layout" in refused(capsys, [f"resume={straight}", "total_steps=100000",
                                                    "task.observation=[joint_position]"])


def test_checkpoint_of_another_body(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, tiny(tmp_path / "run", "recipe=bimanual_demo", "body.name=myo_bimanual",
                                f"init_from={straight / 'checkpoints' / 'last.ckpt'}"))
    assert "toy_arm with 6 muscles" in line and "myo_bimanual" in line


def test_checkpoint_of_another_network(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = refused(capsys, tiny(tmp_path / "run", f"init_from={straight / 'checkpoints' / 'last.ckpt'}",
                                "net.hidden=[32,32]"))
    assert "last.ckpt" in line and "net" in line


class Bomb:
    """Would leave a mark if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.mark,)


def test_files_that_are_no_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mark = tmp_path / "mark"
    bad = {name: tmp_path / f"{name}.ckpt" for name in ("text", "empty", "other", "bomb", "pickle", "directory")}
    bad["text"].write_text("not a checkpoint\n")
    bad["empty"].write_bytes(b"")
    torch.save({"weights": torch.zeros(3)}, bad["other"])
    torch.save({KEY: Bomb(mark)}, bad["bomb"])
    bad["pickle"].write_bytes(pickle.dumps(Bomb(mark)))
    bad["directory"].mkdir()
    for key in ("resume", "init_from"):
        for path in (*bad.values(), tmp_path / "gone.ckpt"):
            line = refused(capsys, tiny(tmp_path / "run", f"{key}={path}"))
            assert path.name in line and "checkpoint" in line
    assert not mark.exists() and not (tmp_path / "run").exists()


def test_truncated_checkpoint(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content = (straight / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    assert "cut.ckpt" in refused(capsys, [f"resume={tmp_path / 'cut.ckpt'}"])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["recipe=toy_amr"], ["toy_amr", "toy_arm"]),
        (["recipe=toy_arm", "ppo.gama=1"], ["ppo.gama"]),
        (["recipe=toy_arm", "body.name=toy_leg"], ["toy_leg", "toy_arm"]),
        (["recipe=toy_arm", "motions=nowhere"], ["motions=nowhere"]),
        (["recipe=toy_arm", "task.penalty.energy=1"], ["task.penalty", "energy"]),
        (["recipe=toy_arm", "net.hidden=[]"], ["net.hidden"]),
        (["recipe=toy_arm", "net.kind=moe", "net.moe.layers=[9]"], ["net.moe.layers"]),
    ],
    ids=["recipe", "key", "body", "motions", "term", "no layer", "mixture"],
)
def test_mistakes_on_the_command_line(
    words: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    line = refused(capsys, [*words, f"run_dir={tmp_path / 'run'}"])
    for part in parts:
        assert part in line, line
    assert not (tmp_path / "run").exists()


def test_a_run_directory_is_not_overwritten(straight: Path, capsys: pytest.CaptureFixture) -> None:
    before = (straight / "metrics.csv").read_bytes()
    assert "holds a run already" in refused(capsys, tiny(straight))
    assert (straight / "metrics.csv").read_bytes() == before


@pytest.mark.slow
# -- as processes -----------------------------------------------------------------------------------------------------
def test_a_refusal_of_the_real_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mm_torch.train", "recipe=toy_arm", "num_envs=0"], cwd=REPO, capture_output=True,
        text=True, timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: num_envs=0: must lie between 1 and 1e+06"]


@pytest.mark.slow
def test_interrupt_saves_and_exits_cleanly(tmp_path: Path) -> None:
    words = [*TINY, "total_steps=1000000000", f"run_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mm_torch.train", *words], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        next(line for line in process.stdout if line.startswith("it "))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "SIGINT" in output and "Traceback" not in errors
    checkpoint = read_checkpoint(tmp_path / "run")
    assert checkpoint[KEY]["iteration"] == len(rows(tmp_path / "run")) >= 1


# -- learning ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_toy_arm_learns_to_imitate_within_three_minutes(tmp_path: Path) -> None:
    folder = train(recipe_from(["recipe=toy_arm", "max_minutes=3", f"run_dir={tmp_path / 'run'}"]))
    recipe = to_recipe(OmegaConf.load(folder / "recipe.yaml"))
    total = sum(term.weight for term in recipe.task.reward.values() if term is not None)
    table = rows(folder)
    reached = sum(float(row["reward"]) for row in table[-10:]) / 10
    assert reached >= 0.9 * total, f"reward {reached:.3f} of {total:.3f} after {table[-1]['control_steps']} steps"
    assert float(table[-1]["seconds"]) < 180


def test_a_test_on_training_motions_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder, names in (("train", "ab"), ("test", "bc"), ("other", "c")):
        for name in names:
            (tmp_path / folder / "set").mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "set" / f"{name}.npz").touch()
    train, test, other = (str(tmp_path / folder) for folder in ("train", "test", "other"))
    for quiet in ((train, other), (train, train), (None, test), (train, None), (str(tmp_path / "gone"), test)):
        warn_of_leakage(*quiet)
    assert not caplog.records
    warn_of_leakage(train, test)
    assert "1 of the motions" in caplog.text and "set/b" in caplog.text
