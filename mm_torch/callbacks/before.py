"""What is learned before the first PPO iteration of a new run: clock, progress, and a checkpoint of the result."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from mm_torch.callbacks.checkpoint import save_atomically
from mm_torch.callbacks.records import Records, clock
from mm_torch.callbacks.stopping import Stopping
from mm_torch.ppo.module import PpoModule


class BeforePpo(Callback, ABC):
    """Base of the callbacks that teach a new run something before PPO begins.

    ============ =================================================
    name         what it is called on screen and in TensorBoard
    checkpoint   file in ``RUN/checkpoints`` that holds the result
    ============ =================================================

    Args:
        run_dir: run directory.
        records: its clock runs on.
        stopping: time and signals end this, too.
    """

    name: str
    checkpoint: str

    def __init__(self, run_dir: Path, records: Records, stopping: Stopping) -> None:
        self.run_dir, self.records, self.stopping = run_dir, records, stopping
        self._start = 0.0

    @abstractmethod
    def wanted(self, module: PpoModule) -> bool:
        """Whether the recipe asks for it."""

    @abstractmethod
    def teach(self, trainer: lightning.Trainer, module: PpoModule) -> None:
        """Do it; call ``report`` on the way, and end early where ``stopping.due`` says so."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See Lightning."""
        assert isinstance(pl_module, PpoModule)
        if pl_module.iteration or not self.wanted(pl_module):
            return
        self._start = time.perf_counter()
        self.teach(trainer, pl_module)
        if sys.stdout.isatty():
            print()
        pl_module.env.statistics.clear()
        trainer.should_stop = self.stopping.due()
        save_atomically(trainer, self.run_dir / "checkpoints" / self.checkpoint)
        elapsed = self.seconds
        self.records.seconds += elapsed
        self.records.skip(elapsed)

    @property
    def seconds(self) -> float:
        """Since it began, s."""
        return time.perf_counter() - self._start

    def report(
        self, trainer: lightning.Trainer, text: str, figures: dict[str, Any], done: int, found: int, wanted: int, unit: str
    ) -> None:
        """Progress on screen and in TensorBoard.

        Args:
            trainer: of the run.
            text: what else to say.
            figures: by name, for TensorBoard.
            done: how far it is.
            found: how far it was when this process began.
            wanted: how far it goes.
            unit: of these.
        """
        left = self.seconds * max(0, wanted - done) / max(1, done - found)
        line = f"{self.name} | {unit} {done:,} of {wanted:,} | ETA {clock(left)} | {text}"
        print(f"\r{line}\033[K" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)
        if trainer.logger is not None:
            trainer.logger.log_metrics({f"{self.name}/{n}": value for n, value in figures.items()}, step=done)
