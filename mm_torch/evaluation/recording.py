"""From recorded states to a rollout: contact forces, moments, muscles and sites by MuJoCo, state by state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import mujoco
import numpy as np

from mm_torch.evaluation.rollout_file import FEET, Rollout, write_rollout
from mm_torch.evaluation.tracker import Trace
from sim_models.embodiment import Embodiment

ITERATIONS = 100  # of the solver; the simulation itself makes do with a few, warm-started every substep


def record_states(
    body: Embodiment,
    qpos: np.ndarray,
    qvel: np.ndarray,
    *,
    clip: str,
    source: str,
    activation: np.ndarray | None = None,
    excitation: np.ndarray | None = None,
    ref_qpos: np.ndarray | None = None,
) -> Rollout:
    """A rollout from states at the control rate.

    Args:
        body: the embodiment that was simulated (with its strengths, where muscles were weakened).
        qpos: (F, Q).
        qvel: (F, V).
        clip: name of the motion.
        source: where the states come from.
        activation: (F, M); None makes a replay, which has no forces.
        excitation: (F, M), held in the control step that ended at each frame; None: the activations.
        ref_qpos: (F, Q) reference; None: ``qpos``.

    Returns:
        The rollout. Contact forces, muscle forces and moments are those that MuJoCo finds for the state and the activations
        of each frame, its constraint solver run to convergence.
    """
    model = copy.copy(body.model)
    model.opt.iterations = ITERATIONS
    data = mujoco.MjData(model)
    feet = _foot_bodies(body) if activation is not None and body.feet else None
    rows = []
    for frame in range(len(qpos)):
        data.qpos[:], data.qvel[:] = qpos[frame], qvel[frame]
        if activation is None:
            mujoco.mj_fwdPosition(model, data)
        else:
            data.act[:] = activation[frame]
            mujoco.mj_forward(model, data)
        row = {
            "muscle_length": data.actuator_length.copy(), "site_position": data.xpos[body.site_body_ids],
            "com": data.subtree_com[0].copy(),
        }
        if activation is not None:
            row |= {"joint_moment": data.qfrc_actuator[body.hinge_dof], "muscle_force": -data.actuator_force}
            data.qacc_warmstart[:] = data.qacc
        if feet is not None:
            row["foot_force"], row["foot_centre_of_pressure"] = foot_contacts(model, data, feet)
        rows.append(row)
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if activation is not None:
        arrays |= {"activation": activation, "excitation": activation if excitation is None else excitation}
    return Rollout(
        kind="replay" if activation is None else "rollout", body=body.name, clip=clip, source=source,
        control_rate=1.0 / body.control_dt, mass_kg=float(model.body_mass.sum()), fingers=body.fingers,
        time=np.arange(len(qpos)) * body.control_dt, qpos=qpos, qvel=qvel,
        ref_qpos=qpos if ref_qpos is None else ref_qpos,
        joint_names=tuple(body.joint_names[j] for j in body.hinge_ids), muscle_names=body.muscle_names,
        site_names=body.site_names, joint_position=qpos[:, body.hinge_qpos], joint_velocity=qvel[:, body.hinge_dof],
        **arrays,
    )


def _foot_bodies(body: Embodiment) -> list[np.ndarray]:
    """Bodies that carry the soles of the right and of the left foot."""
    return [np.unique(body.model.geom_bodyid[body.foot_geom_ids[side]]) for side in FEET]


def foot_contacts(model: mujoco.MjModel, data: mujoco.MjData, feet: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Force of the ground on each foot and where it acts.

    Args:
        model: model.
        data: after ``mj_forward``.
        feet: bodies of each foot; whatever does not move is ground.

    Returns:
        force (2, 3) N, world: normal and friction, summed over the contacts; centre of pressure (2, 3) m, world: the mean
        of the contact points weighted by vertical force, NaN where none carries any.
    """
    force, moment, wrench = np.zeros((len(feet), 3)), np.zeros((len(feet), 3)), np.zeros(6)
    bodies = model.geom_bodyid[data.contact.geom] if data.ncon else np.zeros((0, 2), dtype=int)
    for index, pair in enumerate(bodies):
        if 0 not in model.body_weldid[pair]:
            continue
        for foot, members in enumerate(feet):
            inside = np.isin(pair, members)
            if not inside.any():
                continue
            mujoco.mj_contactForce(model, data, index, wrench)
            contact = data.contact[index]
            # the frame's first axis points from the first geom to the second, on which the force acts
            push = wrench[:3] @ contact.frame.reshape(3, 3) * (1.0 if inside[1] else -1.0)
            force[foot] += push
            moment[foot] += push[2] * contact.pos
    carried = force[:, 2:] > 0.0
    return force, np.where(carried, moment / np.where(carried, force[:, 2:], 1.0), np.nan)


def rollout_of(body: Embodiment, trace: Trace, source: str) -> Rollout:
    """The rollout of a recorded trace.

    Args:
        body: the embodiment that was simulated.
        trace: states of one clip.
        source: where they come from.
    """
    return record_states(
        body, trace.qpos, trace.qvel, clip=trace.clip, source=source, activation=trace.activation,
        excitation=trace.excitation, ref_qpos=trace.ref_qpos,
    )


def rollout_writer(body: Embodiment, names: Sequence[str], folder: Path, source: str) -> Callable[[Trace], None]:
    """What writes each trace that it is given to ``folder/CLIP.npz``.

    Args:
        body: the embodiment that was simulated.
        names: of the bank's clips; where several have one name, those after the first get a number.
        folder: where to.
        source: where the states come from.
    """
    def write(trace: Trace) -> None:
        count = 1 + names[: trace.number].count(trace.clip)
        name = trace.clip.replace("/", "_") + (f"-{count}" if count > 1 else "")
        write_rollout(folder / f"{name}.npz", rollout_of(body, trace, source))

    return write
