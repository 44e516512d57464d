"""The floor of a capture, and the feet's contacts with it.

Captured floors are tilted by about a degree and, in converted captures, individual steps float by centimetres. Both are
corrected by motions of the whole target: a plane fitted to the resting feet, and a slow height correction. Remaining
centimetres are closed by contact terms in the solver (``contact.py``), never by moving single frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

from tools.retargeting import rotations
from tools.retargeting.kinematics import Pose
from tools.retargeting.soles import Surface
from tools.retargeting.solve import second_difference

REST_SPEED = 0.3  # m/s: a sole slower than this rests
REST_HEIGHT = 0.08  # m above the fitted plane beyond which a slow sole is a lifted foot; below the plane, it's a step down
# Contacts: speed in m/s, of which share of the body's speed, height in m. Converted captures let feet skate, the more the
# faster the body travels. Sure contacts are extended, by EXTENSION s at most, to where they begin and end.
SURE, LOOSE = (0.3, 0.15, 0.04), (0.4, 0.3, 0.03)
FASTEST_CONTACT = 0.8  # m/s
EXTENSION = 0.08
SHORTEST, GAP = 0.06, 0.04  # s: shorter contacts are dropped, shorter breaks closed
TILT_SD, HEIGHT_SD = 0.02, 0.01  # rad, m: prior of the tilt, scatter of the footholds' heights about the floor
SLIGHT, LETTING_GO = 1e-3, 0.3  # weights by which a limb returns to its captured path, near a contact and far from any
ON_THE_FLOOR = 0.04  # m: a part of the body other than the soles that is so low carries some of the weight
SLOW = 0.25  # s: standard deviation of the Gaussian over the height correction


@dataclass(frozen=True, eq=False)
class Soles:
    """Parts of the soles (heel, ball, toes).

    ====== ======================================================================== ===============
    center of the part                                                              (F, K, 3) m
    height of its lowest point                                                      (F, K) m
    speed  of its centre or of the material at its lowest point, which is slower    (F, K) m/s
    ====== ======================================================================== ===============
    """


    center: np.ndarray
    height: np.ndarray
    speed: np.ndarray

    @classmethod
    def of(cls, surface: Surface, pose: Pose, fps: float) -> Soles:
        """At the frames of a pose."""
        center, height = surface.parts(pose)
        velocity, _ = part_motion(surface, pose, fps)
        moves = np.gradient(center, 1.0 / fps, axis=0) if len(center) > 1 else np.zeros_like(center)
        return cls(center, height, np.minimum(np.linalg.norm(velocity, axis=-1), np.linalg.norm(moves, axis=-1)))


@dataclass(frozen=True, eq=False)
class Floor:
    """Plane ``z = height + slope . (x, y)`` under the resting feet, and whether any foot rested."""

    slope: np.ndarray
    height: float
    found: bool

    def levelling(self) -> tuple[np.ndarray, np.ndarray]:
        """Rotation (3, 3) about the origin and shift (3,) m that bring the plane to z = 0."""
        normal = np.array([-self.slope[0], -self.slope[1], 1.0])
        turn = rotations.between(normal, np.array([0.0, 0.0, 1.0]))
        return turn, np.array([0.0, 0.0, -self.height / np.linalg.norm(normal)])

    @property
    def tilt(self) -> float:
        """Angle in degrees between the plane and the horizontal."""
        return float(np.degrees(np.arctan(np.linalg.norm(self.slope))))


def fit_floor(soles: Soles, fps: float) -> Floor:
    """Fit a plane to the footholds, one observation each, by reweighted least squares with a prior on the tilt.

    Every part of the soles has a height of its own above the plane: how a captured foot is inclined says nothing about
    the floor. Nor does a motion on one spot; the prior then leaves the tilt near zero. Where no sole ever rests, the floor
    is level at the lowest height.
    """
    low = soles.height <= soles.height.min(axis=1, keepdims=True) + 0.02
    use = (soles.speed < REST_SPEED) & low
    rests = [(k, start, stop) for k in range(use.shape[1]) for start, stop in runs(use[:, k])]
    holds = [(k, slice(start, stop)) for k, start, stop in rests if stop - start >= SHORTEST * fps]
    if not holds:
        return Floor(np.zeros(2), float(np.percentile(soles.height.min(axis=1), 1)), False)
    xy = np.array([soles.center[frames, k, :2].mean(axis=0) for k, frames in holds])
    z = np.array([soles.height[frames, k].mean() for k, frames in holds])
    part = np.eye(soles.height.shape[1])[[k for k, _ in holds]]
    middle = xy.mean(axis=0)
    design = np.column_stack([xy - middle, part])
    prior = np.diag([(HEIGHT_SD / TILT_SD) ** 2] * 2 + [1e-9] * part.shape[1])
    plane = np.concatenate([np.zeros(2), np.full(part.shape[1], np.median(z))])
    for _ in range(10):
        error = z - design @ plane
        weight = 1.0 / np.maximum(1.0, np.abs(error) / HEIGHT_SD) ** 2
        plane = np.linalg.solve((design * weight[:, None]).T @ design + prior, design.T @ (weight * z))
    height = (weight * (part @ plane[2:])).sum() / weight.sum()
    return Floor(plane[:2], float(height - plane[:2] @ middle), True)


def slow_height(soles: Soles, fps: float) -> np.ndarray:
    """(F,) m: height of the resting feet above z = 0, interpolated between rests and smoothed over ``SLOW``."""
    frames = len(soles.height)
    rest = (soles.speed < REST_SPEED) & (soles.height < REST_HEIGHT)
    at = np.flatnonzero(rest.any(axis=1))
    if not len(at):
        return np.zeros(frames)
    lowest = np.where(rest, soles.height, np.inf).min(axis=1)
    return gaussian(np.interp(np.arange(frames), at, lowest[at]), SLOW * fps)


def gaussian(track: np.ndarray, sigma: float) -> np.ndarray:
    """Zero-phase Gaussian smoothing of a track (F,) that continues with its end values; ``sigma`` in frames."""
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(track, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def bridge(tracks: np.ndarray, weight: np.ndarray, rate: np.ndarray, reach: float) -> np.ndarray:
    """Smooth tracks (F, L, 3) through ``tracks`` where ``weight`` (F, L) is 1, and from there to there where it is 0.

    Minimises ``sum w |x - track|^2 + p |x|^2 + |D2 x|^2 / rate^4``; ``rate`` (L,) in rad per frame is the cut-off. The
    pull to zero p is slight, but rises where the next frame with a weight is more than ``reach`` frames away: what one
    contact asked for is not carried on where no other follows.
    """
    frames = len(tracks)
    bands = np.zeros((3, *weight.shape))
    bands[0] = weight + SLIGHT + LETTING_GO * np.clip(_away(weight > 0.0) / reach - 1.0, 0.0, 1.0)
    for k, band in enumerate(second_difference(frames)):
        bands[k, : frames - k] += band.numpy()[:, None] / rate**4
    right = weight[:, :, None] * tracks
    return np.stack([solveh_banded(bands[:, :, k], right[:, k], lower=True) for k in range(weight.shape[1])], axis=1)


def _away(mask: np.ndarray) -> np.ndarray:
    """(F, L) frames to the nearest one of a column that is set; the number of frames where none is."""
    out = np.full(mask.shape, float(len(mask)))
    for order in (slice(None), slice(None, None, -1)):
        since = np.full(mask.shape[1], float(len(mask)))
        for row, best in zip(mask[order], out[order], strict=True):
            since = np.where(row, 0.0, since + 1.0)
            np.minimum(best, since, out=best)
    return out


def travel(place: np.ndarray, fps: float) -> np.ndarray:
    """(F,) m/s speed of a track (F, 2) m, over half a second."""
    at, reach = np.arange(len(place)), max(1, round(0.25 * fps))
    before, after = np.maximum(at - reach, 0), np.minimum(at + reach, len(place) - 1)
    return np.linalg.norm(place[after] - place[before], axis=1) * fps / np.maximum(after - before, 1)


def label_contacts(soles: Soles, travel: np.ndarray, fps: float) -> np.ndarray:
    """(F, K) whether a part of a foot stands on the floor z = 0: slow, low, and not for an instant.

    Args:
        soles: their motion.
        travel: (F,) m/s horizontal speed of the body.
        fps: frames per second.
    """
    label, maybe = (
        (soles.speed < np.minimum(speed + share * travel, FASTEST_CONTACT)[:, None]) & (soles.height < height)
        for speed, share, height in (SURE, LOOSE)
    )
    for _ in range(round(EXTENSION * fps)):
        near = label.copy()
        near[1:] |= label[:-1]
        near[:-1] |= label[1:]
        label = label | (near & maybe)
    for wanted, shortest in ((False, GAP), (True, SHORTEST)):
        for k in range(label.shape[1]):
            for start, stop in runs(label[:, k] == wanted):
                inside = start > 0 and stop < len(label)
                if stop - start < shortest * fps and (wanted or inside):
                    label[start:stop, k] = not wanted
    return label


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Half-open intervals over which a boolean track (F,) holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def part_motion(surface: Surface, pose: Pose, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Velocity (F, K, 3) m/s of the material at the lowest point of every part of the soles, and its height (F, K) m."""
    low = surface.lowest(pose)
    frames, parts = len(pose.qpos), len(surface.names)
    velocity, height = np.zeros((frames, parts, 3)), np.zeros((frames, parts))
    middle = np.arange(frames)
    before, after = np.maximum(middle - 1, 0), np.minimum(middle + 1, frames - 1)
    links = surface.points.links
    for k in range(parts):
        members = np.flatnonzero(surface.groups == k)
        which = members[low[:, members, 2].argmin(dim=1).cpu().numpy()]
        link = links[which].long()
        at = low[middle, which] - pose.position[middle, link]
        local = pose.rotation[middle, link].transpose(1, 2) @ at[:, :, None]
        ends = [pose.position[f, link] + (pose.rotation[f, link] @ local).squeeze(2) for f in (before, after)]
        velocity[:, k] = (ends[1] - ends[0]).cpu().numpy() * fps / np.maximum(after - before, 1)[:, None]
        height[:, k] = low[middle, which, 2].cpu().numpy()
    return velocity, height


def support(surface: Surface, pose: Pose, contact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (F, P, 2) m on the floor below the soles' spheres, and whether they carry (F, P) by the labels (F, K).

    None carries where another part of the surface is on the floor: how hands, knees or trunk share the load is not known.
    """
    parts = surface.groups >= 0
    at = surface.points.at(pose)[:, parts, :2].cpu().numpy()
    feet = np.isin(surface.geoms, np.concatenate(list(pose.kinematics.body.foot_geom_ids.values())))
    others = surface.lowest(pose)[:, ~feet, 2].cpu().numpy()
    alone = others.min(axis=1, initial=np.inf) > ON_THE_FLOOR
    return at, contact[:, surface.groups[parts]] & alone[:, None]
