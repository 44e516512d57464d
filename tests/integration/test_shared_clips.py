"""Two processes share the clips of an evaluation and the captures of a retargeting: the results are those of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mm_torch import processes
from mm_torch.evaluation.evalkit import KitWriter
from mm_torch.evaluation.recording import record_states
from mm_torch.maths import ranks
from mm_torch.motion.bank import load_bank
from mm_torch.motion.library import library_clips
from sim_models.registry import load_body
from tests.integration.test_ranks import as_rank, on_two_ranks
from tests.unit.retargeting.captures import walking_poses, write_amass
from tools.retargeting.manifest import part, read_manifest

REPO = Path(__file__).parents[2]
VARIED = ("absolute_site_deviation=0.4", "push=0.05", "push_every=0.3", "push_site=hand_mimic", "sampled=true", "seeds=2")
SECONDS = 280.0


def start(*words: str | Path, ranks: int = 2) -> subprocess.Popen[str]:
    """A program in one process, or in several as torchrun starts them."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, words)], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}, start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=SECONDS)
    finally:
        process.kill()


def kill_second_rank(process: subprocess.Popen[str], underway: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not underway():
        assert process.poll() is None and time.monotonic() < end, "nothing was done"
        time.sleep(0.05)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and "tensorboard" not in p.parts and p.suffix != ".lock"}


# -- evaluation -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_evaluation_of_two_processes_is_that_of_one_bit_for_bit(toy_run: Path, tmp_path: Path) -> None:
    words = ("-m", "mm_torch.evaluate", f"checkpoint={toy_run},control", *VARIED, "rollouts=true", "threads=1")
    printed = []
    for count in (1, 2):
        process = start(*words, f"out={tmp_path / str(count)}", ranks=count)
        output, errors = finish(process)
        assert process.returncode == 0, errors[-3000:]
        printed.append(output)
    assert printed[0] == printed[1] and "bootstrap intervals" in printed[0]
    alone, together = (contents(tmp_path / count) for count in "12")
    assert sum(name.endswith(".npz") for name in alone) == 16 and "report.json" in alone
    assert together == alone
    assert all(len(list((tmp_path / "2" / name).glob("events*"))) == 1
               for name in (f"{toy_run.name}/tensorboard", "control/tensorboard"))


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_evaluation_with_a_message(toy_run: Path, tmp_path: Path) -> None:
    process = start("-m", "mm_torch.evaluate", f"checkpoint={toy_run}", "sampled=true", "seeds=100000", "rollouts=true",
                    "threads=1", f"out={tmp_path}")
    kill_second_rank(process, lambda: any(tmp_path.rglob("*.npz")))
    killed = time.monotonic()
    _, errors = finish(process)
    assert process.returncode not in (0, None) and time.monotonic() - killed < 60
    assert "error: process 0 of 2: " in errors and "start the same command again" in errors, errors[-3000:]
    assert "another process of the run has gone" in errors and not (tmp_path / "summary.json").exists()


def kit_of(numbers: list[int], path: Path) -> None:
    """The kit's file from replays of clips of the arms that this rank holds; others hold the rest."""
    body = load_body("myo_bimanual")
    bank = load_bank(body, library_clips("myo_bimanual")[:3])
    kit = KitWriter(body, bank)
    for clip in numbers:
        frames = slice(int(bank.offsets[clip]), int(bank.offsets[clip]) + 3 + clip)
        qpos, qvel = (np.asarray(x[frames].double()) for x in (bank.frames.qpos, bank.frames.qvel))
        activation = np.full((len(qpos), body.model.nu), 0.1 + clip)
        kit.add(clip, record_states(body, qpos, qvel, clip=bank.names[clip], source="test", activation=activation))
    kit.write(path)


def _kit(of: int, port: int, folder: str) -> None:
    as_rank(of, port)
    kit_of([1] if of else [2, 0], Path(folder) / f"{of}.npz")
    with pytest.raises(processes.RecipeError, match="seen differently"):
        if not ranks.agreed(str(of)):
            raise processes.RecipeError("seen differently")
    processes.leave()


@pytest.mark.slow
def test_one_rank_writes_the_kits_file_with_the_clips_of_all(tmp_path: Path) -> None:
    on_two_ranks(_kit, str(tmp_path))
    kit_of([0, 1, 2], tmp_path / "alone.npz")
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()
    assert not (tmp_path / "1.npz").exists()


@pytest.mark.slow
def test_processes_with_different_words_are_refused(toy_run: Path, tmp_path: Path) -> None:
    script = tmp_path / "differ.sh"
    words = f"-m mm_torch.evaluate checkpoint={toy_run} threads=1 seed=$RANK out={tmp_path}"
    script.write_text(f"exec {sys.executable} {words}\n")
    process = start("--no-python", "sh", script)
    _, errors = finish(process)
    assert process.returncode == 1 and "the processes of this evaluation see different options or clips" in errors
    assert not (tmp_path / "summary.json").exists()


# -- retargeting ------------------------------------------------------------------------------------------------------
def retarget(folder: Path, out: Path, ranks: int) -> subprocess.Popen[str]:
    return start("tools/retarget.py", folder, "body=myo_bimanual", "activations=false", f"out={out}", ranks=ranks)


def without_times(out: Path) -> dict[str, dict[str, str]]:
    return {clip: {k: v for k, v in row.items() if k not in ("seconds_spent", "ms_per_frame")}
            for clip, row in read_manifest(out / "manifest.csv").items()}


def clips(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(out).items() if name.endswith(".npz")}


def write_walks(folder: Path, count: int) -> None:
    folder.mkdir()
    for k in range(count):
        write_amass(folder / f"walk{k}.npz", *walking_poses(40 + 5 * k, 60.0, arms=-1.2 + 0.1 * k), 60.0)


@pytest.mark.slow
def test_captures_are_shared_and_one_manifest_holds_all(tmp_path: Path) -> None:
    write_walks(tmp_path / "in", 3)
    (tmp_path / "in" / "bad.bvh").write_text("no motion")
    calm = retarget(tmp_path / "in", tmp_path / "alone", 1)
    output, errors = finish(calm)
    assert calm.returncode == 1 and "3 clips made, 0 unchanged, 1 failed of 4" in output, errors[-3000:]
    out = tmp_path / "together"
    for summary in ("3 clips made, 0 unchanged, 1 failed of 4", "0 clips made, 3 unchanged, 1 failed of 4"):
        process = retarget(tmp_path / "in", out, 2)
        output, errors = finish(process)
        assert process.returncode == 1 and output.count(summary) == 1, (output, errors[-3000:])
        assert errors.count("failed: bad: ") == 1 and "exitcode  : 1" in errors
        assert without_times(out) == without_times(tmp_path / "alone") and clips(out) == clips(tmp_path / "alone")
        assert not list(out.glob(".manifest.csv.rank*"))
    (tmp_path / "in" / "bad.bvh").unlink()
    process = retarget(tmp_path / "in", out, 2)
    output, errors = finish(process)
    assert process.returncode == 0 and "0 clips made, 3 unchanged, 0 failed of 3" in output, errors[-3000:]


@pytest.mark.slow
def test_a_rank_that_dies_loses_no_clip_that_was_made(tmp_path: Path) -> None:
    write_walks(tmp_path / "in", 6)
    out = tmp_path / "out"
    process = retarget(tmp_path / "in", out, 2)
    kill_second_rank(process, lambda: all(read_manifest(part(out, of)) for of in (0, 1)))
    _, errors = finish(process)
    assert process.returncode not in (0, None), errors[-3000:]
    assert "another process of the run has gone" in errors and "start the same command again" in errors, errors[-3000:]
    made = sum(len(read_manifest(part(out, of))) for of in (0, 1))
    assert 2 <= made < 6, "the machine was too slow to kill a rank in time"
    again = retarget(tmp_path / "in", out, 1)
    output, errors = finish(again)
    unchanged = int(output.split(" unchanged")[0].split()[-1])
    assert again.returncode == 0 and unchanged == made and len(clips(out)) == 6, (output, errors[-3000:])
    assert list(read_manifest(out / "manifest.csv")) == [f"walk{k}" for k in range(6)]
    assert not list(out.glob(".manifest.csv.rank*"))
