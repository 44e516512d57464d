"""Where the mimic sites should be: directions and orientations from the capture, lengths from the body.

One scale, the body's leg over the captured leg, serves the path of the root, so that a step is as long as the legs that
take it. Limbs are then laid out segment by segment with the body's own lengths; the shoulder follows the coupled
shoulder girdle as it rises with the arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from tools.retargeting import rotations
from tools.retargeting.skeleton import DOWN, SIDES, Capture

# Position weights (relative to each other) and orientation weights (m / rad). Orientation counts where positions say
# nothing (trunk, pelvis) and little at the ends of the limbs, whose orientations are the noisiest part of a capture.
POSITION_WEIGHT = {"pelvis": 1.0, "upper_body": 0.7, "head": 0.5, "shoulder": 0.7, "elbow": 1.0, "hand": 1.2,
                   "hip": 0.7, "knee": 1.0, "ankle": 1.5, "toes": 1.2}
TURN_WEIGHT = {"pelvis": 0.15, "upper_body": 0.15, "ankle": 0.03, "toes": 0.04, "hand": 0.03}
_TURN_SEGMENT = {"ankle": "foot", "toes": "toes", "hand": "hand"}


@dataclass(frozen=True, eq=False)
class Targets:
    """What the solver aims at.

    =============== ==================================================================== =============
    position        wanted site positions                                                (F, S, 3) m
    weight          their weights                                                        (S,)
    turn_sites      sites with a wanted orientation                                      (R,) int
    turn            the wanted orientations                                              (F, R, 3, 3)
    turn_weight     their weights                                                        (R,) m/rad
    scale           body's leg over captured leg                                         float
    =============== ==================================================================== =============
    """

    position: np.ndarray
    weight: np.ndarray
    turn_sites: np.ndarray
    turn: np.ndarray
    turn_weight: np.ndarray
    scale: float

    def moved(self, turn: np.ndarray, shift: np.ndarray) -> Targets:
        """Rotated by ``turn`` (3, 3) about the origin, then shifted by ``shift``, broadcast against (F, 3) m."""
        position = self.position @ turn.T + np.broadcast_to(shift, (len(self.position), 3))[:, None]
        return replace(self, position=position, turn=turn @ self.turn)


class Skeleton:
    """Site poses of a body at its neutral pose, in which every captured segment orientation is the identity."""

    def __init__(self, body: Embodiment) -> None:
        self.body = body
        self.names = [name.removesuffix("_mimic") for name in body.site_names]
        self.rest_pos, self.rest_mat = self._fk(body.neutral_qpos)
        self.elevations = np.linspace(0.0, 0.95 * np.pi, 24)
        self.shoulders = self._shoulder_table()

    def _fk(self, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data = mujoco.MjData(self.body.model)
        data.qpos[:] = self.body.couplings.enforce(qpos)
        mujoco.mj_kinematics(self.body.model, data)
        ids = self.body.site_body_ids
        return data.xpos[ids].copy(), data.xmat[ids].reshape(-1, 3, 3).copy()

    def offset(self, start: str, end: str) -> np.ndarray:
        """(3,) m from one site to another at the neutral pose."""
        return self.rest_pos[self.names.index(end)] - self.rest_pos[self.names.index(start)]

    def length(self, start: str, end: str) -> float:
        """Distance in m between two sites."""
        return float(np.linalg.norm(self.offset(start, end)))

    def _shoulder_table(self) -> dict[str, np.ndarray]:
        """Side to shoulder minus upper body (E, 3) m over ``elevations``, with the arm in the frontal plane."""
        tables = {side: [] for side in SIDES}
        for elevation in self.elevations:
            qpos = self.body.neutral_qpos.copy()
            for side in SIDES:
                qpos[self.body.model.joint(f"shoulder_elv_{side[0]}").qposadr[0]] = elevation
            pos, _ = self._fk(qpos)
            for side in SIDES:
                tables[side].append(pos[self.names.index(f"{side}_shoulder")] - pos[self.names.index("upper_body")])
        return {side: np.array(table) for side, table in tables.items()}

    def shoulder(self, side: str, elevation: np.ndarray) -> np.ndarray:
        """(F, 3) m from the upper body to the shoulder, in trunk axes, for arms raised by ``elevation`` (F,) rad."""
        return np.stack([np.interp(elevation, self.elevations, self.shoulders[side][:, k]) for k in range(3)], axis=1)


def build_targets(body: Embodiment, capture: Capture) -> Targets:
    """Targets of a capture for a body.

    A body without legs keeps its trunk where it is: directions and orientations are then those seen from the trunk.
    """
    skeleton = Skeleton(body)
    if body.free_root:
        places, scale = _trunk_and_legs(skeleton, capture)
        view = np.broadcast_to(np.eye(3), (len(capture.points), 3, 3))
    else:
        anchor = np.tile(skeleton.rest_pos[skeleton.names.index("upper_body")], (len(capture.points), 1))
        places, scale = {"upper_body": anchor}, 1.0
        view = np.swapaxes(capture.segment("trunk"), 1, 2)
    for side in SIDES:
        places |= _arm(skeleton, capture, view, side, places["upper_body"])
    roots = [name.split("_")[-1] if name != "upper_body" else name for name in skeleton.names]
    turning = [k for k, root in enumerate(roots) if root in TURN_WEIGHT and (body.free_root or root == "hand")]
    turns = [view @ capture.segment(_segment(skeleton.names[k])) @ skeleton.rest_mat[k] for k in turning]
    return Targets(
        position=np.stack([places[name] for name in skeleton.names], axis=1),
        weight=np.array([POSITION_WEIGHT[root] for root in roots]),
        turn_sites=np.array(turning),
        turn=np.stack(turns, axis=1),
        turn_weight=np.array([TURN_WEIGHT[roots[k]] for k in turning]),
        scale=scale,
    )


def _segment(site: str) -> str:
    if site in ("pelvis", "upper_body"):
        return {"pelvis": "pelvis", "upper_body": "trunk"}[site]
    side, point = site.split("_")
    return f"{side}_{_TURN_SEGMENT[point]}"


def _arm(skeleton: Skeleton, capture: Capture, view: np.ndarray, side: str, upper: np.ndarray) -> dict[str, np.ndarray]:
    directions = [_seen(view, _direction(capture, f"{side}_{a}", f"{side}_{b}"))
                  for a, b in (("shoulder", "elbow"), ("elbow", "wrist"))]
    trunk = view @ capture.segment("trunk")
    along = np.einsum("fji,fj->fi", trunk, directions[0]) @ DOWN
    shoulder = upper + _seen(trunk, skeleton.shoulder(side, np.arccos(np.clip(along, -1.0, 1.0))))
    elbow = shoulder + directions[0] * skeleton.length(f"{side}_shoulder", f"{side}_elbow")
    hand = elbow + directions[1] * skeleton.length(f"{side}_elbow", f"{side}_hand")
    return {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_hand": hand}


def _trunk_and_legs(skeleton: Skeleton, capture: Capture) -> tuple[dict[str, np.ndarray], float]:
    scale = leg_scale(skeleton, capture)
    middle = scale * 0.5 * (capture.point("left_hip") + capture.point("right_hip"))
    pelvis_turn, trunk_turn = capture.segment("pelvis"), capture.segment("trunk")
    hips = 0.5 * (skeleton.offset("pelvis", "left_hip") + skeleton.offset("pelvis", "right_hip"))
    pelvis = middle - pelvis_turn @ hips
    half = pelvis_turn @ rotations.exp(0.5 * rotations.log(np.swapaxes(pelvis_turn, 1, 2) @ trunk_turn))
    upper = pelvis + half @ skeleton.offset("pelvis", "upper_body")
    places = {"pelvis": pelvis, "upper_body": upper, "head": upper + trunk_turn @ skeleton.offset("upper_body", "head")}
    for side in SIDES:
        hip = pelvis + pelvis_turn @ skeleton.offset("pelvis", f"{side}_hip")
        knee = hip + _segment_vector(skeleton, capture, f"{side}_hip", f"{side}_knee")
        ankle = knee + _segment_vector(skeleton, capture, f"{side}_knee", f"{side}_ankle")
        toes = ankle + capture.segment(f"{side}_foot") @ skeleton.offset(f"{side}_ankle", f"{side}_toes")
        places |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle, f"{side}_toes": toes}
    return places, scale


def leg_scale(skeleton: Skeleton, capture: Capture) -> float:
    """Thigh and shin of the body over those of the capture."""
    ours = theirs = 0.0
    for side in SIDES:
        for a, b in (("hip", "knee"), ("knee", "ankle")):
            ours += skeleton.length(f"{side}_{a}", f"{side}_{b}")
            segment = capture.point(f"{side}_{b}") - capture.point(f"{side}_{a}")
            theirs += float(np.median(np.linalg.norm(segment, axis=1)))
    return ours / theirs


def _direction(capture: Capture, start: str, end: str) -> np.ndarray:
    segment = capture.point(end) - capture.point(start)
    return segment / np.linalg.norm(segment, axis=1, keepdims=True)


def _segment_vector(skeleton: Skeleton, capture: Capture, start: str, end: str) -> np.ndarray:
    return _direction(capture, start, end) * skeleton.length(start, end)


def _seen(turn: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("fij,fj->fi", turn, vectors)
