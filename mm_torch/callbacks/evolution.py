"""Search for reflex gains before the first PPO iteration: progress, a file to go on from, and a checkpoint of the result."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

from mm_torch.callbacks.checkpoint import save_atomically
from mm_torch.callbacks.records import Records, clock
from mm_torch.callbacks.stopping import Stopping
from mm_torch.evolution.search import Generation, Search
from mm_torch.ppo.module import PpoModule

STATE, TABLE, EVOLVED = "evolution.npz", "evolution.csv", "evolved.ckpt"


class Evolution(Callback):
    """Let the reflexes of a new run find their gains before PPO begins.

    After each generation the search is in ``RUN/evolution.npz`` and its figures in ``RUN/evolution.csv``. A run that ended
    before its first PPO iteration goes on with them on resuming.

    Args:
        run_dir: run directory.
        records: its clock runs on.
        stopping: time and signals end the search, too.
    """

    def __init__(self, run_dir: Path, records: Records, stopping: Stopping) -> None:
        self.run_dir, self.records, self.stopping = run_dir, records, stopping

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See Lightning."""
        assert isinstance(pl_module, PpoModule)
        config, env = pl_module.recipe.evolution, pl_module.env
        if pl_module.iteration or not config.steps:
            return
        start = time.perf_counter()
        search = Search(pl_module.agent, env, config, pl_module.recipe.seed)
        if (self.run_dir / STATE).exists():
            search.load(self.run_dir / STATE)
        found = search.control_steps
        table = (self.run_dir / TABLE).open("a", newline="")
        rows = csv.writer(table)
        if not found:
            rows.writerow([*Generation._fields, "seconds"])

        def report(done: Generation) -> None:
            search.save(self.run_dir / STATE)
            seconds = time.perf_counter() - start
            rows.writerow([*(f"{x:.6g}" for x in done), f"{self.records.seconds + seconds:.2f}"])
            table.flush()
            left = seconds * (config.steps - done.control_steps) / max(1, done.control_steps - found)
            line = (
                f"evolution | generation {done.generation} | steps {done.control_steps:,} of {config.steps:,} | "
                f"ETA {clock(max(0.0, left))} | length {done.episode_length:.0f} | return {done.episode_return:.1f} | "
                f"site {100 * done.relative_site_error:.1f} cm"
            )
            print(f"\r{line}\033[K" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)
            if trainer.logger is not None:
                trainer.logger.log_metrics({f"evolution/{n}": x for n, x in done._asdict().items()}, step=done.control_steps)

        search.run(report, self.stopping.due)
        table.close()
        if sys.stdout.isatty():
            print()
        env.statistics.clear()
        env.reset()
        trainer.should_stop = self.stopping.due()
        save_atomically(trainer, self.run_dir / "checkpoints" / EVOLVED)
        elapsed = time.perf_counter() - start
        self.records.seconds += elapsed
        self.records.skip(elapsed)
