"""Edits of the published MJCF through ``MjSpec``: fingers, mimic sites, sensors, control range, solver options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mujoco

from sim_models.fixes import apply_fixes
from sim_models.muscles import FINGER_JOINT, FINGER_MUSCLE, FINGER_TENDON

TIMESTEP = 0.002
SUBSTEPS = 5


def remove_fingers(spec: mujoco.MjSpec) -> None:
    """Delete finger joints, muscles and tendons; the finger bodies stay, welded at their zero pose."""
    for elements, pattern in (
        (spec.actuators, FINGER_MUSCLE),
        (spec.tendons, FINGER_TENDON),
        (spec.joints, FINGER_JOINT),
    ):
        for element in [e for e in elements if pattern.match(e.name)]:
            spec.delete(element)


def add_mimic_sites(spec: mujoco.MjSpec, sites: Mapping[str, str]) -> None:
    """Add the sites whose motion is imitated, at the origin and in the frame of their bodies.

    Args:
        spec: model to edit.
        sites: site name to body name.
    """
    for site, body in sites.items():
        spec.body(body).add_site(
            name=site, type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.075, 0.05, 0.025], group=4
        )


def remove_velocity_sensors(spec: mujoco.MjSpec) -> None:
    """Delete the frame-velocity sensors: nothing reads them, and they cost time in every substep."""
    unread = (mujoco.mjtSensor.mjSENS_FRAMELINVEL, mujoco.mjtSensor.mjSENS_FRAMEANGVEL)
    for sensor in [s for s in spec.sensors if s.type in unread]:
        spec.delete(sensor)


def set_excitation_range(spec: mujoco.MjSpec) -> None:
    """Let every muscle take excitations in [0, 1], the range MuJoCo's muscle dynamics acts on."""
    for actuator in spec.actuators:
        actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_TRUE
        actuator.ctrlrange = [0.0, 1.0]


def set_options(spec: mujoco.MjSpec) -> None:
    """Simulator options for every back end, in training and in evaluation.

    2 ms Euler substeps (five make one 100 Hz control step), Newton with 4 iterations of 8 line-search steps, implicit
    joint damping off.  Source: MuscleMimic 0.1.0, training environments. Automatic resets are off, too: a world that is
    no longer finite must be seen, not silently put back to its initial pose.
    """
    option = spec.option
    option.timestep = TIMESTEP
    option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations = 4
    option.ls_iterations = 8
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP | mujoco.mjtDisableBit.mjDSBL_AUTORESET


def prepare(
    spec: mujoco.MjSpec, sites: Mapping[str, str], fingers: bool, fixes: Sequence[str] = ()
) -> mujoco.MjModel:
    """Make all edits and compile.

    Args:
        spec: published model, edited in place.
        sites: mimic site name to body name.
        fingers: whether the fingers move.
        fixes: names of ``sim_models.fixes`` to apply first.
    """
    apply_fixes(spec, fixes)
    if not fingers:
        remove_fingers(spec)
    add_mimic_sites(spec, sites)
    remove_velocity_sensors(spec)
    set_excitation_range(spec)
    set_options(spec)
    return spec.compile()
