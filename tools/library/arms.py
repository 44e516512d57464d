"""Arm motions: minimum-jerk moves between postures and hand targets, with oscillations on top.

A motion is a table. A key is a time and a posture of one arm: joint angles in degrees (joints that are not named keep
their value at rest) and, where ``hand`` is given, the place of the wrist (lunate) relative to the shoulder in m as
(outward, forward, upward); inverse kinematics then finds the shoulder and elbow angles nearest to the ones named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.library import ik
from tools.library.curves import oscillation, through_postures

FPS = 100.0
JOINTS = ("elv_angle", "shoulder_elv", "shoulder_rot", "elbow_flex", "pro_sup", "deviation", "flexion")
REACH_JOINTS = JOINTS[:4]
REST = {"elv_angle": 15.0, "shoulder_elv": 12.0, "shoulder_rot": 10.0, "elbow_flex": 20.0, "pro_sup": 10.0,
        "deviation": 0.0, "flexion": 0.0}
REST_PULL = 0.02  # 1/rad, against 1/m of the hand target: 0.5 rad off the named posture weighs as much as 1 cm


@dataclass(frozen=True)
class Key:
    """Posture of an arm at a time: angles in degrees over the rest posture, and the wrist's place, if asked for."""

    t: float
    angles: Mapping[str, float]
    hand: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Wave:
    """Oscillation of one joint: amplitude in degrees, between two times, with a frequency and a phase."""

    joint: str
    degrees: float
    start: float
    stop: float
    hertz: float
    phase: float = 0.0


@dataclass(frozen=True)
class ArmMotion:
    """One arm motion; ``arms`` says which arms perform it (the other rests), ``waves`` come on top of the keys."""

    seconds: float
    keys: tuple[Key, ...]
    waves: tuple[Wave, ...] = ()
    arms: str = "both"


def _out_and_back(reach: Key, hold: float, back: float) -> tuple[Key, ...]:
    """Rest for 0.3 s, move to ``reach`` by its time, hold, return by time ``back``."""
    return (Key(0.0, {}), Key(0.3, {}), reach, Key(reach.t + hold, reach.angles, reach.hand), Key(back, {}))


FORWARD = {"elv_angle": 80.0, "shoulder_elv": 70.0, "shoulder_rot": 0.0, "elbow_flex": 25.0}
ELBOW_OUT = {"elv_angle": 55.0, "shoulder_elv": 40.0, "shoulder_rot": 10.0, "elbow_flex": 100.0}
RAISED = {"elv_angle": 30.0, "shoulder_elv": 75.0, "shoulder_rot": -55.0, "elbow_flex": 95.0, "pro_sup": 0.0}
CHEST = {"elv_angle": 20.0, "shoulder_elv": 45.0, "shoulder_rot": 15.0, "elbow_flex": 122.0, "pro_sup": 40.0}
BOX = {"elv_angle": 60.0, "shoulder_elv": 35.0, "shoulder_rot": 10.0, "elbow_flex": 60.0, "pro_sup": 0.0}

ONE_ARM = {
    "reach_forward": ArmMotion(4.0, _out_and_back(Key(1.5, FORWARD, (-0.03, 0.48, -0.06)), 0.6, 3.6), arms="right"),
    "reach_across": ArmMotion(4.0, _out_and_back(Key(1.5, {**FORWARD, "shoulder_elv": 80.0}, (-0.12, 0.44, 0.02)), 0.6,
                                                 3.6), arms="right"),
    "reach_up": ArmMotion(4.5, _out_and_back(Key(1.8, {**FORWARD, "shoulder_elv": 130.0}, (0.05, 0.30, 0.40)), 0.5,
                                             4.1), arms="right"),
    "wave": ArmMotion(5.0, _out_and_back(Key(1.4, RAISED), 2.0, 4.7),
                      (Wave("shoulder_rot", 20.0, 1.3, 3.5, 1.2),), arms="right"),
    "elbow_sweep": ArmMotion(5.0, (Key(0.0, {}), Key(0.2, {}), Key(1.4, {"elbow_flex": 115.0}), Key(2.6, {}),
                                   Key(3.6, {"elbow_flex": 115.0}), Key(4.8, {})), arms="right"),
    "drink": ArmMotion(5.0, (Key(0.0, {}), Key(0.3, {}), Key(1.3, ELBOW_OUT, (0.0, 0.36, -0.22)),
                             Key(1.6, ELBOW_OUT, (0.0, 0.36, -0.22)),
                             Key(2.6, {**ELBOW_OUT, "pro_sup": 20.0}, (-0.09, 0.24, 0.06)),
                             Key(3.4, {**ELBOW_OUT, "pro_sup": 20.0}, (-0.09, 0.24, 0.06)), Key(4.8, {})),
                       arms="right"),
}
BOTH_ARMS = {
    "reach_forward_both": ArmMotion(4.0, _out_and_back(Key(1.5, FORWARD, (-0.03, 0.47, -0.06)), 0.6, 3.6)),
    "lift_box": ArmMotion(5.0, (Key(0.0, {}), Key(0.2, {}), Key(1.2, BOX, (0.0, 0.30, -0.38)),
                                Key(1.5, BOX, (0.0, 0.30, -0.38)), Key(2.6, BOX, (0.0, 0.36, -0.08)),
                                Key(3.0, BOX, (0.0, 0.36, -0.08)), Key(4.0, BOX, (0.0, 0.30, -0.38)),
                                Key(4.9, {}))),
    "clap": ArmMotion(5.0, _out_and_back(Key(1.3, ELBOW_OUT, (-0.08, 0.34, -0.14)), 2.4, 4.8),
                      (Wave("shoulder_rot", 10.0, 1.2, 3.8, 1.25),)),
    "shoulder_flexion": ArmMotion(5.0, _out_and_back(
        Key(2.2, {"elv_angle": 80.0, "shoulder_elv": 100.0, "elbow_flex": 10.0}), 0.4, 4.8)),
    "shoulder_abduction": ArmMotion(5.0, _out_and_back(
        Key(2.2, {"elv_angle": 10.0, "shoulder_elv": 95.0, "elbow_flex": 10.0}), 0.4, 4.8)),
    "push": ArmMotion(4.6, (Key(0.0, {}), Key(0.2, {}), Key(1.2, CHEST),
                            Key(1.9, FORWARD, (-0.02, 0.49, -0.05)), Key(2.6, CHEST),
                            Key(3.3, FORWARD, (-0.02, 0.49, -0.05)), Key(4.5, {}))),
    "circles": ArmMotion(6.0, _out_and_back(
        Key(1.5, {"elv_angle": 45.0, "shoulder_elv": 75.0, "elbow_flex": 20.0}), 3.0, 5.8),
        (Wave("shoulder_elv", 13.0, 1.4, 4.6, 0.65), Wave("elv_angle", 13.0, 1.4, 4.6, 0.65, np.pi / 2))),
}


@cache
def _arm_ids(names: tuple[str, ...]) -> np.ndarray:
    body = load_body("myo_bimanual")
    return np.array([body.model.joint(f"{name}_r").id for name in names])


def _posture(body: Embodiment, key: Key) -> np.ndarray:
    """Angles (7,) in rad of a key, in the order of ``JOINTS``."""
    ids, reach_ids = _arm_ids(JOINTS), _arm_ids(REACH_JOINTS)
    qpos = body.neutral_qpos.copy()
    qpos[body.model.jnt_qposadr[ids]] = np.deg2rad([(REST | dict(key.angles))[j] for j in JOINTS])
    if key.hand is not None:
        rest = qpos[body.model.jnt_qposadr[reach_ids]]
        outward, forward, upward = key.hand
        data = mujoco.MjData(body.model)
        data.qpos[:] = body.neutral_qpos
        mujoco.mj_kinematics(body.model, data)
        place = data.body("humerus_r").xpos + np.array([-outward, -forward, upward])
        goal = ik.Goal(body.model.body("lunate_r").id, place)
        qpos = ik.solve(body, qpos, reach_ids, [goal], rest, REST_PULL, iterations=60, margin=0.02)
    return qpos[body.model.jnt_qposadr[ids]]


def arm_angles(motion: ArmMotion, t: np.ndarray) -> np.ndarray:
    """Angles (F, 7) of the moving arm in rad at times (F,) in s; signs as on the right arm (the left one's agree)."""
    body = load_body("myo_bimanual")
    postures = np.stack([_posture(body, key) for key in motion.keys])
    angles = through_postures([key.t for key in motion.keys], postures, t)
    for wave in motion.waves:
        angles[:, JOINTS.index(wave.joint)] += np.deg2rad(wave.degrees) * oscillation(
            t, wave.start, wave.stop, wave.hertz, wave.phase
        )
    return angles


def place_arms(body: Embodiment, qpos: np.ndarray, angles: np.ndarray, arms: str) -> np.ndarray:
    """Copy of ``qpos`` (F, Q) in which the named arms follow ``angles`` (F, 7) and the other rests."""
    out = qpos.copy()
    for side in ("right", "left"):
        for k, joint in enumerate(JOINTS):
            adr = body.model.joint(f"{joint}_{side[0]}").qposadr[0]
            out[:, adr] = angles[:, k] if arms in (side, "both") else np.deg2rad(REST[joint])
    return body.couplings.enforce(out)


def arm_motions() -> dict[str, ArmMotion]:
    """All arm motions by clip name; those of one arm appear once for each side."""
    sided = {
        f"{name}_{side}": ArmMotion(m.seconds, m.keys, m.waves, side)
        for name, m in ONE_ARM.items() for side in ("right", "left")
    }
    return sided | BOTH_ARMS
