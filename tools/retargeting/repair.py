"""Captured frames that no body can move through, bridged from the good frames around them.

Marker swaps and wrapped Euler angles leave limbs that leap over a right angle and back within hundredths of a second.
A fit follows them into the limits and through the body; what is between the leaps is no motion either. Nor do limbs pass
through each other: a solver that keeps them apart would push them to one side in one frame and to the other in the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product

import numpy as np

from tools.retargeting import rotations
from tools.retargeting.skeleton import POINTS, SEGMENTS, SIDES, Capture

# rad/s: of pelvis and trunk, and of thigh and shank or upper arm and forearm as directions. A hard kick extends the knee
# with 30, a throw sweeps the forearm with 40. Feet and hands turn about their limb, too, and are noisy: they don't count.
TRUNK_LIMIT, LEG_LIMIT, ARM_LIMIT = 35.0, 35.0, 50.0
MOST_TWIST = 1.4  # rad: of the trunk from the pelvis; a dancer's spine has 1
UNREST = 20.0  # rad/s: steps beside an impossible one that are faster belong to it
JOIN = 0.1  # s: what lies between two leaps that are closer is as wrong as they are
BRIDGE = 15.0  # rad/s: a bridge turns no faster, and reaches farther where it would
# m: limbs have passed through each other where the line between their axes turns round in a step and is shorter than that
NEAR = 0.1
LEAST_LEFT = 0.5  # least share of a capture that is left where broken ends are cut off
CLEAR, REACHES = 0.08, np.arange(0.02, 0.42, 0.02)  # m: room that a bridge leaves; s: how far it may reach to either side

LIMB_POINTS = (("hip", "knee", "ankle", "toes"), ("shoulder", "elbow", "wrist"))


@dataclass(frozen=True)
class Part:
    """Directions (from point to point) and segments that turn together, seen from a parent segment ("": the world).

    Faster than ``limit`` rad/s no direction turns, nor the segment of a part that has none.
    """

    name: str
    parent: str
    points: tuple[tuple[str, str], ...]
    segments: tuple[str, ...]
    limit: float


def _parts() -> tuple[Part, ...]:
    parts = [Part("pelvis", "", (), ("pelvis",), TRUNK_LIMIT), Part("trunk", "pelvis", (), ("trunk",), TRUNK_LIMIT)]
    for side in SIDES:
        leg, arm = ([f"{side}_{point}" for point in limb] for limb in LIMB_POINTS)
        parts.append(Part(f"{side} leg", "pelvis", tuple(pairwise(leg)), (f"{side}_foot", f"{side}_toes"), LEG_LIMIT))
        parts.append(Part(f"{side} arm", "trunk", tuple(pairwise(arm)), (f"{side}_hand",), ARM_LIMIT))
    return tuple(parts)


WATCHED = 2  # directions of a limb that are looked at: the foot's is short
PARTS = _parts()
LIMBS = PARTS[2:]
Spans = dict[str, list[tuple[int, int]]]  # by part: good frame before, good frame after; -1 and F lie beyond the ends


@dataclass(frozen=True, eq=False)
class _Local:
    """A part seen from its parent: unit directions (F, N, 3), their lengths (F, N) m, orientations (F, M, 3, 3)."""

    direction: np.ndarray
    length: np.ndarray
    turn: np.ndarray

    @classmethod
    def of(cls, capture: Capture, part: Part) -> _Local:
        parent = _parent(capture.segments, part)
        vector = np.stack([capture.point(b) - capture.point(a) for a, b in part.points], axis=1) if part.points else (
            np.zeros((len(parent), 0, 3)))
        length = np.linalg.norm(vector, axis=2)
        direction = np.einsum("fji,fnj->fni", parent, vector / np.maximum(length, 1e-9)[..., None])
        turn = np.stack([np.swapaxes(parent, 1, 2) @ capture.segment(s) for s in part.segments], axis=1)
        return cls(direction, length, turn)

    def bridged(self, spans: list[tuple[int, int]]) -> _Local:
        """With the frames strictly inside spans interpolated on the shorter arc; a span beyond either end holds the other."""
        direction, turn, last = self.direction.copy(), self.turn.copy(), len(self.turn) - 1
        for start, stop in spans:
            inside = np.arange(start + 1, stop)
            a, b = (start, stop) if start >= 0 and stop <= last else (stop, stop) if start < 0 else (start, start)
            share = (inside - start) / (stop - start)
            direction[inside] = _slerp(direction[a], direction[b], share)
            step = rotations.log(np.swapaxes(turn[a], 1, 2) @ turn[b])
            turn[inside] = turn[a] @ rotations.exp(share[:, None, None] * step)
        return replace(self, direction=direction, turn=turn)


def _parent(segments: np.ndarray, part: Part) -> np.ndarray:
    return segments[:, SEGMENTS.index(part.parent)] if part.parent else np.broadcast_to(np.eye(3), (len(segments), 3, 3))


def repaired(capture: Capture) -> Capture:
    """The capture with impossible frames bridged; joints keep their distances, and the pelvis its path.

    Frames at the ends that have good ones on one side only hold those' posture; where they are many, they are cut off,
    unless that would take half of the capture. ``provenance["cut"]`` says how many at the start and at the end.
    ``provenance["repaired"]`` counts the bridged frames by part, ``provenance["repaired_share"]`` is their share of all.
    """
    wrong, local = twisted(capture), {part.name: _Local.of(capture, part) for part in PARTS}
    spans = {part.name: impossible(local[part.name], part, capture.fps, wrong) for part in PARTS}
    first, last = _bridgeable(spans, len(capture.points), JOIN * capture.fps)
    if LEAST_LEFT * len(capture.points) <= last + 1 - first < len(capture.points):
        inner = repaired(capture.part(first, last + 1))
        start, end = inner.provenance.get("cut", (0, 0))
        return inner.noting(cut=(start + first, end + len(capture.points) - 1 - last))
    repair = _bridged(capture, spans)
    for first, second in combinations(LIMBS, 2):
        for step in crossings(repair, first, second):
            repair, around = _apart(repair, first, second, int(step))
            spans = {name: found + around.get(name, []) for name, found in spans.items()}
    touched = {name: {f for a, b in found for f in range(a + 1, b)} for name, found in spans.items() if found}
    if not touched:
        return capture
    return repair.noting(repaired={name: len(frames) for name, frames in touched.items()},
                         repaired_share=len(set().union(*touched.values())) / len(capture.points))


def _bridgeable(spans: Spans, frames: int, held: float) -> tuple[int, int]:
    """First and last of F frames that no span reaches from beyond an end, but for those of up to ``held`` frames."""
    every = [span for found in spans.values() for span in found if span[1] - span[0] - 1 > held]
    return max((b for a, b in every if a < 0), default=0), min((a for a, b in every if b == frames), default=frames - 1)


def _bridged(capture: Capture, spans: Spans) -> Capture:
    """With the parts bridged over their spans."""
    local = {part.name: _Local.of(capture, part).bridged(spans.get(part.name, [])) for part in PARTS}
    points, segments = capture.points.copy(), capture.segments.copy()
    for part in PARTS if any(spans.values()) else ():
        track = local[part.name]
        parent = _parent(segments, part)
        if part.name in ("pelvis", "trunk"):
            _carry(capture, points, segments, part, parent @ track.turn[:, 0])
            continue
        for k, name in enumerate(part.segments):
            segments[:, SEGMENTS.index(name)] = parent @ track.turn[:, k]
        for k, (a, b) in enumerate(part.points):
            along = np.einsum("fij,fj->fi", parent, track.direction[:, k]) * track.length[:, [k]]
            points[:, POINTS.index(b)] = points[:, POINTS.index(a)] + along
    return replace(capture, points=points, segments=segments)


def _carry(capture: Capture, points: np.ndarray, segments: np.ndarray, part: Part, turn: np.ndarray) -> None:
    """Turn pelvis or trunk, in place, and with it the hips or shoulders about the middle of the hips."""
    before = capture.segment(part.name)
    segments[:, SEGMENTS.index(part.name)] = turn
    middle = 0.5 * (capture.point("left_hip") + capture.point("right_hip"))
    for side in SIDES:
        name = f"{side}_{'hip' if part.name == 'pelvis' else 'shoulder'}"
        arm = np.einsum("fij,fkj,fk->fi", turn, before, capture.point(name) - middle)
        points[:, POINTS.index(name)] = middle + arm


def twisted(capture: Capture) -> np.ndarray:
    """(F,) frames in which the trunk is turned about its own axis from the pelvis farther than any can: none is right."""
    turn = np.swapaxes(capture.segment("pelvis"), 1, 2) @ capture.segment("trunk")
    w, _, _, z = rotations.to_quaternion(turn).T
    return 2.0 * np.arctan2(np.abs(z), np.abs(w)) > MOST_TWIST


def impossible(local: _Local, part: Part, fps: float, wrong: np.ndarray) -> list[tuple[int, int]]:
    """Spans of impossible steps, and of steps to and from frames (F,) that are wrong."""
    speed = fps * _way(local, slice(None, -1), slice(1, None))
    fast = (speed > part.limit) | wrong[1:] | wrong[:-1]
    frames, spans = len(local.turn), []
    for step in np.flatnonzero(fast):
        start, stop = int(step), int(step) + 1
        while start > 0 and speed[start - 1] > UNREST:
            start -= 1
        while stop < frames - 1 and speed[stop] > UNREST:
            stop += 1
        if spans and start - spans[-1][1] < JOIN * fps:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return [_widened(local, span, fps) for span in spans]


def _widened(local: _Local, span: tuple[int, int], fps: float) -> tuple[int, int]:
    """A span that is long enough for a bridge no faster than ``BRIDGE``; one that begins or ends the capture goes beyond."""
    start, stop = span
    last = len(local.turn) - 1
    while start > JOIN * fps and stop < last - JOIN * fps:
        way = float(_way(local, slice(start, start + 1), slice(stop, stop + 1))[0])
        if way * fps <= BRIDGE * (stop - start):
            return start, stop
        start, stop = start - 1, stop + 1
    return (-1, stop) if start <= JOIN * fps else (start, last + 1)


def crossings(capture: Capture, first: Part, second: Part) -> np.ndarray:
    """Steps, by the frame before, in which two limbs pass through each other."""
    between = _between(capture, first, second)
    near = np.linalg.norm(between, axis=2) < NEAR
    turned = (between[1:] * between[:-1]).sum(axis=2) < 0.0
    return np.flatnonzero((turned & near[1:] & near[:-1]).any(axis=1))


def _apart(capture: Capture, first: Part, second: Part, step: int) -> tuple[Capture, Spans]:
    """With one of two limbs bridged around a step in which they pass through each other; unchanged where no bridge helps.

    The bridge is the shortest that keeps clear of the other limb.
    """
    for reach in np.maximum(np.round(REACHES * capture.fps).astype(int), 1):
        span = max(step - reach, -1), min(step + 1 + reach, len(capture.points))
        if span == (-1, len(capture.points)):
            break  # no frame is left to build on
        ways = [(part, _bridged(capture, {part.name: [span]})) for part in (first, second)]
        part, way = max(ways, key=lambda w: _room(w[1], first, second, span))
        if _room(way, first, second, span) > CLEAR:
            return way, {part.name: [span]}
    return capture, {}


def _room(capture: Capture, first: Part, second: Part, span: tuple[int, int]) -> float:
    """Least distance in m of two limbs over a span, 0 where they pass through each other."""
    window = slice(max(span[0], 0), span[1] + 1)
    inside = replace(capture, points=capture.points[window], segments=capture.segments[window])
    if len(crossings(inside, first, second)):
        return 0.0
    return float(np.linalg.norm(_between(inside, first, second), axis=2).min())


def _between(capture: Capture, first: Part, second: Part) -> np.ndarray:
    """(F, N, 3) m shortest lines from bones of one limb to those of another: their axes as line segments."""
    out = []
    for (a, b), (c, d) in product(first.points[:WATCHED], second.points[:WATCHED]):
        start, u, v = (capture.point(y) - capture.point(x) for x, y in ((c, a), (a, b), (c, d)))
        uu, vv, uv, us, vs = (np.einsum("fi,fi->f", x, y) for x, y in ((u, u), (v, v), (u, v), (u, start), (v, start)))
        s = np.clip((uv * vs - vv * us) / np.maximum(uu * vv - uv**2, 1e-12), 0.0, 1.0)
        t = np.clip((uv * s + vs) / np.maximum(vv, 1e-12), 0.0, 1.0)
        s = np.clip((uv * t - us) / np.maximum(uu, 1e-12), 0.0, 1.0)
        out.append(t[:, None] * v - s[:, None] * u - start)
    return np.stack(out, axis=1)


def _way(local: _Local, start: slice, stop: slice) -> np.ndarray:
    """(N,) rad that a part turns from some frames to as many others."""
    if local.direction.shape[1]:
        return _angle(local.direction[start], local.direction[stop])[:, :WATCHED].max(axis=1)
    turn = np.swapaxes(local.turn[start], -1, -2) @ local.turn[stop]
    return np.linalg.norm(rotations.log(turn), axis=-1).max(axis=1)


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles (...) rad between unit vectors (..., 3)."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(axis=-1))


def _slerp(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(G, N, 3) unit vectors on the shorter arcs from a to b, both (N, 3), at shares (G,) of the way."""
    angle = _angle(a, b)[:, None]
    size = np.where(np.sin(angle) > 1e-6, np.sin(angle), 1.0)
    part = share[:, None, None]
    straight = np.where(np.sin(angle) > 1e-6, np.sin((1.0 - part) * angle) * a + np.sin(part * angle) * b,
                        a + part * (b - a)) / size
    return straight / np.maximum(np.linalg.norm(straight, axis=2, keepdims=True), 1e-9)
