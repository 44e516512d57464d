"""What must stay the same: memory over thousands of iterations, and every bit whatever the number of physics threads."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mm_torch.training
from mm_torch.callbacks.checkpoint import read_checkpoint
from mm_torch.callbacks.records import Records
from mm_torch.train import main, recipe_from
from mm_torch.training import train

REPO = Path(__file__).parents[2]
ITERATIONS = int(os.environ.get("ITERATIONS", "2000"))
"""Iterations of the memory test; ``ITERATIONS=20000 pytest -m slow -k memory`` for a night."""
SAMPLES = 100
SMALLEST = 32
"""What the smallest allocation takes from the C library, bytes."""
RESIDENT = 500
"""What an iteration may add to resident memory, bytes; more is taken for growth where it exceeds the noise."""
EXACT = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""Environment in which the C library serves Python's objects, too, and counts as in use only what is; see docs/faults.md."""
SMALL = ("recipe=toy_arm", "profile=cpu", "sim=native", "num_envs=4", "ppo.rollout_steps=8", "ppo.minibatches=2",
         "net.hidden=[16,16]")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Heap(ctypes.Structure):
    """``struct mallinfo2`` of the GNU C library, bytes."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "mapped", "usmblks", "fsmblks", "used", "free", "keepcost")]


class Sampled(Records):
    """Adds a line ``memory ITERATION BYTES_IN_USE BYTES_RESIDENT`` now and then."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if pl_module.iteration % max(1, ITERATIONS // SAMPLES) == 0:
            gc.collect()
            mallinfo2 = ctypes.CDLL(None).mallinfo2
            mallinfo2.restype = Heap
            heap, resident = mallinfo2(), int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
            print("memory", pl_module.iteration, heap.used + heap.mapped, resident, flush=True)


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope and its standard error as if 20 samples were independent."""
    centred = x - x.mean()
    rise = float(centred @ (y - y.mean()) / (centred @ centred))
    rest = y - y.mean() - rise * centred
    return rise, float(rest.std() / (x.std() * np.sqrt(20)))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks the GNU C library 2.33 or later")
def test_memory_stays_flat(tmp_path: Path) -> None:
    words = [*SMALL[:3], "num_envs=2", "ppo.rollout_steps=4", "ppo.minibatches=1", SMALL[-1], "threads=1",
             f"total_steps={ITERATIONS * 8}", f"run_dir={tmp_path / 'run'}", "checkpoint_minutes=0.05",
             "sampling.adaptive=true", "curriculum.termination=true"]
    process = subprocess.run([sys.executable, __file__, *words], cwd=REPO, stdout=subprocess.PIPE, text=True, check=True,
                             env=EXACT | os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)})
    samples = [line.split()[1:] for line in process.stdout.splitlines() if line.startswith("memory ")]
    table = np.array(samples, dtype=float)
    samples_file = os.environ.get("MEMORY_CSV", tmp_path / "memory.csv")
    np.savetxt(samples_file, table, "%d", ",", header="iteration,used,resident", comments="")
    warm = table[table[:, 0] > ITERATIONS / 3]
    assert len(warm) > SAMPLES / 2
    slopes = {}
    for name, column in (("in use", warm[:, 1]), ("resident", warm[:, 2])):
        slopes[name] = rise, error = slope(warm[:, 0], column)
        print(f"{name} {column[0] / 1e6:.3f} to {column[-1] / 1e6:.3f} MB from iteration {warm[0, 0]:.0f} to "
              f"{warm[-1, 0]:.0f}: {rise:.2f} +- {error:.2f} bytes an iteration")
    (used, used_error), (resident, resident_error) = slopes.values()
    assert used + 3 * used_error < SMALLEST, "an iteration may lose an allocation"
    assert resident - 3 * resident_error < RESIDENT, "nothing lost, but memory that is free does not go back to the system"


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


if __name__ == "__main__":
    mm_torch.training.Records = Sampled  # type: ignore[misc]
    main(sys.argv[1:])
