"""Rows of the least-squares problem for floor and body contact: feet that stand, surfaces that must not pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tools.retargeting import kernels
from tools.retargeting.collision import Candidates, SelfCollision
from tools.retargeting.ground import Soles, runs
from tools.retargeting.kinematics import MotionKinematics, Pose
from tools.retargeting.soles import Surface
from tools.retargeting.solve import Normal

FADE = 0.03  # s over which a contact takes hold and lets go
REACH = 0.05  # m: pairs that are farther apart do not come to touch while contacts and balance are planned
SLACK = 0.002  # m: a part in contact may be so much above the floor; the neutral foot's heel is
LOW = 0.003  # m: of the points of a part, those that are so much higher than the lowest hold e times less
CLEARANCE, STARTS, FULL = 0.012, 0.4, 1.2  # m, m/s: a sole this fast is kept that far above the floor


@dataclass(frozen=True)
class Stiffness:
    """Weights of the contact rows; the targets have weights about 1 per m.

    ======= ================================================================= =========
    depth   surfaces below the floor                                          1 / m
    height  parts in contact off the floor                                    1 / m
    slip    horizontal way of parts in contact from frame to frame            1 / m
    overlap parts of the body inside others                                   1 / m
    margin  height that is asked for above the floor                          m
    room    distance between parts of the body at which they start to repel   m
    ======= ================================================================= =========
    """

    depth: float
    height: float
    slip: float
    overlap: float
    margin: float
    room: float


@dataclass(frozen=True, eq=False)
class Schedule:
    """When which part of the soles stands, and how far above the floor the others are kept.

    ========= ========================================================== ========
    contact   labels                                                     (F, K)
    strength  0 ... 1: labels faded in and out                           (F, K)
    clearance wanted height of every point of the surface                (F, P) m
    ========= ========================================================== ========
    """

    contact: np.ndarray
    strength: np.ndarray
    clearance: np.ndarray

    @classmethod
    def of(cls, surface: Surface, soles: Soles, contact: np.ndarray, fps: float) -> Schedule:
        """From labels (F, K) and the motion of the parts that they were made from."""
        strength = np.zeros(contact.shape)
        for k in range(contact.shape[1]):
            for start, stop in runs(contact[:, k]):
                ramp = np.minimum((np.arange(stop - start) + 1.0) / (FADE * fps), 1.0)
                rise = ramp if start > 0 else np.ones_like(ramp)
                fall = ramp[::-1] if stop < len(contact) else np.ones_like(ramp)
                strength[start:stop, k] = np.minimum(rise, fall)
        speed = np.linalg.norm(np.gradient(soles.center[..., :2], 1.0 / fps, axis=0), axis=-1)
        rise = np.clip((speed - STARTS) / (FULL - STARTS), 0.0, 1.0)
        wanted = np.where(contact, 0.0, CLEARANCE * rise**2 * (3.0 - 2.0 * rise))
        clearance = np.zeros((len(contact), len(surface.groups)))
        member = surface.groups >= 0
        clearance[:, member] = wanted[:, surface.groups[member]]
        return cls(contact, strength, clearance)


class ContactTerm:
    """Contacts touch the floor and keep their place; no surface enters the floor, and swinging soles do not graze it.

    A contact keeps its place by rows on its way from frame to frame, at the material that is lowest: a foot may roll from
    heel to toe, and where it stands is left to the targets.
    """

    def __init__(self, kinematics: MotionKinematics, surface: Surface, schedule: Schedule, stiffness: Stiffness) -> None:
        self.kinematics, self.surface, self.stiffness = kinematics, surface, stiffness
        self.clearance = kinematics.tensor(schedule.clearance + stiffness.margin)
        self.strength = kinematics.tensor(schedule.strength)
        self.groups = kinematics.index(surface.groups)
        first = [int(np.flatnonzero(surface.groups == k)[0]) for k in range(len(surface.names))]  # a part hangs on one link
        self.part_links = surface.points.links[first]

    def __call__(self, pose: Pose, normal: Normal) -> None:
        """Add the rows."""
        frames, tables, stiffness = len(pose.qpos), normal.tables, self.stiffness
        low, held = self.surface.lowest(pose), pose.qpos.new_empty(*self.strength.shape, 3)
        self.kinematics.launch(
            kernels.contact_rows, frames, low, tables.active, self.surface.points.links, self.groups, self.clearance,
            self.strength, stiffness.depth, stiffness.height, SLACK, LOW, normal.load, normal.pull, normal.cost, held,
        )
        self.kinematics.launch(
            kernels.slip_rows, frames, self.kinematics.tree, tables, pose.screw, pose.step, self.part_links, held,
            self.strength, stiffness.slip, pose.qpos.new_empty(frames, pose.screw.shape[1]), normal.coupling,
            normal.gradient, normal.cost,
        )


class CollisionTerm:
    """Parts of the body keep out of each other.

    The residual ``w (room - d)^2 / room`` sets in without a jerk, is ``w room`` at touch and goes on straight from there.
    Only ``candidates`` are looked at: pairs that are closer than ``REACH`` in a motion not far from the sought one.
    """

    def __init__(self, collision: SelfCollision, candidates: Candidates, stiffness: Stiffness) -> None:
        self.collision, self.candidates, self.stiffness = collision, candidates, stiffness

    def __call__(self, pose: Pose, normal: Normal) -> None:
        """Add a row for every pair that is too close."""
        self.collision.repel(pose, self.candidates, self.stiffness.room, self.stiffness.overlap, normal)


class SpeedTerm:
    """Joints turn no faster than a bound in rad/s."""

    def __init__(self, kinematics: MotionKinematics, bound: float, weight: float, fps: float) -> None:
        self.bound, self.weight = bound / fps, weight
        self.hinges = torch.isfinite(kinematics.low)

    def __call__(self, pose: Pose, normal: Normal) -> None:
        """Add rows on the steps that are too long, as if they went on from the bound."""
        step = pose.step[:, normal.window]
        over = (step.abs() - self.bound).clamp_min(0.0) * self.hinges[normal.window]
        square = self.weight**2 * (over > 0.0).to(step.dtype)
        pull = self.weight**2 * over * step.sign()
        for frames, sign in ((slice(1, None), 1.0), (slice(None, -1), -1.0)):
            normal.gradient[frames] += sign * pull
            normal.cost[frames] += 0.5 * self.weight**2 * (over**2).sum(1)
        normal.coupling.diagonal(dim1=1, dim2=2).sub_(square)
