"""Motions on two feet that stay where they are: standing, weight shifts, squats, arm and trunk motions.

The feet are flat and fixed, the pelvis follows a wanted height and tilt, and its horizontal place is found so that the
centre of mass stays over a wanted point of the floor; the legs follow by inverse kinematics.

World: the body faces -y, +x is its left, z is up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from tools.library import ik
from tools.library.arms import ArmMotion, arm_angles, arm_motions, place_arms
from tools.library.curves import oscillation, through_postures
from tools.library.gait import LEG, root_rotation
from tools.library.sole import Foot, turn

STANCE_WIDTH = 0.18  # m between the heel bones' origins
TOE_OUT = np.deg2rad(7.0)
HEEL_TO_COM = 0.085  # m, the centre of mass in front of the heel bones' origins (about 4 cm in front of the ankles)
CROUCH = 0.012  # m the pelvis stands lower than with straight legs
BALANCE_ROUNDS = 3
REST_PULL = 0.004  # 1/rad against 1/m
TURN_WEIGHT = 0.2  # m/rad

Curve = Callable[[np.ndarray], np.ndarray]


def _nothing(t: np.ndarray) -> np.ndarray:
    return np.zeros_like(t)


@dataclass(frozen=True)
class StanceMotion:
    """A motion on fixed feet: curves over the time in s.

    ========= =====================================================================
    seconds   duration
    drop      how far the pelvis goes down, m
    lateral   place of the centre of mass to the left of the middle, m
    forward   place of the centre of mass in front of its usual place, m
    tilt      forward tilt of the pelvis, rad
    trunk     driver joint of the trunk to its angle, rad
    arms      arm motion, or none
    ========= =====================================================================
    """

    seconds: float
    drop: Curve = _nothing
    lateral: Curve = _nothing
    forward: Curve = _nothing
    tilt: Curve = _nothing
    trunk: dict[str, Curve] = field(default_factory=dict)
    arms: ArmMotion | None = None


def _down_and_up(depth: float, times: tuple[float, ...]) -> Curve:
    """Minimum-jerk moves between 0 and ``depth``, alternating at the given pairs of times."""
    values = np.array([0.0, *(depth if (k // 2) % 2 == 0 else 0.0 for k in range(len(times) - 1))])[:, None]
    return lambda t: through_postures(times, values, t)[:, 0]


def _sway(amplitude: float, start: float, stop: float, hertz: float) -> Curve:
    return lambda t: amplitude * oscillation(t, start, stop, hertz)


def _bow(times: tuple[float, ...], drop: float, tilt: float, trunk: float) -> StanceMotion:
    """Go down by ``drop`` m with ``tilt`` rad of the pelvis and ``trunk`` rad of its flexion driver, and up again."""
    return StanceMotion(times[-1] + 0.3, drop=_down_and_up(drop, times), tilt=_down_and_up(tilt, times),
                        trunk={"flex_extension": _down_and_up(trunk, times)})


def stance_motions() -> dict[str, StanceMotion]:
    """All motions on fixed feet by clip name; the arm motions are those of the bimanual body."""
    own = {
        "stand": StanceMotion(4.0, forward=_sway(0.006, 0.2, 3.8, 0.4), lateral=_sway(0.004, 0.2, 3.8, 0.3)),
        "weight_shift": StanceMotion(6.0, lateral=_sway(0.045, 0.2, 5.8, 0.36)),
        "squat_slow": _bow((0.2, 2.2, 2.7, 4.7), drop=0.22, tilt=0.50, trunk=-0.10),
        "squat_fast": _bow((0.2, 1.0, 1.15, 1.95, 2.15, 2.95, 3.1, 3.9), drop=0.16, tilt=0.36, trunk=-0.07),
        "trunk_bend": _bow((0.2, 2.1, 2.6, 4.7), drop=0.03, tilt=0.25, trunk=-0.20),
        "trunk_side_bend": StanceMotion(5.0, trunk={"lat_bending": _sway(0.12, 0.2, 4.8, 0.43)}),
        "trunk_twist": StanceMotion(5.0, trunk={"axial_rotation": _sway(0.35, 0.2, 4.8, 0.43)}),
    }
    taken = ("reach_forward_right", "reach_forward_left", "reach_up_right", "wave_right", "wave_left",
             "elbow_sweep_right", "elbow_sweep_left", "clap", "lift_box", "shoulder_flexion", "shoulder_abduction")
    arms = arm_motions()
    return own | {f"stand_{name}": StanceMotion(arms[name].seconds, arms=arms[name]) for name in taken}


def perform(body: Embodiment, motion: StanceMotion, fps: float) -> np.ndarray:
    """Positions (F, Q) of a motion on fixed feet."""
    t = np.arange(round(motion.seconds * fps) + 1) / fps
    qpos = np.repeat(body.neutral_qpos[None], len(t), axis=0)
    angles = arm_angles(motion.arms, t) if motion.arms else np.zeros((len(t), 7))
    qpos = place_arms(body, qpos, angles, motion.arms.arms if motion.arms else "none")
    for joint, curve in motion.trunk.items():
        qpos[:, body.model.joint(joint).qposadr[0]] = curve(t)
    turns = np.stack([motion.tilt(t), 0 * t, 0 * t], axis=1)
    for q, rotation in zip(qpos, root_rotation(turns), strict=True):
        mujoco.mju_mat2Quat(q[3:7], rotation.ravel())
    height = body.neutral_qpos[2] - CROUCH - motion.drop(t)
    com = np.stack([motion.lateral(t), -motion.forward(t) - HEEL_TO_COM], axis=1)
    legs = _Legs(body)
    start = np.zeros(2)
    for f in range(len(t)):
        qpos[f, 2] = height[f]
        if f:
            qpos[f, legs.adr] = qpos[f - 1, legs.adr]
        qpos[f] = legs.balance(qpos[f], com[f], start, BALANCE_ROUNDS if f else 30)
        start = qpos[f, :2]
    return qpos


class _Legs:
    """Both legs on fixed, flat feet; the origin is the middle between the heel bones, on the floor."""

    def __init__(self, body: Embodiment) -> None:
        model, foot = body.model, Foot(body)
        self.body, self.data = body, mujoco.MjData(model)
        self.joints = np.array([model.joint(f"{name}_{side}").id for side in "rl" for name in LEG])
        self.adr = model.jnt_qposadr[self.joints]
        self.rest = np.zeros(len(self.joints))
        height = -foot.sole(foot.flat, 0.0)[:, 2].min()
        data = mujoco.MjData(model)
        data.qpos[:] = body.neutral_qpos
        mujoco.mj_kinematics(model, data)
        self.goals = []
        for side, sign in (("r", -1.0), ("l", 1.0)):
            bone = model.body(f"calcn_{side}").id
            rotation = turn(2, sign * TOE_OUT) @ data.xmat[bone].reshape(3, 3)
            place = np.array([sign * 0.5 * STANCE_WIDTH, 0.0, height])
            self.goals.append(ik.Goal(bone, place, rotation, 1.0, np.full(3, TURN_WEIGHT)))

    def balance(self, qpos: np.ndarray, com: np.ndarray, start: np.ndarray, rounds: int) -> np.ndarray:
        """Pose (Q,) with the feet in place and the centre of mass over ``com`` (2,) m, from a pelvis at ``start``."""
        qpos = qpos.copy()
        qpos[:2] = start
        for _ in range(rounds):
            qpos = ik.solve(self.body, qpos, self.joints, self.goals, self.rest, REST_PULL, iterations=10, margin=0.01)
            self.data.qpos[:] = qpos
            mujoco.mj_kinematics(self.body.model, self.data)
            mujoco.mj_comPos(self.body.model, self.data)
            qpos[:2] += com - self.data.subtree_com[0, :2]
        return ik.solve(self.body, qpos, self.joints, self.goals, self.rest, REST_PULL, iterations=10, margin=0.01)
