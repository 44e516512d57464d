"""The floor of a capture and the feet's contacts with it.

Captured floors are tilted by about a degree and, in converted captures, individual steps float by centimetres. Both are
corrected by motions of the whole target: a plane fitted to the resting feet, and a slow height correction. Remaining
centimetres are closed by contact terms in the solver, never by moving single frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from tools.retargeting import rotations
from tools.retargeting.kinematics import MotionKinematics, Pose
from tools.retargeting.solve import Residuals, Term

REST_SPEED = 0.3  # m/s: a sole slower than this rests
REST_HEIGHT = 0.08  # m above the fitted plane beyond which a slow sole is a lifted foot
CONTACT_HEIGHT = 0.04  # m above the corrected floor below which a resting sole is in contact
SHORTEST, GAP = 0.06, 0.04  # s: shorter contacts are dropped, shorter breaks closed
TILT_SD, HEIGHT_SD = 0.02, 0.01  # rad, m: prior of the tilt, scatter of the footholds' heights about the floor
PIVOT = 0.03  # m: a contact that strays farther from its mean place pivots or slides and is not held
SLOW = 0.25  # s: standard deviation of the Gaussian over the height correction
CLEARANCE, STARTS, FULL = 0.012, 0.4, 1.2  # m, m/s: a sole this fast is kept that far above the floor
PIN_WEIGHT, HEIGHT_WEIGHT, DEPTH_WEIGHT = 2.0, 3.0, 5.0


@dataclass(frozen=True, eq=False)
class Soles:
    """Heel and toe of each foot as groups of sole geoms: their centres (F, K, 3) and lowest heights (F, K) in m."""

    groups: list[np.ndarray]
    center: np.ndarray
    height: np.ndarray

    @classmethod
    def of(cls, kinematics: MotionKinematics, pose: Pose) -> Soles:
        """Groups are the geoms of one body."""
        groups = [np.flatnonzero(kinematics.sole_bodies == b) for b in np.unique(kinematics.sole_bodies)]
        center = np.stack([pose.sole_center[:, g].mean(axis=1) for g in groups], axis=1)
        height = np.stack([pose.sole_low[:, g, 2].min(axis=1) for g in groups], axis=1)
        return cls(groups, center, height)

    def resting(self, fps: float) -> np.ndarray:
        """(F, K) whether a group moves slower than ``REST_SPEED``."""
        return np.linalg.norm(np.gradient(self.center, 1.0 / fps, axis=0), axis=-1) < REST_SPEED


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

    A motion on one spot says nothing about a tilt; the prior then leaves it near zero. Where no sole ever rests, the
    floor is level at the lowest height.
    """
    low = soles.height <= soles.height.min(axis=1, keepdims=True) + 0.02
    use = soles.resting(fps) & low
    rests = [(k, start, stop) for k in range(use.shape[1]) for start, stop in runs(use[:, k])]
    holds = [(k, slice(start, stop)) for k, start, stop in rests if stop - start >= SHORTEST * fps]
    if not holds:
        return Floor(np.zeros(2), float(np.percentile(soles.height.min(axis=1), 1)), False)
    xy = np.array([soles.center[frames, k, :2].mean(axis=0) for k, frames in holds])
    z = np.array([soles.height[frames, k].mean() for k, frames in holds])
    middle = xy.mean(axis=0)
    design = np.column_stack([xy - middle, np.ones(len(z))])
    prior = np.diag([(HEIGHT_SD / TILT_SD) ** 2] * 2 + [0.0])
    plane = np.array([0.0, 0.0, np.median(z)])
    for _ in range(10):
        error = z - design @ plane
        weight = 1.0 / np.maximum(1.0, np.abs(error) / HEIGHT_SD) ** 2
        plane = np.linalg.solve((design * weight[:, None]).T @ design + prior, design.T @ (weight * z))
    return Floor(plane[:2], float(plane[2] - plane[:2] @ middle), True)


def slow_height(soles: Soles, fps: float) -> np.ndarray:
    """(F,) m: height of the resting feet above z = 0, interpolated between rests and smoothed over ``SLOW``."""
    frames = len(soles.height)
    rest = soles.resting(fps) & (np.abs(soles.height) < REST_HEIGHT)
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


def label_contacts(soles: Soles, fps: float) -> np.ndarray:
    """(F, K) whether heel or toe of each foot stands on the floor z = 0: resting, low, and not for an instant."""
    label = soles.resting(fps) & (soles.height < CONTACT_HEIGHT)
    for k in range(label.shape[1]):
        for wanted, shortest in ((False, GAP), (True, SHORTEST)):
            for start, stop in runs(label[:, k] == wanted):
                inside = start > 0 and stop < len(label)
                if stop - start < shortest * fps and (wanted or inside):
                    label[start:stop, k] = not wanted
    return label


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Half-open intervals over which a boolean track (F,) holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def contact_term(kinematics: MotionKinematics, soles: Soles, contacts: np.ndarray, fps: float) -> Term:
    """Contacts keep their place and touch the floor; no sole enters it, and swinging ones do not graze it.

    Args:
        kinematics: of the body.
        soles: where the soles were when the contacts were labelled; a contact's place is its mean over the contact.
        contacts: (F, K).
        fps: frames per second; contacts fade in and out over 50 ms.
    """
    place, strength, held = soles.center[..., :2].copy(), np.zeros(contacts.shape), np.zeros(contacts.shape)
    for k in range(contacts.shape[1]):
        for start, stop in runs(contacts[:, k]):
            place[start:stop, k] = soles.center[start:stop, k, :2].mean(axis=0)
            inside = np.minimum(np.arange(stop - start), np.arange(stop - start)[::-1]) + 1.0
            strength[start:stop, k] = np.minimum(1.0, inside / (0.05 * fps))
            strayed = np.linalg.norm(soles.center[start:stop, k, :2] - place[start:stop, k], axis=1).max()
            held[start:stop, k] = strength[start:stop, k] * (strayed < PIVOT)
    groups, frames = soles.groups, np.arange(len(contacts))
    clearance = _clearance(kinematics, soles, fps)

    def term(pose: Pose) -> Residuals:
        center = kinematics.sole_jacobian(pose, pose.sole_center)[:, :, :2]
        low = kinematics.sole_jacobian(pose, pose.sole_low)[:, :, 2]
        values, jacobians = [], []
        for k, group in enumerate(groups):
            pin = PIN_WEIGHT * held[:, k, None]
            values.append(pin * (pose.sole_center[:, group, :2].mean(axis=1) - place[:, k]))
            jacobians.append(pin[..., None] * center[:, group].mean(axis=1))
            lowest = group[pose.sole_low[:, group, 2].argmin(axis=1)]
            height = HEIGHT_WEIGHT * strength[:, k]
            values.append((height * pose.sole_low[frames, lowest, 2])[:, None])
            jacobians.append((height[:, None] * low[frames, lowest])[:, None])
        excess = pose.sole_low[..., 2] - clearance
        inside = DEPTH_WEIGHT * (excess < 0.0)
        values.append(inside * excess)
        jacobians.append(inside[..., None] * low)
        return Residuals(np.concatenate(values, axis=1), np.concatenate(jacobians, axis=1))

    return term


def _clearance(kinematics: MotionKinematics, soles: Soles, fps: float) -> np.ndarray:
    """(F, G) m: wanted height of each sole geom over the floor, rising with the horizontal speed of its group."""
    speed = np.linalg.norm(np.gradient(soles.center[..., :2], 1.0 / fps, axis=0), axis=-1)
    rise = np.clip((speed - STARTS) / (FULL - STARTS), 0.0, 1.0)
    wanted = np.zeros((len(speed), len(kinematics.soles)))
    for k, group in enumerate(soles.groups):
        wanted[:, group] = (CLEARANCE * rise**2 * (3.0 - 2.0 * rise))[:, [k]]
    return wanted


def feet_gap(kinematics: MotionKinematics, qpos: np.ndarray, reach: float = 0.1) -> np.ndarray:
    """(F,) m between the two feet's sole geoms, negative where they overlap; ``reach`` where farther apart."""
    model, data = kinematics.body.model, mujoco.MjData(kinematics.body.model)
    left, right = (ids for _, ids in sorted(kinematics.body.foot_geom_ids.items()))
    gap = np.full(len(qpos), reach)
    for f in range(len(qpos)):
        data.qpos[:] = qpos[f]
        mujoco.mj_kinematics(model, data)
        apart = np.linalg.norm(data.geom_xpos[left][:, None] - data.geom_xpos[right], axis=-1)
        near = apart - model.geom_rbound[left][:, None] - model.geom_rbound[right] < reach
        for a, b in zip(*np.nonzero(near), strict=True):
            gap[f] = min(gap[f], mujoco.mj_geomDistance(model, data, left[a], right[b], reach, None))
    return gap
