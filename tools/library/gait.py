"""What a gait is, and how a solved cycle is played: legs, pelvis, arms and trunk over time.

World: the body walks along -y, +x is its left, z is up. Phase 0 is right heel strike.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from tools.library.arms import REST
from tools.library.curves import Periodic
from tools.library.sole import turn

LEG = ("hip_flexion", "hip_adduction", "hip_rotation", "knee_angle", "ankle_angle", "subtalar_angle")
GRAVITY = 9.81
COM_HEIGHT = 0.95  # m
TRUNK_GAIN = {"flex_extension": 1.875, "lat_bending": 1.8645, "axial_rotation": 1.1356}  # thorax per driver


@dataclass(frozen=True)
class Gait:
    """Settings of a gait.

    ================ ====================================================================== =======
    norm             table of joint angles: walking or running
    speed            mean speed of the pelvis                                               m/s
    cadence          steps                                                                  1/min
    stance           part of the cycle a foot is on the floor                               0 .. 1
    loose            parts of the stance, at its begin and end, in which the sole need not
                     lie still on the floor (``nearest``)                                   cycles
    hip_scale        factor on the published hip angle (and the pelvis' turning)
    knee_scale       factor on the published knee angle
    pelvis_offset    pelvic tilt contained in the published hip angle, taken out            rad
    flat             phases: foot begins to be flat, is flat, begins to rise, has risen     cycles
    contact          phase of the published curves at which the foot is set down: at their
                     zero the mean foot still moves                                         cycles
    step_width       distance of the feet's lines                                           m
    surge            fore-aft acceleration of the centre of mass at once and twice the step
                     frequency: amplitude, and phase of a forward peak                      g, cycles
    lean             forward tilt of the pelvis; of the thorax                              rad
    arm              upper arm: mean flexion, its amplitude; elbow: mean, its amplitude     rad
    abduction        sideward angle of the upper arms                                       rad
    least_knee       straightest knee in stance: nearer to zero inverse kinematics has no room rad
    toe_out          outward turn of the feet                                               rad
    airborne         whether both feet leave the floor
    ================ ====================================================================== =======
    """

    norm: str
    speed: float
    cadence: float
    stance: float
    loose: tuple[float, float] = (0.0, 0.0)
    hip_scale: float = 1.0
    knee_scale: float = 1.0
    pelvis_offset: float = np.deg2rad(10.3)
    flat: tuple[float, float, float, float] = (0.0, 0.09, 0.25, 0.41)
    contact: float = 0.03
    step_width: float = 0.11
    surge: tuple[tuple[float, float], ...] = ((0.11, -0.03), (0.06, 0.03))
    lean: tuple[float, float] = (0.0, np.deg2rad(2.0))
    arm: tuple[float, float, float, float] = tuple(np.deg2rad([5.0, 10.0, 25.0, 9.0]))
    abduction: float = np.deg2rad(15.0)
    least_knee: float = np.deg2rad(4.0)
    toe_out: float = np.deg2rad(5.0)
    airborne: bool = False

    @property
    def stride_seconds(self) -> float:
        """Duration of a cycle (two steps) in s."""
        return 120.0 / self.cadence

    @property
    def stride_length(self) -> float:
        """Distance covered in a cycle in m."""
        return self.speed * self.stride_seconds

    @property
    def sway(self) -> float:
        """Lateral amplitude of the pelvis in m that keeps the centre of pressure on the feet's lines.

        Inverted pendulum: the centre of pressure moves ``1 + w^2 h / g`` times as far as the centre of mass; it steps
        between the lines, and the fundamental of that square wave is 4 / pi times its height.
        """
        omega = 2 * np.pi / self.stride_seconds
        return 4 / np.pi * 0.5 * self.step_width / (1.0 + omega**2 * COM_HEIGHT / GRAVITY)


@dataclass(frozen=True)
class Cycle:
    """One solved cycle: curves over the phase for the right leg (with toes) and for the pelvis."""

    gait: Gait
    leg: Periodic  # (7,) rad: LEG, mtp
    pelvis_place: Periodic  # (3,) m: lateral (left +), forward of the mean motion, height
    pelvis_turn: Periodic  # (3,) rad: forward tilt, right side up, left turn


def root_rotation(turns: np.ndarray) -> np.ndarray:
    """Root orientation (n, 3, 3) from forward tilt, right side up and left turn (n, 3) in rad."""
    return turn(2, turns[:, 2]) @ turn(1, turns[:, 1]) @ turn(0, turns[:, 0])


def set_leg(body: Embodiment, qpos: np.ndarray, side: str, angles: np.ndarray, names: tuple[str, ...]) -> None:
    """Write leg angles (..., n) into ``qpos`` (..., Q), kept 1 mrad inside the ranges."""
    for k, name in enumerate(names):
        joint = body.model.joint(f"{name}_{side}")
        low, high = body.joint_ranges[joint.id]
        qpos[..., joint.qposadr[0]] = np.clip(angles[..., k], low + 1e-3, high - 1e-3)


def play(body: Embodiment, cycle: Cycle, start: float, seconds: float, fps: float) -> np.ndarray:
    """Play a cycle from a phase on.

    Args:
        body: embodiment.
        cycle: what to play.
        start: phase of the first frame in cycles.
        seconds: duration.
        fps: frames per second.

    Returns:
        (F, Q) with exact couplings; the first frame's root is at x = y = 0 up to the sway.
    """
    gait = cycle.gait
    t = np.arange(round(seconds * fps) + 1) / fps
    phase = start + t / gait.stride_seconds
    turns = cycle.pelvis_turn(phase)
    place = cycle.pelvis_place(phase)
    qpos = np.repeat(body.neutral_qpos[None], len(t), axis=0)
    qpos[:, 0], qpos[:, 1], qpos[:, 2] = place[:, 0], -(gait.speed * t + place[:, 1]), place[:, 2]
    for q, rotation in zip(qpos, root_rotation(turns), strict=True):
        mujoco.mju_mat2Quat(q[3:7], rotation.ravel())
    for side, lag in (("r", 0.0), ("l", 0.5)):
        set_leg(body, qpos, side, cycle.leg(phase + lag), (*LEG, "mtp_angle"))
        swing = np.cos(2 * np.pi * (phase + lag - 0.5))  # an arm is in front when its leg is behind
        _set_arm(body, qpos, side, gait, swing)
    _set_trunk(body, qpos, gait, turns, phase)
    return body.couplings.enforce(qpos)


def _set_arm(body: Embodiment, qpos: np.ndarray, side: str, gait: Gait, swing: np.ndarray) -> None:
    """Arm of one side from its swing (F,), 1 in front: the humerus points forward and sideward."""
    mean, amplitude, elbow, elbow_amplitude = gait.arm
    forward, outward = np.tan(mean + amplitude * swing), np.tan(gait.abduction)
    angles = {
        "elv_angle": np.arctan2(forward, outward),
        "shoulder_elv": np.arctan(np.hypot(forward, outward)),
        "shoulder_rot": np.full_like(swing, np.deg2rad(REST["shoulder_rot"])),
        "elbow_flex": elbow + elbow_amplitude * swing,
        "pro_sup": np.full_like(swing, np.deg2rad(REST["pro_sup"])),
    }
    for name, values in angles.items():
        qpos[:, body.model.joint(f"{name}_{side}").qposadr[0]] = values


def _set_trunk(body: Embodiment, qpos: np.ndarray, gait: Gait, turns: np.ndarray, phase: np.ndarray) -> None:
    """Trunk joints that hold the thorax upright over the turning pelvis, with a slight counter-rotation.

    One radian of a driver joint turns the thorax by 1 plus the sum of its coupled joints' slopes.
    """
    counter = -0.5 * turns[:, 2]
    wanted = {
        "flex_extension": turns[:, 0] * 0.5 + gait.lean[0] * 0.5 - gait.lean[1],
        "lat_bending": 0.8 * turns[:, 1],
        "axial_rotation": counter - turns[:, 2],
    }
    for name, angle in wanted.items():
        qpos[:, body.model.joint(name).qposadr[0]] = angle / TRUNK_GAIN[name]
