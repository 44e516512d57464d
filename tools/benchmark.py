"""Throughput of raw physics, environment and training, alternated in one process.

``python tools/benchmark.py [body=myo_fullbody] [num_envs=64] [json=FILE] [rounds=3] [steps=40] [iterations=4]``

body        myo_fullbody, myo_bimanual or toy_arm
num_envs    worlds
json        file for the figures; default: none
rounds      times that the three cases are alternated; the medians are reported
steps       control steps a round of the raw and the environment case
iterations  training iterations a round, of the body's cpu recipe
All figures in control steps per second (one control step is five substeps of one world).
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import torch
from lightning.pytorch.callbacks import LambdaCallback
from mujoco.batch import Batch
from torch import Tensor

from mm_torch import build
from mm_torch.command import run_command
from mm_torch.config.load import load_recipe
from mm_torch.config.options import read_options
from mm_torch.config.schema import Recipe
from mm_torch.ppo.module import PpoModule
from mm_torch.ppo.policy import RolloutPolicy
from mm_torch.ppo.rollout import RolloutLoader
from mm_torch.sim.native import NativePhysics
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.task.env import MimicEnv
from mm_torch.training import make_trainer
from sim_models.embodiment import Embodiment

RECIPES = {"myo_fullbody": "fullbody_generalist", "myo_bimanual": "bimanual_demo", "toy_arm": "toy_arm"}


class TapedPhysics(NativePhysics):
    """Native physics that writes down what the environment does to it: excitations and resets, in order."""

    def __init__(self, body: Embodiment, num_envs: int, threads: int) -> None:
        super().__init__(body, num_envs, threads)
        self.tape: list[tuple[np.ndarray, ...]] = []

    def step(self, excitation: Tensor) -> None:
        """See ``Physics.step``."""
        self.tape.append((excitation.numpy().copy(),))
        super().step(excitation)

    def reset(self, mask: Tensor, qpos: Tensor, qvel: Tensor, act: Tensor) -> None:
        """See ``Physics.reset``."""
        self.tape.append(tuple(x.numpy().copy() for x in (mask, qpos, qvel, act)))
        super().reset(mask, qpos, qvel, act)


class RawCase:
    """``mujoco.batch`` alone through the environment's own states and excitations; only the stepping is timed."""

    def __init__(self, body: Embodiment, num_envs: int, threads: int) -> None:
        self.batch = Batch(body.model, num_envs, nthread=threads, persistent=True)
        self.views = {name: self.batch.bind(name) for name in ("qpos", "qvel", "act", "ctrl")}
        self.substeps = body.substeps

    def seconds(self, tape: list[tuple[np.ndarray, ...]]) -> float:
        """Time of the tape's control steps of all worlds."""
        total = 0.0
        for entry in tape:
            if len(entry) > 1:
                self._reset(*entry)
                continue
            self.views["ctrl"][:] = entry[0]
            start = time.perf_counter()
            self.batch.step(nstep=self.substeps)
            total += time.perf_counter() - start
        return total

    def _reset(self, mask: np.ndarray, *state: np.ndarray) -> None:
        ids = np.flatnonzero(mask)
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for name, value in zip(("qpos", "qvel", "act"), state, strict=True):
            self.views[name][ids] = value[ids]


class EnvCase:
    """The environment with random actions, observations, rewards, terminations and resets included."""

    def __init__(self, env: MimicEnv, std: float) -> None:
        self.env, self.std, self.state = env, std, env.reset()

    def seconds(self, steps: int) -> float:
        """Time of some control steps of all worlds."""
        start = time.perf_counter()
        for _ in range(steps // self.env.task.action.hold_steps):
            self.state["action"] = self.std * torch.randn(self.env.action_spec.shape)
            _, self.state = self.env.step_and_maybe_reset(self.state)
        return time.perf_counter() - start


class TrainCase:
    """Whole training iterations: collection through the collector and the update, through Lightning."""

    def __init__(self, recipe: Recipe, env: MimicEnv, iterations: int) -> None:
        self.recipe, self.env, self.iterations = recipe, env, iterations
        self.module = PpoModule(recipe, env)

    def seconds(self) -> list[float]:
        """Time of each iteration, the first (which warms up) left out."""
        loader = RolloutLoader(self.env, RolloutPolicy(self.module.agent), self.recipe.ppo.rollout_steps,
                               self.iterations + 1)
        marks: list[float] = []

        clock = LambdaCallback(on_train_batch_end=lambda *_: marks.append(time.perf_counter()))
        make_trainer(self.env.device, [clock], None).fit(self.module, train_dataloaders=loader)
        return [b - a for a, b in itertools.pairwise(marks)]


def run(body: str, num_envs: int, rounds: int, steps: int, iterations: int) -> dict[str, float | int | str]:
    """Alternate the three cases and report medians.

    Returns:
        ``raw_steps_per_s``, ``env_steps_per_s``, ``train_steps_per_s``, ``env_ratio`` and ``train_ratio`` (over raw).
    """
    threads = budget_threads()
    apply(threads)
    recipe = load_recipe([f"recipe={RECIPES[body]}", f"num_envs={num_envs}", "sim=native"], cuda_available=False)
    recipe = replace(recipe, total_steps=10**9)
    embodiment = build.build_body(recipe)
    bank = build.build_bank(recipe, embodiment, torch.device("cpu"))
    taped = TapedPhysics(embodiment, num_envs, threads.physics)
    env = EnvCase(build.build_env(recipe, taped, bank), recipe.net.init_std)
    raw = RawCase(embodiment, num_envs, threads.physics)
    physics = build.build_physics(recipe, embodiment, num_envs, threads.physics)
    train = TrainCase(recipe, build.build_env(recipe, physics, bank), iterations)
    env.seconds(steps)
    raw.seconds(taped.tape)  # continues from the environment's state, as the environment does
    rates: dict[str, list[float]] = {"raw": [], "env": [], "train": []}
    for _ in range(rounds):
        taped.tape.clear()
        rates["env"].append(num_envs * steps / env.seconds(steps))
        rates["raw"].append(num_envs * steps / raw.seconds(taped.tape))
        rates["train"] += [train.module.batch_control_steps / s for s in train.seconds()]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "body": body, "num_envs": num_envs, "threads": threads.physics,
        **{f"{name}_steps_per_s": value for name, value in medians.items()},
        "env_ratio": medians["env"] / medians["raw"], "train_ratio": medians["train"] / medians["raw"],
        "mujoco": mujoco.__version__, "torch": torch.__version__,
    }


def main(arguments: list[str]) -> None:
    """Entry point."""
    known = {"body": "myo_fullbody", "num_envs": 64, "json": "", "rounds": 3, "steps": 40, "iterations": 4}
    options = read_options(arguments, known)
    figures = run(*(options[k] for k in ("body", "num_envs", "rounds", "steps", "iterations")))
    for name, value in figures.items():
        print(f"{name:18} {value:,.2f}" if isinstance(value, float) else f"{name:18} {value}")
    if options["json"]:
        Path(options["json"]).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
