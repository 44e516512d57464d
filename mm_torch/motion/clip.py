"""One motion on disk: an npz without pickles that names its joints, sites and muscles."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from mm_torch.motion.npz import NpzError, as_names, as_number, as_numbers, as_text, read_npz
from sim_models.embodiment import Embodiment
from sim_models.kinematics import reference_velocity, site_motion
from sim_models.muscles import FINGER_JOINT

SCHEMA_VERSION = 2  # 2: what solving the activations tells of forces and feasibility; clips of 1 lack it and still load
_READ = (1, 2)
TRAJECTORIES = "trajectory"  # folder beside clips that holds the same motions as MuscleMimic reads them
LARGEST = 1e6  # m or rad: no position of a motion is larger
RATES = (0.1, 1e5)  # 1/s: slowest and fastest a motion is recorded at
_NAMES = ("joint_names", "site_names", "muscle_names", "contact_names", "foot_names")
_DYNAMICS = ("foot_force", "foot_centre_of_pressure", "root_residual", "joint_residual", "saturation")
_TABLES = ("qpos", "qvel", "site_xpos", "site_xquat", "fit_error", "act", "contact", *_DYNAMICS, "feasible")
# What older clips, clips without contacts and (poses of sites, which follow from qpos) installed built-in motions lack.
_ABSENT = {
    "site_xpos": np.zeros((0, 0, 3)), "site_xquat": np.zeros((0, 0, 4)),
    "contact_names": np.zeros(0, np.str_), "contact": np.zeros((0, 0), dtype=bool), "foot_names": np.zeros(0, np.str_),
    **{name: np.zeros(0) for name in _DYNAMICS}, "feasible": np.zeros(0, dtype=bool),
}
_WIDTH = {int(mujoco.mjtJoint.mjJNT_FREE): 7}


class MotionError(ValueError):
    """A motion file cannot be used; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A motion of one embodiment at a constant rate.

    ============= ==================================================================== ============ =========
    body          registry name of the embodiment it was made for                      str
    fps           frames per second; frame f is at time f / fps                        float        1/s
    joint_names   joints of the columns of qpos (a free root takes seven)              (njnt,)
    qpos          positions, MuJoCo layout                                             (F, Q)       m, rad
    qvel          velocities consistent with qpos (central differences)                (F, V)       m/s, rad/s
    site_names    mimic sites                                                          (S,)
    site_xpos     world positions of the sites                                         (F, S, 3)    m
    site_xquat    world orientations of the sites, wxyz                                (F, S, 4)
    fit_error     distance between site and captured target; empty where none          (F, S)       m
    muscle_names  muscles of the columns of act; empty where not solved                (M,)
    act           activations that produce the motion; empty where not solved          (F, M)       [0, 1]
    contact_names parts of the feet of the columns of contact; empty where unknown     (K,)
    contact       which of them stand on the floor; empty where unknown                (F, K) bool
    provenance    source, licence, tool and settings                                   JSON mapping
    ============= ==================================================================== ============ =========

    Since schema 2, what the solution of the activations tells; empty where not solved, and for the feet without feet:

    ======================= ========================================================== ============ =========
    foot_names              feet of the columns below                                  (L,)
    foot_force              force of the floor on each foot, world axes                (F, L, 3)    N
    foot_centre_of_pressure where it acts, world; NaN without force                    (F, L, 3)    m
    root_residual           what neither muscles nor floor supply at a free root:      (F, 6)       N, Nm
                            force in world axes, moment in the root's
    joint_residual          the same over the independent joints, root mean square     (F,)         Nm
    saturation              share of the muscles above 0.98 of full activation         (F,)         [0, 1]
    feasible                whether residuals are small enough (docs/activations.md)   (F,) bool
    ======================= ========================================================== ============ =========
    """

    body: str
    fps: float
    joint_names: tuple[str, ...]
    qpos: np.ndarray
    qvel: np.ndarray
    site_names: tuple[str, ...]
    site_xpos: np.ndarray
    site_xquat: np.ndarray
    fit_error: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    muscle_names: tuple[str, ...] = ()
    act: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    contact_names: tuple[str, ...] = ()
    contact: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    provenance: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    foot_names: tuple[str, ...] = ()
    foot_force: np.ndarray = field(default_factory=lambda: np.zeros(0))
    foot_centre_of_pressure: np.ndarray = field(default_factory=lambda: np.zeros(0))
    root_residual: np.ndarray = field(default_factory=lambda: np.zeros(0))
    joint_residual: np.ndarray = field(default_factory=lambda: np.zeros(0))
    saturation: np.ndarray = field(default_factory=lambda: np.zeros(0))
    feasible: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @classmethod
    def from_qpos(
        cls,
        body: Embodiment,
        qpos: np.ndarray,
        fps: float,
        *,
        provenance: dict[str, Any],
        fit_error: np.ndarray | None = None,
        act: np.ndarray | None = None,
        name: str = "",
    ) -> Clip:
        """Build a clip from positions (F, Q): couplings enforced, velocities and site poses computed."""
        qpos = body.couplings.enforce(np.asarray(qpos, dtype=float))
        qvel = reference_velocity(body, qpos, 1.0 / fps)
        sites = site_motion(body, qpos, qvel)
        return cls(
            body=body.name,
            fps=float(fps),
            joint_names=body.joint_names,
            qpos=qpos,
            qvel=qvel,
            site_names=body.site_names,
            site_xpos=sites.position,
            site_xquat=sites.quaternion,
            fit_error=np.zeros((0, 0)) if fit_error is None else np.asarray(fit_error),
            muscle_names=body.muscle_names if act is not None else (),
            act=np.zeros((0, 0)) if act is None else np.asarray(act),
            provenance=provenance,
            name=name,
        )

    @property
    def duration(self) -> float:
        """Time in s from the first to the last frame."""
        return (len(self.qpos) - 1) / self.fps

    @property
    def solved_fixes(self) -> tuple[str, ...]:
        """Repairs of the body for which the activations were solved, as ``Embodiment.fixes``; none where it is not said."""
        solved = self.provenance.get("activations")
        fixes = solved.get("fixes") if isinstance(solved, dict) else None
        return tuple(fixes) if isinstance(fixes, list) else ()

    def save(self, path: Path | str) -> None:
        """Write the clip atomically (temporary file, then rename); single precision, compressed."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {k: np.asarray(getattr(self, k), dtype=np.float32)
                  for k in ("qvel", "site_xpos", "site_xquat", "fit_error", *_DYNAMICS)}
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez_compressed(
                    file,
                    schema_version=np.int64(SCHEMA_VERSION),
                    body=np.str_(self.body),
                    fps=np.float64(self.fps),
                    joint_names=np.array(self.joint_names, dtype=np.str_),
                    site_names=np.array(self.site_names, dtype=np.str_),
                    muscle_names=np.array(self.muscle_names, dtype=np.str_),
                    qpos=np.asarray(self.qpos, dtype=np.float64),
                    act=np.asarray(self.act, dtype=np.float16),
                    contact_names=np.array(self.contact_names, dtype=np.str_),
                    contact=np.asarray(self.contact, dtype=bool),
                    foot_names=np.array(self.foot_names, dtype=np.str_),
                    feasible=np.asarray(self.feasible, dtype=bool),
                    provenance=np.str_(json.dumps(self.provenance, sort_keys=True)),
                    **arrays,
                )
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def clip_files(directory: Path) -> list[Path]:
    """Clips of a directory and the folders below it, in order; ``TRAJECTORIES`` directly below it is left out."""
    return [p for p in sorted(directory.rglob("*.npz"))
            if not p.name.startswith(".") and p.relative_to(directory).parts[0] != TRAJECTORIES]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file; pickled entries are never read.

    Raises:
        MotionError: no such file, truncated or no npz, or an entry that is pickled.
    """
    if not path.is_file():
        raise MotionError(f"{path}: no such motion file; check the path given as motions=")
    try:
        return read_npz(path, labels=("metadata",))  # upstream pickles an unused None there
    except NpzError as error:
        raise MotionError(str(error)) from None


def load_clip(path: Path | str) -> Clip:
    """Read a clip: ours, or a Trajectory npz of MuscleMimic 0.1.0 with one motion.

    Raises:
        MotionError: the file is unreadable, of neither format, empty, inconsistent or not finite.
    """
    path = Path(path)
    arrays = read_arrays(path)
    try:
        if "schema_version" in arrays:
            clip = _read_own(path, arrays)
        elif {"qpos", "joint_names", "frequency"} <= arrays.keys():
            clip = _read_upstream(path, arrays)
        else:
            raise MotionError(
                f"{path}: neither a clip of this project nor a Trajectory file (keys {', '.join(sorted(arrays)[:6])} ...); "
                "motion capture goes through tools/retarget.py first"
            )
    except NpzError as error:
        raise MotionError(f"{error}; make the clip again") from None
    _check(path, clip)
    return clip


def _read_own(path: Path, arrays: dict[str, np.ndarray]) -> Clip:
    version = as_number(arrays["schema_version"], f"{path}: schema_version")
    if version not in _READ:
        raise MotionError(
            f"{path}: clip schema {version:g}, this version reads {' and '.join(map(str, _READ))}; make the clip again"
        )
    arrays = _ABSENT | arrays
    try:
        names = {k: as_names(arrays[k], f"{path}: {k}") for k in _NAMES}
        tables = {k: as_numbers(arrays[k], f"{path}: {k}") for k in _TABLES}
        return Clip(
            body=as_text(arrays["body"], f"{path}: body"),
            fps=as_number(arrays["fps"], f"{path}: fps"),
            provenance=_provenance(path, as_text(arrays["provenance"], f"{path}: provenance")),
            name=path.stem,
            **names,
            **tables,
        )
    except KeyError as error:
        raise MotionError(f"{path}: key {error} is missing; make the clip again") from None


def _provenance(path: Path, text: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MotionError(f"{path}: provenance is no JSON ({error}); make the clip again") from None
    if not isinstance(provenance, dict):
        raise MotionError(f"{path}: provenance is no JSON mapping; make the clip again")
    return provenance


def _read_upstream(path: Path, arrays: dict[str, np.ndarray]) -> Clip:
    splits = arrays.get("split_points", np.zeros(2))
    if splits.size > 2:
        raise MotionError(f"{path}: holds {splits.size - 1} motions in one file; save each to a file of its own")
    qpos = as_numbers(arrays["qpos"], f"{path}: qpos")
    site_names = as_names(arrays.get("site_names", np.zeros(0)), f"{path}: site_names")
    frames = len(qpos) if qpos.ndim else 0
    return Clip(
        body="",  # a Trajectory names joints, not a body: the joints decide
        fps=as_number(arrays["frequency"], f"{path}: frequency"),
        joint_names=as_names(arrays["joint_names"], f"{path}: joint_names"),
        qpos=qpos.astype(float),
        qvel=as_numbers(arrays.get("qvel", np.zeros((frames, 0))), f"{path}: qvel"),
        site_names=site_names,
        site_xpos=as_numbers(arrays.get("site_xpos", np.zeros((frames, len(site_names), 3))), f"{path}: site_xpos"),
        site_xquat=np.zeros((0, 0, 4)),
        provenance={"format": "MuscleMimic 0.1.0 Trajectory", "file": path.name},
        name=path.stem,
    )


def _check(path: Path, clip: Clip) -> None:
    frames = len(clip.qpos) if clip.qpos.ndim == 2 else 0
    if frames < 2:
        raise MotionError(f"{path}: {frames} frames; a clip needs at least 2: remove the file or make it again")
    if not np.isfinite(clip.qpos).all():
        frame = int(np.flatnonzero(~np.isfinite(clip.qpos).all(axis=1))[0])
        raise MotionError(f"{path}: qpos is not finite from frame {frame} on; make the clip again")
    if np.abs(clip.qpos).max(initial=0.0) > LARGEST:
        raise MotionError(f"{path}: qpos reaches {np.abs(clip.qpos).max():.3g} m or rad; make the clip again")
    if not RATES[0] <= clip.fps <= RATES[1]:
        raise MotionError(f"{path}: frame rate {clip.fps}; {RATES[0]:g} to {RATES[1]:g} frames per second are read")
    if len(set(clip.joint_names)) != len(clip.joint_names):
        raise MotionError(f"{path}: joint_names names a joint twice; make the clip again")
    if clip.act.size and (clip.act.shape != (frames, len(clip.muscle_names)) or not np.isfinite(clip.act).all()):
        raise MotionError(f"{path}: act has shape {clip.act.shape} or is not finite; make the clip again")
    sites, contacts, feet = len(clip.site_names), len(clip.contact_names), len(clip.foot_names)
    wanted = {"contact": (frames, contacts), "qvel": (frames, *clip.qvel.shape[1:2]), "site_xpos": (frames, sites, 3),
              "site_xquat": (frames, sites, 4), "fit_error": (frames, sites), "foot_force": (frames, feet, 3),
              "foot_centre_of_pressure": (frames, feet, 3), "root_residual": (frames, 6), "joint_residual": (frames,),
              "saturation": (frames,), "feasible": (frames,)}
    for name, shape in wanted.items():
        value = getattr(clip, name)
        if value.size and value.shape != shape:
            raise MotionError(f"{path}: {name} has shape {value.shape}, which does not fit; make the clip again")


def bind_to_body(clip: Clip, body: Embodiment) -> np.ndarray:
    """Positions of a clip in the joint order of a body.

    Joints are matched by name. Finger joints may be missing (held at neutral) or superfluous (dropped), because
    published motions carry none; any other difference is an error.

    Args:
        clip: motion.
        body: embodiment.

    Returns:
        (F, Q) positions with exact couplings and unit root quaternions.

    Raises:
        MotionError: the clip belongs to another body.
    """
    ours, theirs = set(body.joint_names), set(clip.joint_names)
    missing = [j for j in body.joint_names if j not in theirs and not FINGER_JOINT.match(j)]
    extra = [j for j in clip.joint_names if j not in ours and not FINGER_JOINT.match(j)]
    if missing or extra or (clip.body and clip.body != body.name):
        difference = f"missing joint {missing[0]}" if missing else f"unknown joint {extra[0]}" if extra else "same joints"
        raise MotionError(
            f"{clip.name or 'clip'}: made for body {clip.body or '(unnamed)'}, not {body.name} ({difference}); "
            f"retarget it with body={body.name}"
        )
    widths = {name: _WIDTH.get(int(body.model.jnt_type[j]), 1) for j, name in enumerate(body.joint_names)}
    if clip.qpos.shape[1] != sum(widths.get(name, 1) for name in clip.joint_names):
        raise MotionError(f"{clip.name}: qpos has {clip.qpos.shape[1]} columns, its joint names ask for another number")
    qpos = np.repeat(body.neutral_qpos[None], len(clip.qpos), axis=0)
    column = 0
    for name in clip.joint_names:
        width = widths.get(name, 1)
        if name in ours:
            adr = body.model.joint(name).qposadr[0]
            qpos[:, adr : adr + width] = clip.qpos[:, column : column + width]
        column += width
    if body.free_root:
        length = np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
        if not length.all():
            raise MotionError(f"{clip.name}: the root's quaternion is zero at frame {int(np.argmin(length))}; make it again")
        qpos[:, 3:7] /= length
    return body.couplings.enforce(qpos)


def bind_activations(clip: Clip, body: Embodiment) -> np.ndarray | None:
    """Activations (F, M) of a clip in the muscle order of a body (0 for muscles it lacks), or None where not solved."""
    if not clip.act.size:
        return None
    act = np.zeros((len(clip.qpos), len(body.muscle_names)), dtype=np.float32)
    column = {name: i for i, name in enumerate(clip.muscle_names)}
    shared = [i for i, name in enumerate(body.muscle_names) if name in column]
    act[:, shared] = clip.act[:, [column[body.muscle_names[i]] for i in shared]]
    return act
