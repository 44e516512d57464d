"""What a motion must satisfy to enter the library: ranges, couplings, contacts, slip, speeds, accelerations."""

from __future__ import annotations

from dataclasses import dataclass, fields

import mujoco
import numpy as np

from mm_torch.motion.clip import Clip
from sim_models.embodiment import Embodiment
from sim_models.kinematics import lowest_points, site_motion
from tools.library.sole import lowest_surface_points

MAX_COUPLING_ERROR = 1e-6  # rad or m
MAX_PENETRATION = 5e-3  # m, soles into the floor
MAX_FLOAT = 1e-2  # m, lowest sole above the floor while a foot carries
MAX_SLIP = 0.1  # m/s, mean over stance
MAX_PAIR_OVERLAP = 2e-3  # m, body parts into each other
MAX_HAND_SPEED = 2.0  # m/s, relative to the root
MAX_ACCELERATION = 450.0  # rad/s^2; the knee reaches it when a running foot lands
VERTICAL_FORCE = (-0.15, 3.0)  # body weights; below zero by what a finite series leaves of free fall
CONTACT_HEIGHT = 2e-3  # m: a sole geom lower than this touches
GRAVITY = 9.81


@dataclass(frozen=True)
class Figures:
    """Measured quality of a clip; lengths in m, times in s, angles in rad, forces in body weights.

    ============= =================================================================================
    seconds       duration
    speed         mean horizontal speed of the root (0 on a fixed root)
    coupling      largest coupling residual
    margin        smallest distance of an independent joint to its feasible range (negative: outside)
    overlap       deepest overlap of body parts that may touch
    hand_speed    largest speed of a wrist (toy: of the hand) relative to the root
    acceleration  largest joint acceleration
    penetration   deepest sole point under the floor
    hover         largest height of the lowest sole while a foot should carry
    slip          mean speed of the lowest material point of a touching foot
    force_low     smallest vertical force the whole-body motion asks for
    force_high    largest
    ============= =================================================================================
    """

    seconds: float
    speed: float
    coupling: float
    margin: float
    overlap: float
    hand_speed: float
    acceleration: float
    penetration: float = 0.0
    hover: float = 0.0
    slip: float = 0.0
    force_low: float = 1.0
    force_high: float = 1.0

    def line(self) -> str:
        """The figures in one line."""
        return "  ".join(f"{f.name} {getattr(self, f.name):.4g}" for f in fields(self))

    def failures(self) -> list[str]:
        """What is out of bounds, in words; empty for an accepted clip."""
        checks = (
            (self.coupling <= MAX_COUPLING_ERROR, f"coupling error {self.coupling:.2g}"),
            (self.margin >= -1e-9, f"joint outside its range by {-self.margin:.3f} rad"),
            (self.overlap <= MAX_PAIR_OVERLAP, f"body parts overlap by {self.overlap * 1e3:.1f} mm"),
            (self.hand_speed <= MAX_HAND_SPEED, f"hand speed {self.hand_speed:.2f} m/s"),
            (self.acceleration <= MAX_ACCELERATION, f"joint acceleration {self.acceleration:.0f} rad/s^2"),
            (self.penetration <= MAX_PENETRATION, f"sole {self.penetration * 1e3:.1f} mm under the floor"),
            (self.hover <= MAX_FLOAT, f"stance foot {self.hover * 1e3:.1f} mm above the floor"),
            (self.slip <= MAX_SLIP, f"stance foot slips at {self.slip:.2f} m/s"),
            (self.force_low >= VERTICAL_FORCE[0], f"vertical force {self.force_low:.2f} body weights"),
            (self.force_high <= VERTICAL_FORCE[1], f"vertical force {self.force_high:.2f} body weights"),
        )
        return [text for ok, text in checks if not ok]


def measure(body: Embodiment, clip: Clip, airborne: bool = False) -> Figures:
    """Figures of a clip.  ``airborne``: phases without a foot on the floor are part of the motion (running)."""
    qpos = clip.qpos
    ids = body.independent_hinges
    adr, ranges = body.model.jnt_qposadr[ids], body.joint_ranges[ids]
    margin = np.minimum(qpos[:, adr] - ranges[:, 0], ranges[:, 1] - qpos[:, adr]).min()
    residual = body.couplings.residual(qpos)
    sites = site_motion(body, qpos, clip.qvel)
    root = clip.qvel[:, None, :3] if body.free_root else 0.0
    hands = [i for i, name in enumerate(body.site_names) if "hand" in name]
    qacc = np.gradient(clip.qvel[:, body.model.jnt_dofadr[ids]], 1.0 / clip.fps, axis=0)[2:-2]
    figures = {
        "seconds": clip.duration,
        "speed": 0.0,
        "coupling": float(np.abs(residual).max()) if residual.size else 0.0,
        "margin": float(margin),
        "overlap": pair_overlap(body, qpos),
        "hand_speed": float(np.linalg.norm(sites.velocity[:, hands, 3:] - root, axis=-1).max()),
        "acceleration": float(np.abs(qacc).max()),
    }
    if body.free_root:
        figures["speed"] = float(np.linalg.norm(qpos[-1, :2] - qpos[0, :2]) / clip.duration)
        figures |= _floor_figures(body, qpos, clip.fps, airborne) | _vertical_force(body, qpos, clip.fps)
    return Figures(**figures)


def pair_overlap(body: Embodiment, qpos: np.ndarray) -> float:
    """Deepest overlap (m, >= 0) of geoms that may touch, the floor aside, over a motion (F, Q)."""
    model, data = body.model, mujoco.MjData(body.model)
    floor = [g for g in range(model.ngeom) if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_PLANE]
    deepest = 0.0
    for q in qpos:
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        inside = ~np.isin(data.contact.geom, floor).any(axis=1)
        deepest = max(deepest, float(-data.contact.dist[inside].min(initial=0.0)))
    return deepest


def _floor_figures(body: Embodiment, qpos: np.ndarray, fps: float, airborne: bool) -> dict[str, float]:
    geoms = np.concatenate(list(body.foot_geom_ids.values()))
    heights = lowest_points(body, qpos, geoms)
    lowest = heights.min(axis=1)
    return {
        "penetration": float(max(0.0, -lowest.min())),
        "hover": 0.0 if airborne else float(max(0.0, lowest.max())),
        "slip": _slip(body, qpos, fps, heights),
    }


def _slip(body: Embodiment, qpos: np.ndarray, fps: float, heights: np.ndarray) -> float:
    """Mean horizontal speed of the lowest material point of each touching foot, m/s."""
    model = body.model
    before, after = mujoco.MjData(model), mujoco.MjData(model)
    speeds, start = [], 0
    for ids in body.foot_geom_ids.values():
        mine = heights[:, start : start + len(ids)]
        start += len(ids)
        for f in np.flatnonzero(mine[:-1].min(axis=1) < CONTACT_HEIGHT):
            geom = ids[np.argmin(mine[f])]
            for data, q in ((before, qpos[f]), (after, qpos[f + 1])):
                data.qpos[:] = q
                mujoco.mj_kinematics(model, data)
            foot = model.geom_bodyid[geom]
            point = lowest_surface_points(
                model.geom_type[[geom]], model.geom_size[[geom]], before.geom_xpos[[geom]],
                before.geom_xmat[[geom]].reshape(1, 3, 3),
            )[0]
            local = before.xmat[foot].reshape(3, 3).T @ (point - before.xpos[foot])
            moved = after.xpos[foot] + after.xmat[foot].reshape(3, 3) @ local - point
            speeds.append(np.linalg.norm(moved[:2]) * fps)
    return float(np.mean(speeds)) if speeds else 0.0


def _vertical_force(body: Embodiment, qpos: np.ndarray, fps: float) -> dict[str, float]:
    """Vertical force on the whole body from the acceleration of its centre of mass, in body weights."""
    height = centre_of_mass(body, qpos)[:, 2]
    force = 1.0 + np.gradient(np.gradient(height, 1.0 / fps), 1.0 / fps)[2:-2] / GRAVITY
    return {"force_low": float(force.min()), "force_high": float(force.max())}


def centre_of_mass(body: Embodiment, qpos: np.ndarray) -> np.ndarray:
    """Centre of mass (F, 3) in m of a motion (F, Q)."""
    data = mujoco.MjData(body.model)
    com = np.empty((len(qpos), 3))
    for f, q in enumerate(qpos):
        data.qpos[:] = q
        mujoco.mj_kinematics(body.model, data)
        mujoco.mj_comPos(body.model, data)
        com[f] = data.subtree_com[0]
    return com
