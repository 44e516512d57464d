"""Where the mimic sites should be: directions and orientations from the capture, lengths from the body.

One scale, the body's leg over the captured leg, serves the path of the root, so that a step is as long as the legs that
take it. Limbs are then laid out segment by segment with the body's own lengths; the shoulder follows the coupled
shoulder girdle as it rises with the arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mujoco
import numpy as np
import torch

from sim_models.embodiment import Embodiment
from tools.retargeting import kernels, rotations
from tools.retargeting.kinematics import MotionKinematics, Pose
from tools.retargeting.skeleton import DOWN, SIDES, Capture
from tools.retargeting.solve import Normal

# Position weights (relative to each other) and orientation weights (m / rad). Orientation counts where positions say
# nothing (trunk, pelvis) and little at the ends of the limbs, whose orientations are the noisiest part of a capture.
POSITION_WEIGHT = {"pelvis": 1.0, "upper_body": 0.7, "head": 0.5, "shoulder": 0.7, "elbow": 1.0, "hand": 1.2,
                   "hip": 0.7, "knee": 1.0, "ankle": 1.5, "toes": 1.2}
TURN_WEIGHT = {"pelvis": 0.15, "upper_body": 0.15, "ankle": 0.03, "toes": 0.04, "hand": 0.03}
POSTURE_WEIGHT = 0.002  # m/rad towards neutral; decides only what nothing else does
SHOULDER_SAMPLES = 120
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

    def at(self, frames: np.ndarray) -> Targets:
        """Those of some frames."""
        return replace(self, position=self.position[frames], turn=self.turn[frames])


class TargetTerm:
    """Distance of sites and orientations from the targets, and a trace of the neutral posture."""

    def __init__(self, kinematics: MotionKinematics, targets: Targets) -> None:
        body = kinematics.body
        self.kinematics = kinematics
        links, place = kinematics.chain.body_link[body.site_body_ids], kinematics.chain.body_place[body.site_body_ids]
        turning = targets.turn_sites
        self.sites = kinematics.points(body.site_body_ids, np.zeros((len(links), 3)))
        self.position, self.weight = kinematics.tensor(targets.position), kinematics.tensor(targets.weight)
        self.turn_links = kinematics.index(links[turning])
        # Orientations of the links, not of the sites' bodies.
        self.turn = kinematics.tensor(np.einsum("frij,rkj->frik", targets.turn, place[turning, :, :3]))
        self.turn_weight = kinematics.tensor(targets.turn_weight)
        neutral = kinematics.coordinates(kinematics.tensor(body.neutral_qpos)[None])[0]
        self.neutral = neutral.clamp(kinematics.low, kinematics.high)
        self.posture = POSTURE_WEIGHT * torch.isfinite(kinematics.low).to(torch.float64)

    def __call__(self, pose: Pose, normal: Normal) -> None:
        """Add the rows."""
        self.kinematics.launch(
            kernels.target_rows, len(pose.qpos), pose.position, pose.rotation, normal.tables.active, self.sites.links,
            self.sites.local, self.position, self.weight, self.turn_links, self.turn, self.turn_weight,
            normal.load, normal.pull, normal.cost,
        )
        posture = self.posture[normal.window]
        rest = posture * (self.kinematics.coordinates(pose.qpos) - self.neutral)[:, normal.window]
        normal.hessian.diagonal(dim1=1, dim2=2).add_(posture**2)
        normal.gradient += posture * rest
        normal.cost += (rest**2).sum(1)


class Skeleton:
    """Site poses of a body at its neutral pose, in which every captured segment orientation is the identity."""

    def __init__(self, body: Embodiment) -> None:
        self.body = body
        self.names = [name.removesuffix("_mimic") for name in body.site_names]
        self.rest_pos, self.rest_mat = self._fk(body.neutral_qpos)
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

    def _shoulder_table(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Side to angles (E,) between upper arm and downwards, and shoulder minus upper body (E, 3) m there.

        The arm is raised in the frontal plane; the table starts where the angle begins to rise.
        """
        poses = np.tile(self.body.neutral_qpos, (SHOULDER_SAMPLES, 1))
        for side in SIDES:
            joint = self.body.model.joint(f"shoulder_elv_{side[0]}").qposadr[0]
            poses[:, joint] = np.linspace(0.0, 0.95 * np.pi, SHOULDER_SAMPLES)
        places = np.stack([self._fk(qpos)[0] for qpos in poses])
        tables = {}
        for side in SIDES:
            shoulder, elbow = (places[:, self.names.index(f"{side}_{point}")] for point in ("shoulder", "elbow"))
            arm = elbow - shoulder
            angle = np.arccos(np.clip(arm @ DOWN / np.linalg.norm(arm, axis=1), -1.0, 1.0))
            rising = np.arange(SHOULDER_SAMPLES) >= angle.argmin()
            tables[side] = (angle[rising], (shoulder - places[:, self.names.index("upper_body")])[rising])
        return tables

    def shoulder(self, side: str, angle: np.ndarray) -> np.ndarray:
        """(F, 3) m from the upper body to the shoulder, in trunk axes, for upper arms at an angle (F,) rad to downwards."""
        angles, places = self.shoulders[side]
        return np.stack([np.interp(angle, angles, places[:, k]) for k in range(3)], axis=1)


def build_targets(body: Embodiment, capture: Capture, skeleton: Skeleton | None = None) -> Targets:
    """Targets of a capture for a body, whose skeleton need not be measured again where it is given.

    A body without legs keeps its trunk where it is: directions and orientations are then those seen from the trunk.
    """
    skeleton = skeleton or Skeleton(body)
    if body.free_root:
        places, scale = _trunk_and_legs(skeleton, capture)
        view = np.broadcast_to(np.eye(3), (len(capture.points), 3, 3))
    else:
        anchor = np.tile(skeleton.rest_pos[skeleton.names.index("upper_body")], (len(capture.points), 1))
        places, scale = {"upper_body": anchor}, 1.0
        view = np.swapaxes(capture.segment("trunk"), 1, 2)
    for side in SIDES:
        places |= _arm(skeleton, capture, view, side, places["upper_body"])
    turns = [view @ capture.segment(_segment(skeleton.names[k])) @ skeleton.rest_mat[k] for k in turning(body, skeleton)]
    position = np.stack([places[name] for name in skeleton.names], axis=1)
    return weigh(body, skeleton, position, np.stack(turns, axis=1), scale)


def turning(body: Embodiment, skeleton: Skeleton) -> list[int]:
    """Sites whose orientation is followed."""
    return [k for k, name in enumerate(skeleton.names)
            if _root(name) in TURN_WEIGHT and (body.free_root or _root(name) == "hand")]


def weigh(body: Embodiment, skeleton: Skeleton, position: np.ndarray, turn: np.ndarray, scale: float) -> Targets:
    """Targets of positions (F, S, 3) m and of the orientations (F, R, 3, 3) of the ``turning`` sites."""
    sites = turning(body, skeleton)
    return Targets(
        position=position,
        weight=np.array([POSITION_WEIGHT[_root(name)] for name in skeleton.names]),
        turn_sites=np.array(sites),
        turn=turn,
        turn_weight=np.array([TURN_WEIGHT[_root(skeleton.names[k])] for k in sites]),
        scale=scale,
    )


def _root(site: str) -> str:
    return site if site == "upper_body" else site.split("_")[-1]


def with_feet(skeleton: Skeleton, targets: Targets, feet: dict[str, np.ndarray]) -> Targets:
    """Targets whose feet and toes are turned by constant rotations (3, 3) in their own frames, given by site.

    Toes stay at the end of the foot.
    """
    turn, position = targets.turn.copy(), targets.position.copy()
    sites = targets.turn_sites.tolist()
    for name, correction in feet.items():
        site = skeleton.names.index(name)
        turn[:, sites.index(site)] = turn[:, sites.index(site)] @ correction
        if name.endswith("ankle"):
            toes = name.replace("ankle", "toes")
            foot = turn[:, sites.index(site)] @ skeleton.rest_mat[site].T
            position[:, skeleton.names.index(toes)] = position[:, site] + foot @ skeleton.offset(name, toes)
    return replace(targets, turn=turn, position=position)


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
