"""Orientations of segments in the standard pose's sense, for skeletons whose rest pose says nothing about it."""

from __future__ import annotations

import numpy as np

from tools.retargeting.skeleton import SIDES

LOW = 30.0  # percentile of the ankle's height below which the foot is taken for flat
UP = np.array([0.0, 1.0, 0.0])


def calibrate(points: dict[str, np.ndarray], turns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn joint frames of unknown rest into rotations since standing upright with hanging arms.

    Every segment is rigid, so that its rotation is its joint's times a constant one. That constant is the mean, over the
    motion, of what the points say: pelvis and trunk stand along the line from the hips to the shoulders, left is to the
    left; a foot is flat where its ankle is low; a hand goes on as the forearm does, turned the least from hanging.

    Args:
        points: our points, (F, 3) m in a Y-up world.
        turns: joint frames (F, 3, 3) by our segments, in that world.

    Returns:
        Rotations (F, 3, 3) by our segments; identity is the standard pose: Y up, facing +Z, +X to the left.
    """
    along = 0.5 * sum(points[f"{side}_shoulder"] - points[f"{side}_hip"] for side in SIDES)
    left = {part: points[f"left_{part}"] - points[f"right_{part}"] for part in ("hip", "shoulder")}
    wanted = {"pelvis": frames(along, left["hip"]), "trunk": frames(along, left["shoulder"])}
    rotations = {name: _rigid(turns[name], wanted[name]) for name in wanted}
    for side in SIDES:
        ankle = points[f"{side}_ankle"]
        ahead = points[f"{side}_toes"] - ankle
        flat = ankle[:, 1] <= np.percentile(ankle[:, 1], LOW)
        upright = frames(np.broadcast_to(UP, ahead.shape), np.cross(UP, ahead))
        for part in ("foot", "toes"):
            rotations[f"{side}_{part}"] = _rigid(turns[f"{side}_{part}"], upright, flat)
        forearm = points[f"{side}_wrist"] - points[f"{side}_elbow"]
        trunk = rotations["trunk"]
        rotations[f"{side}_hand"] = _rigid(turns[f"{side}_hand"], _least_turn(-trunk[:, :, 1], forearm) @ trunk)
    return rotations


def frames(up: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Rotations (F, 3, 3) with the second column along ``up`` (F, 3) and the first as close to ``left`` as that allows."""
    y = up / np.linalg.norm(up, axis=1, keepdims=True)
    x = left - np.sum(left * y, axis=1, keepdims=True) * y
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=2)


def _rigid(turn: np.ndarray, wanted: np.ndarray, where: np.ndarray | slice = slice(None)) -> np.ndarray:
    """``turn`` times the one rotation that brings it closest to ``wanted`` (chordal mean)."""
    u, _, vt = np.linalg.svd((np.swapaxes(turn, 1, 2) @ wanted)[where].mean(axis=0))
    return turn @ (u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt)


def _least_turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Smallest rotations (F, 3, 3) from directions ``a`` to ``b`` (F, 3); near opposite ones the axis is arbitrary."""
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    v = np.cross(a, b)
    skew = np.zeros((len(a), 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        skew[:, k, j], skew[:, j, k] = v[:, i], -v[:, i]
    cos = np.sum(a * b, axis=1)[:, None, None]
    return np.eye(3) + skew + skew @ skew / np.maximum(1.0 + cos, 1e-3)
