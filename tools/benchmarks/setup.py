"""What every case is built from: recipe, body, counted physics and environment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mm_torch import build
from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.config.schema import Recipe
from mm_torch.motion.bank import ReferenceBank
from mm_torch.sim.physics import Physics
from sim_models.embodiment import SUBSTEPS, Embodiment

RECIPES = {"myo_fullbody": "fullbody_generalist", "myo_bimanual": "bimanual_demo", "toy_arm": "toy_arm"}


class Clock:
    """Seconds spent in wrapped calls, the device's work included, and how many control steps of worlds they took."""

    def __init__(self, device: torch.device) -> None:
        self.seconds, self.control_steps = 0.0, 0
        self._wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call with its time added to ``seconds``."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self._wait()
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._wait()
                self.seconds += time.perf_counter() - start

        return timed

    def wrap_step(self, physics: Physics) -> None:
        """Time ``physics.step`` and count the control steps of worlds that it really takes."""
        step = self.wrap(physics.step)

        def counted(excitation: Tensor, running: Tensor | None = None) -> None:
            ran = None if running is None or not physics.can_wait else running
            self.control_steps += physics.num_envs if ran is None else int(ran.sum())
            step(excitation, running)

        physics.step = counted  # type: ignore[method-assign]

    def clear(self) -> None:
        """Start again at zero."""
        self.seconds, self.control_steps = 0.0, 0


def prepare(body: str, words: list[str], substeps: int = SUBSTEPS) -> tuple[Recipe, Embodiment, ReferenceBank]:
    """Recipe without a search before PPO, body and bank of the built-in motions.

    Args:
        body: key of ``RECIPES``.
        words: further settings of the recipe.
        substeps: physics steps of a control step.

    Raises:
        RecipeError: no recipe for that body.
    """
    if body not in RECIPES:
        raise RecipeError(f"body={body}: choose from {', '.join(RECIPES)}")
    recipe = load_recipe([f"recipe={RECIPES[body]}", "evolution.steps=0", *words], cuda_available=torch.cuda.is_available())
    recipe = replace(recipe, total_steps=10**12)
    embodiment = replace(build.build_body(recipe), substeps=substeps)
    device = torch.device("cuda" if build.backend(recipe) == "warp" and torch.cuda.is_available() else "cpu")
    return recipe, embodiment, build.build_bank(recipe, embodiment, device)
