"""The common forms of all captures: joint positions and segment orientations in a Z-up world, or our joints' angles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tools.retargeting import rotations

SIDES = ("left", "right")
LIMB_POINTS = ("hip", "knee", "ankle", "toes", "shoulder", "elbow", "wrist")
POINTS = tuple(f"{side}_{point}" for side in SIDES for point in LIMB_POINTS)
SEGMENTS = ("pelvis", "trunk", *(f"{side}_{part}" for side in SIDES for part in ("foot", "toes", "hand")))

# Sources are Y-up, face +Z and have +X to their left; ours are Z-up, face -Y and have +X to their left.
Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
DOWN = np.array([0.0, 0.0, -1.0])


class CaptureError(ValueError):
    """A capture cannot be read; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True, eq=False)
class Capture:
    """A captured motion at a constant rate.

    ========== ================================================================================= ===============
    fps        frames per second                                                                 float, 1/s
    points     world positions of ``POINTS``, Z-up                                               (F, 14, 3), m
    segments   world orientation of ``SEGMENTS`` relative to standing upright, facing -Y, arms   (F, 8, 3, 3)
               hanging with the palms towards the body: there every matrix is the identity
    provenance what the file says of itself, and what was made of it                             mapping
    lead_in    first frames that are no motion in files of this kind                             int
    ========== ================================================================================= ===============
    """

    fps: float
    points: np.ndarray
    segments: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)
    lead_in: int = 0

    @property
    def duration(self) -> float:
        """Time in s from the first to the last frame."""
        return (len(self.points) - 1) / self.fps

    def point(self, name: str) -> np.ndarray:
        """Track (F, 3) m of one of ``POINTS``."""
        return self.points[:, POINTS.index(name)]

    def segment(self, name: str) -> np.ndarray:
        """Track (F, 3, 3) of one of ``SEGMENTS``."""
        return self.segments[:, SEGMENTS.index(name)]

    def drop(self, frames: int) -> Capture:
        """The capture without its first frames."""
        return replace(self.part(frames, len(self.points)), lead_in=0)

    def part(self, start: int, stop: int) -> Capture:
        """The capture's frames ``start`` to ``stop - 1``."""
        return replace(self, points=self.points[start:stop], segments=self.segments[start:stop])

    def noting(self, **notes: object) -> Capture:
        """The capture with further notes on its provenance."""
        return replace(self, provenance=self.provenance | notes)

    def check(self, name: str) -> None:
        """Raise where the capture cannot be retargeted.

        Raises:
            CaptureError: fewer than four frames, a rate that is no rate, or values that are not finite.
        """
        finite = np.isfinite(self.points).all(axis=(1, 2)) & np.isfinite(self.segments).all(axis=(1, 2, 3))
        _check(name, self.fps, finite)

    def resample(self, fps: float) -> Capture:
        """The capture at another rate, on exact timestamps: positions linearly, orientations on the shorter arc."""
        index = _timestamps(len(self.points), self.fps, fps)
        return replace(self, fps=fps, points=_between(self.points, index),
                       segments=rotations.interpolate(self.segments, index))

    def mirrored(self) -> Capture:
        """The capture reflected at the plane x = 0, left and right exchanged."""
        flip = np.diag([-1.0, 1.0, 1.0])
        partner = [_partner(POINTS, name) for name in POINTS]
        other = [_partner(SEGMENTS, name) for name in SEGMENTS]
        return replace(self, points=self.points[:, partner] @ flip, segments=flip @ self.segments[:, other] @ flip)


@dataclass(frozen=True, eq=False)
class JointMotion:
    """A motion that is given as angles of (nearly) our joints.

    =========== ========================================================================================= ===========
    fps         frames per second                                                                         float, 1/s
    joint_names scalar joints of the columns of qpos, by the names of our bodies                          (J,)
    qpos        their positions                                                                           (F, J) rad, m
    root        free joint in our Z-up world: position and unit quaternion wxyz; None where there is none (F, 7) or None
    provenance  what the file says of itself, and what was made of it                                     mapping
    =========== ========================================================================================= ===========
    """

    fps: float
    joint_names: tuple[str, ...]
    qpos: np.ndarray
    root: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """Time in s from the first to the last frame."""
        return (len(self.qpos) - 1) / self.fps

    def drop(self, frames: int) -> JointMotion:
        """The motion without its first frames."""
        return replace(self, qpos=self.qpos[frames:], root=None if self.root is None else self.root[frames:])

    def noting(self, **notes: object) -> JointMotion:
        """The motion with further notes on its provenance."""
        return replace(self, provenance=self.provenance | notes)

    def check(self, name: str) -> None:
        """Raise where the motion cannot be retargeted.

        Raises:
            CaptureError: fewer than four frames, a rate that is no rate, or values that are not finite.
        """
        root = np.zeros((len(self.qpos), 0)) if self.root is None else self.root
        _check(name, self.fps, np.isfinite(self.qpos).all(axis=1) & np.isfinite(root).all(axis=1))

    def resample(self, fps: float) -> JointMotion:
        """The motion at another rate, on exact timestamps: values linearly, the root's orientation on the shorter arc."""
        index = _timestamps(len(self.qpos), self.fps, fps)
        root = self.root
        if root is not None:
            turn = rotations.interpolate(rotations.from_quaternion(root[:, None, 3:]), index)[:, 0]
            root = np.concatenate([_between(root[:, :3], index), rotations.to_quaternion(turn)], axis=1)
        return replace(self, fps=fps, qpos=_between(self.qpos, index), root=root)

    def mirrored(self) -> JointMotion:
        """The motion reflected at the plane x = 0, left and right exchanged.

        A joint of one side has the same sign on the other; on the midline, bending to the side and turning change theirs.
        """
        names = [_other_side(name) for name in self.joint_names]
        sign = np.array([-1.0 if any(part in name for part in _ODD) else 1.0 for name in names])
        root = self.root
        if root is not None:
            flip = np.diag([-1.0, 1.0, 1.0])
            turn = flip @ rotations.from_quaternion(root[:, 3:]) @ flip
            root = np.concatenate([root[:, :3] @ flip, rotations.to_quaternion(turn)], axis=1)
        return replace(self, joint_names=tuple(names), qpos=self.qpos * sign, root=root)


_ODD = ("lat_bending", "axial_rotation", "_LB", "_AR")


def _other_side(name: str) -> str:
    swap = {"_l": "_r", "_r": "_l"}
    return name[:-2] + swap[name[-2:]] if name[-2:] in swap else name


def _check(name: str, fps: float, finite: np.ndarray) -> None:
    if len(finite) < 4:
        raise CaptureError(f"{name}: {len(finite)} frame{'s' * (len(finite) != 1)}; a motion needs at least 4")
    if not (np.isfinite(fps) and fps > 0):
        raise CaptureError(f"{name}: frame rate {fps:g} is no rate; give fps_in=")
    if not finite.all():
        raise CaptureError(f"{name}: values are not finite at frame {int(np.argmin(finite))} ({int((~finite).sum())} such "
                           "frames); repair the capture or cut them off")


def _timestamps(frames: int, fps: float, wanted: float) -> np.ndarray:
    """Fractional frame numbers of a motion at another rate; the first frame is kept, no time is made up at the end."""
    count = int(np.floor((frames - 1) / fps * wanted + 1e-6)) + 1
    return np.minimum(np.arange(count) * (fps / wanted), frames - 1)


def _between(track: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Linear interpolation of (F, ...) at fractional frame numbers (G,)."""
    low = np.clip(np.floor(index).astype(int), 0, len(track) - 2)
    part = (index - low).reshape(-1, *[1] * (track.ndim - 1))
    return (1.0 - part) * track[low] + part * track[low + 1]


def _partner(names: tuple[str, ...], name: str) -> int:
    swap = {"left": "right", "right": "left"}
    side, _, rest = name.partition("_")
    return names.index(f"{swap[side]}_{rest}") if side in swap else names.index(name)


def assemble(
    points: dict[str, np.ndarray],
    turns: dict[str, np.ndarray],
    rest: dict[str, np.ndarray],
    fps: float,
    provenance: dict[str, Any],
) -> Capture:
    """Build a capture from a Y-up source.

    A segment's orientation is its rotation since the source's rest pose, times the smallest rotation from our standard
    direction (hanging down) to its direction in that rest pose.

    Args:
        points: ``POINTS`` name to (F, 3) m, Y-up.
        turns: ``SEGMENTS`` name to (F, 3, 3), rotation since the rest pose, in the Y-up world.
        rest: ``SEGMENTS`` name to its direction (3,) in the rest pose, Y-up, where that is not the standard one.
        fps: frames per second.
        provenance: notes on the source.
    """
    tracks = []
    for name in SEGMENTS:
        track = Z_UP @ turns[name] @ Z_UP.T
        if name in rest:
            track = track @ rotations.between(DOWN, Z_UP @ rest[name])
        tracks.append(track)
    positions = np.stack([points[name] for name in POINTS], axis=1) @ Z_UP.T
    return Capture(fps, positions, np.stack(tracks, axis=1), provenance)
