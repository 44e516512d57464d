"""Clips and tables of joint angles played on the body without physics, as rollouts of kind ``replay``."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from mm_torch.evaluation.rollout_file import FEET, Rollout
from mm_torch.motion.clip import Clip, bind_to_body
from sim_models.embodiment import Embodiment
from sim_models.kinematics import lowest_sole, reference_velocity
from tools.analysis.norm_tables import bands, table
from tools.library.gait import root_rotation
from tools.retargeting.mot import load_mot


def replay(body: Embodiment, qpos: np.ndarray, fps: float, clip: str, source: str) -> Rollout:
    """Play positions (F, Q) at ``fps`` frames per second: sites, centre of mass and muscle lengths; no forces.

    Args:
        body: embodiment.
        qpos: (F, Q) that satisfy the couplings.
        fps: 1/s.
        clip: name of the motion.
        source: where it comes from.
    """
    model, data = body.model, mujoco.MjData(body.model)
    frames = len(qpos)
    length = np.empty((frames, model.nu))
    sites, com = np.empty((frames, len(body.site_names), 3)), np.empty((frames, 3))
    for f in range(frames):
        data.qpos[:] = qpos[f]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_tendon(model, data)
        mujoco.mj_transmission(model, data)
        length[f], com[f] = data.actuator_length, data.subtree_com[0]
        sites[f] = data.xpos[body.site_body_ids]
    qvel = reference_velocity(body, qpos, 1.0 / fps)
    return Rollout(
        kind="replay", body=body.name, clip=clip, source=source, control_rate=float(fps),
        mass_kg=float(model.body_mass.sum()), time=np.arange(frames) / fps, qpos=qpos, qvel=qvel, ref_qpos=qpos,
        joint_names=tuple(body.joint_names[j] for j in body.hinge_ids), joint_position=qpos[:, body.hinge_qpos],
        joint_velocity=qvel[:, body.hinge_dof], muscle_names=body.muscle_names, muscle_length=length,
        site_names=body.site_names, site_position=sites, com=com, foot_names=FEET, fingers=body.fingers,
    )  # fmt: skip


def replay_clip(body: Embodiment, clip: Clip) -> Rollout:
    """A clip as a rollout.

    Raises:
        MotionError: the clip belongs to another body.
    """
    source = str(clip.provenance.get("source", clip.provenance.get("file", "clip")))
    return replay(body, bind_to_body(clip, body), clip.fps, clip.name, source)


def clip_contact(clip: Clip) -> np.ndarray | None:
    """(F, 2) bool: whether any part of the right, left foot stands, by the clip's labels; None where it has none."""
    if not clip.contact.size:
        return None
    columns = [[k for k, name in enumerate(clip.contact_names) if name.endswith(f"_{side[0]}")] for side in FEET]
    return np.stack([clip.contact[:, k].any(axis=1) for k in columns], axis=1)


def replay_angles(body: Embodiment, path: Path) -> Rollout:
    """Joint angles of an OpenSim table (.mot, .sto) on the body as they are: no fit, no change of size.

    Raises:
        CaptureError: the table cannot be read, or lacks the pelvis.
    """
    motion = load_mot(path)
    qpos = np.repeat(body.neutral_qpos[None], len(motion.qpos), axis=0)
    if motion.root is not None:
        qpos[:, :7] = motion.root
    for name, values in zip(motion.joint_names, motion.qpos.T, strict=True):
        qpos[:, body.model.joint(name).qposadr[0]] = values
    return replay(body, body.couplings.enforce(qpos), motion.fps, path.stem, f"joint angles of {path.name}")


CYCLES = 4  # of a norm that is played


def replay_norm(body: Embodiment, gait: str, fps: float = 100.0) -> tuple[Rollout, np.ndarray]:
    """The published mean curves of a gait as they are on the body, and when its feet stand by the published share of stance.

    The pelvis goes straight on at the published speed, its height constant; the feet slide and float. What a report of it
    says differs from r = 1 by what the report itself gets wrong.

    Args:
        body: embodiment.
        gait: walking or running.
        fps: 1/s.

    Returns:
        The rollout, and contacts (F, 2).
    """
    curves, rows = bands(gait), table("spatiotemporal")[gait]
    speed = curves["hip_flexion"].citation.speed
    row = min((r for r in rows.values() if isinstance(r, dict)), key=lambda r: abs(r["speed"] - speed))
    phase = np.arange(round(CYCLES * 120.0 / row["cadence"] * fps) + 1) / fps * row["cadence"] / 120.0 + 0.9
    qpos = np.repeat(body.neutral_qpos[None], len(phase), axis=0)

    def angle(name: str, at: np.ndarray) -> np.ndarray:
        return np.radians(np.interp(100.0 * (at % 1.0), np.arange(101), curves[name].mean)) if name in curves else 0.0 * at

    for side, lag in (("r", 0.0), ("l", 0.5)):
        for name in ("hip_flexion", "hip_adduction", "knee_angle", "ankle_angle", "subtalar_angle"):
            qpos[:, body.model.joint(f"{name}_{side}").qposadr[0]] = angle(name, phase + lag)
    turns = np.stack([angle(f"pelvis_{n}", phase) for n in ("tilt", "obliquity", "rotation")], axis=1)
    for q, matrix in zip(qpos, root_rotation(turns), strict=True):
        mujoco.mju_mat2Quat(q[3:7], matrix.ravel())
    qpos = body.couplings.enforce(qpos)
    qpos[:, 1] = -speed * np.arange(len(phase)) / fps
    qpos[:, 2] -= lowest_sole(body, qpos)
    contact = np.stack([(phase + lag) % 1.0 < row["stance"] for lag in (0.0, 0.5)], axis=1)
    return replay(body, qpos, fps, f"norm of {gait}", curves["hip_flexion"].citation.source), contact
