"""Files of a gait report: rollouts, clips and tables of joint angles, each with the times when the feet stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from mm_torch.evaluation.rollout_file import FEET, Rollout, read_rollout
from mm_torch.motion.clip import load_clip, read_arrays
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.analysis import contacts, replay
from tools.analysis.norm_tables import GaitError

USUAL_BODY = "myo_fullbody"  # of tables of joint angles and of Trajectory files, which name none
TABLES = (".mot", ".sto")
NORM = "norm:"  # an input norm:walking is the norm itself, played on the body
NEEDED = ("hip_flexion", "knee_angle", "ankle_angle")
FORCE, LABELS, SOLES = "floor force", "labels", "height and speed of the soles"


@dataclass(frozen=True, eq=False)
class Trial:
    """One input of a report.

    ============ ================================================================= ========
    name         short name, unique in the report
    rollout      what was read, or replayed
    body         its embodiment
    contact      whether the right, left foot stands                               (F, 2)
    contact_from what tells so: force, labels or soles
    ============ ================================================================= ========
    """

    name: str
    rollout: Rollout
    body: Embodiment
    contact: np.ndarray
    contact_from: str


def read_trials(paths: Sequence[Path]) -> tuple[Trial, ...]:
    """Read all inputs.

    Raises:
        GaitError: nothing given, a file of another kind, mixed bodies, or a body without legs.
        MotionError, CaptureError, BodyError: a file cannot be read.
    """
    if not paths:
        raise GaitError("no file given: python tools/gait_report.py ROLLOUT... [out=DIR] [norm=walking|running]")
    bodies: dict[tuple[str, bool], Embodiment] = {}
    trials = [read_trial(path, name, bodies) for path, name in zip(paths, _names(paths), strict=True)]
    check_one_body(trials)
    return tuple(trials)


def check_one_body(trials: Sequence[Trial]) -> None:
    """Check that all trials are of one body.

    Raises:
        GaitError: names the first that is not.
    """
    for trial in trials:
        if trial.body.name != trials[0].body.name:
            raise GaitError(f"{trial.name}: body {trial.body.name}, but {trials[0].name} has {trials[0].body.name}; mixed "
                            "bodies are not compared: make a report of each body's files")


def read_trial(path: Path, name: str, bodies: dict[tuple[str, bool], Embodiment] | None = None) -> Trial:
    """Read one rollout, clip or OpenSim table; loaded bodies are kept in ``bodies``.

    Raises:
        GaitError: see ``read_trials``.
    """
    bodies = {} if bodies is None else bodies

    def body_of(body: str, fingers: bool = False) -> Embodiment:
        key = (body, fingers)
        if key not in bodies:
            bodies[key] = load_body(body, fingers=fingers)
        _check_legs(path, bodies[key])
        return bodies[key]

    if str(path).startswith(NORM):
        body = body_of(USUAL_BODY)
        rollout, contact = replay.replay_norm(body, str(path).removeprefix(NORM))
        return trial_of(name, rollout, body, contact)
    if path.suffix.lower() in TABLES:
        body = body_of(USUAL_BODY)
        return trial_of(name, replay.replay_angles(body, path), body)
    if path.suffix.lower() != ".npz":
        raise GaitError(f"{path}: give rollouts or clips (.npz), or OpenSim joint angles ({', '.join(TABLES)}); measured "
                        "cycles to compare with go into reference=")
    if "schema" in read_arrays(path):
        rollout = read_rollout(path)
        body = body_of(rollout.body, rollout.fingers)
        check_names(path, rollout, body)
        return trial_of(name, rollout, body)
    clip = load_clip(path)
    body = body_of(clip.body or USUAL_BODY)
    return trial_of(name, replay.replay_clip(body, clip), body, replay.clip_contact(clip))


def trial_of(name: str, rollout: Rollout, body: Embodiment, labels: np.ndarray | None = None) -> Trial:
    """A rollout with its contacts: by force where there is one, else by labels (F, 2), else by the soles."""
    if rollout.foot_force is not None:
        weight = rollout.mass_kg * contacts.GRAVITY
        force = contacts.by_force(rollout.foot_force[:, :, 2], weight, rollout.control_rate)
        return Trial(name, rollout, body, force, FORCE)
    if labels is not None:
        return Trial(name, rollout, body, labels, LABELS)
    return Trial(name, rollout, body, contacts.by_soles(body, rollout.qpos, rollout.control_rate), SOLES)


def check_names(path: Path, rollout: Rollout, body: Embodiment) -> None:
    """Check that joints, muscles and state are those of the body.

    Raises:
        GaitError: names the first that is not.
    """
    for kind, found, known in (
        ("joint", rollout.joint_names, tuple(body.joint_names[j] for j in body.hinge_ids)),
        ("muscle", rollout.muscle_names, body.muscle_names),
    ):
        unknown = [name for name in found if name not in known]
        missing = [name for name in known if name not in found]
        if unknown or missing:
            wrong = f"unknown {kind} {unknown[0]!r}" if unknown else f"{kind} {missing[0]!r} is missing"
            near = get_close_matches(unknown[0], known, n=1) if unknown else []
            hint = f", nearest is {near[0]!r}" if near else ""
            raise GaitError(f"{path}: {wrong} for body {body.name}{hint}; make the rollout again with this version")
    if rollout.qpos.shape[1] != body.model.nq:
        raise GaitError(f"{path}: qpos has {rollout.qpos.shape[1]} columns, body {body.name} {body.model.nq}; make the "
                        "rollout again with this version")


def _check_legs(path: Path, body: Embodiment) -> None:
    missing = [n for n in NEEDED if f"{n}_r" not in body.joint_names]
    if missing or not body.free_root or set(body.feet) != set(FEET):
        raise GaitError(f"{path}: body {body.name} does not walk ({f'no joint {missing[0]}_r' if missing else 'no feet'}); a "
                        f"gait report needs {USUAL_BODY}")


def _names(paths: Sequence[Path]) -> list[str]:
    stems = [path.stem for path in paths]
    longer = [f"{path.parent.name}/{path.stem}" if stems.count(path.stem) > 1 else path.stem for path in paths]
    return [name if longer.count(name) == 1 else f"{name} ({k + 1})" for k, name in enumerate(longer)]
