"""Evaluation during training: the validation clips on a fixed schedule, the best policy kept."""

from __future__ import annotations

import csv
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary

from mm_torch.callbacks.checkpoint import save_atomically
from mm_torch.callbacks.records import Records
from mm_torch.maths.ranks import any_rank
from mm_torch.ppo.module import PpoModule
from mm_torch.ppo.policy import Agent

BEST = "best_validation.ckpt"


@dataclass(frozen=True, eq=False)
class Findings:
    """What an evaluation found.

    ========= ==========================================================================================
    score     reward a frame of the clips, frames after an early end counting 0: higher is better
    summary   metric to value over all clips
    clips     the same a clip, with its name under ``clip``
    table     the clips as Markdown
    draw      draws the pictures: name to (H, W, 3) uint8
    film      films into a file and returns it as an animated GIF, or None where no film is wanted
    ========= ==========================================================================================
    """

    score: float
    summary: Mapping[str, float]
    clips: Sequence[Mapping[str, float | str]]
    table: str
    draw: Callable[[], Mapping[str, np.ndarray]]
    film: Callable[[Path], bytes] | None = None


class Evaluation(Callback):
    """Judge the policy every so many control steps, in worlds of its own; training goes on as if nothing had happened.

    Writes ``evaluation.csv`` (a row an evaluation) and ``evaluation_clips.csv`` (a row a clip and evaluation), TensorBoard
    figures, table and pictures under ``evaluation/``, pictures as ``evaluation/NAME.png`` of the latest evaluation, and
    ``checkpoints/best_validation.ckpt``. A resumed run goes on with the rows of the iterations that its checkpoint holds.

    Args:
        run_dir: run directory.
        every_steps: control steps between evaluations; one falls at the end of the first iteration that passes a multiple.
        judge: evaluates an agent, all ranks together; its findings are rank 0's, the others get None.
        write_picture: writes (H, W, 3) uint8 into a PNG file.
        records: the clock of training, which an evaluation stops.
    """

    def __init__(
        self, run_dir: Path, every_steps: int, judge: Callable[[Agent], Findings | None],
        write_picture: Callable[[Path, np.ndarray], None], records: Records,
    ) -> None:
        self.run_dir, self.every_steps, self.judge, self.write_picture = run_dir, every_steps, judge, write_picture
        self.records = records
        self.best: float | None = None
        self._passed = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take up the rows of a resumed run."""
        assert isinstance(pl_module, PpoModule)
        self._passed = pl_module.control_steps // self.every_steps
        if not trainer.is_global_zero:
            return
        for name in ("evaluation.csv", "evaluation_clips.csv"):
            path = self.run_dir / name
            if path.exists():
                _write(path, _rows_until(path, pl_module.control_steps))
        scores = [float(row["score"]) for row in _rows_until(self.run_dir / "evaluation.csv", pl_module.control_steps)]
        self.best = max(scores, default=None)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        assert isinstance(pl_module, PpoModule)
        passed = pl_module.control_steps // self.every_steps
        if passed == self._passed:
            return
        self._passed = passed
        start = time.perf_counter()
        found = self.judge(pl_module.agent)
        better = any_rank(found is not None and (self.best is None or found.score > self.best))
        if better:
            save_atomically(trainer, self.run_dir / "checkpoints" / BEST)
        if found is None:
            return
        self._record(trainer, pl_module, found, time.perf_counter() - start)
        if better:
            self.best = found.score
            if found.film is not None:
                _show(trainer, pl_module, found.film(self.run_dir / "evaluation" / "best.mp4"))
        figures = found.summary
        print(f"evaluation | {figures['clips']:.0f} clips | score {found.score:.3f}{' (best)' if better else ''} | coverage "
              f"{figures['frame_coverage']:.0%} | early {figures['early_termination_rate']:.0%} | site "
              f"{100 * figures['relative_site_error']:.1f} cm | {time.perf_counter() - start:.1f} s", flush=True)
        self.records.skip(time.perf_counter() - start)

    def _record(self, trainer: lightning.Trainer, module: PpoModule, found: Findings, seconds: float) -> None:
        now: dict[str, Any] = {"iteration": module.iteration, "control_steps": module.control_steps}
        summary = {"score": found.score, **found.summary, "evaluation_seconds": seconds}
        _append(self.run_dir / "evaluation.csv", [now | summary])
        _append(self.run_dir / "evaluation_clips.csv", [now | dict(row) for row in found.clips])
        pictures = found.draw()
        for name, picture in pictures.items():
            self.write_picture(self.run_dir / "evaluation" / f"{name}.png", picture)
        if isinstance(trainer.logger, TensorBoardLogger):
            board, step = trainer.logger.experiment, module.control_steps
            for name, value in summary.items():
                board.add_scalar(f"evaluation/{name}", value, step)
            board.add_text("evaluation/clips", found.table, step)
            for name, picture in pictures.items():
                board.add_image(f"evaluation/{name}", picture, step, dataformats="HWC")


def _show(trainer: lightning.Trainer, module: PpoModule, gif: bytes) -> None:
    """Put an animated GIF into TensorBoard's images as it is; ``add_image`` would keep one picture of it."""
    if isinstance(trainer.logger, TensorBoardLogger):
        width, height = struct.unpack("<HH", gif[6:10])  # the GIF's header
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)
        value = Summary.Value(tag="evaluation/film", image=image)
        trainer.logger.experiment.file_writer.add_summary(Summary(value=[value]), module.control_steps)


def _rows_until(path: Path, control_steps: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["control_steps"]) <= control_steps]


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows; without any the file goes."""
    if not rows:
        path.unlink()
        return
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
