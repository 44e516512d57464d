"""Flight recorder: the last control steps of every world, written when one fails, replayable in native MuJoCo."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from mm_torch.sim.physics import PhysicsState
from sim_models.embodiment import Embodiment

SCHEMA = 2
WORLDS_PER_DUMP = 16  # a simulation that fails everywhere must not fill the disk
# what NumPy's reader and JSON's let through
_DAMAGE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, LookupError,
           TypeError, ValueError, AttributeError, OverflowError, MemoryError, SystemError, RuntimeError, SyntaxError)
_FIELDS = ("qpos", "qvel", "act", "ctrl", "fresh")


class FlightError(ValueError):
    """A flight record cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True, eq=False)
class Flight:
    """Recorded or replayed control steps of one world, oldest first.

    ======= ============================================================== ============
    world   index of the world in its batch                                int
    qpos    positions at the start of each step; a replay adds the end     (L or L+1, Q)
    qvel    velocities, likewise                                           (L or L+1, V)
    act     activations, likewise                                          (L or L+1, M)
    ctrl    excitations held during each step                              (L, M)
    fresh   the world was reset just before the step                       (L,) bool
    ======= ============================================================== ============
    """

    world: int
    qpos: np.ndarray
    qvel: np.ndarray
    act: np.ndarray
    ctrl: np.ndarray
    fresh: np.ndarray


class FlightRecorder:
    """Ring of the last control steps of every world, kept on the device and written in place without a host sync.

    Call ``record`` before a step and ``freeze(state.failed)`` after it: the ring of a failed world stops, so that its
    last entry is the step that failed however much later ``dump`` is called.

    Args:
        body: embodiment.
        num_envs: number of worlds.
        depth: control steps kept per world.
        directory: where dumps go; created when the first is written.
        max_dumps: files this recorder writes at most; later failures are counted elsewhere and not written.
        device: where the ring lives, the physics' own device.
    """

    def __init__(
        self,
        body: Embodiment,
        num_envs: int,
        directory: Path,
        depth: int = 32,
        max_dumps: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth {depth}: a flight recorder keeps at least 1 control step")
        self.body, self.num_envs, self.depth, self.directory = body, num_envs, depth, directory
        self._dumps_left = max_dumps
        model = body.model
        widths = {"qpos": model.nq, "qvel": model.nv, "act": model.na, "ctrl": model.nu, "fresh": 1}
        self._ring = {  # slot `depth` takes what frozen worlds would write: shapes stay fixed
            name: torch.zeros(num_envs, depth + 1, width, dtype=torch.bool if name == "fresh" else None, device=device)
            for name, width in widths.items()
        }
        self._count = torch.zeros(num_envs, dtype=torch.int64, device=device)  # steps in the ring since it was cleared
        self._frozen = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._steps = torch.zeros((), dtype=torch.int64, device=device)

    def record(self, state: PhysicsState, excitation: Tensor, fresh: Tensor) -> None:
        """Write the entry of the control step that is about to be taken.

        Args:
            state: state at the start of the step.
            excitation: (N, M) held during the step, in [0, 1].
            fresh: (N,) bool, worlds that were reset since the last entry.
        """
        slot = torch.where(self._frozen, self.depth, self._count % self.depth)[:, None, None]
        values = (state.qpos, state.qvel, state.act, excitation, fresh[:, None])
        for name, value in zip(_FIELDS, values, strict=True):
            self._ring[name].scatter_(1, slot.expand(-1, 1, value.shape[1]), value[:, None])
        self._count += ~self._frozen
        self._steps += 1

    def freeze(self, failed: Tensor) -> None:
        """Stop the rings of failed worlds (N,) until they are dumped."""
        self._frozen |= failed

    def dump(self, failed: Tensor | None = None) -> Path | None:
        """Write the rings of failed worlds (N,), those frozen by default, and let their rings start again.

        Returns:
            The written file; ``None`` where no world is masked or ``max_dumps`` files were written.
        """
        mask = self._frozen if failed is None else failed
        worlds = torch.nonzero(mask).flatten()[:WORLDS_PER_DUMP].cpu()
        path = None
        if len(worlds) and self._dumps_left > 0:
            self._dumps_left -= 1
            path = self._write(worlds)
        self._count.masked_fill_(mask, 0)
        self._frozen.masked_fill_(mask, False)
        return path

    def _write(self, worlds: Tensor) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        model_path = self.directory / f"{self.body.name}-{self.body.model_hash}.mjb"
        if not model_path.exists():
            _write_atomically(model_path, lambda name: mujoco.mj_saveModel(self.body.model, name))
        number = len(list(self.directory.glob("failure-*.npz")))
        path = self.directory / f"failure-{number:04d}.npz"
        metadata = {
            "schema": SCHEMA, "body": self.body.name, "fingers": self.body.fingers, "model": model_path.name,
            "model_sha256": hashlib.sha256(model_path.read_bytes()).hexdigest(),
            "substeps": self.body.substeps, "control_steps": int(self._steps),
            "versions": {"mujoco": mujoco.__version__, "torch": torch.__version__, "numpy": np.__version__},
        }
        arrays = self._in_time_order(worlds) | {"worlds": worlds.numpy(), "metadata": np.array(json.dumps(metadata))}

        def save(name: str) -> None:
            with open(name, "wb") as file:
                np.savez(file, **arrays)

        _write_atomically(path, save)
        return path

    def _in_time_order(self, worlds: Tensor) -> dict[str, np.ndarray]:
        """Rings (n, depth, ...) of some worlds, oldest entry first, and their lengths (n,); later entries are void."""
        count = self._count.cpu()[worlds]
        length = count.clamp(max=self.depth)
        order = ((count - length)[:, None] + torch.arange(self.depth)) % self.depth
        rows = {name: ring[worlds.to(ring.device)].cpu() for name, ring in self._ring.items()}
        ordered = {name: ring[torch.arange(len(worlds))[:, None], order].numpy() for name, ring in rows.items()}
        return ordered | {"lengths": length.numpy()}


def load_flights(path: Path) -> list[Flight]:
    """Read the flights of a dump.

    Raises:
        FlightError: no such file, or one that this version did not write.
    """
    return _load(path)[1]


def _load(path: Path) -> tuple[dict[str, Any], list[Flight]]:
    """Metadata and flights, checked."""
    try:
        with np.load(path, allow_pickle=False) as file:
            metadata = json.loads(str(file["metadata"]))
            if metadata["schema"] != SCHEMA:
                raise FlightError(
                    f"{path}: flight record of schema {metadata['schema']}, this version reads {SCHEMA}; use the one that "
                    "wrote it"
                )
            arrays = {name: file[name] for name in (*_FIELDS, "lengths", "worlds")}
        steps = arrays["fresh"].shape[1]
        for name, array in arrays.items():
            kind = "b" if name == "fresh" else "i" if name in ("lengths", "worlds") else "f"
            shape = array.shape if kind == "i" else array.shape[:2]
            if array.dtype.kind != kind or shape != (len(arrays["worlds"]), steps)[: 1 if kind == "i" else 2]:
                raise ValueError(f"{name} is of type {array.dtype} and shape {array.shape}")
        if arrays["fresh"].shape[2:] != (1,) or any(arrays[name].ndim != 3 for name in _FIELDS):
            raise ValueError("an array has the wrong number of axes")
        if len(arrays["lengths"]) and not 0 <= arrays["lengths"].min() <= arrays["lengths"].max() <= steps:
            raise ValueError(f"lengths {arrays['lengths'].tolist()} of {steps} steps")
    except FlightError:
        raise
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [""])[0]
        raise FlightError(f"{path}: no readable flight record ({type(error).__name__}: {reason}); copy it again") from None
    return metadata, [
        Flight(world=int(world), **{name: arrays[name][row, :length] for name in _FIELDS[:-1]},
               fresh=arrays["fresh"][row, :length, 0])
        for row, (world, length) in enumerate(zip(arrays["worlds"], arrays["lengths"], strict=True))
    ]


def replay(path: Path) -> list[Flight]:
    """Step the recorded excitations in native MuJoCo, from the first recorded state of each world.

    The solver starts cold at the first entry and the recorded states are single precision: agreement with the record is
    that of the solver's tolerance, not bit for bit. Where a world was reset on the way, the record's state is taken.

    Returns:
        One flight per recorded world with one state more than steps: the last is the end of the last step.

    Raises:
        FlightError: the record or the model beside it cannot be used, or is not the one that was recorded.
    """
    metadata, flights = _load(path)
    name, substeps = metadata.get("model"), metadata.get("substeps")
    if not isinstance(name, str) or Path(name).name != name or type(substeps) is not int or not 1 <= substeps <= 1000:
        raise FlightError(f"{path}: names no model beside it, or no substeps (model {name!r}, substeps {substeps!r})")
    file = path.parent / name
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != metadata.get("model_sha256"):
        raise FlightError(f"{path}: the model {name} is not beside it, or is another; copy both files again")
    model = mujoco.MjModel.from_binary_path(str(file))
    sizes = {"qpos": model.nq, "qvel": model.nv, "act": model.na, "ctrl": model.nu}
    if any(getattr(flight, field).shape[1] != size for flight in flights for field, size in sizes.items()):
        raise FlightError(f"{path}: its arrays do not fit the model {name}")
    return [_replay_flight(model, substeps, flight) for flight in flights]


def _replay_flight(model: mujoco.MjModel, substeps: int, flight: Flight) -> Flight:
    data = mujoco.MjData(model)
    states: list[tuple[np.ndarray, ...]] = []
    for step, ctrl in enumerate(flight.ctrl):
        if step == 0 or flight.fresh[step]:
            mujoco.mj_resetData(model, data)
            data.qpos[:], data.qvel[:], data.act[:] = flight.qpos[step], flight.qvel[step], flight.act[step]
        states.append((data.qpos.copy(), data.qvel.copy(), data.act.copy()))
        data.ctrl[:] = ctrl
        mujoco.mj_step(model, data, nstep=substeps)
    states.append((data.qpos.copy(), data.qvel.copy(), data.act.copy()))
    qpos, qvel, act = (np.stack(field) for field in zip(*states, strict=True))
    return Flight(flight.world, qpos, qvel, act, flight.ctrl, flight.fresh)


def _write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    os.close(handle)
    try:
        write(name)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
