"""When a run ends before its budget of steps: time is up, or the user or the scheduler asks."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class Stopping(Callback):
    """Stop after the present iteration when minutes are used up or SIGINT or SIGTERM arrives; a second one aborts.

    Args:
        max_minutes: limit of this process in minutes; None for no limit.
    """

    def __init__(self, max_minutes: float | None) -> None:
        self.max_minutes = max_minutes
        self.reason: str | None = None
        self._start = time.perf_counter()
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See Lightning."""
        self._start = time.perf_counter()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        print(f"\n{self.reason}: finishing this iteration and saving (once more to abort)", flush=True)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        if self.max_minutes is not None and time.perf_counter() - self._start >= 60 * self.max_minutes:
            self.reason = self.reason or f"max_minutes={self.max_minutes:g}"
        trainer.should_stop = trainer.should_stop or self.reason is not None

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """See Lightning."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
