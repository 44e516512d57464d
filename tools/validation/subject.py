"""The model under test, and the sweeps of its joints that several checks read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import mujoco
import numpy as np

from sim_models.embodiment import Embodiment

POINTS = 181
STEP = 1e-5  # rad or m, central difference


@dataclass(frozen=True)
class Sweep:
    """Tendon lengths along the range of one joint, coupled joints moving along.

    ======== ====================================== ===============
    joint    joint id                               int
    grid     joint positions                        (n,) rad or m
    length   tendon lengths                         (n, T) m
    slope    dL/dq; the moment arm is its negative  (n, T) m/rad
    ======== ====================================== ===============
    """

    joint: int
    grid: np.ndarray
    length: np.ndarray
    slope: np.ndarray


class Subject:
    """A compiled model with muscles on tendons; ``lateral_axis`` is the world axis that points sideways at ``qpos0``."""

    def __init__(self, name: str, model: mujoco.MjModel, lateral_axis: int = 0) -> None:
        self.name, self.model, self.data = name, model, mujoco.MjData(model)
        self.body = Embodiment(name, model, {}, {}, (), lateral_axis, 0, 0, fingers=True)
        self.neutral = self.body.couplings.enforce(model.qpos0.copy())

    @cached_property
    def muscles(self) -> np.ndarray:
        """(M,) ids of the muscle actuators that pull on a tendon."""
        m = self.model
        return np.flatnonzero((m.actuator_gaintype == mujoco.mjtGain.mjGAIN_MUSCLE)
                              & (m.actuator_trntype == mujoco.mjtTrn.mjTRN_TENDON))

    @cached_property
    def tendon_of(self) -> np.ndarray:
        """(M,) tendon of each muscle in ``muscles``."""
        return self.model.actuator_trnid[self.muscles, 0]

    @cached_property
    def joints(self) -> list[int]:
        """Limited joints that no coupling determines."""
        return [int(j) for j in self.body.independent_hinges if self.model.jnt_limited[j]]

    def muscle_name(self, muscle: int) -> str:
        """Name of an actuator."""
        return self.model.actuator(int(muscle)).name

    def tendon_name(self, tendon: int) -> str:
        """Name of the muscle on a tendon, of the tendon itself where it is a ligament."""
        hit = np.flatnonzero(self.tendon_of == tendon)
        return self.muscle_name(self.muscles[hit[0]]) if len(hit) else self.model.tendon(int(tendon)).name

    def lengths(self, qpos: np.ndarray) -> np.ndarray:
        """(T,) m tendon lengths at a pose (Q,), as it is."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_tendon(self.model, self.data)
        return self.data.ten_length.copy()

    def at(self, base: np.ndarray, joint: int, value: float) -> np.ndarray:
        """(T,) m lengths with one joint moved and the coupled joints following."""
        qpos = base.copy()
        qpos[self.model.jnt_qposadr[joint]] = value
        return self.lengths(self.body.couplings.enforce(qpos))

    def slopes(self, base: np.ndarray, joint: int, value: float, step: float = STEP) -> np.ndarray:
        """(T,) dL/dq by central difference."""
        return (self.at(base, joint, value + step) - self.at(base, joint, value - step)) / (2 * step)

    def sweep(self, base: np.ndarray, joint: int, points: int = POINTS) -> Sweep:
        """Sweep one joint over its range from a base pose (Q,)."""
        grid = np.linspace(*self.model.jnt_range[joint], points)
        length = np.array([self.at(base, joint, q) for q in grid])
        slope = np.array([self.slopes(base, joint, q) for q in grid])
        return Sweep(joint, grid, length, slope)

    @cached_property
    def sweeps(self) -> dict[int, Sweep]:
        """Joint id to its sweep from the neutral pose."""
        return {joint: self.sweep(self.neutral, joint) for joint in self.joints}

    def random_poses(self, count: int, seed: int = 0) -> np.ndarray:
        """Poses (count, Q) uniform within the feasible ranges, couplings satisfied."""
        rng = np.random.default_rng(seed)
        qpos = np.repeat(self.neutral[None], count, axis=0)
        for joint in self.joints:
            qpos[:, self.model.jnt_qposadr[joint]] = rng.uniform(*self.body.joint_ranges[joint], count)
        return self.body.couplings.enforce(qpos)

    @cached_property
    def random_lengths(self) -> np.ndarray:
        """(P, T) m tendon lengths in 300 random poses."""
        return np.array([self.lengths(q) for q in self.random_poses(300)])

    def active(self, muscle: int, length: float) -> float:
        """Active force at full activation and rest, as a fraction of the peak force."""
        m = self.model
        peak = self.body.peak_force[muscle]
        return -mujoco.mju_muscleGain(
            length, 0.0, m.actuator_lengthrange[muscle], m.actuator_acc0[muscle], m.actuator_gainprm[muscle, :9]) / peak

    def passive(self, muscle: int, length: float) -> float:
        """Passive force as a fraction of the peak force."""
        m = self.model
        peak = self.body.peak_force[muscle]
        return -mujoco.mju_muscleBias(
            length, m.actuator_lengthrange[muscle], m.actuator_acc0[muscle], m.actuator_biasprm[muscle, :9]) / peak
