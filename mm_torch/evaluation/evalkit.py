"""Rollouts as MuscleMimic's ``mm-evalkit`` 0.1.0 reads them: one npz with an episode a clip."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from mm_torch.config.load import RecipeError
from mm_torch.evaluation.rollout_file import Rollout, write_npz
from mm_torch.maths import ranks
from mm_torch.motion.bank import ReferenceBank
from sim_models.embodiment import Embodiment

TOUCH = ("r_foot", "r_toes", "l_foot", "l_toes")  # the kit adds foot and toes of a side; we give the whole force as foot


class KitWriter:
    """Collects the rollouts of all clips and writes the kit's file.

    Forces under the feet are contact forces, vertical, not those of the touch sensors, which miss the push-off. Episodes are
    those of the bank, numbered in its order (``traj_id``); a clip that ended early is in the file, and the kit leaves it out.

    Args:
        body: embodiment; the kit's gait part wants ``myo_fullbody``, its arm part ``myo_bimanual``, both without fingers.
        bank: clips.

    Raises:
        RecipeError: a body that the kit does not know.

    Source: file format of mm-evalkit 0.1.0 (``workflows/gait/rollout_validation.py``).
    """

    def __init__(self, body: Embodiment, bank: ReferenceBank) -> None:
        if body.name not in ("myo_fullbody", "myo_bimanual") or body.fingers:
            raise RecipeError(f"evalkit=true: mm-evalkit reads rollouts of myo_fullbody and myo_bimanual without fingers, "
                              f"not of {body.name}{' with fingers' if body.fingers else ''}; leave evalkit= out")
        self.body, self.bank = body, bank
        self._episodes: dict[int, dict[str, np.ndarray]] = {}

    def add(self, clip: int, rollout: Rollout) -> None:
        """Take in the rollout of the clip with a number in the bank."""
        self._episodes[clip] = self._episode(clip, rollout)

    def _episode(self, clip: int, rollout: Rollout) -> dict[str, np.ndarray]:
        frames = len(rollout.time)
        start, length = int(self.bank.offsets[clip]), int(self.bank.lengths[clip])
        ref = self.bank.frames.qpos[start : start + length].double().cpu().numpy()
        if self.body.free_root:
            ref[:, :2] -= ref[0, :2]
        touch = np.zeros((frames, len(TOUCH)))
        if rollout.foot_force is not None:
            touch[:, [0, 2]] = rollout.foot_force[:, :, 2]
        return {
            "traj_id": np.asarray(clip), "traj_length": np.asarray(length), "traj_qpos": ref,
            "joint_positions": rollout.qpos, "joint_velocities": rollout.qvel, "timesteps": rollout.time,
            "muscle_activations": rollout.activation, "muscle_commands": rollout.excitation,  # type: ignore[dict-item]
            "touch_observations": touch, "force_sensor_values": touch,
            "generalized_actuator_forces": rollout.joint_moment,  # type: ignore[dict-item]
            "kinetics_reference_steps": np.arange(frames),
        }

    def write(self, path: Path) -> None:
        """Write the file atomically: rank 0, with the clips of all ranks, every one of which takes part."""
        episodes = ranks.merge_on_first(self._episodes)
        if not ranks.is_first():
            return
        model, body = self.body.model, self.body
        slide = model.jnt_type[body.hinge_ids] == mujoco.mjtJoint.mjJNT_SLIDE
        arrays = {
            "n_episodes": np.asarray(len(episodes)), "dt": np.asarray(body.control_dt),
            "joint_names": np.array(body.joint_names), "muscle_names": np.array(body.muscle_names),
            "activation_sample_phase": np.asarray("pre_step"),  # row i belongs to state i
            "kinetics_sample_phase": np.asarray("post_step"),
            "generalized_actuator_force_joint_names": np.array([body.joint_names[j] for j in body.hinge_ids]),
            "generalized_actuator_force_units": np.where(slide, "N", "Nm"),
            "force_sensor_names": np.array(TOUCH), "force_sensor_units": np.array(["N"] * len(TOUCH)),
            "model_mass_kg": np.asarray(float(model.body_mass.sum())),
        }
        for episode, (_, values) in enumerate(sorted(episodes.items())):
            arrays |= {f"episode_{episode}_{name}": value for name, value in values.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path, arrays)
