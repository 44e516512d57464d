"""Native MuJoCo back end: many worlds on a thread pool (``mujoco.batch``), states as live views."""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from mujoco.batch import Batch, SimulationError
from torch import Tensor

from mm_torch.sim.physics import PhysicsState, empty_state
from sim_models.embodiment import Embodiment

_STATE = ("time", "qpos", "qvel", "act", "ctrl", "qacc_warmstart")  # what these models integrate
_DERIVED = ("xpos", "xquat", "cvel", "subtree_com", "actuator_length", "actuator_velocity", "actuator_force",
            "sensordata")


class NativePhysics:
    """``Physics`` on ``mujoco.batch.Batch``; results do not depend on the number of threads.

    Every world keeps its own ``MjData`` (persistent batch), so that the velocity-stage quantities computed after the
    last substep are those with which the next control step begins: fresh kinematics cost nothing.

    Args:
        body: embodiment.
        num_envs: number of worlds.
        threads: size of the thread pool; 0 takes all cores.
    """

    def __init__(self, body: Embodiment, num_envs: int, threads: int = 0) -> None:
        self.body, self.num_envs = body, num_envs
        self.device = torch.device("cpu")
        self.state: PhysicsState = empty_state(body, num_envs, self.device)
        self.errors = torch.zeros((), dtype=torch.int64)
        self._batch = Batch(body.model, num_envs, nthread=threads, persistent=True)
        self._views = {name: self._batch.bind(name) for name in (*_STATE, *_DERIVED)}
        self._batch.reset()
        self._views["qpos"][:] = body.neutral_qpos
        self._batch.forward()
        self._read()

    def step(self, excitation: Tensor) -> None:
        """See ``Physics.step``."""
        self._views["ctrl"][:] = excitation.numpy()
        self._advance()

    def _advance(self, running: Tensor | None = None) -> None:
        """One control step with the controls as they stand, of the marked worlds (N,); None: of all. Others do not fail."""
        state = self.state
        state.failed.zero_()
        try:
            self._batch.step(
                None if running is None else np.flatnonzero(running.numpy()), nstep=self.body.substeps,
                stage=mujoco.mjtStage.mjSTAGE_VEL,
            )
        except SimulationError as error:
            state.failed[torch.as_tensor(np.asarray(error.ids), dtype=torch.long)] = True
        self._read()
        state.failed.logical_or_(~torch.isfinite(state.qpos.sum(dim=1) + state.qvel.sum(dim=1) + state.act.sum(dim=1)))
        if running is not None:
            state.failed.logical_and_(running)
        self.errors += state.failed.sum()

    def reset(self, mask: Tensor, qpos: Tensor, qvel: Tensor, act: Tensor) -> None:
        """See ``Physics.reset``."""
        ids = np.flatnonzero(mask.numpy())
        if not len(ids):
            return
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for name, value in (("qpos", qpos), ("qvel", qvel), ("act", act)):
            self._views[name][ids] = value.numpy()[ids]
        self._batch.forward(ids)
        self._read()
        self.state.failed[mask] = False

    @np.errstate(over="ignore", invalid="ignore")  # a failing world leaves single precision; it is flagged below
    def _read(self) -> None:
        view, state, body = self._views, self.state, self.body
        for target, source in (
            (state.qpos, view["qpos"]), (state.qvel, view["qvel"]), (state.act, view["act"]),
            (state.muscle_length, view["actuator_length"]), (state.muscle_velocity, view["actuator_velocity"]),
            (state.muscle_force, view["actuator_force"]),
        ):
            np.copyto(target.numpy(), source, casting="same_kind")
        position = view["xpos"][:, body.site_body_ids]
        cvel = view["cvel"][:, body.site_body_ids]
        arm = position - view["subtree_com"][:, body.site_root_ids]
        state.site_xpos.numpy()[:] = position
        state.site_xquat.numpy()[:] = view["xquat"][:, body.site_body_ids]
        velocity = state.site_xvel.numpy()
        velocity[..., :3] = cvel[..., :3]
        velocity[..., 3:] = cvel[..., 3:] + np.cross(cvel[..., :3], arm)
        if len(body.touch_adr):
            state.touch.numpy()[:] = view["sensordata"][:, body.touch_adr]

    def state_dict(self) -> dict[str, Tensor]:
        """See ``Physics.state_dict``."""
        saved = {name: torch.from_numpy(self._views[name].copy()) for name in _STATE}
        return saved | {"muscle_force": self.state.muscle_force.clone(), "touch": self.state.touch.clone(),
                        "errors": self.errors.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See ``Physics.load_state_dict``."""
        self._batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
        for name in _STATE:
            self._views[name][:] = state[name].numpy()
        self._batch.forward(stage=mujoco.mjtStage.mjSTAGE_VEL)
        self._read()
        self.state.muscle_force.copy_(state["muscle_force"])
        self.state.touch.copy_(state["touch"])
        self.state.failed.zero_()
        self.errors.copy_(state["errors"])

    def check(self) -> None:
        """Native MuJoCo grows its arena: there is no budget to overflow."""
