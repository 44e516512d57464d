"""Figures of a retargeted clip, measured on the model itself with MuJoCo, not on the solver's own kinematics."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment
from sim_models.kinematics import reference_velocity
from tools.retargeting import balance
from tools.retargeting.ground import part_motion, support
from tools.retargeting.kinematics import kinematics_of
from tools.retargeting.soles import floor_surface, solid_geoms

LIMIT_TOLERANCE = 1e-5  # rad, m
DEEP = 1e-3  # m: deeper floor contacts count as penetration
TOUCHING = 0.005  # m: a sole point lower than this touches the floor
JUMP_RATIO, JUMP_LEAST, MEMORY = 10.0, 1e-3, 0.99  # a tendon jumps when it changes so much faster than it used to
SEVERE, PIECES = 0.05, 200  # of rest length: jump that fails a clip; parts into which its frame is divided
NAN = float("nan")


@dataclass(frozen=True)
class Metrics:
    """How well and how cleanly a clip follows its capture; nan where a figure does not exist.

    ====================== ============================================================================ ========
    frames                 length
    rmse_m                 distance of all sites from the scaled targets, root mean square              m
    rmse_shifted_m         the same from the targets after step width and balance were corrected        m
    worst_site             the site with the largest root mean square distance
    worst_site_m           that distance                                                                m
    limit_pct              frame-joint pairs outside the joint's range by more than 1e-5, coupled       %
                           joints included
    limit_pct_independent  the same over the independent joints                                         %
    limit_excess_max       how far any joint, coupled ones included, is outside its range at most      rad, m
    coupler_max            largest violation of a joint coupling                                        rad, m
    penetration_pct        frames with a floor contact deeper than 1 mm                                 %
    penetration_max_m      deepest floor contact of any geom                                            m
    float_max_m            lowest point of the soles over the whole clip, where it never comes down     m
    slip_median, slip_p95  horizontal speed of the lowest point of heel, ball and toes during contact,  m/s
                           first and last frame of each excepted
    slip_touching_p95      the same of whatever part of a sole is lower than 5 mm, labelled or not      m/s
    tendon_jump_max        largest change of a tendon's length in a frame, over its rest length, that   1
                           is a jump (ten times its running mean)
    tendon_jump_name       the tendon
    tendon_jump_motion_max the same over jumps beyond 5 % that are not the model's own: where the path of   1
                           a tendon flips, its length is discontinuous in the pose
    tendon_jump_cause      of jumps beyond 5 %: "model" (paths flip), "motion" (fast over several frames),
                           "solver" (neither: one frame stands out), the worst of them; empty: no jump
    qvel_error             stored velocities against differences of the positions, over the largest     1
    ms_per_frame           processor time of all stages but muscle activations and these figures        ms
    activation_ms_per_frame  time of the muscle activations                                             ms
    self_collision_max_m   deepest overlap over the model's contact pairs                               m
    zmp_outside_mean_m     zero-moment point outside the hull of the contacts, mean over loaded frames
                           in which nothing but the soles is on the floor                               m
    elevation_min_rad      smallest elevation of a shoulder                                             rad
    gimbal_range_rad       largest turn of a plane of elevation (``elv_angle``) within a second         rad
    gimbal_p95_nm          moment about a plane of elevation, 95th percentile                           Nm
    trunk_yaw_max_nm       largest moment about the trunk's axis of rotation                            Nm
    max_speed              fastest independent joint                                                    rad/s
    jerk_p95               95th percentile of the independent joints' jerk                              rad/s^3
    repaired_pct           captured frames in which a part was bridged (tools/retargeting/repair.py)   %
    cut_pct                captured frames at the ends that were cut off, because they can only be guessed     %
    tilt_deg               tilt of the captured floor that was taken out                                deg
    widened_m              outward shift of each foot that was added                                    m
    balance_shift_max_m    largest shift of the pelvis that balance asked for                           m
    scale                  body's leg over captured leg                                                 1
    activation             mean of the activations that fit the motion
    saturated_pct          muscles above 0.98 of full activation, mean over frames                      %
    muscle_residual_nm     joint moment that they leave unexplained, mean over frames                   Nm
    root_residual_n,       force and moment that neither muscles nor floor supply at a free root, mean  N, Nm
    root_residual_nm       over frames
    root_residual_p95_n,   the same, 95th percentile                                                    N, Nm
    root_residual_p95_nm
    vertical_force_bw      vertical force of the floor, mean over frames                                body weights
    feasible_pct           frames whose residuals are small enough (docs/activations.md)                %
    ====================== ============================================================================ ========
    """

    frames: int
    rmse_m: float
    limit_pct: float
    limit_pct_independent: float
    coupler_max: float
    penetration_pct: float
    penetration_max_m: float
    float_max_m: float
    slip_median: float
    slip_p95: float
    tendon_jump_max: float
    qvel_error: float
    ms_per_frame: float = NAN
    limit_excess_max: float = NAN
    rmse_shifted_m: float = NAN
    worst_site: str = ""
    worst_site_m: float = NAN
    slip_touching_p95: float = NAN
    tendon_jump_name: str = ""
    tendon_jump_motion_max: float = NAN
    tendon_jump_cause: str = ""
    self_collision_max_m: float = NAN
    zmp_outside_mean_m: float = NAN
    elevation_min_rad: float = NAN
    gimbal_range_rad: float = NAN
    gimbal_p95_nm: float = NAN
    trunk_yaw_max_nm: float = NAN
    max_speed: float = NAN
    jerk_p95: float = NAN
    repaired_pct: float = NAN
    cut_pct: float = NAN
    tilt_deg: float = NAN
    widened_m: float = NAN
    balance_shift_max_m: float = NAN
    scale: float = NAN
    activation_ms_per_frame: float = NAN
    activation: float = NAN
    saturated_pct: float = NAN
    muscle_residual_nm: float = NAN
    root_residual_n: float = NAN
    root_residual_nm: float = NAN
    root_residual_p95_n: float = NAN
    root_residual_p95_nm: float = NAN
    vertical_force_bw: float = NAN
    feasible_pct: float = NAN

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Plain values, rounded for reading; None where a figure does not exist."""
        rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {k: None if v != v else v for k, v in rounded.items()}

    def line(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.frames:5d} frames  fit {1e3 * self.rmse_m:4.1f} mm  limits {self.limit_pct:.2f} %  "
            f"floor {1e3 * self.penetration_max_m:3.1f} mm  slip {1e2 * self.slip_median:4.1f}/{1e2 * self.slip_p95:4.1f} "
            f"cm/s  self {1e3 * self.self_collision_max_m:3.1f} mm  zmp {1e3 * self.zmp_outside_mean_m:3.0f} mm  "
            f"jump {100 * self.tendon_jump_max:4.1f} %  {self.ms_per_frame:5.2f} ms/frame"
        )

    def untimed(self) -> Metrics:
        """Without the times, which differ from run to run."""
        return replace(self, ms_per_frame=NAN, activation_ms_per_frame=NAN)


def fit_error(body: Embodiment, qpos: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(F, S) m between the sites of a motion (F, Q) and wanted positions (F, S, 3) m."""
    kinematics = kinematics_of(body)
    sites = kinematics.points(body.site_body_ids, np.zeros((len(body.site_names), 3)))
    at = sites.at(kinematics.pose(kinematics.tensor(qpos))).numpy()
    return np.linalg.norm(at - position, axis=-1)


def measure(
    body: Embodiment,
    qpos: np.ndarray,
    fps: float,
    *,
    wanted: np.ndarray,
    shifted: np.ndarray | None = None,
    contact: np.ndarray | None = None,
    **given: float,
) -> Metrics:
    """All figures of a motion (F, Q).

    Args:
        body: embodiment.
        qpos: (F, Q) as it is stored.
        fps: frames per second.
        wanted: (F, S, 3) m scaled targets.
        shifted: the same after corrections of step width and balance.
        contact: (F, K) labels of the parts of the soles.
        given: figures to pass on (``repaired_pct``, ``cut_pct``, ``tilt_deg``, ``widened_m``, ``balance_shift_max_m``,
            ``scale``).
    """
    per_site = np.sqrt((fit_error(body, qpos, wanted) ** 2).mean(axis=0))
    worst = int(per_site.argmax())
    inverse = balance.inverse_dynamics(body, qpos, fps)
    after = per_site if shifted is None else np.sqrt((fit_error(body, qpos, shifted) ** 2).mean(axis=0))
    return Metrics(
        frames=len(qpos),
        rmse_m=float(np.sqrt((per_site**2).mean())),
        rmse_shifted_m=float(np.sqrt((after**2).mean())),
        worst_site=body.site_names[worst].removesuffix("_mimic"),
        worst_site_m=float(per_site[worst]),
        coupler_max=float(np.abs(body.couplings.residual(qpos)).max()),
        **limits(body, qpos),
        **touching(body, qpos),
        **speeds(body, qpos, fps),
        **moments(body, qpos, fps, inverse[0]),
        **(_on_the_floor(body, qpos, fps, balance.at_the_root(body, qpos, *inverse), contact) if body.free_root else
           {"float_max_m": 0.0, "slip_median": 0.0, "slip_p95": 0.0}),
        **given,
    )


def limits(body: Embodiment, qpos: np.ndarray) -> dict[str, float]:
    """Shares in % of frame-joint pairs outside the model's own ranges, and how far outside at most."""
    limited = body.hinge_ids[body.model.jnt_limited[body.hinge_ids].astype(bool)]
    value, (low, high) = qpos[:, body.model.jnt_qposadr[limited]], body.model.jnt_range[limited].T
    excess = np.maximum(low - value, value - high)
    outside = excess > LIMIT_TOLERANCE
    independent = np.isin(limited, body.independent_hinges)
    shoulder = [body.model.joint(j).qposadr[0] for j in limited if body.model.joint(j).name.startswith("shoulder_elv")]
    return {
        "limit_pct": 100.0 * float(outside.mean()),
        "limit_excess_max": float(excess.max(initial=0.0)),
        "limit_pct_independent": 100.0 * float(outside[:, independent].mean()),
        "elevation_min_rad": float(qpos[:, shoulder].min()) if shoulder else NAN,
    }


def contacts_and_tendons(model: mujoco.MjModel, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deepest contact with the floor (F,) m and of the body with itself (F,) m, 0 where none; tendon lengths (F, T) m."""
    data, of_the_floor = mujoco.MjData(model), model.geom_bodyid == 0
    on_the_floor, inside, length = np.zeros(len(qpos)), np.zeros(len(qpos)), np.empty((len(qpos), model.ntendon))
    for f in range(len(qpos)):
        data.qpos[:] = qpos[f]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_tendon(model, data)
        mujoco.mj_collision(model, data)
        length[f] = data.ten_length
        if data.ncon:
            depth, with_floor = -data.contact.dist, of_the_floor[data.contact.geom].any(axis=1)
            on_the_floor[f] = depth[with_floor].max(initial=0.0)
            inside[f] = depth[~with_floor].max(initial=0.0)
    return on_the_floor, inside, length


def touching(body: Embodiment, qpos: np.ndarray) -> dict[str, float | str]:
    """Contacts and tendons, frame by frame: floor penetration, self-collision, jumps of tendon lengths."""
    model = body.model
    deepest, inside, length = contacts_and_tendons(model, qpos)
    jump, tendon = tendon_jump(length, model.tendon_length0)
    severe, cause = jump_of_the_motion(body, qpos, length) if jump > SEVERE else (0.0, "")
    return {
        "penetration_pct": 100.0 * float((deepest > DEEP).mean()),
        "penetration_max_m": float(deepest.max()),
        "self_collision_max_m": float(inside.max()),
        "tendon_jump_max": jump,
        "tendon_jump_motion_max": severe,
        "tendon_jump_cause": cause,
        "tendon_jump_name": "" if tendon < 0 else model.tendon(tendon).name,
    }


def tendon_jump(length: np.ndarray, rest: np.ndarray) -> tuple[float, int]:
    """Largest jump and its tendon (-1: none) of lengths (F, T) m with rest lengths (T,) m."""
    sizes = tendon_jumps(length, rest)
    if not sizes.any():
        return 0.0, -1
    return float(sizes.max()), int(sizes.max(axis=0).argmax())


def tendon_jumps(length: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(F - 1, T) sizes of the jumps of lengths (F, T) m with rest lengths (T,) m; 0 where there is none.

    A change ``|L_t - L_{t-1}| / L_0`` is a jump where it exceeds both 1e-3 and ten times its running mean
    ``m_t = 0.99 m_{t-1} + 0.01 change``.

    Source: tendon metric of MuscleMimic 0.1.0.
    """
    change = np.abs(np.diff(length, axis=0)) / np.maximum(rest, 1e-6)
    sizes = np.zeros_like(change)
    mean = change[0] if len(change) else np.zeros(len(rest))
    for t in range(1, len(change)):
        mean = MEMORY * mean + (1.0 - MEMORY) * change[t]
        sizes[t] = np.where(change[t] > np.maximum(JUMP_RATIO * mean, JUMP_LEAST), change[t], 0.0)
    return sizes


def jump_of_the_motion(body: Embodiment, qpos: np.ndarray, length: np.ndarray) -> tuple[float, str]:
    """Largest jump beyond ``SEVERE`` that is no discontinuity of the model's tendon paths, and the cause of the worst.

    The motion between the two frames is walked through in ``PIECES``. Where most of the change happens within one of them,
    however small, the tendon's path over a wrapping geom flips: the model jumps, whoever moves it. Where the tendon goes on
    at half that speed in the step before or after, the motion is fast; what is left stands alone: the solver's.

    Args:
        body: embodiment.
        qpos: (F, Q) motion.
        length: (F, T) m of the tendons, with a jump beyond ``SEVERE``.
    """
    model, data = body.model, mujoco.MjData(body.model)
    sizes, change = tendon_jumps(length, model.tendon_length0), np.diff(length, axis=0)
    largest, step, cause = 0.0, np.zeros(model.nv), "model"
    for t in np.unique(np.nonzero(sizes > SEVERE)[0]):
        tendons = np.flatnonzero(sizes[t] > SEVERE)
        mujoco.mj_differentiatePos(model, step, 1.0, qpos[t], qpos[t + 1])
        lengths = np.empty((PIECES + 1, len(tendons)))
        for k in range(PIECES + 1):
            data.qpos[:] = qpos[t]
            mujoco.mj_integratePos(model, data.qpos, step, k / PIECES)
            mujoco.mj_kinematics(model, data)
            mujoco.mj_tendon(model, data)
            lengths[k] = data.ten_length[tendons]
        pieces = np.abs(np.diff(lengths, axis=0)) / np.maximum(model.tendon_length0[tendons], 1e-6)
        steady = pieces.max(axis=0) < 0.5 * sizes[t, tendons]
        if not steady.any():
            continue
        beside = change[[max(t - 1, 0), min(t + 1, len(change) - 1)]][:, tendons] / change[t, tendons]
        fast = beside.max(axis=0, where=np.array([[t > 0], [t + 1 < len(change)]]), initial=0.0) > 0.5
        cause = "solver" if cause == "solver" or not fast[steady].all() else "motion"
        largest = max(largest, float(sizes[t, tendons][steady].max()))
    return largest, cause


def speeds(body: Embodiment, qpos: np.ndarray, fps: float) -> dict[str, float]:
    """Speed and jerk of the independent joints, and the error of velocities stored in single precision."""
    adr = body.model.jnt_qposadr[body.independent_hinges]
    qvel = reference_velocity(body, qpos, 1.0 / fps)
    if len(qpos) < 4:
        return {"max_speed": float(np.abs(qvel).max(initial=0.0)), "jerk_p95": 0.0, "qvel_error": 0.0}
    dof = body.model.jnt_dofadr[body.hinge_ids]
    exact = 0.5 * fps * (qpos[2:, body.hinge_qpos] - qpos[:-2, body.hinge_qpos])
    stored = qvel.astype(np.float32).astype(float)[1:-1][:, dof]
    return {
        "max_speed": float(np.abs(np.gradient(qpos[:, adr], 1.0 / fps, axis=0)).max()),
        "jerk_p95": float(np.percentile(np.abs(np.diff(qpos[:, adr], n=3, axis=0)) * fps**3, 95)),
        "qvel_error": float(np.abs(stored - exact).max() / max(np.abs(exact).max(), 1e-9)),
    }


def moments(body: Embodiment, qpos: np.ndarray, fps: float, force: np.ndarray) -> dict[str, float]:
    """What forces (F, V) ask of muscles about the trunk and the shoulders' planes of elevation; how far the planes turn."""
    about = {name: np.abs(balance.joint_moment(body, qpos, force, name))
             for name in (balance.YAW_JOINT, *balance.PLANES) if name in body.joint_names}
    planes = [name for name in balance.PLANES if name in about]
    angle = qpos[:, [body.model.joint(name).qposadr[0] for name in planes]]
    second = min(round(fps), len(qpos) - 1) + 1
    turned = np.ptp(np.lib.stride_tricks.sliding_window_view(angle, second, axis=0), axis=-1)
    return {
        "trunk_yaw_max_nm": float(about[balance.YAW_JOINT].max()) if balance.YAW_JOINT in about else NAN,
        "gimbal_range_rad": float(turned.max()) if planes else NAN,
        "gimbal_p95_nm": float(np.percentile([about[name] for name in planes], 95)) if planes else NAN,
    }


def _on_the_floor(
    body: Embodiment, qpos: np.ndarray, fps: float, motion: balance.Dynamics, contact: np.ndarray | None
) -> dict[str, float]:
    kinematics = kinematics_of(body)
    surface = floor_surface(kinematics, solid_geoms(body.model))
    pose = kinematics.pose(kinematics.tensor(qpos))
    velocity, low = part_motion(surface, pose, fps)
    speed = np.linalg.norm(velocity[..., :2], axis=-1)
    near = low < TOUCHING
    held = np.zeros_like(near) if contact is None else contact.copy()
    held[1:] &= held[:-1].copy()  # speeds are differences over three frames, which the contact has to span
    held[:-1] &= held[1:].copy()
    out = {
        "float_max_m": max(0.0, float(low.min())),
        "slip_median": float(np.median(speed[held])) if held.any() else NAN,
        "slip_p95": float(np.percentile(speed[held], 95)) if held.any() else NAN,
        "slip_touching_p95": float(np.percentile(speed[near], 95)) if near.any() else NAN,
    }
    if contact is not None:
        corners, valid = support(surface, pose, contact)
        loaded = valid.any(axis=1) & (motion.load > balance.LIGHT)
        distance = np.maximum(balance.outside(motion.point, corners, valid)[0], 0.0)[loaded]
        out["zmp_outside_mean_m"] = float(distance.mean()) if len(distance) else NAN
    return out
