"""Checkpoints: one Lightning file with everything that resuming needs, written atomically, with a predecessor."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import platform
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mm_torch.callbacks.records import Records
from mm_torch.config.load import RecipeError, to_plain, to_recipe
from mm_torch.hub.download import local_path
from mm_torch.maths import ranks
from mm_torch.ppo.module import RANK_BUFFERS, PpoModule
from mm_torch.ppo.policy import Agent
from sim_models.embodiment import Embodiment

log = logging.getLogger(__name__)

FORMAT = 1
KEY = "mm_torch"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
# What every checkpoint of ours says of itself, and of which type it is; a run that can go on says more.
ENTRIES = {"format": int, "recipe": dict, "layout": list, "body": str, "model_hash": str, "muscles": list, "iteration": int,
           "control_steps": int, "seconds": float}
RUN = {"simulation", "curricula", "rng", "best", "score"}
_MISFITS = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError, struct.error)
PACKAGES = ("torch", "mujoco", "mujoco-warp", "torchrl", "tensordict", "lightning", "musclemimic-models")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, what is wrong and the remedy."""


class Checkpoints(Callback):
    """Write ``last.ckpt`` at the start, every few minutes and at the end, ``best.ckpt`` when episodes have become better.

    The ``last.ckpt`` before becomes ``previous.ckpt``, from which a run goes on whose ``last.ckpt`` got damaged.
    Better means: a higher mean reward times mean episode length over an iteration, smoothed over ten iterations.

    Args:
        run_dir: run directory.
        minutes: time between writes.
        records: source of the training time.
    """

    def __init__(self, run_dir: Path, minutes: float, records: Records) -> None:
        self.directory = run_dir / "checkpoints"
        self.minutes, self.records = minutes, records
        self.best: float | None = None
        self.score: float | None = None
        self._written = time.perf_counter()
        self._iteration: int | None = None  # that last.ckpt holds

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """See Lightning."""
        trainer.strategy.checkpoint_io = DirectIO()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make a new run resumable from its first moment."""
        if not any(isinstance(callback, ResumeOptimiser) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        assert isinstance(pl_module, PpoModule)
        figures = pl_module.metrics
        now = figures["reward"] * figures.get("episode_length", 0.0)
        self.score = now if self.score is None else 0.9 * self.score + 0.1 * now
        if ranks.any_rank(trainer.should_stop or time.perf_counter() - self._written >= 60 * self.minutes):
            self._save(trainer)
            self._iteration = pl_module.iteration

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See Lightning."""
        assert isinstance(pl_module, PpoModule)
        if self._iteration != pl_module.iteration:
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        self._written = time.perf_counter()
        better = self.score is not None and (self.best is None or self.score > self.best)
        if better:
            self.best = self.score
        save_atomically(trainer, self.directory / LAST, keep=self.directory / PREVIOUS)
        if better and trainer.is_global_zero:
            _copy_atomically(self.directory / LAST, self.directory / BEST)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not know of: worlds, generators, sampler, curricula, recipe, layout, versions."""
        assert isinstance(pl_module, PpoModule)
        env, body = pl_module.env, pl_module.env.physics.body
        states = ranks.gather_on_first(pl_module.rank_state())
        if not trainer.is_global_zero:
            return
        checkpoint[KEY] = {
            "format": FORMAT,
            "recipe": to_plain(pl_module.recipe),
            "layout": [[s.name, s.start, s.end] for s in env.layout],
            "body": body.name,
            "model_hash": body.model_hash,
            "muscles": list(body.muscle_names),
            "clips": list(env.bank.names),
            "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "iteration": pl_module.iteration,
            "control_steps": pl_module.control_steps,
            "seconds": self.records.seconds,
            "best": self.best,
            "score": self.score,
            "simulation": states[0]["simulation"],
            "curricula": pl_module.curriculum_state(),
            "rng": states[0]["rng"],
        } | ({"others": states[1:]} if len(states) > 1 else {})  # ranks after the first


class DirectIO(TorchCheckpointIO):
    """Writes where it is told and waits for the disk; Lightning's own passes through the system's temporary directory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        """See Lightning."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        _write_durably(Path(path), buffer.getbuffer())


def save_atomically(trainer: lightning.Trainer, path: Path, keep: Path | None = None) -> None:
    """Save a checkpoint under a temporary name and rename it. Every rank takes part, the first writes.

    Args:
        trainer: of the run.
        path: checkpoint file.
        keep: name that the present ``path`` gets, if it is undamaged; None to replace it.

    Raises:
        CheckpointError: the file cannot be written; what was there before stays.
    """
    if not trainer.is_global_zero:
        trainer.save_checkpoint(path)  # gives what it has to the first; writes nothing
        return
    with _replacing(path) as temporary:
        trainer.save_checkpoint(temporary)
        if keep is not None and _damage(path) is None:
            os.replace(path, keep)


def _copy_atomically(source: Path, target: Path) -> None:
    with _replacing(target) as temporary:
        _write_durably(temporary, source.read_bytes())


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name, renamed to ``path`` at the end; an error takes it away again."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); checkpoints written before are kept: make room or give the "
            f"rights, then go on with resume={path.parent.parent}"
        ) from None


def _write_durably(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's archive, by its check sums; None for an intact one."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None if broken is None else f"wrong check sum of {broken}"


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint (or the last good one of a run directory) without running any code in it.

    Raises:
        CheckpointError: no such file, not a checkpoint of this project, or one that holds arbitrary objects.
        HubError: it is on the hub and cannot be had.
    """
    return open_checkpoint(path)[1]


def open_checkpoint(path: Path | str) -> tuple[Path, dict[str, Any]]:
    """Read a checkpoint; of a run directory the newest that is readable, with a warning where that is not ``last.ckpt``.

    Returns:
        File that was read, its content.

    Raises:
        CheckpointError: as for ``read_checkpoint``; of a run directory without a readable one, what ails ``last.ckpt``.
        HubError: as for ``read_checkpoint``.
    """
    path = local_path(path, ".ckpt")
    if not path.is_dir():
        return path, _read(path)
    last, *others = (path / "checkpoints" / name for name in (LAST, PREVIOUS, BEST))
    try:
        return last, _read(last)
    except CheckpointError as error:
        for other in others:
            with contextlib.suppress(CheckpointError):
                checkpoint = _read(other)
                log.warning("%s -- using %s of iteration %d instead", error, other.name, checkpoint[KEY]["iteration"])
                return other, checkpoint
        raise


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give a .ckpt file or a run directory")
    reason = _damage(path)
    if reason is None:
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, OSError, MemoryError, *_MISFITS) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
    if reason is not None:
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason}); it must come from mm_torch.train")
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise CheckpointError(f"{path}: not a checkpoint of this project; make one with python -m mm_torch.train")
    extra = checkpoint[KEY]
    if isinstance(extra, dict) and extra.get("format", FORMAT) != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {extra['format']}, this version reads {FORMAT}")
    if (odd := _odd_entry(checkpoint)) is not None:
        raise CheckpointError(f"{path}: {odd} is missing or not what it should be; use another checkpoint of the run")
    try:
        to_recipe(extra["recipe"])
    except RecipeError as error:
        raise CheckpointError(f"{path}: its recipe is damaged or of another version ({error})") from None
    return checkpoint


def _odd_entry(checkpoint: dict[str, Any]) -> str | None:
    """Name of an entry that no checkpoint of ours has in that form; None for a sound one."""
    extra, weights = checkpoint[KEY], checkpoint.get("state_dict")
    if not isinstance(extra, dict):
        return KEY
    for name, kind in ENTRIES.items():
        if type(extra.get(name)) is not kind:
            return f"{KEY}.{name}"
    spans = [tuple(map(type, span)) for span in extra["layout"] if isinstance(span, list | tuple)]
    if not spans or len(spans) != len(extra["layout"]) or set(spans) != {(str, int, int)}:
        return f"{KEY}.layout"
    if not isinstance(weights, dict) or not all(type(n) is str and isinstance(x, torch.Tensor) for n, x in weights.items()):
        return "state_dict"
    return None


@contextlib.contextmanager
def _fitting(path: Path | str) -> Iterator[None]:
    """While what a checkpoint holds goes to its places."""
    try:
        yield
    except CheckpointError:
        raise
    except _MISFITS as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{path}: what it holds does not fit this run ({type(error).__name__}: {reason}); resume with the recipe and "
            "motions of the checkpoint, or start from its weights with init_from="
        ) from error


def check_compatible(path: Path | str, checkpoint: dict[str, Any], body: Embodiment, layout: list[list[Any]]) -> None:
    """Refuse a checkpoint of another body or observation.

    Raises:
        CheckpointError: body, muscles or observation layout differ.
    """
    extra = checkpoint[KEY]
    if extra["body"] != body.name or extra["muscles"] != list(body.muscle_names):
        raise CheckpointError(
            f"{path}: trained on {extra['body']} with {len(extra['muscles'])} muscles, this run has {body.name} with "
            f"{len(body.muscle_names)}; set body.name and body.fingers to the checkpoint's"
        )
    if extra["model_hash"] != body.model_hash:
        log.warning("%s: trained on another version of %s (%s, here %s); expect it to move differently", path, body.name,
                    extra["model_hash"], body.model_hash)
    if extra["layout"] != layout:
        theirs, ours = {tuple(s) for s in extra["layout"]}, {tuple(s) for s in layout}
        odd = sorted(theirs ^ ours, key=lambda s: s[1])[0]
        raise CheckpointError(
            f"{path}: another observation layout ({extra['layout'][-1][2]} entries, here {layout[-1][2]}; first "
            f"difference at term {odd[0]!r}); use the checkpoint's recipe and profile ({extra['recipe']['recipe']}, "
            f"{extra['recipe']['profile']})"
        )


def load_weights(path: Path | str, agent: Agent, checkpoint: dict[str, Any]) -> None:
    """Take over weights and normaliser statistics.

    Raises:
        CheckpointError: the checkpoint holds another network.
    """
    prefix = "agent."
    weights = {k[len(prefix):]: v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        agent.load_state_dict(weights)
    except RuntimeError:
        net = checkpoint[KEY]["recipe"]["net"]
        odd = [name for name, own in agent.state_dict().items() if name not in weights or weights[name].shape != own.shape]
        if odd and all(name.startswith("reflexes.") for name in odd):
            raise CheckpointError(
                f"{path}: its reflexes have gains for other groups of joints (sim_models/reflexes.py); search for them anew: "
                "evolution.steps"
            ) from None
        raise CheckpointError(
            f"{path}: another network (net.kind={net['kind']}, net.hidden={net['hidden']}); leave net.* out or set it to "
            "the checkpoint's"
        ) from None


def restore_run(path: Path | str, module: PpoModule, checkpoint: dict[str, Any]) -> None:
    """Take over everything but the optimiser, which exists only once training has started.

    Raises:
        CheckpointError: the checkpoint holds another network, or only a policy.
    """
    if not checkpoint[KEY].keys() >= RUN:
        raise CheckpointError(f"{path}: holds a policy, no run that could go on; begin one with init_from={path}")
    load_weights(path, module.agent, checkpoint)
    with _fitting(path):
        _restore(path, module, checkpoint)


def _restore(path: Path | str, module: PpoModule, checkpoint: dict[str, Any]) -> None:
    extra = checkpoint[KEY]
    if not all(isinstance(extra[name], float | None) for name in ("best", "score")):
        raise TypeError(f"best {extra['best']!r}, score {extra['score']!r}")
    module.iteration = extra["control_steps"] // module.batch_control_steps
    own = _state_of_rank(module, extra)
    if own is None:
        buffers = dict(module.named_buffers())
        module.load_state_dict(checkpoint["state_dict"] | {name: buffers[name].clone() for name in RANK_BUFFERS})
        module.env.load_shared_state(extra["simulation"])
        module.env.set_seed(ranks.rank_seed(module.recipe.seed + module.iteration, ranks.rank()), static_seed=True)
        if ranks.is_first():
            log.warning(
                "%s: written by %d process(es) with %d worlds each, here %d with %d; what was learned goes on, all worlds "
                "begin new episodes", path, 1 + len(extra.get("others", [])), extra["recipe"]["num_envs"], ranks.world_size(),
                module.recipe.num_envs,
            )
    else:
        module.load_state_dict(checkpoint["state_dict"])
        module.load_rank_state(own)
    if own is not None and module.iteration == 0:
        module.env.reset()  # uses up what was restored: the first rollout of any run draws its own episodes
    module.load_curriculum_state(extra["curricula"])


def _state_of_rank(module: PpoModule, extra: dict[str, Any]) -> dict[str, Any] | None:
    """What this rank had; None where as many ranks with as many worlds did not write the checkpoint."""
    states = [extra, *extra.get("others", [])]
    same = len(states) == ranks.world_size() and extra["recipe"]["num_envs"] == module.recipe.num_envs
    return states[ranks.rank()] if same else None


class ResumeOptimiser(Callback):
    """Restore optimiser and random generators of a resumed run just before its first iteration."""

    def __init__(self, path: Path | str, checkpoint: dict[str, Any]) -> None:
        self._path = path
        self._checkpoint: dict[str, Any] | None = checkpoint

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See Lightning."""
        assert self._checkpoint is not None and isinstance(pl_module, PpoModule)
        with _fitting(self._path):
            trainer.optimizers[0].load_state_dict(self._checkpoint["optimizer_states"][0])
            own = _state_of_rank(pl_module, self._checkpoint[KEY])
            if own is None:
                torch.manual_seed(ranks.rank_seed(pl_module.recipe.seed + pl_module.iteration, ranks.rank()))
            else:
                torch.set_rng_state(own["rng"]["cpu"])
            if own is not None and "cuda" in own["rng"]:
                torch.cuda.set_rng_state(own["rng"]["cuda"])
        self._checkpoint = None
