"""What is compared: joint and pelvis angles, floor forces, moments and powers of a stride, in the signs of the norms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tools.analysis.contacts import GRAVITY, low_pass
from tools.analysis.strides import Stride, over_part, over_stride, rotation
from tools.analysis.trial import Trial

PER_KG = "Nm/kg"


@dataclass(frozen=True)
class Quantity:
    """A curve over the cycle: key, label, unit, part of the report it belongs to, what is positive."""

    name: str
    label: str
    unit: str
    part: str
    positive: str


QUANTITIES = {
    q.name: q for q in (
        Quantity("hip_flexion", "hip flexion", "deg", "angles", "+ flexion"),
        Quantity("knee_angle", "knee flexion", "deg", "angles", "+ flexion"),
        Quantity("ankle_angle", "ankle", "deg", "angles", "+ dorsiflexion"),
        Quantity("hip_adduction", "hip adduction", "deg", "angles", "+ adduction"),
        Quantity("pelvis_tilt", "pelvic tilt", "deg", "angles", "+ anterior"),
        Quantity("pelvis_obliquity", "pelvic obliquity", "deg", "angles", "+ own side up"),
        Quantity("pelvis_rotation", "pelvic rotation", "deg", "angles", "+ own side forward"),
        Quantity("subtalar_angle", "subtalar", "deg", "angles", "+ inversion"),
        Quantity("force_vertical", "vertical", "% of weight", "forces", "+ up"),
        Quantity("force_fore_aft", "fore-aft", "% of weight", "forces", "+ propels"),
        Quantity("force_lateral", "lateral", "% of weight", "forces", "+ outwards"),
        Quantity("moment_hip_flexion", "hip flexion moment", PER_KG, "moments", "+ flexor"),
        Quantity("moment_knee_angle", "knee moment", PER_KG, "moments", "+ extensor"),
        Quantity("moment_ankle_angle", "ankle moment", PER_KG, "moments", "+ dorsiflexor"),
        Quantity("moment_hip_adduction", "hip adduction moment", PER_KG, "moments", "+ adductor"),
        Quantity("power_hip_flexion", "hip power (sagittal)", "W/kg", "moments", "+ generated"),
        Quantity("power_knee_angle", "knee power", "W/kg", "moments", "+ generated"),
        Quantity("power_ankle_angle", "ankle power", "W/kg", "moments", "+ generated"),
    )
}  # fmt: skip
MOMENT_SIGN = {"knee_angle": -1.0}  # the knee's coordinate flexes; norms count extensor moments positive


class Signals:
    """Time series of a trial from which its strides are cut."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.rollout = trial, trial.rollout
        self.column = {name: k for k, name in enumerate(self.rollout.joint_names)}

    @cached_property
    def weight(self) -> float:
        """Body weight in N."""
        return self.rollout.mass_kg * GRAVITY

    @cached_property
    def force(self) -> np.ndarray | None:
        """(F, 2, 3) floor force on the right, left foot in % of body weight, low-passed; None without."""
        if self.rollout.foot_force is None:
            return None
        return 100.0 * low_pass(self.rollout.foot_force.astype(float), self.rollout.control_rate) / self.weight

    @cached_property
    def moment(self) -> np.ndarray | None:
        """(F, J) moments of the muscles about the joints, what they do through coupled joints included; None without.

        ``(T^T tau)_driver = tau_driver + sum_e dq_e/dq_driver tau_e``: the knee also slides as it bends.
        """
        if self.rollout.joint_moment is None:
            return None
        body = self.trial.body
        names = [body.joint_names[j] for j in body.hinge_ids]
        tau = np.zeros((len(self.rollout.time), body.model.nv))
        tau[:, body.hinge_dof] = self.rollout.joint_moment[:, [self.column[n] for n in names]]
        total, coupled = tau.copy(), body.couplings
        slopes = coupled.slopes(self.rollout.qpos)
        for e in np.flatnonzero(coupled.driver_dof >= 0):
            total[:, coupled.driver_dof[e]] += slopes[:, e] * tau[:, coupled.dependent_dof[e]]
        out = np.zeros_like(self.rollout.joint_moment, dtype=float)
        out[:, [self.column[n] for n in names]] = total[:, body.hinge_dof]
        return out

    def of_stride(self, stride: Stride) -> dict[str, np.ndarray]:
        """Every quantity that the rollout holds over one stride, (101,) each."""
        found = self._angles(stride) | self._pelvis(stride) | self._forces(stride) | self._kinetics(stride)
        return {name: found[name] for name in QUANTITIES if name in found}

    def _joint(self, joint: str, stride: Stride) -> int:
        return self.column[f"{joint}_{'rl'[stride.side]}"]

    def _angles(self, stride: Stride) -> dict[str, np.ndarray]:
        names = [q.name for q in QUANTITIES.values() if q.part == "angles" and not q.name.startswith("pelvis")]
        degrees = np.degrees(self.rollout.joint_position)
        return {n: over_stride(degrees[:, self._joint(n, stride)], stride) for n in names}

    def _pelvis(self, stride: Stride) -> dict[str, np.ndarray]:
        """Tilt, obliquity and rotation: R = R(left turn) R(right side up) R(tilt), about up, backward and left."""
        turn = rotation(self.rollout.qpos[stride.frames, 3:7])
        to_path = np.stack([stride.left, -stride.forward, [0.0, 0.0, 1.0]])  # rows: left, backward, up
        turn = to_path @ turn
        tilt = np.arctan2(turn[:, 2, 1], turn[:, 2, 2])
        up = np.arcsin(np.clip(-turn[:, 2, 0], -1.0, 1.0))
        yaw = np.arctan2(turn[:, 1, 0], turn[:, 0, 0])
        own = 1.0 if stride.side == 0 else -1.0
        values = {"pelvis_tilt": tilt, "pelvis_obliquity": own * up, "pelvis_rotation": own * yaw}
        return {name: over_part(np.degrees(angle)) for name, angle in values.items()}

    def _forces(self, stride: Stride) -> dict[str, np.ndarray]:
        if self.force is None:
            return {}
        outwards = stride.left if stride.side == 1 else -stride.left
        foot = self.force[:, stride.side]
        values = {"force_vertical": foot[:, 2], "force_fore_aft": foot @ stride.forward, "force_lateral": foot @ outwards}
        return {name: over_stride(value, stride) for name, value in values.items()}

    def _kinetics(self, stride: Stride) -> dict[str, np.ndarray]:
        if self.moment is None:
            return {}
        found = {}
        for joint in ("hip_flexion", "knee_angle", "ankle_angle", "hip_adduction"):
            k = self._joint(joint, stride)
            moment = self.moment[:, k] / self.rollout.mass_kg
            found[f"moment_{joint}"] = MOMENT_SIGN.get(joint, 1.0) * over_stride(moment, stride)
            found[f"power_{joint}"] = over_stride(moment * self.rollout.joint_velocity[:, k], stride)
        return found
