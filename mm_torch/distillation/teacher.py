"""Computed muscle control as the teacher of an environment: what it would do in the worlds' present states."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mm_torch.motion.bank import ReferenceBank
from mm_torch.muscle.control import ComputedMuscleControl, ControlSettings, Plan, Target
from mm_torch.task.env import MimicEnv
from sim_models.embodiment import Embodiment
from sim_models.kinematics import lowest_points

STANDS = 0.012  # m, height of a sole geom of the reference below which it stands
LEAVES, LANDS = 2, 8  # control steps ahead: a sole leaves on time and may come down early


class Teacher:
    """Excitations by which the worlds of an environment would follow their references.

    Args:
        body: whose muscles they are.
        bank: reference motions of the environment.
        settings: of the controller; None: those of the body.
    """

    def __init__(self, body: Embodiment, bank: ReferenceBank, settings: ControlSettings | None = None) -> None:
        self.body = body
        self.control = ComputedMuscleControl(body, settings)
        self._heights = sole_heights(body, bank)
        self._soles = torch.from_numpy(np.concatenate([[], *body.foot_geom_ids.values()])).long()

    def __call__(self, env: MimicEnv, rows: Tensor) -> Plan:
        """What to do in the coming control step.

        Args:
            env: environment on the bank.
            rows: (n,) worlds.

        Returns:
            Plan of n worlds, on the CPU.
        """
        state, frames = env.physics.state, env.bank.frames
        now = env.bank.row(env.clip[rows], env.frame[rows])
        after = env.bank.row(env.clip[rows], env.frame[rows] + 1)
        qpos, qvel, following = (_array(x) for x in (frames.qpos[now], frames.qvel[now], frames.qvel[after]))
        if self.body.free_root:
            qpos[:, :3] -= _array(env.origin[rows])
        target = Target(qpos, qvel, (following - qvel) / self.body.control_dt, self._support(env, rows))
        return self.control(_array(state.qpos[rows]), _array(state.qvel[rows]), _array(state.act[rows]), target)

    def _support(self, env: MimicEnv, rows: Tensor) -> np.ndarray:
        """(n, geoms) false for soles that the reference has off the ground: at once, but a foot may come down early."""
        ahead = (
            self._heights[env.bank.row(env.clip[rows], env.frame[rows] + steps).cpu()] for steps in (LEAVES, LANDS)
        )
        support = torch.ones(len(rows), self.body.model.ngeom, dtype=torch.bool)
        support[:, self._soles] = torch.stack([height < STANDS for height in ahead]).any(dim=0)
        return support.numpy()


def sole_heights(body: Embodiment, bank: ReferenceBank) -> Tensor:
    """Height (F, G) m of each sole geom above the ground in every frame of a bank, in the order of ``foot_geom_ids``."""
    geoms = np.concatenate([[], *body.foot_geom_ids.values()]).astype(int)
    return torch.from_numpy(lowest_points(body, _array(bank.frames.qpos), geoms))


def _array(x: Tensor) -> np.ndarray:
    return x.double().cpu().numpy()
