"""Corrections of targets that no capture can give: soles that lie flat, wider steps, contacts carried on, balance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tools.retargeting import balance, ground, rotations
from tools.retargeting.collision import Candidates, SelfCollision
from tools.retargeting.contact import Schedule
from tools.retargeting.ground import Soles
from tools.retargeting.kinematics import MotionKinematics, Pose
from tools.retargeting.skeleton import SIDES
from tools.retargeting.soles import Surface
from tools.retargeting.targets import Skeleton, Targets

LEVEL_TIME, LEVEL_SPEED, STEEPEST = 0.1, 0.2, 0.6  # s, m/s, rad: stance from which feet are calibrated, incline at most
WIDEST = 0.028  # m: most that each foot is moved outwards
FEET_RATE, ARMS_RATE = 1.5, 2.0  # Hz: cut-off with which a limb returns to its captured path between contacts
CARRY = 0.12  # s: beyond a contact, for as long its correction is carried on before it is let go
HORIZONTAL = np.array([1.0, 1.0, 0.0])


def calibrate_feet(
    skeleton: Skeleton, surface: Surface, pose: Pose, neutral: Pose, targets: Targets, fps: float
) -> dict[str, np.ndarray]:
    """Constant rotations (3, 3) of feet and toes, by site, that make the captured soles level where they stand.

    A captured foot is a line from ankle to toe; how far it is inclined when the sole is level is not in the capture. Level
    is how the soles lie in the ``neutral`` pose of the body.
    """
    soles = Soles.of(surface, pose, fps)
    at_rest = inclines(surface, neutral)
    sites = targets.turn_sites.tolist()
    out = {}
    for name, (pitch, axis) in inclines(surface, pose).items():
        side = name.split("_")[0]
        parts = [k for k, part in enumerate(surface.names) if part in (f"heel_{side[0]}", f"ball_{side[0]}")]
        turn = at_rest[name][0] - pitch
        level = (soles.speed[:, parts] < LEVEL_SPEED).all(axis=1) & (np.abs(turn) < STEEPEST)
        if level.sum() >= LEVEL_TIME * fps:
            frame = targets.turn[:, sites.index(skeleton.names.index(name))]
            local = np.einsum("fji,fj->fi", frame, axis * turn[:, None])
            out[name] = rotations.exp(np.median(local[level], axis=0))
    return out


def inclines(surface: Surface, pose: Pose) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By site, the angle (F,) rad by which foot or toes rise forwards, and the axis (F, 3) about which they do."""
    low = surface.lowest(pose).cpu().numpy()  # (F, P, 3)
    out = {}
    for side in SIDES:
        mine = {name.split("_")[0]: k for k, name in enumerate(surface.names) if name.endswith(f"_{side[0]}")}
        if not {"heel", "ball", "toe"} <= mine.keys():
            continue
        heel, ball = (low[:, surface.groups == mine[part]].mean(axis=1) for part in ("heel", "ball"))
        forward = (ball - heel) * HORIZONTAL
        forward /= np.maximum(np.linalg.norm(forward, axis=1, keepdims=True), 1e-9)
        axis = np.cross(forward, np.array([0.0, 0.0, 1.0]))
        for point, parts in (("ankle", ("heel", "ball")), ("toes", ("toe",))):
            members = np.isin(surface.groups, [mine[part] for part in parts])
            out[f"{side}_{point}"] = incline(low[:, members], forward), axis
    return out


def incline(points: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """(F,) rad by which points (F, P, 3) m rise along a horizontal direction (F, 3)."""
    along = np.einsum("fpi,fi->fp", points, forward)
    along -= along.mean(axis=1, keepdims=True)
    return np.arctan((along * points[:, :, 2]).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1e-9))


def beyond_trunk(kinematics: MotionKinematics, body_id: int) -> Tensor:
    """(L,) links that are moved by a dof which moves a body, but not the trunk."""
    body, chain = kinematics.body, kinematics.chain
    trunk = set(chain.above[chain.body_link[body.model.body(body.mimic_sites["upper_body_mimic"]).id]])
    dofs = set(chain.above[chain.body_link[body_id]]) - trunk
    return torch.as_tensor([bool(set(above) & dofs) for above in chain.above], device=kinematics.device)


def widen_steps(
    collision: SelfCollision, pose: Pose, near: Candidates, targets: Targets, outward: np.ndarray
) -> tuple[Targets, float]:
    """Move the feet's targets outwards as far as the legs pass through each other: the body's hips are narrow.

    Args:
        collision: pairs of the body.
        pose: motion that follows the targets.
        near: pairs that may touch.
        targets: to be moved.
        outward: (F, 3) unit horizontal direction to the left.

    Returns:
        targets, and the shift of each foot in m.
    """
    body = collision.kinematics.body
    names = [name.removesuffix("_mimic") for name in body.site_names]
    feet = [int(body.model.geom_bodyid[geoms[-1]]) for geoms in body.foot_geom_ids.values()]
    legs = torch.stack([beyond_trunk(collision.kinematics, foot) for foot in feet]).any(dim=0)
    between_legs = near.where(legs[collision.links].all(dim=0)[near.pair])
    overlap = -collision.distance(pose, between_legs)
    shift = min(0.5 * max(float(overlap.max()), 0.0), WIDEST) if len(overlap) else 0.0
    position = targets.position.copy()
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        for point, share in (("knee", 0.5), ("ankle", 1.0), ("toes", 1.0)):
            position[:, names.index(f"{side}_{point}")] += sign * share * shift * outward
    return replace(targets, position=position), shift


def carry_on(
    sites: np.ndarray, targets: Targets, held: dict[str, np.ndarray], touched: dict[str, np.ndarray],
    names: list[str], fps: float,
) -> Targets:
    """Let limbs carry on the corrections that contacts asked for, fading slowly from one contact to the next.

    A contact moves a foot or an arm off its target. Without this, the limb would snap back within 1 / (2 pi 6 Hz), and
    the rest of the body would give way.

    Args:
        sites: (F, S, 3) m where the sites of a motion with contacts are.
        targets: that it follows.
        held: side to (F,) 0 ... 1, how firmly the foot stands.
        touched: side to (F,) whether the arm is kept off another part of the body.
        names: of the sites.
        fps: frames per second.
    """
    off, position = sites - targets.position, targets.position.copy()
    limbs = [(("ankle", "toes"), side, held, FEET_RATE) for side in SIDES]
    limbs += [((point,), side, touched, ARMS_RATE) for side in SIDES for point in ("elbow", "hand")]
    members = [[names.index(f"{side}_{point}") for point in points] for points, side, _, _ in limbs]
    tracks = np.stack([off[:, m].mean(axis=1) for m in members], axis=1)  # (F, limbs, 3)
    weights = np.stack([weight[side] for _, side, weight, _ in limbs], axis=1)
    smooth = ground.bridge(tracks, weights, 2.0 * np.pi / fps * np.array([rate for *_, rate in limbs]), CARRY * fps)
    for k, m in enumerate(members):
        position[:, m] += smooth[:, [k]]
    for k, side in enumerate(SIDES):
        position[:, names.index(f"{side}_knee")] += 0.5 * smooth[:, k]
    return replace(targets, position=position)


def held_feet(surface: Surface, schedule: Schedule) -> dict[str, np.ndarray]:
    """Side to (F,) how firmly its foot stands."""
    return {
        side: schedule.strength[:, [k for k, n in enumerate(surface.names) if n.endswith(f"_{side[0]}")]].max(
            axis=1, initial=0.0)
        for side in SIDES
    }


def touched_arms(collision: SelfCollision, pose: Pose, near: Candidates, room: float) -> dict[str, np.ndarray]:
    """Side to (F,) 1 where its arm is closer than ``room`` m to another part of the body, of pairs ``near``, else 0."""
    body = collision.kinematics.body
    close = near.where(collision.distance(pose, near) < room)
    out = {}
    for side in SIDES:
        arm = beyond_trunk(collision.kinematics, body.model.body(body.mimic_sites[f"{side}_hand_mimic"]).id)
        out[side] = np.zeros(len(pose.qpos))
        out[side][close.where(arm[collision.links].any(dim=0)[close.pair]).frame.cpu().numpy()] = 1.0
    return out


def balance_over_feet(
    kinematics: MotionKinematics, surface: Surface, qpos: Tensor, targets: Targets, contact: np.ndarray,
    before: np.ndarray, fps: float, root_rate: float,
) -> tuple[Targets, np.ndarray]:
    """Shift pelvis, trunk and arms so that the zero-moment point comes over the feet; knees go half the way.

    Args:
        kinematics: of the body.
        surface: its soles.
        qpos: (F, Q) motion that follows the targets.
        targets: to be shifted.
        contact: (F, K) labels.
        before: (F, 2) m shift of earlier passes.
        fps: frames per second.
        root_rate: Hz, cut-off of the root in the solver, which would swallow the quick part of the shift.

    Returns:
        targets, and the whole shift (F, 2) m.
    """
    motion = balance.dynamics(kinematics.body, qpos.cpu().numpy(), fps)
    corners, valid = ground.support(surface, kinematics.pose(qpos), contact)
    more = balance.shift(motion, corners, valid, fps, before)
    asked = balance.before_smoothing(more, 2.0 * np.pi * root_rate / fps)
    names = kinematics.body.site_names
    share = np.array([0.0 if n.endswith(("ankle_mimic", "toes_mimic")) else 0.5 if n.endswith("knee_mimic") else 1.0
                      for n in names])
    position = targets.position.copy()
    position[:, :, :2] += share[:, None] * asked[:, None]
    return replace(targets, position=position), before + more
