"""What an exported policy consists of: two modules of plain tensors, free of the environment that trained them.

The observer turns a body's MuJoCo state and a reference motion into what the policy sees; the policy turns that into
controls. Both are built from the very kernels of the environment.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from mm_torch.config.schema import ActionConfig, TaskConfig
from mm_torch.motion.bank import Reference, ReferenceBank
from mm_torch.nets.normaliser import DIVISOR_EPSILON
from mm_torch.ppo.policy import Agent
from mm_torch.sim.physics import PhysicsState
from mm_torch.task.action import excite, feedback, spread
from mm_torch.task.context import BodyTensors, StepContext
from mm_torch.task.observation import observe
from mm_torch.task.reflex import Balance
from sim_models.embodiment import Embodiment

STATE = ("qpos", "qvel", "act", "ctrl", "xpos", "xquat", "cvel", "subtree_com", "actuator_length", "actuator_velocity",
         "actuator_force", "sensordata")
"""Fields of MuJoCo's ``MjData`` that the observer reads, in the order of its arguments."""
REFERENCE = ("ref_qpos", "ref_qvel", "ref_site_xpos", "ref_site_xquat", "ref_site_xvel", "ref_act")
"""Arrays of the reference motion, in the order of the arguments that follow ``STATE``."""
NO_ACTIVATION = -1.0
"""What rows of ``ref_act`` hold where a motion has no activations."""


def sight(action: ActionConfig) -> tuple[str, ...]:
    """What the observer returns, in the order of the policy's arguments; ``noise`` follows them."""
    return ("observation", "base", "joint_error", "joint_velocity_error", *(["balance"] if action.reflexes else []))


class PolicyFileError(RuntimeError):
    """A policy cannot be exported, or does not do what the trained one does; the message gives reason and remedy."""


class ExportedPolicy(nn.Module):
    """Normaliser, actor mean, sampling and action map in one, in single precision.

    ``ctrl = clip(base + scale * spread(action + stiffness * joint_error + damping * joint_velocity_error), low, 1)`` with
    ``action = actor(clip((observation - m) / s)) + std * noise``.

    Args:
        agent: trained networks; copied, the critic left out.
        action: action map.
        drive: what spreads actions over muscles (A, M); None where each muscle has its own.
    """

    def __init__(self, agent: Agent, action: ActionConfig, drive: Tensor | None) -> None:
        super().__init__()
        normaliser = agent.normaliser
        self.action, self.clip = action, normaliser.clip
        self.register_buffer("drive", drive)
        self.register_buffer("mean", normaliser.mean.float())
        self.register_buffer("inverse_std", torch.rsqrt(normaliser.var + DIVISOR_EPSILON).float())
        self.register_buffer("std", agent.nets.log_std.detach().exp().float())
        self.actor = copy.deepcopy(agent.nets.actor).requires_grad_(False)

    def forward(
        self, observation: Tensor, base: Tensor, joint_error: Tensor, joint_velocity_error: Tensor, noise: Tensor
    ) -> Tensor:
        """Controls (N, M).

        Args:
            observation: (N, O) raw; while an action is held, that of the step at which it was chosen.
            base: (N, M) excitation of a zero action, each control step anew.
            joint_error: (N, D) rad, next reference minus own position of the independent joints, likewise.
            joint_velocity_error: (N, D) rad/s, likewise.
            noise: (N, A) zeros for the mean action; standard normal numbers for a sampled one, held as the action is.
        """
        action = self._chosen(observation, noise)
        if self.action.stiffness or self.action.damping:
            action = action + feedback(joint_error, joint_velocity_error, self.action)
        return excite(spread(action, self.drive), base, self.action)

    def _chosen(self, observation: Tensor, noise: Tensor) -> Tensor:
        normalised = (observation - self.mean) * self.inverse_std
        if self.clip is not None:
            normalised = normalised.clamp(-self.clip, self.clip)
        return self.actor(normalised) + self.std * noise


class ExportedReflexPolicy(ExportedPolicy):
    """A policy with reflexes in place of the plain joint feedback."""

    def __init__(self, agent: Agent, action: ActionConfig, drive: Tensor | None) -> None:
        super().__init__(agent, action, drive)
        self.reflexes = copy.deepcopy(agent.reflexes)

    def forward(  # type: ignore[override]
        self, observation: Tensor, base: Tensor, joint_error: Tensor, joint_velocity_error: Tensor, balance: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Controls (N, M).

        Args:
            observation: as in ``ExportedPolicy``, and so the other arguments.
            base: likewise.
            joint_error: likewise.
            joint_velocity_error: likewise.
            balance: (N, 14) ``mm_torch.task.reflex.Balance``, each control step anew.
            noise: likewise.
        """
        action = self._chosen(observation, noise) + self.reflexes(joint_error, joint_velocity_error, balance)
        return excite(spread(action, self.drive), base, self.action)


def exported_policy(agent: Agent, action: ActionConfig, drive: Tensor | None) -> ExportedPolicy:
    """The policy of an agent, with reflexes if it has any; arguments as of ``ExportedPolicy``."""
    return (ExportedPolicy if agent.reflexes is None else ExportedReflexPolicy)(agent, action, drive).eval()


@dataclass(eq=False)
class _FreeContext(StepContext):
    """A step context whose shapes follow its tensors, so that a recorded graph holds for any number of worlds."""

    @cached_property
    def root_quat(self) -> Tensor:
        """See ``StepContext.root_quat``."""
        if self.body.free_root:
            return self.state.qpos[:, 3:7]
        unit = torch.tensor([1.0, 0.0, 0.0, 0.0], device=self.frame.device)
        return torch.zeros_like(self.state.site_xquat[:, 0]) + unit


class ExportedObserver(nn.Module):
    """Observation and joint errors of N worlds from MuJoCo's state and one reference motion.

    Args:
        body: embodiment.
        task: term tables and action map.
    """

    def __init__(self, body: Embodiment, task: TaskConfig) -> None:
        super().__init__()
        self.body, self.task = BodyTensors(body, torch.device("cpu")), task
        self.register_buffer("sites", torch.as_tensor(body.site_body_ids))
        self.register_buffer("site_roots", torch.as_tensor(body.site_root_ids).long())  # ONNX wants 64 bits
        self.register_buffer("touch", torch.as_tensor(body.touch_adr) if len(body.touch_adr) else None)
        self.register_buffer("lookahead", torch.tensor(task.lookahead_steps))
        self.balance = Balance(body) if task.action.reflexes else None

    def forward(
        self, qpos: Tensor, qvel: Tensor, act: Tensor, ctrl: Tensor, xpos: Tensor, xquat: Tensor, cvel: Tensor,
        subtree_com: Tensor, actuator_length: Tensor, actuator_velocity: Tensor, actuator_force: Tensor,
        sensordata: Tensor, ref_qpos: Tensor, ref_qvel: Tensor, ref_site_xpos: Tensor, ref_site_xquat: Tensor,
        ref_site_xvel: Tensor, ref_act: Tensor, frame: Tensor,
    ) -> tuple[Tensor, ...]:
        """What the policy takes in the coming control step.

        Args:
            qpos: (N, Q); this and all up to ``sensordata``: fields of ``MjData``, a row a world, single precision.
            qvel: (N, V).
            act: (N, M).
            ctrl: (N, M) of the control step before; after a reset the activations.
            xpos: (N, B, 3).
            xquat: (N, B, 4).
            cvel: (N, B, 6).
            subtree_com: (N, B, 3).
            actuator_length: (N, M).
            actuator_velocity: (N, M).
            actuator_force: (N, M).
            sensordata: (N, D).
            ref_qpos: (F, Q) reference at the control rate, shifted so that it starts above the world's origin.
            ref_qvel: (F, V) its velocities.
            ref_site_xpos: (F, S, 3) m, world, likewise shifted.
            ref_site_xquat: (F, S, 4).
            ref_site_xvel: (F, S, 6) angular and linear, world.
            ref_act: (F, M) activations that fit the reference; -1 throughout where it has none.
            frame: (N,) int64, the reference frame that is due now.

        Returns:
            What ``sight`` names: see ``ExportedPolicy.forward``.
        """
        touched = sensordata[:, self.touch] if self.touch is not None else qpos[:, :0]
        arm = xpos[:, self.sites] - subtree_com[:, self.site_roots]
        spin, drift = cvel[:, self.sites, :3], cvel[:, self.sites, 3:]
        state = PhysicsState(
            qpos=qpos, qvel=qvel, act=act, site_xpos=xpos[:, self.sites], site_xquat=xquat[:, self.sites],
            site_xvel=torch.cat([spin, drift + torch.linalg.cross(spin, arm, dim=-1)], dim=-1),
            muscle_length=actuator_length, muscle_velocity=actuator_velocity, muscle_force=actuator_force,
            touch=touched, failed=torch.zeros_like(frame, dtype=torch.bool),
        )
        frames = Reference(ref_qpos, ref_qvel, ref_site_xpos, ref_site_xquat, ref_site_xvel)
        length = torch.ones_like(ref_qpos[:, 0], dtype=torch.long).sum().reshape(1)
        bank = ReferenceBank(("",), length, torch.zeros_like(length), frames, ref_act.clamp_min(0.0), 0.0)
        clip = torch.zeros_like(frame)
        context = _FreeContext(
            body=self.body, state=state, bank=bank, clip=clip, frame=frame, origin=torch.zeros_like(xpos[:, 0]),
            action=ctrl, excitation=ctrl, lookahead=self.lookahead,
        )
        following = bank.row(clip, frame + 1)
        if self.task.action.base == "reference":
            due = ref_act[following]
            base = torch.where(due < 0.0, torch.full_like(due, self.task.action.offset), due)
        else:
            base = torch.full_like(act, self.task.action.offset)
        joints, dofs = self.body.free_qpos, self.body.free_dof
        return (
            observe(context, self.task.observation), base,
            ref_qpos[following][:, joints] - qpos[:, joints], ref_qvel[following][:, dofs] - qvel[:, dofs],
            *(() if self.balance is None else (self.balance(context),)),
        )
