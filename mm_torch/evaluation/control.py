"""Computed muscle control in the worlds of an evaluation: every clip of a bank, with no learned part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mm_torch.config.load import RecipeError, load_recipe
from mm_torch.config.schema import ActionConfig, Recipe
from mm_torch.distillation.teacher import Teacher
from mm_torch.evaluation.tracker import UNCHANGED, ClipResult, Conditions, Trace, Tracker
from mm_torch.motion.bank import ReferenceBank
from mm_torch.muscle.control import ControlSettings

HAND = "hand"  # part of the names of the sites whose error is stated separately
RECIPES = {"myo_bimanual": "bimanual_base", "myo_fullbody": "fullbody_base", "toy_arm": "toy_arm"}
FIXED_ROOT_LIMITS = {"absolute_site_deviation": 0.15}  # m
FREE_ROOT_LIMITS = {"relative_site_deviation": 0.3, "root_position": 0.5}  # m, as in the paper
DIRECT = ActionConfig(offset=0.0, scale=1.0)  # the action is the excitation


@dataclass
class Effort:
    """What control took: control steps of single worlds, seconds in the controller and in all, unsolved problems."""

    steps: int = 0
    control_s: float = 0.0
    total_s: float = 0.0
    unsolved: int = 0


def control_recipe(body: str, fingers: bool, motions: str | None, thresholds: dict[str, float | None]) -> Recipe:
    """Recipe in which actions are excitations and nothing but joints is observed; rewards are those of the body's recipe.

    Args:
        body: registry name.
        fingers: whether its fingers move.
        motions: directory with clips; None: the built-in library.
        thresholds: deviations (m) that end a clip early, in place of ``FIXED_ROOT_LIMITS`` or ``FREE_ROOT_LIMITS``.

    Raises:
        RecipeError: no such body.
    """
    if body not in RECIPES:
        raise RecipeError(f"body={body}: choose one of {', '.join(RECIPES)}")
    words = [f"recipe={RECIPES[body]}", "sim=native", "profile=cpu", f"body.fingers={str(fingers).lower()}"]
    words += ["num_envs=1", "total_steps=1"]
    recipe = load_recipe(words, cuda_available=False)
    free = "relative_site_deviation" in recipe.task.termination
    usual = FREE_ROOT_LIMITS if free else FIXED_ROOT_LIMITS
    thresholds = usual | thresholds
    task = replace(
        recipe.task, observation=("joint_position",), action=DIRECT, termination=thresholds, horizon_steps=2**31
    )
    return replace(recipe, motions=motions, task=task)


class ControlTracker(Tracker):
    """``Tracker`` whose actions come from computed muscle control; results have the error of the hands, too.

    Args:
        recipe: as made by ``control_recipe``.
        bank: clips.
        settings: of the controller; None: those of the body.
        threads: of the physics pool.
        conditions: perturbations.
    """

    def __init__(
        self, recipe: Recipe, bank: ReferenceBank, settings: ControlSettings | None = None, threads: int = 0,
        conditions: Conditions = UNCHANGED,
    ) -> None:
        super().__init__(recipe, bank, threads, conditions)
        self.teacher = Teacher(self.body, bank, settings)
        self.effort = Effort()
        self._hands = torch.tensor([HAND in name for name in self.body.site_names])

    def follow(self, record: Callable[[Trace], None] | None = None) -> list[ClipResult]:
        """Track every clip; one result a clip in the bank's order.  ``record`` is given the trace of each clip."""
        start = time.perf_counter()
        results = self.track(Unlearned(), record=record)
        self.effort.total_s += time.perf_counter() - start
        return results

    def _start(self, seed: int, clips: Sequence[int]) -> None:
        super()._start(seed, clips)
        self._sums["hand_error"] = torch.zeros_like(self._sums["return"])

    def _act(self, agent: Unlearned) -> Tensor:
        start = time.perf_counter()
        rows = self._alive.nonzero().flatten()
        plan = self.teacher(self.env, rows)
        action = torch.zeros(len(self._alive), self.body.model.nu)
        action[rows] = plan.excitation.float()
        self.effort.steps += len(rows)
        self.effort.unsolved += plan.unsolved
        self.effort.control_s += time.perf_counter() - start
        return action

    def _book(self, earned: Tensor, terminated: Tensor, recording: bool) -> None:
        super()._book(earned, terminated, recording)
        context = self.env.context()
        error = (context.state.site_xpos - context.ref_site_xpos)[:, self._hands].norm(dim=-1).mean(dim=-1)
        self._sums["hand_error"] += torch.where(self._alive & ~context.state.failed, error, 0.0)

    def _close(self, row: int, record: Callable[[Trace], None] | None) -> None:
        clip, hand = int(self.env.clip[row]), self._sums["hand_error"][row].item() / int(self._length[row])
        super()._close(row, record)
        result = self._results[clip]
        if self._hands.any():
            self._results[clip] = replace(result, errors=result.errors | {"hand_error": hand})


class Unlearned:
    """Stands where the tracker expects networks: there are none, nor reflexes."""

    reflexes = None

    def to(self, device: torch.device) -> Unlearned:
        """Itself."""
        return self
