"""A capture in, a clip out: the stages in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mm_torch.motion.clip import Clip
from sim_models.embodiment import Embodiment
from tools.add_activations import with_activations
from tools.retargeting import ground, rotations
from tools.retargeting.asf import load_amc
from tools.retargeting.bvh import load_bvh
from tools.retargeting.kinematics import MotionKinematics
from tools.retargeting.metrics import Metrics, fit_error, measure
from tools.retargeting.skeleton import SIDES, Capture, CaptureError
from tools.retargeting.smplh import load_amass
from tools.retargeting.solve import Smoothness, solve, target_term
from tools.retargeting.targets import Skeleton, Targets, build_targets

COARSE, FINE = 25.0, 6.0  # Hz: cut-off of the first pass, which finds the pose, and of the result
COARSE_STEPS, FINE_STEPS, CONTACT_STEPS = 10, 6, 20
# First guess, rad: joints whose neutral angle leaves undefined which way the limb turns (an arm hanging straight down
# has no elevation plane, a straight knee no direction of bending).
BENT = {"shoulder_elv": 0.4, "elbow_flex": 0.5, "hip_flexion": 0.3, "knee_angle": 0.6}
CLEARANCE, WIDEST = 0.01, 0.028  # m: wanted gap between the feet; most that each foot is moved outwards


@dataclass(frozen=True)
class Options:
    """What the command line sets: rate in 1/s, reader, what readers may need to be told, whether muscles are solved."""

    fps: float = 100.0
    source: str = "auto"
    asf: Path | None = None
    fps_in: float | None = None
    up: str = "auto"
    smplh_model: Path | None = None
    activations: bool = True


Reader = Callable[[Path, Options], Capture]


def _read_amass(path: Path, options: Options) -> Capture:
    return load_amass(path, options.fps_in, options.up, options.smplh_model)


def _read_amc(path: Path, options: Options) -> Capture:
    capture = load_amc(path, options.asf)
    return replace(capture, fps=options.fps_in or capture.fps)


def _read_bvh(path: Path, options: Options) -> Capture:
    capture = load_bvh(path)
    return replace(capture, fps=options.fps_in or capture.fps)


READERS: dict[str, Reader] = {"amass": _read_amass, "smplx": _read_amass, "asf": _read_amc, "bvh": _read_bvh}
SUFFIXES = {".npz": "amass", ".amc": "asf", ".bvh": "bvh"}


def read_capture(path: Path, options: Options) -> Capture:
    """Read a capture with the named reader, or with the one that its suffix asks for.

    Raises:
        CaptureError: the suffix belongs to no reader, or the file cannot be used.
    """
    source = SUFFIXES.get(path.suffix.lower()) if options.source == "auto" else options.source
    if source is None:
        raise CaptureError(f"{path}: no reader for suffix {path.suffix!r}; name one with source={'|'.join(READERS)}")
    capture = READERS[source](path, options)
    capture.check(str(path))
    return capture


def retarget(body: Embodiment, capture: Capture, fps: float) -> tuple[np.ndarray, Targets, Metrics]:
    """Motion (F, Q) of a body after a capture, the targets it follows and its figures."""
    kinematics = MotionKinematics(body)
    capture = capture.resample(fps)
    targets = build_targets(body, capture)
    neutral = kinematics.coordinates(body.neutral_qpos[None])[0]
    terms = [target_term(kinematics, targets, neutral)]
    qpos = solve(kinematics, first_guess(body, targets), terms, Smoothness(COARSE, fps), COARSE_STEPS)
    tilt = widened = 0.0
    if body.free_root:
        qpos, targets, tilt = level(kinematics, qpos, targets, fps)
        targets, widened = widen(kinematics, qpos, targets, capture)
        terms = [target_term(kinematics, targets, neutral)]
    qpos = solve(kinematics, qpos, terms, Smoothness(FINE, fps), FINE_STEPS)
    if body.free_root:
        soles = ground.Soles.of(kinematics, kinematics.pose(qpos))
        terms.append(ground.contact_term(kinematics, soles, ground.label_contacts(soles, fps), fps))
        qpos = solve(kinematics, qpos, terms, Smoothness(FINE, fps), CONTACT_STEPS, tolerance=3e-4)
    return qpos, targets, measure(kinematics, qpos, targets, fps, tilt, widened)


def first_guess(body: Embodiment, targets: Targets) -> np.ndarray:
    """(F, Q) the neutral pose with the limbs a little bent, its root where the pelvis should be."""
    qpos = np.tile(body.neutral_qpos, (len(targets.position), 1))
    for joint, angle in BENT.items():
        for name in {f"{joint}_{side[0]}" for side in SIDES} & set(body.joint_names):
            qpos[:, body.model.joint(name).qposadr[0]] = angle
    if body.free_root:
        skeleton = Skeleton(body)
        pelvis = skeleton.names.index("pelvis")
        turn = targets.turn[:, targets.turn_sites.tolist().index(pelvis)] @ skeleton.rest_mat[pelvis].T
        qpos[:, 3:7] = rotations.to_quaternion(turn @ rotations.from_quaternion(body.neutral_qpos[3:7]))
        qpos[:, :3] = targets.position[:, pelvis]
    return qpos


def level(
    kinematics: MotionKinematics, qpos: np.ndarray, targets: Targets, fps: float
) -> tuple[np.ndarray, Targets, float]:
    """Bring the captured floor to z = 0: tilt, height, slow drift; returns motion, targets and the tilt in degrees."""
    floor = ground.fit_floor(ground.Soles.of(kinematics, kinematics.pose(qpos)), fps)
    turn, shift = floor.levelling()
    qpos, targets = _move(qpos, turn, shift), targets.moved(turn, shift)
    lift = ground.slow_height(ground.Soles.of(kinematics, kinematics.pose(qpos)), fps)
    shift = lift[:, None] * np.array([0.0, 0.0, -1.0])
    return _move(qpos, np.eye(3), shift), targets.moved(np.eye(3), shift), floor.tilt


def _move(qpos: np.ndarray, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    moved = qpos.copy()
    moved[:, :3] = qpos[:, :3] @ turn.T + shift
    moved[:, 3:7] = rotations.to_quaternion(turn @ rotations.from_quaternion(qpos[:, 3:7]))
    return moved


def widen(
    kinematics: MotionKinematics, qpos: np.ndarray, targets: Targets, capture: Capture
) -> tuple[Targets, float]:
    """Move the feet's targets outwards where the feet would pass through each other; the body's hips are narrow."""
    gap = float(ground.feet_gap(kinematics, qpos).min())
    shift = float(np.clip(0.5 * (CLEARANCE - gap), 0.0, WIDEST))
    names = [name.removesuffix("_mimic") for name in kinematics.body.site_names]
    position = targets.position.copy()
    outward = capture.segment("pelvis")[:, :, 0] * np.array([1.0, 1.0, 0.0])
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        for point, share in (("knee", 0.5), ("ankle", 1.0), ("toes", 1.0)):
            position[:, names.index(f"{side}_{point}")] += sign * share * shift * outward
    return replace(targets, position=position), shift


def make_clip(body: Embodiment, path: Path, options: Options, name: str) -> tuple[Clip, Metrics]:
    """Read a capture and make a clip of it.

    Raises:
        CaptureError: the file cannot be used.
    """
    capture = read_capture(path, options)
    qpos, targets, metrics = retarget(body, capture, options.fps)
    provenance = dict(capture.provenance) | {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "fps_in": capture.fps,
        "tool": "tools/retarget.py",
        "model_hash": body.model_hash,
        "metrics": metrics.as_dict(),
    }
    error = fit_error(MotionKinematics(body), qpos, targets)
    clip = Clip.from_qpos(body, qpos, options.fps, provenance=provenance, fit_error=error, name=name)
    if options.activations:
        clip, solution = with_activations(body, clip)
        metrics = replace(
            metrics, activation=float(solution.act.mean()), muscle_residual_nm=float(solution.residual.mean())
        )
    return clip, metrics
