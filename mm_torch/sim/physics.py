"""What every physics back end offers. Nothing above ``sim/`` knows which one runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sim_models.embodiment import Embodiment


@dataclass(frozen=True, eq=False)
class PhysicsState:
    """Read-only view of N worlds after a control step or a reset; tensors are written in place, never replaced.

    ================= =================================================================== ============ ========= =====
    qpos              positions                                                           (N, Q)       m, rad    now
    qvel              velocities; free root: linear in world, angular in body axes        (N, V)                 now
    act               activations                                                         (N, M)       [0, 1]    now
    site_xpos         world positions of the mimic sites                                  (N, S, 3)    m         now
    site_xquat        world orientations of the mimic sites, wxyz                         (N, S, 4)              now
    site_xvel         world velocities of the mimic sites: angular, linear                (N, S, 6)    rad/s m/s now
    muscle_length     actuator lengths                                                    (N, M)       m         now
    muscle_velocity   actuator velocities                                                 (N, M)       m/s       now
    muscle_force      actuator forces (<= 0: pull)                                        (N, M)       N         -2 ms
    touch             touch sensors of the body, its order                                (N, T)       N         -2 ms
    failed            the world's last step raised an error or left it not finite         (N,) bool              now
    ================= =================================================================== ============ ========= =====

    ``now``: of the state after the last substep (kinematics are brought up to date after it); ``-2 ms``: of the state one
    substep earlier, as MuJoCo leaves them. After a reset everything belongs to the reset state. Single precision.
    """

    qpos: Tensor
    qvel: Tensor
    act: Tensor
    site_xpos: Tensor
    site_xquat: Tensor
    site_xvel: Tensor
    muscle_length: Tensor
    muscle_velocity: Tensor
    muscle_force: Tensor
    touch: Tensor
    failed: Tensor


def empty_state(body: Embodiment, num_envs: int, device: torch.device) -> PhysicsState:
    """Preallocate the single-precision tensors of a state."""
    n, m, s = num_envs, body.model.nu, len(body.site_names)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    return PhysicsState(
        qpos=zeros(n, body.model.nq), qvel=zeros(n, body.model.nv), act=zeros(n, m),
        site_xpos=zeros(n, s, 3), site_xquat=zeros(n, s, 4), site_xvel=zeros(n, s, 6),
        muscle_length=zeros(n, m), muscle_velocity=zeros(n, m), muscle_force=zeros(n, m),
        touch=zeros(n, len(body.touch_sensors)), failed=torch.zeros(n, dtype=torch.bool, device=device),
    )


class Physics(Protocol):
    """N worlds of one embodiment, advanced by control steps.

    ============ ====================================================================
    body         the embodiment
    num_envs     N
    device       device of all tensors
    state        the current state, always the same tensors
    can_wait     whether worlds that a step does not run stay as they are, ``failed`` too; if not they are stepped as well
    errors       number of worlds that failed since construction, a 0-d int64 tensor
    ============ ====================================================================
    """

    body: Embodiment
    num_envs: int
    device: torch.device
    state: PhysicsState
    can_wait: bool
    errors: Tensor

    def step(self, excitation: Tensor, running: Tensor | None = None) -> None:
        """Hold excitations (N, M) in [0, 1] for one control step (``body.substeps`` substeps); updates ``state``.

        ``running`` (N,) bool marks the worlds whose step matters; None: all. A world that fails is flagged in
        ``state.failed``, counted in ``errors`` and left for the caller to reset.
        """
        ...

    def reset(self, mask: Tensor, qpos: Tensor, qvel: Tensor, act: Tensor) -> None:
        """Put the masked worlds into given states, with a fresh solver; updates ``state`` of those worlds.

        Args:
            mask: (N,) bool; rows outside it are ignored in the others.
            qpos: (N, Q).
            qvel: (N, V).
            act: (N, M).
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Full integration state of all worlds: loading it continues bit for bit on the same back end."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict``."""
        ...

    def check(self) -> None:
        """Raise ``PhysicsError`` where a budget overflowed since the last call; call once an iteration."""
        ...


class PhysicsError(RuntimeError):
    """The simulation lost information (contact or constraint overflow); the message states the figure needed."""
