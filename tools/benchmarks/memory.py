"""Memory that training on a GPU would take: counted from the arrays, not measured on one."""

from __future__ import annotations

import dataclasses
from typing import Any

import mujoco_warp as mjw
import torch
import warp as wp

from mm_torch import build
from mm_torch.config.load import load_recipe
from mm_torch.motion.bank import ReferenceBank
from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_clips
from mm_torch.ppo.module import PpoModule
from mm_torch.sim.native import NativePhysics
from mm_torch.sim.physics import empty_state
from sim_models.embodiment import Embodiment
from tools.benchmarks.setup import RECIPES

FLOAT = 4
FRAMES = 1_000_000  # of 1,000 clips of 10 s at 100 Hz


def predict(body: str, worlds: int, words: list[str]) -> dict[str, Any]:
    """Gigabytes of each part of the ``cuda`` profile, in single precision.

    ``simulation``: MuJoCo Warp's arrays for ``worlds`` worlds with the body's budgets, extrapolated from those it allocates
    for one and two. ``rollout``: observations, their successors and actions of all steps, twice, since TorchRL's collector
    stacks the steps. ``networks``: weights, gradients and two moments. ``minibatch``: a minibatch's samples, and two outputs
    a unit kept for its gradient. ``bank``: 1,000 clips of 10 s.

    Args:
        body: key of ``RECIPES``.
        worlds: N.
        words: further settings of the recipe.
    """
    recipe = load_recipe([f"recipe={RECIPES[body]}", "profile=cuda", "num_envs=2", "ppo.minibatches=1", *words],
                         cuda_available=False)
    full = load_recipe([f"recipe={RECIPES[body]}", "profile=cuda", f"num_envs={worlds}", *words], cuda_available=False)
    embodiment = build.build_body(recipe)
    clip = load_clip(library_clips(embodiment.name)[0])
    bank = ReferenceBank.build(embodiment, [clip])
    env = build.build_env(recipe, NativePhysics(embodiment, 2, 1), bank)
    module = PpoModule(recipe, env)
    weights = sum(p.numel() for p in module.agent.parameters())
    units = 2 * sum(full.net.hidden)  # actor and critic
    observation, action = env.layout[-1].end, env.action_spec.shape[-1]
    steps, minibatch = full.ppo.rollout_steps, worlds * full.ppo.rollout_steps // full.ppo.minibatches
    per_frame = bank.memory_bytes / int(bank.lengths.sum())
    parts = {
        "simulation": _simulation(embodiment, worlds),
        "rollout": 2 * worlds * steps * (2 * observation + action + 8) * FLOAT,
        "networks": 4 * weights * FLOAT,
        "minibatch": minibatch * (2 * observation + 2 * action + 2 * units) * FLOAT,
        "bank": FRAMES * per_frame,
    }
    gb = {f"{name}_gb": size / 1e9 for name, size in parts.items()}
    return {"case": "memory", "body": body, "worlds": worlds, "observation": observation, "weights": weights,
            **gb, "total_gb": sum(gb.values())}


def _simulation(body: Embodiment, worlds: int) -> float:
    """Bytes of MuJoCo Warp's data and of our read-out of it."""
    one, two = (_data_bytes(body, n) for n in (1, 2))
    return one + (worlds - 1) * (two - one) + worlds * sum(
        x.numel() * x.element_size() for x in vars(empty_state(body, 1, torch.device("cpu"))).values()
    )


def _data_bytes(body: Embodiment, worlds: int) -> int:
    wp.config.log_level = wp.LOG_WARNING
    with wp.ScopedDevice("cpu"):
        data = mjw.make_data(body.model, nworld=worlds, nconmax=body.contact_budget, njmax=body.constraint_budget)
    return _array_bytes(data)


def _array_bytes(owner: object) -> int:
    total = 0
    for value in (getattr(owner, field.name) for field in dataclasses.fields(owner)):  # type: ignore[arg-type]
        if isinstance(value, wp.array):
            total += value.capacity
        elif dataclasses.is_dataclass(value):
            total += _array_bytes(value)
    return total
