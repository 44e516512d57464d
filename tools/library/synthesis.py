"""Running on the straight, built from published mean joint angles; walking is made in :mod:`tools.library.nearest`.

The published angles alone, played on this body, slide and float. So they give the *shape*: the pitch of the foot, the
swing of the leg, the pelvis' turning. The stance foot then rolls over heel, flat foot and toes without slipping
(:class:`tools.library.sole.Foot`). The swing foot follows the published swing with a smooth correction that meets the
rolling path in place and velocity at both ends. The pelvis travels at a constant mean speed; its sway and surge keep
the centre of pressure near the feet. Inverse kinematics returns the joint angles nearest to the published ones. The
result is cut to ``HARMONICS`` harmonics of the stride, so that it is periodic and smooth; the left leg is the right one
half a cycle on.

World: the body runs along -y, +x is its left, z is up. Phase 0 is right heel strike.
"""

from __future__ import annotations

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from tools.library import ik
from tools.library.acceptance import centre_of_mass
from tools.library.curves import Periodic, minimum_jerk
from tools.library.gait import GRAVITY, LEG, Cycle, Gait, play, root_rotation, set_leg
from tools.library.norms import curve
from tools.library.sole import Foot

SAMPLES = 200  # phases a cycle is solved at
HARMONICS = 14
REST_PULL = 0.004  # 1/rad, against 1/m of the foot's place
TURN_WEIGHT = 0.2  # m/rad
SHIFT_COST = 0.2  # m of pelvis height given up rather than setting the foot down 1 m further back
EARLY = 0.35  # the force of stance comes early, so the body leaves the floor higher than it lands
SLOPE_SUPPORT = 0.22  # part of the swing in which a mismatch of velocity fades
MIN_CLEARANCE = 0.012  # m under the swinging foot, at least


def _odd(values: np.ndarray) -> np.ndarray:
    """Part of a sampled cycle that changes sign half a cycle on."""
    return 0.5 * (values - np.roll(values, len(values) // 2))


def _even(values: np.ndarray) -> np.ndarray:
    """Part of a sampled cycle that repeats half a cycle on."""
    return 0.5 * (values + np.roll(values, len(values) // 2))


def _closed(samples: np.ndarray) -> np.ndarray:
    """Samples of a cycle with the first repeated at the end."""
    return np.concatenate([samples, samples[:1]])


def _pelvis_turn(gait: Gait, phase: np.ndarray) -> np.ndarray:
    """Forward tilt, right side up and left turn (n, 3) in rad; running takes the walking curves at half size."""
    tilt, up, left = (curve("walking", f"pelvis_{n}", 5)(phase) for n in ("tilt", "obliquity", "rotation"))
    size = gait.hip_scale * (0.5 if gait.airborne else 1.0)
    return np.stack([gait.lean[0] + size * (_even(tilt) - tilt.mean()), size * _odd(up), size * _odd(left)], axis=1)


def _published_leg(gait: Gait, phase: np.ndarray) -> np.ndarray:
    """Joint angles (n, 6) in the order of ``LEG``; hip flexion counts from the vertical, so the tilt is added."""
    phase = phase + gait.contact
    hip = gait.hip_scale * (curve(gait.norm, "hip_flexion")(phase) - gait.pelvis_offset) + gait.lean[0]
    knee = np.maximum(gait.knee_scale * curve(gait.norm, "knee_angle")(phase), np.deg2rad(3.0))
    ankle = curve(gait.norm, "ankle_angle")(phase)
    zero = np.zeros_like(hip)
    return np.stack([hip, zero, zero, knee, ankle, zero], axis=1)


def _heel_relative(body: Embodiment, angles: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Right heel bone relative to the pelvis (n, 3) in m, world axes, for leg angles (n, 6) and pelvis turns (n, 3)."""
    model, data = body.model, mujoco.MjData(body.model)
    out, heel = np.empty((len(angles), 3)), model.body("calcn_r").id
    for k, rotation in enumerate(root_rotation(turns)):
        qpos = body.neutral_qpos.copy()
        mujoco.mju_mat2Quat(qpos[3:7], rotation.ravel())
        set_leg(body, qpos, "r", angles[k], LEG)
        data.qpos[:] = body.couplings.enforce(qpos)
        mujoco.mj_kinematics(model, data)
        out[k] = data.xpos[heel] - data.qpos[:3]
    return out


def _foot_pitch(gait: Gait, phase: np.ndarray, published: np.ndarray) -> np.ndarray:
    """Pitch of the foot (n,) in rad, toes up positive: the published one, held at zero while the foot is flat."""
    pitch = published[:, 0] - gait.lean[0] - published[:, 3] + published[:, 4]
    a, b, c, d = gait.flat
    held = minimum_jerk((phase - a) / (b - a)) * minimum_jerk((d - phase) / (d - c))
    return pitch * (1.0 - held)


def _toe_angle(gait: Gait, phase: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Toe joint (n,) in rad: extends as the heel rises, up to 22 degrees, and returns after toe-off."""
    most = np.deg2rad(22.0)
    extension = most * np.tanh(np.maximum(-pitch, 0.0) / most)
    return -extension * minimum_jerk((phase - gait.flat[2]) / 0.08) * minimum_jerk((gait.stance + 0.14 - phase) / 0.14)


def flight_height(gait: Gait, phase: np.ndarray) -> np.ndarray:
    """Height of the pelvis (n,) in m about its mean in running: free fall in flight, a half-sine-like force in stance.

    With the force ``F(s) = pi / (2 duty) sin(pi s) (1 + EARLY cos(pi s))`` body weights over the stance part ``duty``
    of a step, the mean force is one body weight; the height is the twice integrated acceleration, per harmonic.
    """
    grid = np.arange(2000) / 2000.0
    duty = 2.0 * gait.stance
    stance = grid / duty
    shape = np.sin(np.pi * stance) * (1.0 + EARLY * np.cos(np.pi * stance))
    force = np.where(stance < 1.0, np.pi / (2 * duty) * shape, 0.0)
    spectrum = np.fft.rfft(GRAVITY * (force - force.mean())) / len(grid)
    order = np.arange(1, 13)
    step = 0.5 * gait.stride_seconds
    height = -2.0 * spectrum[order] / (2 * np.pi * order / step) ** 2
    return np.real(np.exp(2j * np.pi * np.outer(2.0 * phase, order)) @ height)


def solve_cycle(body: Embodiment, gait: Gait, rounds: int = 3) -> Cycle:
    """Synthesise one cycle of running.

    The fore-aft motion and the free fall are asked of the centre of mass, not of the pelvis: after each
    round the pelvis is moved against what the centre of mass moves relative to it.
    """
    com = np.zeros((SAMPLES, 2))
    for _ in range(rounds):
        cycle = _solve_once(body, gait, com)
        qpos = play(body, cycle, 0.0, gait.stride_seconds, SAMPLES / gait.stride_seconds)[:SAMPLES]
        com = _even((centre_of_mass(body, qpos) - qpos[:, :3])[:, [1, 2]] * [-1.0, 1.0])
    return cycle


def _solve_once(body: Embodiment, gait: Gait, com: np.ndarray) -> Cycle:
    """One round; ``com`` (n, 2) in m is the centre of mass relative to the pelvis, forward and upward."""
    phase = np.arange(SAMPLES) / SAMPLES
    turns = _pelvis_turn(gait, phase)
    published = _published_leg(gait, phase)
    pitch = _foot_pitch(gait, phase, published)
    toe = _toe_angle(gait, phase, pitch)
    relative = _heel_relative(body, published, turns)
    foot = Foot(body)
    last = int(np.floor(gait.stance * SAMPLES)) + 1
    stance = np.arange(last + 1)
    rolled = foot.roll(pitch[stance], toe[stance], gait.toe_out)

    pelvis = np.zeros((SAMPLES, 3))
    pelvis[:, 0] = -gait.sway * np.cos(2 * np.pi * (phase - 0.5 * gait.stance))
    weight = np.sin(np.pi * np.clip((stance + 0.5) / (last + 1), 0, 1))
    pelvis[:, 1] = com[:, 0].mean() - com[:, 0]
    for order, (size, peak) in enumerate(gait.surge, start=1):
        omega = 4 * np.pi * order / gait.stride_seconds
        pelvis[:, 1] -= size * GRAVITY / omega**2 * np.cos(4 * np.pi * order * (phase - peak))
    # forward: start + rolled - stride * phase = pelvis + relative
    start = np.average(pelvis[stance, 1] - relative[stance, 1] + rolled.origin[:, 1]
                       + gait.stride_length * phase[stance], weights=weight)
    height = rolled.origin[:, 2] - relative[stance, 2]
    bounce = flight_height(gait, phase) - (com[:, 1] - com[:, 1].mean())
    pelvis[:, 2] = bounce + np.average(height - bounce[stance], weights=weight)

    rotation = foot.orientation(pitch, gait.toe_out)
    trials = []
    for shift in np.arange(-0.12, 0.021, 0.01):
        heel = _heel_path(gait, phase, pelvis, relative, rolled.origin, start + shift, foot, pitch, toe)
        trials.append((_reach_excess(body, gait.least_knee, pelvis, turns, heel, rotation)[stance].max(), shift))
    drop, shift = min(trials, key=lambda trial: trial[0] + SHIFT_COST * abs(trial[1]))
    pelvis[:, 2] -= max(drop, 0.0)
    heel = _heel_path(gait, phase, pelvis, relative, rolled.origin, start + shift, foot, pitch, toe)
    swing = (phase > phase[last]) * minimum_jerk((1.0 - phase) / 0.04)
    heel[:, 2] += swing * _soft_positive(_reach_excess(body, gait.least_knee, pelvis, turns, heel, rotation))
    leg = _solve_legs(body, phase, pelvis, turns, heel, rotation, published, toe)
    return Cycle(gait, *(Periodic(_closed(x), HARMONICS) for x in (leg, pelvis, turns)))


def _slope_bump(s: np.ndarray) -> np.ndarray:
    """Curve with slope 1 at s = 0 that has returned to zero, value and slope, at ``SLOPE_SUPPORT``."""
    x = np.minimum(s / SLOPE_SUPPORT, 1.0)
    return SLOPE_SUPPORT * x * (1.0 - x) ** 3


def _heel_path(gait: Gait, phase: np.ndarray, pelvis: np.ndarray, relative: np.ndarray, rolled: np.ndarray,
               start: float, foot: Foot, pitch: np.ndarray, toe: np.ndarray) -> np.ndarray:
    """Place of the right heel bone (n, 3) in m in the frame that travels with the mean speed.

    Columns as ``pelvis``: lateral, forward, height. In stance the rolling path; in swing the published path plus a
    cubic that meets place and velocity at toe-off and heel strike, lifted where the foot would scrape.
    """
    last = len(rolled) - 1
    line = -0.5 * gait.step_width
    heel = pelvis + np.stack([0 * phase, -relative[:, 1], relative[:, 2]], axis=1)
    heel[:, 0] = line
    stance = np.stack([line + rolled[:, 0] - rolled[last // 3, 0],
                       start - rolled[:, 1] - gait.stride_length * phase[: last + 1], rolled[:, 2]], axis=1)
    swing = np.arange(last, len(phase) + 1)
    natural = heel[swing % len(phase)]
    gap0, gap1 = stance[last] - natural[0], stance[0] - natural[-1]
    slope0 = (stance[last] - stance[last - 1]) - (natural[1] - natural[0])
    slope1 = (stance[1] - stance[0]) - (natural[-1] - natural[-2])
    count = len(swing) - 1
    s = (np.arange(count + 1) / count)[:, None]
    path = natural + gap0 + (gap1 - gap0) * minimum_jerk(s)
    path += count * (slope0 * _slope_bump(s) - slope1 * _slope_bump(1.0 - s))
    for _ in range(3):
        rotation = foot.orientation(pitch[swing % len(phase)], gait.toe_out)
        sole = np.array([foot.sole(r, toe[k % len(phase)])[:, 2].min() for r, k in zip(rotation, swing, strict=True)])
        wanted = MIN_CLEARANCE * np.minimum(1.0, 8.0 * s[:, 0] * (1 - s[:, 0]))
        lack = np.maximum(0.0, wanted - (path[:, 2] + sole))
        path[:, 2] += lack.max() * (16.0 * (s[:, 0] * (1 - s[:, 0])) ** 2)
    heel[: last + 1] = stance
    heel[last:] = path[:-1]
    return heel


def _soft_positive(x: np.ndarray, scale: float = 5e-3) -> np.ndarray:
    """Smooth ``max(x, 0)``; ``scale`` is the width of the transition in m."""
    return 0.5 * (x + np.sqrt(x**2 + scale**2))


def _reach_excess(body: Embodiment, least_knee: float, pelvis: np.ndarray, turns: np.ndarray, heel: np.ndarray,
                  rotation: np.ndarray) -> np.ndarray:
    """How much (n,) in m the pelvis is too high for the leg to reach its ankle with a knee flexed by ``least_knee``."""
    model, data = body.model, mujoco.MjData(body.model)
    qpos = body.neutral_qpos.copy()
    qpos[model.joint("knee_angle_r").qposadr[0]] = least_knee
    data.qpos[:] = body.couplings.enforce(qpos)
    mujoco.mj_kinematics(model, data)
    place = {name: data.body(f"{name}_r").xpos.copy() for name in ("femur", "talus", "calcn")}
    ankle_in_heel = data.body("calcn_r").xmat.reshape(3, 3).T @ (place["talus"] - place["calcn"])
    longest = np.linalg.norm(place["femur"] - place["talus"])
    world = np.array([1.0, -1.0, 1.0])
    hip = pelvis * world + root_rotation(turns) @ (place["femur"] - qpos[:3])
    leg = hip - (heel * world + rotation @ ankle_in_heel)
    return leg[:, 2] - np.sqrt(np.maximum(longest**2 - leg[:, 0] ** 2 - leg[:, 1] ** 2, 0.0))


def _solve_legs(body: Embodiment, phase: np.ndarray, pelvis: np.ndarray, turns: np.ndarray, heel: np.ndarray,
                rotation: np.ndarray, published: np.ndarray, toe: np.ndarray) -> np.ndarray:
    """Leg angles (n, 7) that put the heel bone where it belongs; two rounds, so that the cycle closes."""
    model = body.model
    joints = np.array([model.joint(f"{name}_r").id for name in LEG])
    adr, toe_adr = model.jnt_qposadr[joints], model.joint("mtp_angle_r").qposadr[0]
    foot, roots = model.body("calcn_r").id, root_rotation(turns)
    qpos = body.neutral_qpos.copy()
    qpos[adr] = published[0]
    out = np.empty((len(phase), 7))
    for k in [*range(len(phase)), *range(len(phase))]:
        qpos[:3] = pelvis[k] * [1.0, -1.0, 1.0]
        mujoco.mju_mat2Quat(qpos[3:7], roots[k].ravel())
        qpos[toe_adr] = toe[k]
        goal = ik.Goal(foot, heel[k] * [1.0, -1.0, 1.0], rotation[k], 1.0, np.full(3, TURN_WEIGHT))
        qpos = ik.solve(body, qpos, joints, [goal], published[k], REST_PULL, iterations=12, margin=0.01)
        out[k] = [*qpos[adr], toe[k]]
    return out
