"""Figures of a retargeted clip."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from tools.retargeting.ground import feet_gap
from tools.retargeting.kinematics import MotionKinematics
from tools.retargeting.targets import Targets

TOUCHING = 0.005  # m: a sole point lower than this touches the floor


@dataclass(frozen=True)
class Metrics:
    """How well and how cleanly a clip follows its capture.

    ==================== ============================================================================== ====
    frames, seconds      length
    rmse_cm              distance of all sites from their targets, root mean square                     cm
    worst_site           the site with the largest root mean square distance
    worst_site_cm        that distance                                                                  cm
    limit_violations     frame-joint pairs beyond the feasible range by more than 1e-9                  1
    coupler_residual     largest violation of a joint coupling                                          rad, m
    penetration_mm       deepest sole point below the floor                                             mm
    foot_slip            mean horizontal speed of the lowest sole point of every foot that touches      m/s
    lift_mm              median height of the lower foot                                                mm
    feet_overlap_mm      deepest overlap of the two feet                                                mm
    max_speed            fastest joint (independent)                                                    rad/s
    tilt_deg             tilt of the captured floor that was taken out                                  deg
    widened_mm           outward shift of each foot that was added                                      mm
    scale                body's leg over captured leg                                                   1
    activation           mean of the activations that fit the motion; nan where not solved
    muscle_residual_nm   joint moment that they leave unexplained, mean over frames                     Nm
    ==================== ============================================================================== ====
    """

    frames: int
    seconds: float
    rmse_cm: float
    worst_site: str
    worst_site_cm: float
    limit_violations: int
    coupler_residual: float
    penetration_mm: float
    foot_slip: float
    lift_mm: float
    feet_overlap_mm: float
    max_speed: float
    tilt_deg: float
    widened_mm: float
    scale: float
    activation: float = float("nan")
    muscle_residual_nm: float = float("nan")

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Plain values, rounded for reading; None where a figure does not exist."""
        rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {k: None if v != v else v for k, v in rounded.items()}

    def line(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.frames:5d} frames {self.seconds:6.2f} s  fit {self.rmse_cm:5.2f} cm  "
            f"limits {self.limit_violations}  penetration {self.penetration_mm:4.1f} mm  "
            f"slip {self.foot_slip:5.3f} m/s  coupler {self.coupler_residual:.0e}  activation {self.activation:.2f}"
        )


def fit_error(kinematics: MotionKinematics, qpos: np.ndarray, targets: Targets) -> np.ndarray:
    """(F, S) m between sites and targets."""
    return np.linalg.norm(kinematics.pose(qpos).body_pos - targets.position, axis=-1)


def measure(
    kinematics: MotionKinematics, qpos: np.ndarray, targets: Targets, fps: float, tilt: float, widened: float
) -> Metrics:
    """All figures of a motion (F, Q); ``tilt`` in degrees and ``widened`` in m are reported as they are given."""
    body = kinematics.body
    per_site = np.sqrt((fit_error(kinematics, qpos, targets) ** 2).mean(axis=0))
    worst = int(per_site.argmax())
    low, high = kinematics.limits()
    coordinates = kinematics.coordinates(qpos)
    outside = (coordinates < low - 1e-9) | (coordinates > high + 1e-9)
    rate = np.gradient(coordinates, 1.0 / fps, axis=0)
    depth, slip, lift, overlap = _ground_figures(kinematics, qpos, fps) if body.free_root else (0.0, 0.0, 0.0, 0.0)
    return Metrics(
        frames=len(qpos),
        seconds=(len(qpos) - 1) / fps,
        rmse_cm=100.0 * float(np.sqrt((per_site**2).mean())),
        worst_site=body.site_names[worst].removesuffix("_mimic"),
        worst_site_cm=100.0 * float(per_site[worst]),
        limit_violations=int(outside.sum()),
        coupler_residual=float(np.abs(body.couplings.residual(qpos)).max()),
        penetration_mm=1000.0 * depth,
        foot_slip=slip,
        lift_mm=1000.0 * lift,
        feet_overlap_mm=1000.0 * overlap,
        max_speed=float(np.abs(rate).max()),
        tilt_deg=tilt,
        widened_mm=1000.0 * widened,
        scale=targets.scale,
    )


def _ground_figures(kinematics: MotionKinematics, qpos: np.ndarray, fps: float) -> tuple[float, float, float, float]:
    pose = kinematics.pose(qpos)
    rate = np.zeros((len(qpos), kinematics.dofs))
    steps = kinematics.tangent(qpos) * fps
    rate[:-1] += 0.5 * steps
    rate[1:] += 0.5 * steps
    rate[[0, -1]] *= 2.0
    velocity = np.einsum("fgcd,fd->fgc", kinematics.sole_jacobian(pose, pose.sole_low), rate)
    speeds = []
    for side in kinematics.body.foot_geom_ids.values():
        foot = np.isin(kinematics.soles, side)
        lowest = pose.sole_low[:, foot, 2].argmin(axis=1)
        frames = np.arange(len(qpos))
        touching = pose.sole_low[:, foot, 2][frames, lowest] < TOUCHING
        speeds.append(np.linalg.norm(velocity[:, foot][frames, lowest, :2], axis=-1)[touching])
    speed = np.concatenate(speeds)
    heights = pose.sole_low[..., 2].min(axis=1)
    depth = max(0.0, -float(heights.min()))
    overlap = max(0.0, -float(feet_gap(kinematics, qpos).min()))
    return depth, float(speed.mean()) if len(speed) else 0.0, float(np.median(heights)), overlap
