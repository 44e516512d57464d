"""Small environments on pieces of the built-in motions, and the steps that tests take in them."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from mm_torch import build
from mm_torch.config.load import load_recipe
from mm_torch.config.schema import Recipe
from mm_torch.motion.bank import ReferenceBank
from mm_torch.motion.clip import Clip, load_clip
from mm_torch.motion.library import library_clips
from mm_torch.sim.native import NativePhysics
from mm_torch.task.env import MimicEnv
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body

FRAMES = 60
ENDLESS = ("task.termination.absolute_site_deviation=null",)


@cache
def recipe(*words: str) -> Recipe:
    return load_recipe(["profile=cpu", *words], cuda_available=False)


@cache
def library_clip(body: Embodiment, index: int = 0, first: int = 100, act: bool = False) -> Clip:
    """A piece of a built-in motion, with made-up activations if asked for."""
    clip = load_clip(library_clips(body.name)[index])
    qpos = np.repeat(body.neutral_qpos[None], FRAMES, axis=0)
    for name in clip.joint_names:  # fingers stay neutral
        theirs = load_body(body.name, False).model.joint(name).qposadr[0]
        width = 7 if name == "root" else 1
        ours = body.model.joint(name).qposadr[0]
        qpos[:, ours : ours + width] = clip.qpos[first : first + FRAMES, theirs : theirs + width]
    made_up = np.random.default_rng(index).uniform(size=(FRAMES, body.model.nu)) if act else None
    return Clip.from_qpos(body, qpos, clip.fps, provenance={}, name=f"piece{index}", act=made_up)


def make_env(*words: str, clips: int = 2, num_envs: int = 4, seed: int = 0, act: bool = False) -> MimicEnv:
    """An environment on the first built-in motions of the recipe's body."""
    settings = recipe(*words, f"seed={seed}")
    body = build.build_body(settings)
    bank = ReferenceBank.build(body, [library_clip(body, i, act=act) for i in range(clips)])
    return build.build_env(settings, NativePhysics(body, num_envs, 1), bank)


def begin(env: MimicEnv, clip: int | list[int] = 0, frame: int | list[int] = 0) -> TensorDict:
    """Reset every world to a given clip and frame."""
    n = env.batch_size[0]
    env.assign(*(torch.tensor(x).expand(n).clone() for x in (clip, frame)))
    return env.reset()


def act(env: MimicEnv, state: TensorDict, action: Tensor) -> TensorDict:
    """One control step without a reset."""
    return env.step(state.clone().set("action", action))["next"]


def noise(env: MimicEnv, seed: int = 0, same: bool = False) -> Tensor:
    action = torch.randn(*env.action_spec.shape, generator=torch.Generator().manual_seed(seed))
    return action[:1].expand_as(action).clone() if same else action
