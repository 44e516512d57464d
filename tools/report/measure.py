"""What a clip file allows to measure, frame by frame, on the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mm_torch.motion.bank import find_clips
from mm_torch.motion.clip import Clip, MotionError, bind_activations, bind_to_body, load_clip
from sim_models.embodiment import Embodiment
from sim_models.kinematics import lowest_points, reference_velocity
from sim_models.registry import load_body
from tools.retargeting import manifest
from tools.retargeting.metrics import LIMIT_TOLERANCE, contacts_and_tendons, tendon_jumps

SUBJECT = ("body_model", "skeleton", "subject_shape")  # what a reader notes of the proportions that it used


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures of one clip; F frames, S sites, J scalar joints, D of them independent, T tendons, E couplings.

    ============ =========================================================================== =============== ========
    name         clip                                                                        str
    path         its file                                                                    Path
    row          its row of the manifest; empty where there is none                          mapping
    fps          frames per second                                                           float           1/s
    subject      proportions that the capture was read with, as the reader names them        str
    fit          distance of sites from targets; no rows where the clip has none             (F | 0, S)      m
    outside      frames outside the joint's range                                            (J,)            share
    span         range of motion                                                             (J,)            rad, m
    coupler      largest violation of each coupling                                          (E,)            rad, m
    floor_depth  deepest floor contact, 0 where there is none                                (F,)            m
    sole_height  lowest sole point; no values without feet                                   (F | 0,)        m
    self_depth   deepest contact of the body with itself                                     (F,)            m
    jump         largest jump of a tendon's length in each frame, over its rest length       (F,)            1
    tendon_jump  largest jump of each tendon, and its frame                                  (T,)            1
    speed, jerk  of the independent joints                                                   (F-1 | F-3, D)  rad/s^n
    qvel_error   stored velocities against differences of positions, over the largest        float           1
    act          mean activation of every muscle; empty where not solved                     (M,)            [0, 1]
    ============ =========================================================================== =============== ========
    """

    name: str
    path: Path
    row: Mapping[str, str]
    fps: float
    subject: str
    fit: np.ndarray
    outside: np.ndarray
    span: np.ndarray
    coupler: np.ndarray
    floor_depth: np.ndarray
    sole_height: np.ndarray
    self_depth: np.ndarray
    jump: np.ndarray
    tendon_jump: np.ndarray
    tendon_jump_frame: np.ndarray
    speed: np.ndarray
    jerk: np.ndarray
    qvel_error: float
    act: np.ndarray

    @property
    def frames(self) -> int:
        """F."""
        return len(self.floor_depth)

    @property
    def site_rmse(self) -> np.ndarray:
        """(S,) m, root mean square over frames; empty where the clip has no errors."""
        return np.sqrt((self.fit**2).mean(axis=0)) if len(self.fit) else np.zeros(0)


@dataclass(frozen=True)
class Collection:
    """Clips of a directory: measured ones, and the manifest's rows of those that failed."""

    directory: Path
    body: Embodiment
    clips: tuple[Measured, ...]
    failed: tuple[Mapping[str, str], ...]


def measure_directory(directory: Path) -> Collection:
    """Measure all clips of a directory.

    Raises:
        MotionError: no directory, no clip, clips of several bodies, or a file that cannot be read.
        ManifestError: the manifest cannot be read.
    """
    if not directory.is_dir():
        raise MotionError(f"{directory}: no such directory; give one that tools/retarget.py wrote clips to")
    rows = manifest.read_manifest(directory / manifest.NAME)
    paths = find_clips(directory)
    body = load_body(load_clip(paths[0]).body)
    measured = []
    for path in paths:
        clip, name = load_clip(path), path.relative_to(directory).with_suffix("").as_posix()
        if clip.body != body.name:
            raise MotionError(f"{directory}: holds clips of {body.name} and {clip.body} ({path.name}); report on each alone")
        measured.append(measure_clip(body, clip, name, path, rows.get(name, {})))
    failed = tuple(row for row in rows.values() if row["status"] == manifest.FAILED)
    return Collection(directory, body, tuple(measured), failed)


def measure_clip(body: Embodiment, clip: Clip, name: str, path: Path, row: Mapping[str, str]) -> Measured:
    """Measure one clip; see ``Measured``.

    Raises:
        MotionError: the clip does not fit the body.
    """
    bind_to_body(clip, body)  # names and sizes; the measuring itself takes the positions as they are stored
    qpos, qvel = clip.qpos, reference_velocity(body, clip.qpos, 1.0 / clip.fps)
    model = body.model
    values = qpos[:, body.hinge_qpos]
    low, high = model.jnt_range[body.hinge_ids].T
    outside = ((values < low - LIMIT_TOLERANCE) | (values > high + LIMIT_TOLERANCE)) & _limited(body)
    soles = np.concatenate([*body.foot_geom_ids.values(), np.zeros(0, int)]).astype(int)
    joints = qpos[:, model.jnt_qposadr[body.independent_hinges]]
    floor_depth, self_depth, length = contacts_and_tendons(model, qpos)
    jumps = np.zeros_like(length)
    jumps[1:] = tendon_jumps(length, model.tendon_length0)
    act = bind_activations(clip, body)
    return Measured(
        name=name,
        path=path,
        row=row,
        fps=clip.fps,
        subject=", ".join(str(clip.provenance[k]) for k in SUBJECT if k in clip.provenance),
        fit=clip.fit_error if clip.fit_error.size else np.zeros((0, len(body.site_names))),
        outside=outside.mean(axis=0),
        span=np.ptp(values, axis=0),
        coupler=np.abs(body.couplings.residual(qpos)).max(axis=0),
        floor_depth=floor_depth,
        sole_height=lowest_points(body, qpos, soles).min(axis=1) if len(soles) else np.zeros(0),
        self_depth=self_depth,
        jump=jumps.max(axis=1, initial=0.0),
        tendon_jump=jumps.max(axis=0),
        tendon_jump_frame=jumps.argmax(axis=0),
        speed=(np.abs(np.diff(joints, axis=0)) * clip.fps).astype(np.float32),
        jerk=(np.abs(np.diff(joints, n=3, axis=0)) * clip.fps**3).astype(np.float32),
        qvel_error=float(np.abs(clip.qvel - qvel).max() / max(np.abs(qvel).max(), 1e-9)),
        act=np.zeros(0) if act is None else act.mean(axis=0),
    )


def _limited(body: Embodiment) -> np.ndarray:
    return body.model.jnt_limited[body.hinge_ids].astype(bool)
