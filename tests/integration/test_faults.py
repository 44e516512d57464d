"""What may happen to a run: signals, kill -9, damaged checkpoints, a full or read-only disk, gradients without a value."""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mm_torch.callbacks.checkpoint import KEY, CheckpointError, open_checkpoint, read_checkpoint
from mm_torch.callbacks.stopping import INTERRUPTED, SIGNALS, Stopping, signals_of_a_verb
from mm_torch.command import run_command
from mm_torch.ppo.optim import consecutive_skips
from mm_torch.train import main, recipe_from
from mm_torch.training import train

REPO = Path(__file__).parents[2]
TINY = (
    "recipe=toy_arm", "profile=cpu", "sim=native", "num_envs=8", "threads=1", "ppo.rollout_steps=24",
    "ppo.minibatches=4", "net.hidden=[16,16]",
)
ITERATION = 8 * 24
ENDLESS = "total_steps=1000000000"
KILLS = int(os.environ.get("KILLS", "5"))
"""Random kills of the slow test: ``KILLS=500 pytest -m slow -k kill_at_random``."""
KILL_SEED = int(os.environ.get("KILL_SEED", "0"))
MODULE = (sys.executable, "-m", "mm_torch.train")


def start(*words: str, program: tuple[str, ...] = MODULE) -> subprocess.Popen[str]:
    """Train as a process of its own."""
    return subprocess.Popen(
        [*program, *words], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen[str], beginning: str) -> str:
    """Read output up to the line that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError(f"ended with {process.wait()}: {process.stderr.read() if process.stderr else ''}")


def iterations(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["iteration"]) for row in csv.DictReader(file)]


# -- signals ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_save_and_exit_with_their_code_however_often_they_come(number: signal.Signals, tmp_path: Path) -> None:
    process = start(*TINY, ENDLESS, f"run_dir={tmp_path}")
    try:
        wait_for(process, "it ")
        for _ in range(20):
            process.send_signal(number)
            time.sleep(0.002)
        sent = time.perf_counter()
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == SIGNALS[number].code == INTERRUPTED, errors
    assert time.perf_counter() - sent < SIGNALS[number].seconds
    assert number.name in output and number.name in errors and "Traceback" not in errors
    assert read_checkpoint(tmp_path)[KEY]["iteration"] == iterations(tmp_path)[-1] >= 1


@pytest.mark.parametrize("number", list(SIGNALS))
def test_a_signal_before_training_ends_the_process_and_later_ones_do_nothing(number: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in SIGNALS}
    try:
        with pytest.raises(SystemExit) as stop, signals_of_a_verb():
            os.kill(os.getpid(), number)
            time.sleep(5.0)
        assert stop.value.code == INTERRUPTED
        os.kill(os.getpid(), number)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    with signals_of_a_verb():
        assert Stopping.received is None
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


@pytest.mark.slow
def test_an_iteration_without_end_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    code = (
        "import signal, sys\n"
        "from mm_torch import train\nfrom mm_torch.callbacks import stopping\nfrom mm_torch.command import run_command\n"
        "stopping.SIGNALS[signal.SIGTERM] = stopping.Stop(stopping.INTERRUPTED, 1.0)\n"
        "run_command(train.main, sys.argv[1:], None)\n"
    )
    words = (*TINY, ENDLESS, f"run_dir={tmp_path}", "ppo.rollout_steps=90000")
    process = start(*words, program=(sys.executable, "-c", code))
    try:
        while not (tmp_path / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        sent = time.perf_counter()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED, errors
    assert 0.9 < time.perf_counter() - sent < 15
    assert "last checkpoint" in errors and "Traceback" not in errors
    assert read_checkpoint(tmp_path)[KEY]["iteration"] == 0


# -- damaged checkpoints ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def two_saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations, each saved."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(recipe_from([*TINY, f"total_steps={3 * ITERATION}", f"run_dir={folder}", "checkpoint_minutes=0"]))
    return folder


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1:]


DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "a flipped byte": lambda content: flipped(content, content.index(b"state_dict")),
    "garbage": lambda content: random.Random(1).randbytes(len(content)),
}


@pytest.mark.parametrize("kind", [*DAMAGE, "gone"])
def test_a_damaged_last_falls_back_to_the_previous_one(
    kind: str, two_saves: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(two_saves, folder)
    last = folder / "checkpoints" / "last.ckpt"
    assert read_checkpoint(folder)[KEY]["iteration"] == 3 and not caplog.records
    if kind == "gone":
        last.unlink()
    else:
        last.write_bytes(DAMAGE[kind](last.read_bytes()))
    recipe = recipe_from([f"resume={folder}", f"total_steps={4 * ITERATION}", "checkpoint_minutes=1000"])
    assert len(caplog.records) == 1 and len(caplog.messages[0].splitlines()) == 1
    for part in ("last.ckpt", "previous.ckpt of iteration 2"):
        assert part in caplog.messages[0]
    train(recipe)
    assert [r.name for r in caplog.records].count("mm_torch.callbacks.checkpoint") == 1  # said once
    assert iterations(folder) == [1, 2, 3, 4] and read_checkpoint(folder)[KEY]["iteration"] == 4
    previous = open_checkpoint(folder / "checkpoints" / "previous.ckpt")[1]
    assert previous[KEY]["iteration"] == 2  # the damaged file did not take its place


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(two_saves: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(two_saves, folder)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a readable checkpoint"):
        read_checkpoint(folder)


def test_any_flipped_byte_is_noticed_or_harmless(two_saves: Path, tmp_path: Path) -> None:
    content = (two_saves / "checkpoints" / "last.ckpt").read_bytes()
    whole, path, noticed = read_checkpoint(two_saves)["state_dict"], tmp_path / "flipped.ckpt", 0
    for at in np.random.default_rng(0).integers(len(content), size=60).tolist():
        path.write_bytes(flipped(content, at))
        try:
            found = read_checkpoint(path)["state_dict"]
        except CheckpointError:
            noticed += 1
            continue
        assert all(torch.equal(found[name], x) for name, x in whole.items())
    assert noticed >= 20  # the rest hit padding


@pytest.mark.slow
def test_a_run_is_resumable_before_its_first_iteration_and_goes_the_same_way(two_saves: Path, tmp_path: Path) -> None:
    process = start(*TINY, f"total_steps={3 * ITERATION}", f"run_dir={tmp_path}")
    try:
        while not (tmp_path / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.001)
    finally:
        process.kill()
        process.communicate()
    for path in ("metrics.csv", "checkpoints/best.ckpt"):
        (tmp_path / path).unlink(missing_ok=True)
    if (tmp_path / "checkpoints" / "previous.ckpt").exists():
        os.replace(tmp_path / "checkpoints" / "previous.ckpt", tmp_path / "checkpoints" / "last.ckpt")
    assert read_checkpoint(tmp_path)[KEY]["iteration"] == 0
    train(recipe_from([f"resume={tmp_path}"]))
    assert iterations(tmp_path) == [1, 2, 3]
    ours, theirs = (read_checkpoint(folder)["state_dict"] for folder in (tmp_path, two_saves))
    assert all(torch.equal(ours[name], x) for name, x in theirs.items())


# -- kill -9 ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_kill_at_random_moments_never_loses_a_run(tmp_path: Path) -> None:
    folder, dice, before, lost = tmp_path / "run", random.Random(KILL_SEED), 0, Counter[int]()
    last, temporary = folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / ".last.ckpt.tmp"
    server = multiprocessing.get_context("forkserver")  # imports once: a process to kill starts in half a second
    server.set_forkserver_preload(["mm_torch.train"])
    for kill in range(KILLS):
        begin = [f"resume={folder}"] if before or last.exists() else [*TINY, f"run_dir={folder}"]
        process = server.Process(target=main, args=([*begin, ENDLESS, "checkpoint_minutes=0"],))
        process.start()
        time.sleep(dice.uniform(0.0, 3.0))  # the first half second or so is before training
        limit = time.perf_counter() + 10
        while kill % 2 and not temporary.exists() and time.perf_counter() < limit:
            pass  # every other kill falls into the writing of a checkpoint
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"kill {kill}: ended before with {process.exitcode}"
        if not before and not last.exists():
            continue  # training had not begun
        saved = read_checkpoint(folder)[KEY]["iteration"]
        table = iterations(folder) if (folder / "metrics.csv").exists() else []
        assert table == list(range(1, len(table) + 1)), f"kill {kill}"
        assert saved >= before and 0 <= len(table) - saved <= 1, f"kill {kill}: {before} -> {saved}, table {len(table)}"
        print(f"kill {kill}: iteration {saved}, files {sorted(p.name for p in last.parent.iterdir())}", flush=True)
        before, lost[len(table) - saved] = saved, lost[len(table) - saved] + 1
    train(recipe_from([f"resume={folder}", f"total_steps={(before + 1) * ITERATION}"]))
    assert read_checkpoint(folder)[KEY]["iteration"] == before + 1
    assert not list((folder / "checkpoints").glob(".last*"))
    print(f"{KILLS} kills, 0 runs lost, {before} iterations; kills by iterations lost: {dict(lost)}")


# -- disk -------------------------------------------------------------------------------------------------------------
def mounts() -> bool:
    """Whether we may mount a small disk of our own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", tempfile.gettempdir()]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def one_error(process: subprocess.Popen[str]) -> str:
    """The only line that a failed process leaves on stderr."""
    try:
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), errors
    return lines[0]


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    train(recipe_from([*TINY, f"total_steps={ITERATION}", f"run_dir={tmp_path}", "max_minutes=0"]))
    blocks = (tmp_path / "checkpoints" / "last.ckpt").stat().st_size // 2 // 512
    program = ("sh", "-c", f'ulimit -f {blocks} && exec "$@"', "sh", *MODULE)
    line = one_error(start(f"resume={tmp_path}", f"total_steps={2 * ITERATION}", program=program))
    assert "last.ckpt: cannot be written (File too large)" in line and f"resume={tmp_path}" in line
    assert read_checkpoint(tmp_path)[KEY]["iteration"] == 1 and not list((tmp_path / "checkpoints").glob(".*"))
    train(recipe_from([f"resume={tmp_path}", f"total_steps={2 * ITERATION}"]))
    assert iterations(tmp_path) == [1, 2]


@pytest.mark.slow
@pytest.mark.skipif(not mounts(), reason="may not mount a disk of its own (user namespaces are off)")
@pytest.mark.parametrize(
    ("options", "words"), [("size=256k", "No space left on device"), ("size=1m,ro", "Read-only file system")],
    ids=["full", "read-only"],
)
def test_a_full_or_read_only_disk_is_one_line(options: str, words: str, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o {options} none "{tmp_path}" && exec "$@"'
    program = ("unshare", "-rm", "sh", "-c", script, "sh", *MODULE)
    line = one_error(start(*TINY, ENDLESS, "checkpoint_minutes=0", f"run_dir={tmp_path / 'run'}", program=program))
    assert words in line and str(tmp_path / "run") in line and "resume=" in line


# -- gradients --------------------------------------------------------------------------------------------------------
def test_gradients_without_a_value_end_the_training_with_a_dump(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*TINY, ENDLESS, f"run_dir={tmp_path}", "ppo.value_weight=1e39", "ppo.max_skipped_steps=10"], None)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    path = tmp_path / "failed_gradients" / "000003.npz"  # four steps an iteration: the tenth falls in the third
    assert len(lines) == 1 and lines[0].startswith("error: 12 optimiser steps in a row"), lines
    for part in ("ppo.max_skipped_steps=10", "iteration 3", "total", str(path), "resume="):
        assert part in lines[0]
    with np.load(path, allow_pickle=False) as dump:
        assert dump["minibatch/observation"].shape == (ITERATION // 4, 18) and dump["loss/norm"].shape == (4,)
        assert not np.isfinite(dump["loss/norm"]).any() and np.isfinite(dump["loss/policy"]).all()
        assert all(np.isfinite(dump[name]).all() for name in dump.files if name.startswith("weights/"))
    assert iterations(tmp_path) == [1, 2] and read_checkpoint(tmp_path)[KEY]["iteration"] == 0


@pytest.mark.parametrize(("patience", "ends"), [pytest.param(0, False, marks=pytest.mark.slow), (2, True)])
def test_a_diverging_policy_is_reported_and_stopped_where_wanted(
    patience: int, ends: bool, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*TINY, f"total_steps={3 * ITERATION}", f"run_dir={tmp_path}", "ppo.optimiser.lr=0.5", "ppo.epochs=3",
             "ppo.max_kl=0.05", f"ppo.max_kl_iterations={patience}"]
    if not ends:
        run_command(main, words, None)
    else:
        with pytest.raises(SystemExit) as stop:
            run_command(main, words, None)
        assert stop.value.code == 2
    alarms = [m for m in caplog.messages if "KL divergence" in m]
    assert len(alarms) == 1 and "above ppo.max_kl=0.05 in iteration 1" in alarms[0]  # once, not in every iteration
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == ends
    if ends:
        path = tmp_path / "divergence" / "000002.npz"
        assert "ppo.max_kl_iterations=2 in a row" in errors[0] and str(path) in errors[0]
        with np.load(path, allow_pickle=False) as dump:
            assert dump["loss/kl"].shape == (12,) and dump["loss/kl"].max() > 0.05
    assert iterations(tmp_path) == ([1] if ends else [1, 2, 3])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert all(float(row["kl_max"]) > 0.05 and float(row["kl_max"]) >= float(row["kl"]) for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("made", "running", "longest", "left"),
    [("", 3, 3, 3), ("1", 3, 3, 0), ("0", 3, 4, 4), ("0010001", 0, 3, 0), ("0100", 4, 5, 2), ("111", 0, 0, 0)],
)
def test_steps_in_a_row_are_counted_over_iterations(made: str, running: int, longest: int, left: int) -> None:
    assert consecutive_skips([m == "1" for m in made], running) == (longest, left)
