"""The stages between targets and motion: a coarse pose, the floor, contacts and balance, the motion at full rate."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sim_models.embodiment import Embodiment
from tools.retargeting import ground, rotations
from tools.retargeting.collision import Candidates, SelfCollision
from tools.retargeting.contact import REACH, CollisionTerm, ContactTerm, Schedule, SpeedTerm, Stiffness
from tools.retargeting.corrections import (
    balance_over_feet,
    calibrate_feet,
    carry_on,
    held_feet,
    touched_arms,
    widen_steps,
)
from tools.retargeting.ground import Soles
from tools.retargeting.guess import FirstGuess
from tools.retargeting.kinematics import MotionKinematics
from tools.retargeting.limits import limited_kinematics
from tools.retargeting.skeleton import SIDES
from tools.retargeting.soles import Surface, floor_surface, solid_geoms
from tools.retargeting.solve import Smoothness, Term, solve
from tools.retargeting.symmetry import symmetric
from tools.retargeting.targets import Skeleton, Targets, TargetTerm, with_feet

COARSE_RATE, WORK_RATE = 25.0, 50.0  # Hz: of the stages that find the pose, and floor, contacts and balance
COARSE, FINE = 8.0, 6.0  # Hz: cut-off of the first stage and of the result
# Hz: cut-off of the pelvis and of the trunk, whose muscles are weak for their inertia. Their jitter, not that of the
# limbs, is what moves the zero-moment point. It moves less with the pelvis' height, which follows pushes and flights.
ROOT_RATE, HEIGHT_RATE = 4.0, 5.0
SLOW_JOINTS = {"axial_rotation": 3.0, "flex_extension": 3.0, "lat_bending": 3.0}
# m s^2 / rad: what accelerations of an arm cost where its position hardly shows them. A hanging arm does not show its plane
# of elevation, which would swing by half a turn from stride to stride; no muscle moves it so, least of all with the published
# 1 kg m^2 about it. Straight up, plane and rotation are one, and would swing against each other.
SWINGING, SWING_COST = ("elv_angle", "shoulder_rot"), 1e-3
COARSE_STEPS, FOLLOW_STEPS, CONTACT_STEPS, BALANCE_STEPS, FINAL_STEPS = 6, 2, 2, 1, 4
PASSES = 3  # of carrying on contacts and of balance, each seen in what the one before made of the motion
TOLERANCE = 1e-3
ATTEMPTS, DEEPEST = 4, 1e-3  # the last stage is repeated while a surface is deeper in the floor, m
FASTEST, SPEED_WEIGHT = 25.0, 1.0  # rad/s: the knee in a hard kick; m/rad
SOFT = Stiffness(depth=10.0, height=4.0, slip=30.0, overlap=5.0, margin=0.0005, room=0.008)
HARD = Stiffness(depth=60.0, height=6.0, slip=45.0, overlap=6.0, margin=0.0005, room=0.008)
NEAR_FLOOR = 0.05  # m: geoms that come this close to the floor are kept out of it


@dataclass(frozen=True, eq=False)
class Motion:
    """A retargeted motion.

    =========== ============================================================ =========
    qpos        positions                                                    (F, Q)
    wanted      targets on the level floor, before step width and balance
    targets     targets that were followed
    contact     labels of the parts of the soles                             (F, K)
    parts       their names                                                  (K,)
    tilt        of the captured floor                                        deg
    widened     outward shift of each foot                                   m
    balanced    largest shift of the pelvis for balance                      m
    =========== ============================================================ =========
    """

    qpos: np.ndarray
    wanted: Targets
    targets: Targets
    contact: np.ndarray
    parts: tuple[str, ...] = ()
    tilt: float = 0.0
    widened: float = 0.0
    balanced: float = 0.0


@dataclass(frozen=True, eq=False)
class Plan:
    """What the planning stages found at their rate.

    =========== ================================================================== =================
    qpos        motion                                                             (F, Q)
    feet        calibration of feet and toes by site                               (3, 3) each
    turn, shift that levelled the captured floor                                   (3, 3), (F, 3) m
    offset      of every site's target for step width, contacts and balance        (F, S, 3) m
    contact     labels of the parts of the soles                                   (F, K)
    tilt, widened, balanced                                                        as in ``Motion``
    =========== ================================================================== =================
    """

    qpos: Tensor
    feet: dict[str, np.ndarray]
    turn: np.ndarray
    shift: np.ndarray
    offset: np.ndarray
    contact: np.ndarray
    tilt: float
    widened: float
    balanced: float


def fill_track(track: np.ndarray, frames: int, stride: int) -> np.ndarray:
    """(F, ...) linear interpolation of a track given at every ``stride``-th frame; its last value beyond."""
    at = np.minimum(np.arange(frames) / stride, len(track) - 1)
    low = np.minimum(at.astype(int), max(len(track) - 2, 0))
    part = (at - low).reshape(-1, *[1] * (track.ndim - 1))
    return (1.0 - part) * track[low] + part * track[np.minimum(low + 1, len(track) - 1)]


@lru_cache(maxsize=8)
def solver_for(body: Embodiment, fps: float) -> Solver:
    """The solver of a body, made once per process."""
    return Solver(body, fps)


class Solver:
    """Runs the stages for one body at one rate.

    The pose is found at ``COARSE_RATE``, floor, contacts and balance at ``WORK_RATE``. Nothing is faster than that but
    contacts: at the full rate, cubics give the motion, and only the legs are solved once more, unless more than the soles
    comes near the floor.

    Args:
        body: embodiment.
        fps: frames per second of targets and motion.
        device: where the tensors live.
    """

    def __init__(self, body: Embodiment, fps: float, device: str = "cpu") -> None:
        self.body, self.fps = symmetric(body), fps
        body = self.body
        self.kinematics = limited_kinematics(body, device)
        self.collision = SelfCollision(self.kinematics)
        self.skeleton = Skeleton(body)
        self.first_guess = FirstGuess(self.kinematics, self.skeleton)
        self.legs = legs_window(self.kinematics)
        self.neutral = self.kinematics.pose(self.kinematics.tensor(body.neutral_qpos)[None])
        self.soles = floor_surface(self.kinematics, np.zeros(0, dtype=int))
        self.solid = floor_surface(self.kinematics, solid_geoms(body.model))
        self.sites = self.kinematics.points(body.site_body_ids, np.zeros((len(body.site_names), 3)))
        column = {int(dof): k for k, dof in enumerate(body.couplings.independent_dof)}
        root = [ROOT_RATE] * 2 + [HEIGHT_RATE] + [ROOT_RATE] * 3
        self.slow = dict(enumerate(root[: 6 * body.free_root])) | {
            column[int(body.model.joint(name).dofadr[0])]: rate
            for name, rate in SLOW_JOINTS.items() if name in body.joint_names
        }
        self.cost = {
            column[int(body.model.joint(f"{joint}_{side[0]}").dofadr[0])]: SWING_COST
            for joint in SWINGING for side in SIDES
        }

    def run(self, targets: Targets, guess: np.ndarray | None, outward: np.ndarray, balanced: bool = True) -> Motion:
        """Motion after targets.

        Args:
            targets: what to follow, F >= 4 frames.
            guess: (F, Q) where the motion is nearly known, else None.
            outward: (F, 3) unit horizontal direction to the left of the pelvis.
            balanced: correct the zero-moment point.
        """
        frames = len(targets.position)
        stride = self._stride(frames, WORK_RATE)
        rows = np.arange(0, frames, stride)
        work = copy(self)
        work.fps = self.fps / stride
        few = targets.at(rows)
        start = work.coarse(few) if guess is None else self.kinematics.tensor(guess[rows])
        if not self.body.free_root:
            qpos = self.fill(work.follow(start, few, [], FOLLOW_STEPS), frames, stride)
            near = self.collision.candidates(self.kinematics.pose(qpos), REACH)
            qpos = self.follow(qpos, targets, [CollisionTerm(self.collision, near, HARD)], FINAL_STEPS)
            return Motion(qpos.cpu().numpy(), targets, targets, np.zeros((frames, 0), dtype=bool))
        plan = work.plan(start, few, outward[rows], balanced)
        wanted = with_feet(self.skeleton, targets, plan.feet)
        wanted = wanted.moved(plan.turn, fill_track(plan.shift, frames, stride))
        targets = replace(wanted, position=wanted.position + fill_track(plan.offset, frames, stride))
        qpos = self.fill(plan.qpos, frames, stride)
        contact = fill_track(plan.contact.astype(float), frames, stride) > 1.0 - 1e-9
        for _ in range(ATTEMPTS):
            pose, surface = self.kinematics.pose(qpos), self.near_floor(qpos)
            window = self.legs if surface is self.soles else None
            near = self.collision.moved_by(self.collision.candidates(pose, REACH), window)
            schedule = Schedule.of(surface, Soles.of(surface, pose, self.fps), contact, self.fps)
            qpos = self.follow(qpos, targets, self.contacts(near, surface, schedule, HARD), FINAL_STEPS, window)
            if float(self.solid.lowest(self.kinematics.pose(qpos))[..., 2].amin()) > -DEEPEST:
                break
        return Motion(qpos.cpu().numpy(), wanted, targets, contact, self.soles.names, plan.tilt, plan.widened,
                      plan.balanced)

    def plan(self, qpos: Tensor, targets: Targets, outward: np.ndarray, balanced: bool) -> Plan:
        """Feet, floor, step width, contacts and balance of a body on a free root."""
        feet = calibrate_feet(self.skeleton, self.soles, self.kinematics.pose(qpos), self.neutral, targets, self.fps)
        targets = with_feet(self.skeleton, targets, feet)
        qpos = self.follow(qpos, targets, [], FOLLOW_STEPS)
        qpos, targets, turn, shift, tilt = self.level(qpos, targets)
        wanted, pose = targets.position, self.kinematics.pose(qpos)
        near = self.collision.candidates(pose, REACH)
        targets, widened = widen_steps(self.collision, pose, near, targets, outward)
        surface = self.near_floor(qpos)
        soles = Soles.of(surface, pose, self.fps)
        contact = ground.label_contacts(soles, ground.travel(qpos[:, :2].cpu().numpy(), self.fps), self.fps)
        schedule = Schedule.of(surface, soles, contact, self.fps)
        qpos = self.follow(qpos, targets, self.contacts(near, surface, schedule, SOFT), CONTACT_STEPS)
        moved = np.zeros((len(qpos), 2))
        for _ in range(PASSES):
            pose = self.kinematics.pose(qpos)
            targets = carry_on(
                self.sites.at(pose).cpu().numpy(), targets, held_feet(surface, schedule),
                touched_arms(self.collision, pose, near, SOFT.room), self.skeleton.names, self.fps,
            )
            if balanced:
                targets, moved = balance_over_feet(self.kinematics, surface, qpos, targets, contact, moved, self.fps,
                                                   ROOT_RATE)
            qpos = self.follow(qpos, targets, self.contacts(near, surface, schedule, SOFT), BALANCE_STEPS)
        return Plan(qpos, feet, turn, shift, targets.position - wanted, contact, tilt, widened,
                    float(np.linalg.norm(moved, axis=1).max(initial=0.0)))

    def follow(
        self, qpos: Tensor, targets: Targets, terms: list[Term], steps: int, window: slice | None = None
    ) -> Tensor:
        """Motion (F, Q) that follows targets and terms, starting close to it; only dofs in the window change."""
        smooth = Smoothness(FINE, self.fps, self.slow, self.cost)
        every = [TargetTerm(self.kinematics, targets), *terms, SpeedTerm(self.kinematics, FASTEST, SPEED_WEIGHT, self.fps)]
        return solve(self.kinematics, qpos, every, smooth, steps, TOLERANCE, 1e-3, window)

    def contacts(self, near: Candidates, surface: Surface, schedule: Schedule, stiffness: Stiffness) -> list[Term]:
        """Contact of the body with itself, where it is near, and with the floor."""
        return [CollisionTerm(self.collision, near, stiffness), ContactTerm(self.kinematics, surface, schedule, stiffness)]

    def coarse(self, targets: Targets) -> Tensor:
        """(F, Q) the pose from scratch, found at a low rate and filled up to all frames."""
        frames = len(targets.position)
        stride = self._stride(frames, COARSE_RATE)
        few = targets.at(np.arange(0, frames, stride))
        start = self.kinematics.tensor(self.first_guess(few))
        smooth = Smoothness(COARSE, self.fps / stride, cost=self.cost)
        qpos = solve(self.kinematics, start, [TargetTerm(self.kinematics, few)], smooth, COARSE_STEPS, TOLERANCE)
        return self.fill(qpos, frames, stride)

    def _stride(self, frames: int, rate: float) -> int:
        """Frames from one to the next at about that rate, so that at least four are left."""
        return max(1, min(round(self.fps / rate), (frames - 1) // 3))

    def fill(self, qpos: Tensor, frames: int, stride: int) -> Tensor:
        """(F, Q) positions given at every ``stride``-th frame, in between by cubics, beyond the last one straight on.

        From frame to frame the way is ``u D + (u^3 - 2 u^2 + u) (m_0 - D) + (u^3 - u^2) (m_1 - D)`` with the step D and the
        mean steps m at both ends.
        """
        if stride == 1:
            return qpos
        at = torch.arange(frames, device=qpos.device, dtype=torch.float64) / stride
        low = at.floor().long().clamp(max=len(qpos) - 2)
        beyond = (at - low - 1.0).clamp_min(0.0)[:, None]
        u = (at - low)[:, None] - beyond
        steps = self.kinematics.tangent(qpos)
        mean = torch.cat([steps[:1], 0.5 * (steps[1:] + steps[:-1]), steps[-1:]])
        start, end = mean[low] - steps[low], mean[low + 1] - steps[low]
        way = u * steps[low] + (u**3 - 2.0 * u**2 + u) * start + (u**3 - u**2) * end + beyond * steps[-1]
        moved = self.kinematics.step(qpos[low], way)
        coordinates = self.kinematics.coordinates(moved)
        return self.kinematics.step(moved, coordinates.clamp(self.kinematics.low, self.kinematics.high) - coordinates)

    def level(self, qpos: Tensor, targets: Targets) -> tuple[Tensor, Targets, np.ndarray, np.ndarray, float]:
        """Bring the captured floor to z = 0: tilt, height, slow drift.

        Returns:
            motion, targets, the rotation (3, 3) and shift (F, 3) m that did it, and the tilt in degrees.
        """
        floor = ground.fit_floor(Soles.of(self.soles, self.kinematics.pose(qpos), self.fps), self.fps)
        turn, shift = floor.levelling()
        qpos = self._move(qpos, turn, shift)
        lift = ground.slow_height(Soles.of(self.soles, self.kinematics.pose(qpos), self.fps), self.fps)
        down = lift[:, None] * np.array([0.0, 0.0, -1.0])
        return self._move(qpos, np.eye(3), down), targets.moved(turn, shift + down), turn, shift + down, floor.tilt

    def _move(self, qpos: Tensor, turn: np.ndarray, shift: np.ndarray) -> Tensor:
        moved, before = qpos.clone(), qpos.cpu().numpy()
        moved[:, :3] = self.kinematics.tensor(before[:, :3] @ turn.T + shift)
        turned = rotations.to_quaternion(turn @ rotations.from_quaternion(before[:, 3:7]))
        moved[:, 3:7] = self.kinematics.tensor(turned)
        return moved

    def near_floor(self, qpos: Tensor) -> Surface:
        """Surface of the soles and of whatever else comes near the floor."""
        low = self.solid.lowest(self.kinematics.pose(qpos))[..., 2].amin(dim=0).cpu().numpy()
        near = np.setdiff1d(self.solid.geoms[low < NEAR_FLOOR], self.soles.geoms)
        return floor_surface(self.kinematics, near) if len(near) else self.soles


def legs_window(kinematics: MotionKinematics) -> slice | None:
    """The dofs beyond the trunk that move the feet, where they are in one piece; None: all."""
    body, chain = kinematics.body, kinematics.chain
    feet = [int(body.model.geom_bodyid[g]) for geoms in body.foot_geom_ids.values() for g in geoms]
    moved = {dof for foot in feet for dof in chain.above[chain.body_link[foot]] if dof >= 6}
    columns = sorted({int(kinematics.column_of_dof[dof]) for dof in moved} - {-1})
    whole = columns and columns[-1] - columns[0] + 1 == len(columns)
    return slice(columns[0], columns[-1] + 1) if whole else None
