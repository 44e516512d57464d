"""Rows of the least-squares problem for floor and body contact: feet that stand, surfaces that must not pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tools.retargeting.collision import Candidates, SelfCollision
from tools.retargeting.ground import Soles, runs
from tools.retargeting.kinematics import MotionKinematics, Pose, Runs, linear_velocity
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
    clearance wanted height of every point of the surface                (P, F) m
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
        clearance = np.zeros((len(surface.groups), len(contact)))
        member = surface.groups >= 0
        clearance[member] = wanted.T[surface.groups[member]]
        return cls(contact, strength, clearance)


class ContactTerm:
    """Contacts touch the floor and keep their place; no surface enters the floor, and swinging soles do not graze it.

    A contact keeps its place by rows on its way from frame to frame, at the material that is lowest: a foot may roll from
    heel to toe, and where it stands is left to the targets.
    """

    def __init__(self, kinematics: MotionKinematics, surface: Surface, schedule: Schedule, stiffness: Stiffness) -> None:
        self.kinematics, self.surface, self.stiffness = kinematics, surface, stiffness
        self.clearance = kinematics.tensor(schedule.clearance) + stiffness.margin
        self.strength = kinematics.tensor(schedule.strength.T)  # (K, F)
        self.groups = [
            [(k, torch.as_tensor(np.flatnonzero(surface.groups[block.points.cpu().numpy()] == k), device=kinematics.device))
             for k in np.unique(surface.groups[block.points.cpu().numpy()]) if k >= 0]
            for block in surface.points.blocks
        ]

    def __call__(self, pose: Pose, normal: Normal) -> None:
        """Add the rows."""
        low = self.surface.lowest(pose)
        step = self.kinematics.tangent(pose.qpos)
        for block, groups in zip(self.surface.points.blocks, self.groups, strict=True):
            if not normal.inside(block.runs):
                continue
            at = low[block.points]
            over = at[:, 2] - self.clearance[block.points]
            excess = over.clamp(max=0.0) + (over - SLACK).clamp_min(0.0)
            square = self.stiffness.depth**2 * (over < 0.0)
            held = []
            for k, members in groups:
                lowest = at[members, 2].argmin(dim=0)
                stands = torch.zeros_like(over[members]).scatter_(0, lowest[None], self.strength[k][None])
                square[members] += (self.stiffness.height * stands) ** 2
                share = torch.softmax(-at[members, 2] / LOW, dim=0)
                held.append((at[members] * share[:, None]).sum(dim=0))
            weight = square.sqrt()
            if bool((weight > 0).any()):
                rise = linear_velocity(pose, block.screws, at, (2,))[:, 0]  # (n, m, F)
                normal.rows((weight * excess).T, (weight[:, None] * rise).permute(2, 0, 1).contiguous(), block.runs)
            if held and bool((self.strength > 0).any()):
                # A part's points hang on one link: the weighted mean of their velocities is that of their mean.
                screws = torch.stack([block.screws[members[0]] for _, members in groups])
                slide = linear_velocity(pose, screws, torch.stack(held), (0, 1))  # (n, 2, m, F)
                strength = torch.stack([self.strength[k] for k, _ in groups])
                normal.between(self._slip(slide, strength), step, block.runs)

    def _slip(self, velocity: Tensor, strength: Tensor) -> Tensor:
        """(F - 1, 2 n, m) rows of parts with horizontal velocities (n, 2, m, F) per unit speed and strengths (n, F)."""
        weight = 0.5 * self.stiffness.slip * (strength[:, 1:] * strength[:, :-1]).sqrt()
        mean = weight[:, None, None] * (velocity[..., 1:] + velocity[..., :-1])
        return mean.reshape(-1, *mean.shape[2:]).permute(2, 0, 1).contiguous()


class CollisionTerm:
    """Parts of the body keep out of each other.

    The residual ``w (room - d)^2 / room`` sets in without a jerk, is ``w room`` at touch and goes on straight from there.
    Only ``candidates`` are looked at: pairs that are closer than ``REACH`` in a motion not far from the sought one.
    """

    def __init__(self, collision: SelfCollision, candidates: Candidates, stiffness: Stiffness) -> None:
        self.collision, self.candidates, self.stiffness = collision, candidates, stiffness

    def __call__(self, pose: Pose, normal: Normal) -> None:
        """Add a row for every pair that is too close."""
        room, weight = self.stiffness.room, self.stiffness.overlap
        found = self.collision.contacts(pose, self.candidates, room)
        near = room - found.distance
        value = weight * torch.where(near < room, near**2 / room, 2.0 * near - room)
        slope = -2.0 * weight * (near / room).clamp(max=1.0)
        for group in found.group.unique().tolist():
            rows, runs = torch.nonzero(found.group == group).squeeze(1), self.collision.groups[group]
            if not normal.inside(runs):
                continue
            jacobian = slope[rows, None] * self.collision.jacobian(pose, found, rows, runs)
            normal.scattered(found.frame[rows], value[rows], jacobian, runs)


class SpeedTerm:
    """Joints turn no faster than a bound in rad/s."""

    def __init__(self, kinematics: MotionKinematics, bound: float, weight: float, fps: float) -> None:
        self.kinematics, self.bound, self.weight = kinematics, bound / fps, weight
        self.hinges = torch.isfinite(kinematics.low)
        self.runs: Runs = ((slice(0, kinematics.dofs), slice(0, kinematics.dofs)),)

    def __call__(self, pose: Pose, normal: Normal) -> None:
        """Add rows on the steps that are too long, as if they went on from the bound."""
        step = self.kinematics.tangent(pose.qpos)
        over = (step.abs() - self.bound).clamp_min(0.0) * self.hinges
        if bool((over > 0).any()):
            active = torch.diag_embed(self.weight * (over > 0).to(step.dtype))
            normal.between(active, over * step.sign(), self.runs)
