"""Walking on the straight with the published joint angles themselves.

The published angles alone, played on this body, slide and float. So the cycle is the one nearest to them in which the
right foot, while it stands, touches the floor with some point of its sole that does not move, and clears the floor while
it swings: a least-squares problem over the harmonics of the leg's angles, of the pelvis' place and over the length of
the stride (:class:`_Problem`), solved by Gauss-Newton. The pelvis thus follows from the standing foot, and the speed from
the angles; what the angles leave open of the pelvis is drawn to a sway and surge that keep the centre of pressure near
the feet. The left leg is the right one half a cycle on. :mod:`tools.library.synthesis` makes running, for which this asks
too much of the body.

World: the body walks along -y, +x is its left, z is up. Phase 0 is right heel strike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from tools.analysis.norm_tables import bands
from tools.library.acceptance import centre_of_mass
from tools.library.curves import Periodic, minimum_jerk
from tools.library.gait import GRAVITY, LEG, Cycle, Gait, play, root_rotation
from tools.library.norms import curve
from tools.library.sole import Foot, lowest_surface_points
from tools.library.synthesis import _closed, _even, _pelvis_turn

SAMPLES = 200  # phases a cycle is solved at
HARMONICS = 14  # of the leg's angles
PELVIS_HARMONICS = 4
MIN_CLEARANCE = 0.010  # m under the swinging foot, at least
MOST_TOE = np.deg2rad(22.0)  # extension of the toes
ITERATIONS = 12

# One unit of cost each: what the solution may depart from a wish by
ANGLES = np.deg2rad([1.5, 3.0, 5.0, 2.0, 0.7, 3.0])  # rad, from the published angles, in the order of LEG
ROUGHNESS = np.deg2rad(0.05)  # rad, departure in the highest harmonic
HEIGHT = 1.5e-3  # m, of the lowest point of a standing sole above the floor
SLIP = 0.03  # m/s, of that point
CLEARANCE = 1.0e-3  # m
FOOT_TURN = np.deg2rad(2.0)  # rad, of the foot's own axis from level and from the wanted toe-out
FOOT_LINE = 0.01  # m, of the heel from its line
STRIDE = 0.10  # m, of the stride from the published length
PELVIS = np.array([0.005, 0.005])  # m, of its place sideward and forward
LEAST_KNEE = np.deg2rad(2.0)  # rad
KNEE = np.deg2rad(0.3)  # rad, of a knee straighter than that

def _published_leg(gait: Gait, phase: np.ndarray) -> np.ndarray:
    """Joint angles (n, 6) in the order of ``LEG``; hip flexion counts from the vertical, so the tilt is added."""
    phase = phase + gait.contact
    hip = gait.hip_scale * (curve(gait.norm, "hip_flexion")(phase) - gait.pelvis_offset) + gait.lean[0]
    knee = gait.knee_scale * curve(gait.norm, "knee_angle")(phase)
    ankle = curve(gait.norm, "ankle_angle")(phase)
    adduction = Periodic(np.deg2rad(bands(gait.norm)["hip_adduction"].mean), HARMONICS)(phase)
    zero = np.zeros_like(hip)
    return np.stack([hip, adduction, zero, knee, ankle, zero], axis=1)


def _fourier(phase: np.ndarray, orders: Sequence[int], mean: bool) -> np.ndarray:
    """Columns (n, m): a constant if wanted, then cosine and sine of each order."""
    waves = [f(2 * np.pi * order * phase) for order in orders for f in (np.cos, np.sin)]
    return np.column_stack([*([np.ones_like(phase)] if mean else []), *waves])


def _toe_angle(gait: Gait, phase: np.ndarray, published: np.ndarray) -> np.ndarray:
    """Toe joint (n,) in rad: extends as the published heel rises, and returns after toe-off."""
    pitch = published[:, 0] - gait.lean[0] - published[:, 3] + published[:, 4]  # toes up positive
    extension = MOST_TOE * np.tanh(np.maximum(-pitch, 0.0) / MOST_TOE)
    return -extension * minimum_jerk((phase - gait.flat[2]) / 0.08) * minimum_jerk((gait.stance + 0.14 - phase) / 0.14)


@dataclass(frozen=True)
class _Foot:
    """The right foot at every phase, and how it moves with the unknowns ``y`` of that phase (``_Problem``).

    ======== ============================================================== =============
    origin   places of heel bone and toes                                   (n, 2, 3) m
    turn     their orientations                                             (n, 2, 3, 3)
    moves    derivative of the places                                       (n, 2, 3, 10)
    turns    derivative of the orientations, as rotation vectors            (n, 2, 3, 10)
    part     which of the two carries the lowest point of the sole          (n,) int
    lowest   that point                                                     (n, 3) m
    ======== ============================================================== =============
    """

    origin: np.ndarray
    turn: np.ndarray
    moves: np.ndarray
    turns: np.ndarray
    part: np.ndarray
    lowest: np.ndarray

    def slope(self, k: np.ndarray, part: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Derivative (m, 3, 10) of material points (m, 3) of the given parts (m,) at phases ``k`` (m,)."""
        arm = point - self.origin[k, part]
        return self.moves[k, part] + np.cross(self.turns[k, part], arm[:, :, None], axis=1)


class _Problem:
    """Least squares over one cycle of a gait.

    The unknowns ``y`` (10,) of a phase are the leg's angles (``LEG``), the pelvis' place (left, forward of the mean
    motion, height) and the stride's length; those of the problem are their Fourier coefficients. By symmetry of the two
    sides the pelvis sways at odd multiples of the stride's frequency and surges and bounces at even ones.

    Args:
        body: embodiment.
        gait: what to synthesise.
        com: (n,) m, centre of mass in front of the pelvis.
    """

    def __init__(self, body: Embodiment, gait: Gait, com: np.ndarray) -> None:
        self.body, self.gait = body, gait
        self.phase = np.arange(SAMPLES) / SAMPLES
        self.turns, self.published = _pelvis_turn(gait, self.phase), _published_leg(gait, self.phase)
        self.toe = _toe_angle(gait, self.phase, self.published)
        self.place = self._wanted_place(com)
        self._foot = Foot(body)
        self._data = mujoco.MjData(body.model)
        legs = _fourier(self.phase, range(1, HARMONICS + 1), mean=True)
        even, odd = range(2, PELVIS_HARMONICS + 1, 2), range(1, PELVIS_HARMONICS, 2)
        blocks = [*[legs] * 6, _fourier(self.phase, odd, mean=False), _fourier(self.phase, even, mean=False),
                  _fourier(self.phase, even, mean=True), np.ones((SAMPLES, 1))]
        self.maps = np.zeros((SAMPLES, 10, sum(b.shape[1] for b in blocks)))  # coefficients to y
        start = 0
        for k, block in enumerate(blocks):
            self.maps[:, k, start : start + block.shape[1]] = block
            start += block.shape[1]
        self.rests = gait.loose[0], gait.stance - gait.loose[1]  # phases between which the sole does
        self.stance = np.arange(round(self.rests[0] * SAMPLES), int(self.rests[1] * SAMPLES) + 1)
        self.swing = np.setdiff1d(np.arange(SAMPLES), self.stance)
        self._order = np.concatenate([[0.0], np.repeat(np.arange(1, HARMONICS + 1), 2)])

    def _wanted_place(self, com: np.ndarray) -> np.ndarray:
        """Place of the pelvis (n, 3) in m whose centre of mass sways and surges as the gait says; its height stays open."""
        gait, place = self.gait, np.zeros((SAMPLES, 3))
        place[:, 0] = -gait.sway * np.cos(2 * np.pi * (self.phase - 0.5 * gait.stance))
        place[:, 1] = com.mean() - com
        for order, (size, peak) in enumerate(gait.surge, start=1):
            omega = 4 * np.pi * order / gait.stride_seconds
            place[:, 1] -= size * GRAVITY / omega**2 * np.cos(4 * np.pi * order * (self.phase - peak))
        return place

    def start(self) -> np.ndarray:
        """Coefficients of the published angles with the pelvis where the sole is at the floor in the middle of stance."""
        y = np.column_stack([self.published, self.place, np.full(SAMPLES, self.gait.stride_length)])
        foot = self.foot(y)
        y[:, 8] -= foot.lowest[self.stance, 2].mean()
        return np.linalg.lstsq(self.maps.reshape(-1, self.maps.shape[2]), y.ravel(), rcond=None)[0]

    def unknowns(self, coefficients: np.ndarray) -> np.ndarray:
        """Unknowns ``y`` (n, 10) of all phases."""
        return self.maps @ coefficients

    def foot(self, y: np.ndarray) -> _Foot:
        """The right foot at all phases."""
        model, data, coupled = self.body.model, self._data, self.body.couplings
        joints = [model.joint(f"{name}_r") for name in LEG]
        adr = np.array([j.qposadr[0] for j in joints])
        column = np.searchsorted(coupled.independent_dof, [j.dofadr[0] for j in joints])
        parts = [self._foot.heel, self._foot.toes]
        geoms = self.body.foot_geom_ids["right"]
        qpos = np.repeat(self.body.neutral_qpos[None], SAMPLES, axis=0)
        qpos[:, adr], qpos[:, model.joint("mtp_angle_r").qposadr[0]] = y[:, :6], self.toe
        qpos[:, 0], qpos[:, 1], qpos[:, 2] = y[:, 6], -(y[:, 9] * self.phase + y[:, 7]), y[:, 8]
        for q, rotation in zip(qpos, root_rotation(self.turns), strict=True):
            mujoco.mju_mat2Quat(q[3:7], rotation.ravel())
        qpos = coupled.enforce(qpos)
        origin, turn = np.empty((SAMPLES, 2, 3)), np.empty((SAMPLES, 2, 3, 3))
        moves, turns = np.zeros((SAMPLES, 2, 3, 10)), np.zeros((SAMPLES, 2, 3, 10))
        moves[..., 0, 6], moves[..., 1, 7], moves[..., 2, 8] = 1.0, -1.0, 1.0
        moves[..., 1, 9] = -self.phase[:, None]
        geom_x, geom_r = np.empty((SAMPLES, len(geoms), 3)), np.empty((SAMPLES, len(geoms), 9))
        jac_p, jac_r = np.empty((3, model.nv)), np.empty((3, model.nv))
        for k, q in enumerate(qpos):
            data.qpos[:] = q
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            tangent = coupled.jacobian(q)[:, column]
            for p, bone in enumerate(parts):
                origin[k, p], turn[k, p] = data.xpos[bone], data.xmat[bone].reshape(3, 3)
                mujoco.mj_jacBody(model, data, jac_p, jac_r, bone)
                moves[k, p, :, :6], turns[k, p, :, :6] = jac_p @ tangent, jac_r @ tangent
            geom_x[k], geom_r[k] = data.geom_xpos[geoms], data.geom_xmat[geoms]
        kind, size = np.tile(model.geom_type[geoms], SAMPLES), np.tile(model.geom_size[geoms], (SAMPLES, 1))
        points = lowest_surface_points(kind, size, geom_x.reshape(-1, 3), geom_r.reshape(-1, 3, 3)).reshape(geom_x.shape)
        at = points[:, :, 2].argmin(axis=1)
        part = (model.geom_bodyid[geoms[at]] == parts[1]).astype(int)
        return _Foot(origin, turn, moves, turns, part, points[np.arange(SAMPLES), at])

    def costs(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All residuals (m,), in units of cost, and their derivative by the coefficients."""
        y = self.unknowns(coefficients)
        foot = self.foot(y)
        rows = [*self._wishes(y, coefficients), self._standing(foot), self._moving(foot), self._swinging(foot),
                *self._placing(foot)]
        return np.concatenate([r.ravel() for r, _ in rows]), np.concatenate(
            [j.reshape(-1, self.maps.shape[2]) for _, j in rows])

    def _wishes(self, y: np.ndarray, coefficients: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Costs that ask for no kinematics: published angles, smoothness, knee, place of the pelvis, length of the stride."""
        gait, maps = self.gait, self.maps
        scale = np.sqrt(SAMPLES) * ANGLES
        angles = (y[:, :6] - self.published) / scale, maps[:, :6] / scale[:, None]
        wanted = np.linalg.lstsq(maps[:, 0, : len(self._order)], self.published, rcond=None)[0].T  # (6, 2H + 1)
        weight = np.tile((self._order / HARMONICS) ** 2 / ROUGHNESS, 6)
        rough = weight * (coefficients[: len(weight)] - wanted.ravel()), np.eye(len(weight), maps.shape[2]) * weight[:, None]
        straight = LEAST_KNEE - y[:, 3]
        knee = np.maximum(straight, 0.0) / KNEE, (straight > 0)[:, None] * -maps[:, 3] / KNEE
        place = (y[:, 6:8] - self.place[:, :2]) / PELVIS, maps[:, 6:8] / PELVIS[:, None]
        stride = (y[:1, 9] - gait.stride_length) / STRIDE, maps[:1, 9] / STRIDE
        return [angles, rough, knee, tuple(x / np.sqrt(SAMPLES) for x in place), stride]

    def _standing(self, foot: _Foot) -> tuple[np.ndarray, np.ndarray]:
        """Height of the standing sole above the floor."""
        k = self.stance
        slope = foot.slope(k, foot.part[k], foot.lowest[k])[:, 2]
        scale = HEIGHT * np.sqrt(len(k))
        return foot.lowest[k, 2] / scale, np.einsum("ky,kyc->kc", slope, self.maps[k]) / scale

    def _moving(self, foot: _Foot) -> tuple[np.ndarray, np.ndarray]:
        """Speed over the floor of the point of the sole that touches, from each phase of stance to the next."""
        now, then = self.stance[:-1], self.stance[1:]
        part, point = foot.part[now], foot.lowest[now]
        local = np.einsum("kji,kj->ki", foot.turn[now, part], point - foot.origin[now, part])
        later = foot.origin[then, part] + np.einsum("kij,kj->ki", foot.turn[then, part], local)
        slope = (np.einsum("kxy,kyc->kxc", foot.slope(then, part, later), self.maps[then])
                 - np.einsum("kxy,kyc->kxc", foot.slope(now, part, point), self.maps[now]))
        scale = SLIP * self.gait.stride_seconds / SAMPLES * np.sqrt(len(now))
        return (later - point)[:, :2] / scale, slope[:, :2] / scale

    def _swinging(self, foot: _Foot) -> tuple[np.ndarray, np.ndarray]:
        """What the swinging sole lacks of its clearance."""
        k, (down, up) = self.swing, self.rests
        s = (self.phase[k] - up) % 1.0 / (1.0 + down - up)
        lack = MIN_CLEARANCE * np.minimum(1.0, 8.0 * s * (1.0 - s)) - foot.lowest[k, 2]
        slope = np.einsum("ky,kyc->kc", foot.slope(k, foot.part[k], foot.lowest[k])[:, 2], self.maps[k])
        return np.maximum(lack, 0.0) / CLEARANCE, (lack > 0)[:, None] * -slope / CLEARANCE

    def _placing(self, foot: _Foot) -> list[tuple[np.ndarray, np.ndarray]]:
        """Turn of the foot about the vertical and about its length, and place of the heel sideward."""
        axis = foot.turn[:, 0] @ (self._foot.flat.T @ [1.0, 0.0, 0.0])
        turned = np.cross(foot.turns[:, 0], axis[:, :, None], axis=1)[:, 1:]
        scale = FOOT_TURN * np.sqrt(SAMPLES)
        level = (axis[:, 1:] + [np.sin(self.gait.toe_out), 0.0]) / scale
        line = FOOT_LINE * np.sqrt(SAMPLES)
        return [(level, np.einsum("kxy,kyc->kxc", turned, self.maps) / scale),
                ((foot.origin[:, 0, 0] + 0.5 * self.gait.step_width) / line,
                 np.einsum("ky,kyc->kc", foot.moves[:, 0, 0], self.maps) / line)]


def nearest_cycle(body: Embodiment, gait: Gait, rounds: int = 3) -> Cycle:
    """Synthesise one cycle of a gait; the cycle's gait has the speed that came out.

    The fore-aft motion is asked of the centre of mass, not of the pelvis: after each round the pelvis is moved against
    what the centre of mass moves relative to it.
    """
    com = np.zeros(SAMPLES)
    coefficients = None
    for _ in range(rounds):
        problem = _Problem(body, gait, com)
        coefficients = _solve(problem, problem.start() if coefficients is None else coefficients)
        y = problem.unknowns(coefficients)
        cycle = Cycle(replace(gait, speed=float(y[0, 9] / gait.stride_seconds)), *(
            Periodic(_closed(x), HARMONICS) for x in (np.column_stack([y[:, :6], problem.toe]), y[:, 6:9], problem.turns)))
        qpos = play(body, cycle, 0.0, gait.stride_seconds, SAMPLES / gait.stride_seconds)[:SAMPLES]
        com = -_even((centre_of_mass(body, qpos) - qpos[:, :3])[:, 1])
    return cycle


def _solve(problem: _Problem, coefficients: np.ndarray) -> np.ndarray:
    """Gauss-Newton with halved steps where a whole one does not lower the cost."""
    cost, slope = problem.costs(coefficients)
    for _ in range(ITERATIONS):
        normal = slope.T @ slope
        step = np.linalg.solve(normal + 1e-9 * np.trace(normal) / len(normal) * np.eye(len(normal)), -slope.T @ cost)
        for _ in range(4):
            fresh, fresh_slope = problem.costs(coefficients + step)
            if fresh @ fresh < cost @ cost:
                break
            step *= 0.5
        else:
            break
        gained = 1.0 - (fresh @ fresh) / (cost @ cost)
        coefficients, cost, slope = coefficients + step, fresh, fresh_slope
        if gained < 1e-3:
            break
    return coefficients
