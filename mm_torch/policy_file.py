"""The policy file: normaliser, actor and action map as TorchScript, and a JSON sheet that names every number in it."""

from __future__ import annotations

import copy
import inspect
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

import mm_torch
from mm_torch import build
from mm_torch.callbacks import checkpoint as ckpt
from mm_torch.config.schema import ActionConfig, Recipe
from mm_torch.evaluation import load_agent
from mm_torch.nets.normaliser import DIVISOR_EPSILON
from mm_torch.ppo.policy import Agent
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.task import observation
from mm_torch.task.env import MimicEnv

FORMAT = 1
TOLERANCE = 1e-6
CHECK_WORLDS, CHECK_STEPS = 16, 32
LICENCES = (
    "The policy was made with mm_torch (Apache-2.0).",
    "The arm of myo_fullbody and myo_bimanual is MoBL-ARMS, released for non-commercial purposes only; this restricts "
    "policies trained on these bodies too. See NOTICE.",
)


class PolicyFileError(RuntimeError):
    """An exported policy does not do what the trained one does; the message gives the difference."""


class ExportedPolicy(nn.Module):
    """Excitations from observations, normaliser, actor mean and action map in one.

    ``clip(base + scale * spread(mean + stiffness * joint_error + damping * joint_velocity_error), max(low, 0), 1)`` with
    ``mean = actor(clip((observation - m) / s))``, in single precision.

    Args:
        agent: trained networks; copied, the critic left out.
        action: action map.
        drive: what spreads actions over muscles (A, M); None where each muscle has its own.
    """

    def __init__(self, agent: Agent, action: ActionConfig, drive: Tensor | None) -> None:
        super().__init__()
        normaliser = agent.normaliser
        self.spreads = drive is not None
        self.register_buffer("drive", torch.zeros(0) if drive is None else drive)
        self.register_buffer("mean", normaliser.mean.float())
        self.register_buffer("inverse_std", torch.rsqrt(normaliser.var + DIVISOR_EPSILON).float())
        self.register_buffer("offset", torch.tensor(action.offset))
        self.clip = float("inf") if normaliser.clip is None else normaliser.clip
        self.scale, self.low = action.scale, max(action.low, 0.0)
        self.stiffness, self.damping = action.stiffness, action.damping
        self.by_reference, self.has_feedback = action.base == "reference", bool(action.stiffness or action.damping)
        self.actor = copy.deepcopy(agent.nets.actor).requires_grad_(False)

    def forward(
        self,
        observation: Tensor,
        base: Optional[Tensor] = None,  # noqa: UP045  TorchScript reads no other spelling
        joint_error: Optional[Tensor] = None,  # noqa: UP045
        joint_velocity_error: Optional[Tensor] = None,  # noqa: UP045
    ) -> Tensor:
        """Excitations (N, M) in [0, 1].

        Args:
            observation: (N, O) raw; while an action is held, that of the step at which it was chosen.
            base: (N, M) excitation of a zero action; only for a policy on top of the reference's activations.
            joint_error: (N, A) rad, reference minus own position of the independent joints, each control step anew; only
                for a policy with joint feedback.
            joint_velocity_error: (N, A) rad/s, likewise.

        Raises:
            ValueError: an input that this policy needs is missing.
        """
        if self.by_reference and base is None:
            raise ValueError("this policy adds to the reference's activations: give them as base=")
        if self.has_feedback and (joint_error is None or joint_velocity_error is None):
            raise ValueError("this policy has joint feedback: give joint_error= and joint_velocity_error=")
        normalised = (observation - self.mean) * self.inverse_std
        action = self.actor(normalised.clamp(-self.clip, self.clip))
        if joint_error is not None:
            action = action + self.stiffness * joint_error
        if joint_velocity_error is not None:
            action = action + self.damping * joint_velocity_error
        if self.spreads:
            action = action @ self.drive
        return ((self.offset if base is None else base) + self.scale * action).clamp(self.low, 1.0)


def export_policy(checkpoint_path: Path | str, out: Path | str) -> Path:
    """Write the policy of a checkpoint as TorchScript, and its sheet as JSON beside it.

    The file is kept only if, loaded back, it sends the muscles what the environment sends them in a rollout of the
    trained policy.

    Args:
        checkpoint_path: checkpoint file or run directory.
        out: file to write, for example ``policy.pt``; the sheet takes the suffix ``.json``.

    Returns:
        ``out``.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        PolicyFileError: the exported policy differs by more than 1e-6; nothing is kept.
    """
    out = Path(out)
    if out.suffix == ".json":
        raise PolicyFileError(f"out={out}: the suffix .json is taken by the sheet; name the policy policy.pt")
    recipe, agent = load_agent(checkpoint_path)
    env = _check_env(recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    policy, sheet = (path.with_name(f".{path.name}.tmp") for path in (out, out.with_suffix(".json")))
    try:
        _script(ExportedPolicy(agent, recipe.task.action, env.drive).eval()).save(str(policy))
        difference = largest_difference(torch.jit.load(str(policy)), agent, env)
        if not difference <= TOLERANCE:
            raise PolicyFileError(
                f"{out}: the exported policy differs from the trained one by {difference:.2g} in excitation (at most "
                f"{TOLERANCE:g} passes); nothing was kept"
            )
        extra = ckpt.read_checkpoint(checkpoint_path)[ckpt.KEY]
        sheet.write_text(json.dumps(policy_sheet(recipe, env, extra) | {"difference": difference}, indent=1) + "\n")
        os.replace(policy, out)
        os.replace(sheet, out.with_suffix(".json"))
    finally:
        policy.unlink(missing_ok=True)
        sheet.unlink(missing_ok=True)
    return out


def _script(module: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but the only form that torch.jit.load reads
        return torch.jit.script(module)


def _check_env(recipe: Recipe) -> MimicEnv:
    """A few native worlds on the recipe's motions, or on the built-in ones where those are not on this machine."""
    here = recipe.motions is not None and Path(recipe.motions).exists()
    recipe = replace(recipe, sim="native", motions=recipe.motions if here else None)
    body = build.build_body(recipe)
    budget = budget_threads()
    apply(budget)
    physics = build.build_physics(recipe, body, CHECK_WORLDS, budget.physics)
    return build.build_env(recipe, physics, build.build_bank(recipe, body, physics.device))


@torch.no_grad()
def largest_difference(policy: nn.Module, agent: Agent, env: MimicEnv) -> float:
    """Largest difference between a policy file's excitations and those that the environment sends to the physics.

    Args:
        policy: the exported module.
        agent: trained networks; their mean action drives the rollout.
        env: environment, N worlds; the first 32 control steps of N episodes are compared.

    Returns:
        Largest absolute difference; NaN where either is not finite.
    """
    env.reset()
    worst, running = torch.zeros(()), torch.ones(env.batch_size, dtype=torch.bool)
    for step in range(CHECK_STEPS):
        if step % env.task.action.hold_steps == 0:
            seen = env.current_observation.clone()
            action = agent.mean_action(seen)
        inputs = policy_inputs(env)
        taken = env.advance(action, running)
        difference = policy(seen, **inputs) - env.context().excitation.clamp_min(0.0)
        worst = torch.maximum(worst, torch.where(running[:, None], difference, 0.0).abs().max())
        running = running & ~(taken.terminated | taken.truncated)
    return worst.item()


def policy_inputs(env: MimicEnv) -> dict[str, Tensor]:
    """What the policy file takes beside the observation for the coming control step."""
    inputs: dict[str, Tensor] = {}
    if env.task.action.base == "reference":
        base = env.action_base()
        inputs["base"] = base if isinstance(base, Tensor) else torch.full_like(env.context().excitation, base)
    if env.has_feedback:
        inputs["joint_error"], inputs["joint_velocity_error"] = env.joint_errors()
    return inputs


def policy_sheet(recipe: Recipe, env: MimicEnv, extra: dict[str, Any]) -> dict[str, Any]:
    """Everything that running the policy elsewhere needs to know.

    Args:
        recipe: of the checkpoint.
        env: an environment of that recipe.
        extra: the checkpoint's own section.

    Returns:
        JSON mapping.
    """
    body, action = env.physics.body, recipe.task.action
    by_reference = action.base == "reference"
    size, muscles, joints = env.layout[-1].end, len(body.muscle_names), body.independent_hinges
    return {
        "format": FORMAT,
        "recipe": recipe.recipe,
        "control_steps_trained": extra["control_steps"],
        "body": {"name": body.name, "fingers": body.fingers, "model_hash": extra["model_hash"]},
        "control_rate_hz": round(1.0 / body.control_dt, 6),
        "inputs": {
            "observation": {"shape": ["N", size], "dtype": "float32", "normalised": False},
            **({"base": {
                "shape": ["N", muscles], "dtype": "float32",
                "meaning": f"activations of the reference one control step ahead; {action.offset:g} where the motions "
                           "have none",
            }} if by_reference else {}),
            **({
                name: {
                    "shape": ["N", len(joints)], "dtype": "float32",
                    "meaning": f"{quantity} of the independent joints, reference one control step ahead minus own, {unit}",
                }
                for name, quantity, unit in (("joint_error", "positions", "rad"),
                                             ("joint_velocity_error", "velocities", "rad/s"))
            } if env.has_feedback else {}),
        },
        "hold_steps": action.hold_steps,
        "output": {
            "shape": ["N", muscles], "dtype": "float32",
            "meaning": "excitation (MuJoCo ctrl) of each muscle, in [0, 1]",
        },
        "action_map": f"clip({'base' if by_reference else f'{action.offset:g}'} + {action.scale:g} * "
                      f"{'action' if env.drive is None else 'action of each joint spread over its muscles'}, "
                      f"{max(action.low, 0.0):g}, 1); action = mean"
                      + (f" + {action.stiffness:g} * joint_error + {action.damping:g} * joint_velocity_error"
                         if env.has_feedback else "")
                      + (f"; the observation, and with it the mean, is held for {action.hold_steps} control steps"
                         if action.hold_steps > 1 else ""),
        "observation": [
            {"term": s.name, "start": s.start, "end": s.end, "meaning": _meaning(observation.TERMS[s.name])}
            for s in env.layout
        ],
        "lookahead_steps": list(recipe.task.lookahead_steps),
        "muscles": list(body.muscle_names),
        "joints": list(body.joint_names),
        "independent_joints": [body.joint_names[j] for j in joints],
        "sites": list(body.site_names),
        "versions": extra["versions"] | {"mm_torch": mm_torch.__version__},
        "licence": list(LICENCES),
    }


def _meaning(kernel: object) -> str:
    return (inspect.getdoc(kernel) or "").splitlines()[0]
