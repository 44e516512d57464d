"""What must stay the same: memory over thousands of iterations, and every bit whatever the number of physics threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mm_torch.callbacks.checkpoint import read_checkpoint
from mm_torch.train import recipe_from
from mm_torch.training import train

REPO = Path(__file__).parents[2]
ITERATIONS = int(os.environ.get("ITERATIONS", "2000"))
"""Iterations of the memory test; ``ITERATIONS=20000 pytest -m slow -k memory`` for a night."""
SMALL = ("recipe=toy_arm", "profile=cpu", "sim=native", "num_envs=4", "ppo.rollout_steps=8", "ppo.minibatches=2",
         "net.hidden=[16,16]")
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(process: int) -> float:
    """Memory of a process in MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE / 1e6


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope and its standard error as if 20 samples were independent."""
    centred = x - x.mean()
    rise = float(centred @ (y - y.mean()) / (centred @ centred))
    rest = y - y.mean() - rise * centred
    return rise, float(rest.std() / (x.std() * np.sqrt(20)))


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    words = [*SMALL[:3], "num_envs=2", "ppo.rollout_steps=4", "ppo.minibatches=1", SMALL[-1], "threads=1",
             f"total_steps={ITERATIONS * 8}", f"run_dir={tmp_path / 'run'}", "checkpoint_minutes=0.05",
             "sampling.adaptive=true", "curriculum.termination=true"]
    samples = []
    with subprocess.Popen([sys.executable, "-u", "-m", "mm_torch.train", *words], cwd=REPO, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("it ") and process.poll() is None:
                samples.append((int(line[3:9]), resident(process.pid)))
    assert process.returncode == 0
    table = np.array(samples[:-1])  # the process may be leaving at the last
    warm = table[table[:, 0] > ITERATIONS / 3]
    rise, error = slope(warm[:, 0], warm[:, 1])
    print(f"resident memory {warm[0, 1]:.1f} to {warm[-1, 1]:.1f} MB from iteration {warm[0, 0]:.0f} to {warm[-1, 0]:.0f}: "
          f"{1e3 * rise:.3f} +- {1e3 * error:.3f} MB in 1000 iterations")
    np.savetxt(os.environ.get("MEMORY_CSV", tmp_path / "memory.csv"), table, "%.6g", ",", header="iteration,MB", comments="")
    assert 1e3 * rise < 0.5 + 3e3 * error


def learned(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder)["state_dict"]


@pytest.mark.parametrize("threads", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_training_is_the_same_bit_for_bit_on_any_number_of_physics_threads(threads: int, tmp_path: Path) -> None:
    words = [*SMALL, f"total_steps={3 * 32}"]
    before = torch.get_num_threads()
    try:
        one = train(recipe_from([*words, "threads=1", f"run_dir={tmp_path / 'one'}"]))
        many = train(recipe_from([*words, f"threads={threads}", f"run_dir={tmp_path / 'many'}"]))
        assert torch.get_num_threads() == 1  # of the update, which may round differently on more
    finally:
        torch.set_num_threads(before)
    ours, theirs = learned(one), learned(many)
    assert all(torch.equal(ours[name], x) for name, x in theirs.items()) and len(ours) > 10
