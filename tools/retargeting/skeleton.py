"""The common form of all captures: joint positions and segment orientations in a Z-up world."""

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
    provenance what the file says of itself                                                      mapping
    ========== ================================================================================= ===============
    """

    fps: float
    points: np.ndarray
    segments: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

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
        return replace(self, points=self.points[frames:], segments=self.segments[frames:])

    def check(self, name: str) -> None:
        """Raise where the capture cannot be retargeted.

        Raises:
            CaptureError: fewer than four frames, a rate that is no rate, or values that are not finite.
        """
        if len(self.points) < 4:
            raise CaptureError(f"{name}: {len(self.points)} frames; a motion needs at least 4")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise CaptureError(f"{name}: frame rate {self.fps} is no rate; give fps_in=")
        finite = np.isfinite(self.points).all(axis=(1, 2)) & np.isfinite(self.segments).all(axis=(1, 2, 3))
        if not finite.all():
            raise CaptureError(f"{name}: values are not finite at frame {int(np.argmin(finite))}; repair the capture")

    def resample(self, fps: float) -> Capture:
        """The capture at another rate, on exact timestamps: positions linearly, orientations on the shorter arc."""
        frames = int(np.floor(self.duration * fps + 1e-6)) + 1
        index = np.minimum(np.arange(frames) * (self.fps / fps), len(self.points) - 1)
        low = np.clip(np.floor(index).astype(int), 0, len(self.points) - 2)
        part = (index - low)[:, None, None]
        points = (1.0 - part) * self.points[low] + part * self.points[low + 1]
        return replace(self, fps=fps, points=points, segments=rotations.interpolate(self.segments, index))

    def mirrored(self) -> Capture:
        """The capture reflected at the plane x = 0, left and right exchanged."""
        flip = np.diag([-1.0, 1.0, 1.0])
        partner = [_partner(POINTS, name) for name in POINTS]
        other = [_partner(SEGMENTS, name) for name in SEGMENTS]
        return replace(self, points=self.points[:, partner] @ flip, segments=flip @ self.segments[:, other] @ flip)


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
