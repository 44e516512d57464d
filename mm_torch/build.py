"""From a resolved recipe to running objects: body, physics, reference bank, environment."""

from __future__ import annotations

from pathlib import Path

import torch

from mm_torch.config.load import RecipeError
from mm_torch.config.schema import Recipe
from mm_torch.maths.ranks import rank, rank_seed
from mm_torch.motion.bank import ReferenceBank, find_clips, load_bank
from mm_torch.motion.library import library_clips
from mm_torch.motion.sampling import ClipSampler
from mm_torch.sim.guard import FlightRecorder
from mm_torch.sim.physics import Physics
from mm_torch.task import observation, reward, termination
from mm_torch.task.env import MimicEnv
from sim_models.embodiment import Embodiment
from sim_models.reflexes import leg_joints
from sim_models.registry import load_body


def build_body(recipe: Recipe) -> Embodiment:
    """Compile the recipe's body."""
    return load_body(recipe.body.name, recipe.body.fingers, recipe.body.fixes)


def build_physics(recipe: Recipe, body: Embodiment, num_envs: int, threads: int) -> Physics:
    """The back end of the recipe; ``auto`` takes warp where CUDA is found, else native."""
    if backend(recipe) == "warp":
        from mm_torch.sim.warp import WarpPhysics

        return WarpPhysics(body, num_envs, f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu")
    from mm_torch.sim.native import NativePhysics

    return NativePhysics(body, num_envs, threads)


def backend(recipe: Recipe) -> str:
    """``warp`` or ``native``."""
    return recipe.sim if recipe.sim != "auto" else "warp" if torch.cuda.is_available() else "native"


def motion_files(recipe: Recipe, body: Embodiment) -> list[Path]:
    """Clips named by ``motions=``, or the built-in library."""
    return library_clips(body.name) if recipe.motions is None else find_clips(recipe.motions)


def build_bank(recipe: Recipe, body: Embodiment, device: torch.device) -> ReferenceBank:
    """Reference bank of the recipe's motions."""
    return load_bank(body, motion_files(recipe, body), device)


def check_terms(recipe: Recipe) -> None:
    """Refuse term names that no kernel has.

    Raises:
        RecipeError: names the key and the known terms.
    """
    task = recipe.task
    for key, names, known in (
        ("task.observation", task.observation, observation.TERMS),
        ("task.reward", task.reward, reward.TERMS),
        ("task.penalty", task.penalty, reward.COSTS),
        ("task.termination", task.termination, termination.TERMS),
        ("curriculum.reward_terms", recipe.curriculum.reward_terms, task.reward),
    ):
        for name in names:
            if name not in known:
                raise RecipeError(f"{key}: unknown term {name!r}; known terms are {', '.join(known)}")
    if not task.observation:
        raise RecipeError("task.observation is empty; the policy must see something")


def build_env(
    recipe: Recipe, physics: Physics, bank: ReferenceBank, recorder_dir: Path | None = None
) -> MimicEnv:
    """Training environment of this rank; with a directory, failed worlds are recorded there."""
    check_terms(recipe)
    if recipe.task.action.reflexes and leg_joints(physics.body) is None:
        raise RecipeError(f"task.action.reflexes=true: {physics.body.name} has no legs to balance on; set it to false")
    sampling = recipe.sampling
    sampler = ClipSampler(
        bank.num_clips, floor=sampling.floor if sampling.adaptive else 1.0, power=sampling.alpha,
        smoothing=sampling.ema, device=physics.device,
    )
    recorder = None
    if recorder_dir is not None:
        recorder = FlightRecorder(physics.body, physics.num_envs, directory=recorder_dir, device=physics.device)
    return MimicEnv(physics, bank, recipe.task, sampler, rank_seed(recipe.seed, rank()), recorder)
