"""The policy file: normaliser, actor and action map as TorchScript, and a JSON sheet that names every number in it."""

from __future__ import annotations

import copy
import inspect
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

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


class ActorMean(nn.Module):
    """``actor(clip((x - mean) / std))`` in single precision, for raw observations.

    Args:
        agent: trained networks; copied, the critic left out.
        drive: what spreads actions over muscles (A, M); None where each muscle has its own.
    """

    def __init__(self, agent: Agent, drive: Tensor | None) -> None:
        super().__init__()
        self.spreads = drive is not None
        self.register_buffer("drive", torch.zeros(0) if drive is None else drive)
        normaliser = agent.normaliser
        self.register_buffer("mean", normaliser.mean.float())
        self.register_buffer("inverse_std", torch.rsqrt(normaliser.var + DIVISOR_EPSILON).float())
        self.clip = float("inf") if normaliser.clip is None else normaliser.clip
        self.actor = copy.deepcopy(agent.nets.actor).requires_grad_(False)

    def forward(self, observation: Tensor) -> Tensor:
        """Unbounded mean action of each muscle (N, M) for raw observations (N, O)."""
        normalised = (observation - self.mean) * self.inverse_std
        action = self.actor(normalised.clamp(-self.clip, self.clip))
        if self.spreads:
            action = action @ self.drive
        return action


class ConstantBasePolicy(nn.Module):
    """Excitations from observations: ``max(0, clip(offset + scale * mean, low, 1))``.

    Args:
        agent: trained networks.
        action: action map.
        drive: see ``ActorMean``.
    """

    def __init__(self, agent: Agent, action: ActionConfig, drive: Tensor | None) -> None:
        super().__init__()
        self.policy = ReferenceBasePolicy(agent, action, drive)
        self.register_buffer("offset", torch.tensor(action.offset))

    def forward(self, observation: Tensor) -> Tensor:
        """Excitations (N, M) in [0, 1] of raw observations (N, O)."""
        return self.policy(observation, self.offset)


class ReferenceBasePolicy(nn.Module):
    """Excitations from observations and the reference's activations: ``max(0, clip(base + scale * mean, low, 1))``.

    Args:
        agent: trained networks.
        action: action map.
        drive: see ``ActorMean``.
    """

    def __init__(self, agent: Agent, action: ActionConfig, drive: Tensor | None) -> None:
        super().__init__()
        self.mean_action = ActorMean(agent, drive)
        self.scale, self.low = action.scale, max(action.low, 0.0)

    def forward(self, observation: Tensor, base: Tensor) -> Tensor:
        """Excitations (N, M) in [0, 1] of raw observations (N, O) and base excitations (N, M)."""
        return (base + self.scale * self.mean_action(observation)).clamp(self.low, 1.0)


POLICIES = {"constant": ConstantBasePolicy, "reference": ReferenceBasePolicy}


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
        _script(POLICIES[recipe.task.action.base](agent, recipe.task.action, env.drive).eval()).save(str(policy))
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
        env: environment, N worlds; N times 32 observations are compared.

    Returns:
        Largest absolute difference; NaN where either is not finite.
    """
    state = env.reset()
    worst = torch.zeros(())
    by_reference = env.task.action.base == "reference"
    for _ in range(CHECK_STEPS):
        inputs = [state["observation"], *([reference_base(env)] if by_reference else [])]
        stepped = env.step(state.set("action", agent.mean_action(state["observation"])))
        sent = env.context().excitation.clamp_min(0.0)
        worst = torch.maximum(worst, (policy(*inputs) - sent).abs().max())
        state = env.maybe_reset(stepped["next"].exclude("reward"))
    return worst.item()


def reference_base(env: MimicEnv) -> Tensor:
    """Base excitation (N, M) of the coming control step where actions add to the reference's activations."""
    act = env.bank.activations(env.clip, env.frame + 1)
    return torch.full_like(env.context().excitation, env.task.action.offset) if act is None else act


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
        },
        "output": {
            "shape": ["N", muscles], "dtype": "float32",
            "meaning": "excitation (MuJoCo ctrl) of each muscle, in [0, 1]",
        },
        "action_map": f"clip({'base' if by_reference else f'{action.offset:g}'} + {action.scale:g} * "
                      f"{'mean' if env.drive is None else 'mean of each joint spread over its muscles'}, "
                      f"{max(action.low, 0.0):g}, 1)",
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
