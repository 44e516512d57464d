"""One rollout on disk: what the body did, felt and pressed on the floor, frame by frame; an npz without pickles."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from mm_torch.motion.clip import MotionError
from mm_torch.motion.npz import NpzError, as_names, as_number, as_numbers, as_text, read_npz

SCHEMA = 1
KINDS = ("rollout", "replay")
FEET = ("right", "left")
TEXT = ("kind", "body", "clip", "source")
NUMBERS = ("control_rate", "mass_kg")
NAMES = ("joint_names", "muscle_names", "site_names", "foot_names")
# array to its shape; letters as in the table of ``Rollout``, F frames
SHAPES: dict[str, tuple[str | int, ...]] = {
    "time": ("F",), "qpos": ("F", "Q"), "qvel": ("F", "V"), "ref_qpos": ("F", "Q"),
    "joint_position": ("F", "J"), "joint_velocity": ("F", "J"),
    "muscle_length": ("F", "M"), "site_position": ("F", "S", 3), "com": ("F", 3),
    "joint_moment": ("F", "J"), "excitation": ("F", "M"), "activation": ("F", "M"), "muscle_force": ("F", "M"),
    "foot_force": ("F", 2, 3), "foot_centre_of_pressure": ("F", 2, 3),
}
FORCES = ("joint_moment", "excitation", "activation", "muscle_force", "foot_force", "foot_centre_of_pressure")
DOUBLE = ("time", "qpos", "qvel", "ref_qpos")  # kept in double precision, so that forward kinematics agree


class RolloutError(MotionError):
    """A rollout cannot be used; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """A clip tracked by a policy (``kind='rollout'``), or played without physics (``kind='replay'``).

    ======================= ============================================================== ============ ============
    kind                    rollout or replay
    body                    registry name of the embodiment
    clip                    name of the motion
    source                  where it comes from: checkpoint or file, perturbation
    control_rate            frames per second                                               float        1/s
    mass_kg                 mass of the body                                                float        kg
    time                    time of each frame                                              (F,)         s
    qpos, qvel              state, MuJoCo layout                                            (F, Q) (F, V)
    ref_qpos                reference that was due, shifted to where the episode started    (F, Q)
    joint_names             hinges and slides                                               (J,)
    joint_position          their coordinates                                               (F, J)       rad, m
    joint_velocity          their rates                                                     (F, J)       rad/s, m/s
    joint_moment            moment of the muscles about each (``qfrc_actuator``)            (F, J)       Nm, N
    muscle_names            muscles                                                         (M,)
    excitation              held in the control step that ended at the frame                (F, M)       [0, 1]
    activation              state of the muscles                                            (F, M)       [0, 1]
    muscle_length           tendon path lengths                                             (F, M)       m
    muscle_force            tension, positive                                               (F, M)       N
    site_names              mimic sites                                                     (S,)
    site_position           their world positions                                           (F, S, 3)    m
    com                     centre of mass of the body, world                               (F, 3)       m
    foot_names              right, left                                                     (2,)
    foot_force              force of the ground on each foot, world, z up                   (F, 2, 3)    N
    foot_centre_of_pressure where it acts, world; NaN without contact                       (F, 2, 3)    m
    fingers                 whether the fingers of the body move                            bool
    ======================= ============================================================== ============ ============

    Forces and moments belong to the state and the activations of their own frame. They are None for a replay, those of the
    feet also for a body without feet. The first frame is the state that the episode was reset to.
    """

    kind: str
    body: str
    clip: str
    source: str
    control_rate: float
    mass_kg: float
    time: np.ndarray
    qpos: np.ndarray
    qvel: np.ndarray
    ref_qpos: np.ndarray
    joint_names: tuple[str, ...]
    joint_position: np.ndarray
    joint_velocity: np.ndarray
    muscle_names: tuple[str, ...]
    muscle_length: np.ndarray
    site_names: tuple[str, ...]
    site_position: np.ndarray
    com: np.ndarray
    joint_moment: np.ndarray | None = None
    excitation: np.ndarray | None = None
    activation: np.ndarray | None = None
    muscle_force: np.ndarray | None = None
    foot_names: tuple[str, ...] = FEET
    foot_force: np.ndarray | None = None
    foot_centre_of_pressure: np.ndarray | None = None
    fingers: bool = False

    def __post_init__(self) -> None:
        """Check kind, names and shapes.

        Raises:
            RolloutError: says which field does not fit.
        """
        if self.kind not in KINDS:
            raise RolloutError(f"kind={self.kind!r}: must be one of {', '.join(KINDS)}")
        if self.foot_names != FEET:
            raise RolloutError(f"foot_names={self.foot_names}: must be {FEET}")
        for name in ("joint_names", "muscle_names", "site_names"):
            names = getattr(self, name)
            if len(set(names)) != len(names):
                raise RolloutError(f"{name}: a name stands there twice; names must be unique")
        for name in NUMBERS:
            if not 0.0 < getattr(self, name) < float("inf"):
                raise RolloutError(f"{name}={getattr(self, name)}: must be a positive number")
        for name, rank in (("time", 1), ("qpos", 2), ("qvel", 2)):
            if getattr(self, name).ndim != rank:
                raise RolloutError(f"{name}: of shape {getattr(self, name).shape}, must be ({' '.join(SHAPES[name])})")
        sizes = {"F": len(self.time), "J": len(self.joint_names), "M": len(self.muscle_names),
                 "S": len(self.site_names), "Q": self.qpos.shape[-1], "V": self.qvel.shape[-1]}
        for name, letters in SHAPES.items():
            value = getattr(self, name)
            if value is None and name in FORCES:
                continue
            wanted = tuple(sizes[n] if isinstance(n, str) else n for n in letters)
            if value is None or value.shape != wanted:
                found = "missing" if value is None else f"of shape {value.shape}"
                raise RolloutError(f"{name}: {found}, must be {wanted} ({' '.join(map(str, letters))})")
            if name != "foot_centre_of_pressure" and not np.isfinite(value).all():
                raise RolloutError(f"{name}: holds values that are not finite; the simulation failed there, cut it before")

    @property
    def has_forces(self) -> bool:
        """Whether floor forces were recorded; gait events and kinetics need them."""
        return self.foot_force is not None


def write_rollout(path: Path | str, rollout: Rollout) -> None:
    """Write a rollout atomically (temporary file, then rename), compressed; the state in double precision."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {"schema": np.asarray(SCHEMA), "fingers": np.asarray(rollout.fingers)}
    arrays |= {name: np.asarray(getattr(rollout, name), dtype=np.str_) for name in (*TEXT, *NAMES)}
    arrays |= {name: np.asarray(getattr(rollout, name), dtype=np.float64) for name in NUMBERS}
    arrays |= {
        name: np.asarray(getattr(rollout, name), dtype=np.float64 if name in DOUBLE else np.float32)
        for name in SHAPES if getattr(rollout, name) is not None
    }
    write_npz(path, arrays)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays into a compressed npz under a temporary name, and rename it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_rollout(path: Path | str) -> Rollout:
    """Read a rollout; no code in the file is run.

    Raises:
        RolloutError: no such file, no rollout, another schema, a field missing or of a wrong shape.
    """
    path = Path(path)
    if not path.is_file():
        raise RolloutError(f"{path}: no such file; make rollouts with python -m mm_torch.evaluate rollouts=true")
    try:
        data = read_npz(path)
    except NpzError as error:
        raise RolloutError(str(error)) from None
    try:
        return _rollout(data)
    except NpzError as error:
        raise RolloutError(f"{path}: {error}; make it again with python -m mm_torch.evaluate") from None
    except RolloutError as error:
        raise RolloutError(f"{path}: {error}") from None


def _rollout(data: dict[str, np.ndarray]) -> Rollout:
    if "schema" not in data:
        raise RolloutError("not a rollout (no key 'schema'); python -m mm_torch.evaluate rollouts=true makes some")
    if (schema := as_number(data["schema"], "schema")) != SCHEMA:
        raise RolloutError(f"rollout schema {schema:g}, this version reads {SCHEMA}")
    missing = [f.name for f in fields(Rollout) if f.name not in data and f.name not in (*FORCES, "fingers")]
    if missing:
        raise RolloutError(f"no key {missing[0]!r}; make the file again with python -m mm_torch.evaluate")
    return Rollout(
        **{name: as_text(data[name], name) for name in TEXT},
        **{name: as_number(data[name], name) for name in NUMBERS},
        **{name: as_names(data[name], name) for name in NAMES},
        **{name: as_numbers(data[name], name) for name in SHAPES if name in data},
        fingers=bool(as_number(data.get("fingers", np.zeros(())), "fingers")),
    )
