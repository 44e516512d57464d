"""The record that describes one embodiment: everything above the simulator reads bodies through it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import mujoco
import numpy as np

from sim_models.couplings import Couplings, feasible_ranges
from sim_models.edits import SUBSTEPS
from sim_models.muscles import mirror_name, muscle_group


@dataclass(frozen=True, eq=False)
class Embodiment:
    """A compiled musculoskeletal model and what imitation needs to know of it.

    =============== ================================================================ ==================
    name            registry name, also written into clips                           str
    model           compiled model, options as for training                          MjModel
    mimic_sites     site name to body name; the first is the main (root) site        dict, S entries
    feet            side to names of the geoms that carry the foot's sole            dict
    touch_sensors   names of the touch sensors, in observation order                 tuple
    lateral_axis    world axis (0 or 1) that points left or right at ``qpos0``       int
    contact_budget  contacts per world for MuJoCo Warp                               int
    constraint_budget  constraint rows per world for MuJoCo Warp                     int
    fingers         whether the fingers move                                         bool
    fixes           repairs of ``sim_models.fixes`` made to the published model      tuple
    =============== ================================================================ ==================
    """

    name: str
    model: mujoco.MjModel
    mimic_sites: dict[str, str]
    feet: dict[str, tuple[str, ...]]
    touch_sensors: tuple[str, ...]
    lateral_axis: int
    contact_budget: int
    constraint_budget: int
    fingers: bool = False
    substeps: int = SUBSTEPS
    fixes: tuple[str, ...] = ()

    # -- sizes and addresses ------------------------------------------------------------------------------------------
    @cached_property
    def free_root(self) -> bool:
        """Whether the body floats on a free joint (its first joint)."""
        return self.model.njnt > 0 and self.model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE

    @cached_property
    def control_dt(self) -> float:
        """Duration of a control step in s."""
        return self.model.opt.timestep * self.substeps

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """All joint names in model order, the free root included."""
        return tuple(self.model.joint(j).name for j in range(self.model.njnt))

    @cached_property
    def hinge_ids(self) -> np.ndarray:
        """(J,) ids of the scalar joints (hinges and slides)."""
        return np.flatnonzero(self.model.jnt_type != mujoco.mjtJoint.mjJNT_FREE)

    @cached_property
    def hinge_qpos(self) -> np.ndarray:
        """(J,) qpos addresses of the scalar joints."""
        return self.model.jnt_qposadr[self.hinge_ids]

    @cached_property
    def hinge_dof(self) -> np.ndarray:
        """(J,) dof addresses of the scalar joints."""
        return self.model.jnt_dofadr[self.hinge_ids]

    @cached_property
    def muscle_names(self) -> tuple[str, ...]:
        """(M,) actuator names in model order."""
        return tuple(self.model.actuator(i).name for i in range(self.model.nu))

    @cached_property
    def muscle_groups(self) -> dict[str, np.ndarray]:
        """Group name to muscle ids."""
        groups = [muscle_group(n) for n in self.muscle_names]
        return {g: np.array([i for i, x in enumerate(groups) if x == g]) for g in dict.fromkeys(groups)}

    @cached_property
    def site_names(self) -> tuple[str, ...]:
        """(S,) names of the mimic sites, the main site first."""
        return tuple(self.mimic_sites)

    @cached_property
    def site_body_ids(self) -> np.ndarray:
        """(S,) bodies of the mimic sites; a mimic site's pose is its body's pose."""
        return np.array([self.model.body(b).id for b in self.mimic_sites.values()])

    @cached_property
    def site_root_ids(self) -> np.ndarray:
        """(S,) root bodies of the mimic sites, about whose subtree centre of mass ``cvel`` is expressed."""
        return self.model.body_rootid[self.site_body_ids]

    @cached_property
    def touch_adr(self) -> np.ndarray:
        """Addresses of the touch sensors in ``sensordata``."""
        return np.array([self.model.sensor(s).adr[0] for s in self.touch_sensors], dtype=int)

    @cached_property
    def foot_geom_ids(self) -> dict[str, np.ndarray]:
        """Side to ids of the sole geoms."""
        return {side: np.array([self.model.geom(g).id for g in geoms]) for side, geoms in self.feet.items()}

    # -- couplings ----------------------------------------------------------------------------------------------------
    @cached_property
    def couplings(self) -> Couplings:
        """The joint couplings of the model."""
        return Couplings.from_model(self.model)

    @cached_property
    def joint_ranges(self) -> np.ndarray:
        """(njnt, 2) feasible joint ranges: the model's, cut where a coupled joint would leave its own."""
        return feasible_ranges(self.model, self.couplings)

    @cached_property
    def independent_hinges(self) -> np.ndarray:
        """(D_j,) ids of the scalar joints that no coupling determines."""
        return np.array([j for j in self.hinge_ids if self.model.jnt_dofadr[j] in set(self.couplings.independent_dof)])

    @cached_property
    def neutral_qpos(self) -> np.ndarray:
        """(Q,) ``qpos0`` with couplings and ranges satisfied and, on a free root, the soles on the floor."""
        from sim_models.kinematics import lowest_sole

        qpos = self.model.qpos0.copy()
        limited = self.independent_hinges[self.model.jnt_limited[self.independent_hinges].astype(bool)]
        adr = self.model.jnt_qposadr[limited]
        qpos[adr] = np.clip(qpos[adr], self.joint_ranges[limited, 0], self.joint_ranges[limited, 1])
        qpos = self.couplings.enforce(qpos)
        if self.free_root:
            qpos[2] -= lowest_sole(self, qpos)
        return qpos

    @cached_property
    def peak_force(self) -> np.ndarray:
        """(M,) maximum isometric force in N; where the compiled value is negative MuJoCo takes ``scale / acc0``."""
        gain = self.model.actuator_gainprm
        return np.where(gain[:, 2] >= 0, gain[:, 2], gain[:, 3] / self.model.actuator_acc0)

    # -- left and right -----------------------------------------------------------------------------------------------
    @cached_property
    def mirror_joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Mirror partner (J,) of each scalar joint (index into ``hinge_ids``) and the sign (J,) of its coordinate.

        The sign compares the reflected joint axis with the partner's axis at ``qpos0``: a rotation axis reflects as a
        pseudovector, a translation axis as a vector.
        """
        names = [self.joint_names[j] for j in self.hinge_ids]
        partner = np.array([names.index(mirror_name(n, set(names))) for n in names], dtype=int)
        data = mujoco.MjData(self.model)
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)
        reflect = np.ones(3)
        reflect[self.lateral_axis] = -1.0
        slide = self.model.jnt_type[self.hinge_ids] == mujoco.mjtJoint.mjJNT_SLIDE
        axes = data.xaxis[self.hinge_ids]
        reflected = axes * np.where(slide[:, None], reflect, -reflect)
        return partner, np.sign(np.sum(reflected * axes[partner], axis=1))

    @cached_property
    def mirror_muscles(self) -> np.ndarray:
        """(M,) mirror partner of each muscle."""
        names = set(self.muscle_names)
        return np.array([self.muscle_names.index(mirror_name(n, names)) for n in self.muscle_names], dtype=int)

    @cached_property
    def mirror_sites(self) -> np.ndarray:
        """(S,) mirror partner of each mimic site."""
        names = set(self.site_names)
        return np.array([self.site_names.index(mirror_name(n, names)) for n in self.site_names], dtype=int)

    def mirror_qpos(self, qpos: np.ndarray) -> np.ndarray:
        """Reflect positions (..., Q) at the sagittal plane through the world origin."""
        out = np.array(qpos, dtype=float, copy=True)
        partner, sign = self.mirror_joints
        out[..., self.hinge_qpos[partner]] = sign * qpos[..., self.hinge_qpos]
        if self.free_root:
            out[..., self.lateral_axis] *= -1.0
            out[..., [4 + a for a in range(3) if a != self.lateral_axis]] *= -1.0
        return out

    def mirror_qvel(self, qvel: np.ndarray) -> np.ndarray:
        """Reflect velocities (..., V) at the sagittal plane; root angular velocity is in the root frame."""
        out = np.array(qvel, dtype=float, copy=True)
        partner, sign = self.mirror_joints
        out[..., self.hinge_dof[partner]] = sign * qvel[..., self.hinge_dof]
        if self.free_root:
            out[..., self.lateral_axis] *= -1.0
            out[..., [3 + a for a in range(3) if a != self.lateral_axis]] *= -1.0
        return out

    # -- identity -----------------------------------------------------------------------------------------------------
    @cached_property
    def model_hash(self) -> str:
        """Short hash over names, geometry, masses, muscles and options: a checkpoint is bound to it."""
        m = self.model
        digest = hashlib.sha256(repr((self.name, self.joint_names, self.muscle_names, self.site_names)).encode())
        fields = (m.jnt_range, m.jnt_axis, m.body_pos, m.body_quat, m.body_mass, m.body_inertia, m.actuator_gainprm,
                  m.actuator_biasprm, m.actuator_dynprm, m.site_pos, m.eq_data, m.geom_size, m.geom_pos, m.pair_geom1)
        for array in fields:
            digest.update(np.round(np.asarray(array, dtype=np.float64), 6).tobytes())
        digest.update(repr((m.opt.timestep, m.opt.iterations, m.opt.disableflags, self.substeps)).encode())
        if self.fixes:
            digest.update(repr(sorted(self.fixes)).encode())
        return digest.hexdigest()[:16]
