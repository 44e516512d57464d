"""Metrics of each iteration: TensorBoard, metrics.csv and the live progress line."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import IO, Any

import lightning
from lightning.pytorch.callbacks import Callback

from mm_torch.ppo.module import PpoModule

COLUMNS = (
    "iteration", "control_steps", "seconds", "steps_per_s", "reward", "episode_length", "early_termination_rate",
    "relative_site_error", "kl", "policy_std",
)


class Records(Callback):
    """Write the figures of every iteration.

    ``metrics.csv`` has one row an iteration; its first columns are ``COLUMNS``. A resumed run continues the file after
    the last iteration that its checkpoint holds.

    Args:
        run_dir: run directory.
        seconds: training time before this process.
    """

    def __init__(self, run_dir: Path, seconds: float = 0.0) -> None:
        self.path = run_dir / "metrics.csv"
        self.seconds = seconds
        self._last = time.perf_counter()
        self._file: IO[str] | None = None
        self._writer: csv.DictWriter[str] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See Lightning."""
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        assert isinstance(pl_module, PpoModule)
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        self.seconds += elapsed
        loader = trainer.train_dataloader
        pl_module.metrics |= {
            "iteration": pl_module.iteration,
            "control_steps": pl_module.control_steps,
            "seconds": self.seconds,
            "steps_per_s": pl_module.batch_control_steps / elapsed,
            "collect_share": loader.collect_seconds / elapsed,
        }
        if not trainer.is_global_zero:
            return
        self._write(pl_module.metrics)
        if trainer.logger is not None:
            trainer.logger.log_metrics(_by_group(pl_module.metrics), step=pl_module.control_steps)
        self._print(pl_module)

    def skip(self, seconds: float) -> None:
        """Leave time that was not spent on training, such as an evaluation's, out of the next iteration's figures."""
        self._last += seconds

    def _write(self, row: dict[str, float]) -> None:
        if self._writer is None:
            kept = _rows_before(self.path, row["control_steps"])
            names = [*COLUMNS, *sorted(set(row) - set(COLUMNS) | {n for r in kept for n in r} - set(COLUMNS))]
            fresh = self.path.with_name(f".{self.path.name}.tmp")
            self._file = fresh.open("w", newline="")
            self._writer = csv.DictWriter(self._file, names, restval="", extrasaction="ignore")
            self._writer.writeheader()
            self._writer.writerows(kept)
            self._file.flush()
            fresh.replace(self.path)  # the open file goes on under its new name
        self._writer.writerow({name: f"{value:.8g}" for name, value in row.items()})
        assert self._file is not None
        self._file.flush()

    def _print(self, module: PpoModule) -> None:
        figures = module.metrics
        left = (module.total_iterations - module.iteration) * module.batch_control_steps / figures["steps_per_s"]
        length, early = (figures.get(n, float("nan")) for n in ("episode_length", "early_termination_rate"))
        line = (
            f"it {module.iteration:>5} | steps {_short(module.control_steps)} | {figures['steps_per_s']:,.0f}/s | "
            f"ETA {clock(left)} | reward {figures['reward']:.3f} | length {length:.0f} | early {early:.0%} | "
            f"site {100 * figures['relative_site_error']:.1f} cm | "
            f"kl {figures['kl']:.4f} | std {figures['policy_std']:.3f}"
        )
        if sys.stdout.isatty():
            print(f"\r{line}\033[K", end="", flush=True)
        else:
            print(line, flush=True)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """See Lightning."""
        if self._file is not None:
            self._file.close()
            self._file, self._writer = None, None
            if sys.stdout.isatty():
                print()


def _rows_before(path: Path, control_steps: float) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if float(row["control_steps"]) < control_steps]


def _by_group(metrics: dict[str, float]) -> dict[str, float]:
    groups = (("reward", "reward"), ("episode", "episodes"), ("early_", "episodes"), ("failed_", "episodes"))

    def group(name: str) -> str:
        return "errors" if name.endswith("_error") else next((g for p, g in groups if name.startswith(p)), "ppo")

    return {f"{group(name)}/{name}": value for name, value in metrics.items()}


def _short(steps: int) -> str:
    return f"{steps / 1e6:.2f}M" if steps >= 1_000_000 else f"{steps / 1e3:.0f}k"


def clock(seconds: float) -> str:
    """Duration as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
