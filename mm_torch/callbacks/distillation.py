"""Distillation before the first PPO iteration: progress, labels on disk, and a checkpoint of what was learnt."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

from mm_torch.callbacks.checkpoint import save_atomically
from mm_torch.callbacks.records import Records, clock
from mm_torch.callbacks.stopping import Stopping
from mm_torch.distillation.labels import Labels
from mm_torch.distillation.student import Round, Student
from mm_torch.ppo.module import PpoModule

FOLDER, DISTILLED = "labels", "distilled.ckpt"


class Distillation(Callback):
    """Let the actor of a new run learn from the teacher before PPO begins.

    Labels go to ``RUN/labels``. A run that ended before its first PPO iteration reads them on resuming and goes on with the
    rest; the weights then follow from the labels once more.

    Args:
        run_dir: run directory.
        records: its clock runs on.
        stopping: time and signals end the labelling, too.
    """

    def __init__(self, run_dir: Path, records: Records, stopping: Stopping) -> None:
        self.run_dir, self.records, self.stopping = run_dir, records, stopping

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See Lightning."""
        assert isinstance(pl_module, PpoModule)
        config, env, agent = pl_module.recipe.distillation, pl_module.env, pl_module.agent
        if pl_module.iteration or not config.labels:
            return
        start = time.perf_counter()
        labels = Labels(self.run_dir / FOLDER, config.labels, env.current_observation.shape[-1], env.action_spec.shape[-1])
        found = labels.count

        def report(done: Round) -> None:
            figures = {name: value for name, value in done._asdict().items() if math.isfinite(value)}
            length = f" | length {done.episode_length:.0f}" if "episode_length" in figures else ""
            seconds = time.perf_counter() - start
            left = seconds * (config.labels - done.labels) / max(1, done.labels - found)
            line = (
                f"distillation | labels {done.labels:,} of {config.labels:,} | ETA {clock(left)} | "
                f"error {done.error ** 0.5:.3f} of full excitation{length}"
            )
            print(f"\r{line}\033[K" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)
            if trainer.logger is not None:
                trainer.logger.log_metrics({f"distillation/{n}": value for n, value in figures.items()}, step=done.labels)

        Student(agent, env, labels, config).learn(report, self.stopping.due)
        if sys.stdout.isatty():
            print()
        env.statistics.clear()
        trainer.should_stop = self.stopping.due()
        save_atomically(trainer, self.run_dir / "checkpoints" / DISTILLED)
        elapsed = time.perf_counter() - start
        self.records.seconds += elapsed
        self.records.skip(elapsed)
