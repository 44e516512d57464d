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
_COPIED = {"qpos": "qpos", "qvel": "qvel", "act": "act", "muscle_length": "actuator_length",
           "muscle_velocity": "actuator_velocity", "muscle_force": "actuator_force"}  # field of the state: MuJoCo's name
_YZX, _ZXY = [1, 2, 0], [2, 0, 1]


class NativePhysics:
    """``Physics`` on ``mujoco.batch.Batch``; results do not depend on the number of threads, and worlds can wait.

    Every world keeps its own ``MjData`` (persistent batch), so that the velocity-stage quantities computed after the
    last substep are those with which the next control step begins: fresh kinematics cost nothing.

    Args:
        body: embodiment.
        num_envs: number of worlds.
        threads: size of the thread pool; 0 takes all cores.
    """

    can_wait = True

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
        self._read(slice(None))

    def step(self, excitation: Tensor, running: Tensor | None = None) -> None:
        """See ``Physics.step``."""
        failed = self.state.failed.numpy()
        ids = None if running is None or running.numpy().all() else np.flatnonzero(running.numpy())
        rows = slice(None) if ids is None else ids
        self._views["ctrl"][rows] = excitation.numpy()[rows]
        failed[rows] = False
        try:
            self._batch.step(ids, nstep=self.body.substeps, stage=mujoco.mjtStage.mjSTAGE_VEL)
        except SimulationError as error:
            failed[np.asarray(error.ids)] = True
        self._read(slice(None))  # gathering only the rows that ran would cost more
        failed |= ~np.isfinite(sum(x.numpy().sum(axis=1) for x in (self.state.qpos, self.state.qvel, self.state.act)))
        self.errors += int(np.count_nonzero(failed[rows]))

    def reset(self, mask: Tensor, qpos: Tensor, qvel: Tensor, act: Tensor) -> None:
        """See ``Physics.reset``."""
        ids = np.flatnonzero(mask.numpy())
        if not len(ids):
            return
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for name, value in (("qpos", qpos), ("qvel", qvel), ("act", act)):
            self._views[name][ids] = value.numpy()[ids]
        self._batch.forward(ids)
        self._read(ids)
        self.state.failed.numpy()[ids] = False

    @np.errstate(over="ignore", invalid="ignore")  # a failing world leaves single precision; it is flagged above
    def _read(self, rows: slice | np.ndarray) -> None:
        """Copy some worlds' quantities into ``state``. Site velocities: ``v = v_c + w x (x - c)``, ``cvel = (w, v_c)``."""
        view, state, body = self._views, self.state, self.body
        for ours, theirs in _COPIED.items():
            getattr(state, ours).numpy()[rows] = view[theirs][rows]
        position, cvel = (view[name][rows].take(body.site_body_ids, axis=1) for name in ("xpos", "cvel"))
        arm = position - view["subtree_com"][rows].take(body.site_root_ids, axis=1)
        spin, linear = cvel[..., :3], cvel[..., 3:]
        linear += spin[..., _YZX] * arm[..., _ZXY] - spin[..., _ZXY] * arm[..., _YZX]
        state.site_xpos.numpy()[rows] = position
        state.site_xquat.numpy()[rows] = view["xquat"][rows].take(body.site_body_ids, axis=1)
        state.site_xvel.numpy()[rows] = cvel
        if len(body.touch_adr):
            state.touch.numpy()[rows] = view["sensordata"][rows].take(body.touch_adr, axis=1)

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
        self._read(slice(None))
        self.state.muscle_force.copy_(state["muscle_force"])
        self.state.touch.copy_(state["touch"])
        self.state.failed.zero_()
        self.errors.copy_(state["errors"])

    def check(self) -> None:
        """Native MuJoCo grows its arena: there is no budget to overflow."""
