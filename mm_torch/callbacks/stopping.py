"""When a run ends before its budget of steps: time is up, or the user or the scheduler asks."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, ClassVar, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from mm_torch.maths.ranks import largest_over_ranks

INTERRUPTED = 75
"""Exit code of a run that a signal ended and that ``resume=`` continues (EX_TEMPFAIL of sysexits.h: try again)."""


class Stop(NamedTuple):
    """What a signal leads to.

    ========= ===================================================================================================
    code      exit code once the run is saved
    seconds   s that the present iteration and saving may take; then the process ends without, with ``INTERRUPTED``
    ========= ===================================================================================================
    """

    code: int
    seconds: float


SIGNALS = {
    signal.SIGINT: Stop(0, 100.0),
    signal.SIGTERM: Stop(INTERRUPTED, 25.0),  # SLURM and Kubernetes kill 30 s after SIGTERM
    signal.SIGUSR1: Stop(INTERRUPTED, 100.0),  # sbatch --signal=USR1@120
}


class Stopping(Callback):
    """Stop after the present iteration when minutes are used up or a signal of ``SIGNALS`` arrives, at any rank.

    Further signals never abort the saving; they can only bring the deadline forward.

    Args:
        max_minutes: limit of this process in minutes; None for no limit.
    """

    received: ClassVar[signal.Signals | None] = None  # the first signal of this process

    def __init__(self, max_minutes: float | None) -> None:
        self.max_minutes = max_minutes
        self.reason: str | None = None
        self._start = time.perf_counter()
        self._signal = 0  # number of the first that came to this process
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See Lightning."""
        self._start = time.perf_counter()
        self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, _give_up)
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name, limit = signal.Signals(number).name, SIGNALS[signal.Signals(number)].seconds
        left = min(limit, signal.getitimer(signal.ITIMER_REAL)[0] or limit)
        signal.setitimer(signal.ITIMER_REAL, left)
        self._signal = self._signal or number
        Stopping.received = Stopping.received or signal.Signals(number)
        _say(f"{name}: finishing this iteration and saving within {left:.0f} s (kill -9 aborts; the last checkpoint stays)")

    def due(self) -> bool:
        """Whether time is up or a signal came, at any rank; all ranks must ask."""
        late = self.max_minutes is not None and time.perf_counter() - self._start >= 60 * self.max_minutes
        number, late = largest_over_ranks(torch.tensor([self._signal, int(late)])).tolist()
        if number and self.reason is None:  # of this process or another
            self.reason = signal.Signals(number).name
            Stopping.received = Stopping.received or signal.Signals(number)
        if late and self.reason is None:
            self.reason = f"max_minutes={self.max_minutes:g}"
        return self.reason is not None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        trainer.should_stop = self.due() or trainer.should_stop

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """See Lightning."""
        self._restore()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """See Lightning."""
        self._restore()

    def _restore(self) -> None:
        if self._previous:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


@contextlib.contextmanager
def signals_of_a_verb() -> Iterator[None]:
    """Around a training verb: before training a signal ends the process with ``INTERRUPTED``; afterwards none does harm.

    Raises:
        SystemExit: at the end, with the exit code of the signal that ended the run.
    """
    Stopping.received = None
    previous = {number: signal.signal(number, _outside_training) for number in SIGNALS}
    try:
        yield
        if Stopping.received is not None:
            raise SystemExit(SIGNALS[Stopping.received].code)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if Stopping.received is None else signal.SIG_IGN)


def _outside_training(number: int, frame: FrameType | None) -> None:
    if Stopping.received is None:
        Stopping.received = signal.Signals(number)
        _say(f"{Stopping.received.name}: training has not started or has ended; nothing to save")
        raise SystemExit(INTERRUPTED)


def _give_up(number: int, frame: FrameType | None) -> None:
    _say("the iteration did not end in time; resume= goes on from the last checkpoint that was written")
    raise SystemExit(INTERRUPTED)


def _say(text: str) -> None:
    """Write a line from a signal handler, where ``print`` may already be running."""
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
