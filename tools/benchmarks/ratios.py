"""Environment and training against raw ``mujoco.batch``, alternated within seconds in one process."""

from __future__ import annotations

import statistics
import time

import mujoco
import numpy as np
import torch
from lightning.pytorch.callbacks import LambdaCallback
from mujoco.batch import Batch
from torch import Tensor

from mm_torch import build
from mm_torch.ppo.module import PpoModule
from mm_torch.ppo.policy import RolloutPolicy
from mm_torch.ppo.rollout import RolloutLoader
from mm_torch.sim.native import NativePhysics
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.task.env import MimicEnv
from mm_torch.training import make_trainer
from sim_models.embodiment import Embodiment
from tools.benchmarks.setup import Clock, prepare

WARM_UP = 4  # policy steps before anything is timed


class TapedPhysics(NativePhysics):
    """Native physics that writes down what the environment does to it, in order: control steps and resets."""

    def __init__(self, body: Embodiment, num_envs: int, threads: int) -> None:
        super().__init__(body, num_envs, threads)
        self.tape: list[tuple[np.ndarray, ...]] = []

    def step(self, excitation: Tensor, running: Tensor | None = None) -> None:
        """See ``Physics.step``."""
        ids = np.arange(self.num_envs) if running is None else np.flatnonzero(running.numpy())
        self.tape.append((ids, excitation.numpy().copy()))
        super().step(excitation, running)

    def reset(self, mask: Tensor, qpos: Tensor, qvel: Tensor, act: Tensor) -> None:
        """See ``Physics.reset``."""
        self.tape.append((np.flatnonzero(mask.numpy()), *(x.numpy().copy() for x in (qpos, qvel, act))))
        super().reset(mask, qpos, qvel, act)


class RawCase:
    """``mujoco.batch`` alone through the environment's own states and excitations; only the stepping is timed."""

    def __init__(self, body: Embodiment, num_envs: int, threads: int) -> None:
        self.batch = Batch(body.model, num_envs, nthread=threads, persistent=True)
        self.views = {name: self.batch.bind(name) for name in ("qpos", "qvel", "act", "ctrl")}
        self.num_envs, self.substeps = num_envs, body.substeps

    def rate(self, tape: list[tuple[np.ndarray, ...]]) -> float:
        """Control steps of worlds a second over a tape."""
        seconds, control_steps = 0.0, 0
        for ids, *values in tape:
            if len(values) == 1:
                self.views["ctrl"][ids] = values[0][ids]
                start = time.perf_counter()
                self.batch.step(None if len(ids) == self.num_envs else ids, nstep=self.substeps)
                seconds += time.perf_counter() - start
                control_steps += len(ids)
            else:
                self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
                for name, value in zip(("qpos", "qvel", "act"), values, strict=True):
                    self.views[name][ids] = value[ids]
        return control_steps / seconds


class EnvCase:
    """The environment with random actions, observations, rewards, terminations and resets included."""

    def __init__(self, env: MimicEnv, tape: list[tuple[np.ndarray, ...]], std: float) -> None:
        self.env, self.tape, self.std, self.state = env, tape, std, env.reset()

    def rate(self) -> float:
        """Control steps of worlds a second over one action of the policy; the tape holds that time afterwards."""
        self.tape.clear()
        start = time.perf_counter()
        self.state["action"] = self.std * torch.randn(self.env.action_spec.shape)
        _, self.state = self.env.step_and_maybe_reset(self.state)
        seconds = time.perf_counter() - start
        return sum(len(entry[0]) for entry in self.tape if len(entry) == 2) / seconds


def run(body: str, num_envs: int, rounds: int, steps: int) -> dict[str, float | int | str]:
    """Alternate environment and raw stepping action by action, and both with training iterations.

    A world whose episode ended waits for the policy's next action; only control steps that were taken count, everywhere.

    Args:
        body: name of the body.
        num_envs: worlds.
        rounds: training iterations.
        steps: control steps of environment and raw physics after each.

    Returns:
        Medians ``raw_steps_per_s``, ``env_steps_per_s``, ``train_steps_per_s``, and the medians of the ratios of
        neighbouring measurements ``env_ratio`` and ``train_ratio`` (over raw).
    """
    threads = budget_threads()
    apply(threads)
    recipe, embodiment, bank = prepare(body, [f"num_envs={num_envs}", "sim=native", "profile=cpu"])
    taped = TapedPhysics(embodiment, num_envs, threads.physics)
    env = EnvCase(build.build_env(recipe, taped, bank), taped.tape, recipe.net.init_std)
    raw = RawCase(embodiment, num_envs, threads.physics)
    raw.rate([*taped.tape, (np.arange(num_envs), np.zeros_like(taped.state.act))])
    physics = build.build_physics(recipe, embodiment, num_envs, threads.physics)
    clock = Clock(physics.device)
    clock.wrap_step(physics)
    train_env = build.build_env(recipe, physics, bank)
    module = PpoModule(recipe, train_env)
    env.env.use_reflexes(module.agent.reflexes)
    pairs: list[tuple[float, float]] = []
    trained: list[tuple[float, float]] = []
    since = 0.0

    def alternate(*_: object) -> None:
        nonlocal since
        rate = clock.control_steps / (time.perf_counter() - since) if since else 0.0
        actions = max(1, steps // recipe.task.action.hold_steps)
        now = [(env.rate(), raw.rate(taped.tape)) for _ in range(actions if since else WARM_UP)]
        if since:
            pairs.extend(now)
            trained.append((rate, statistics.median(r for _, r in now)))
        clock.clear()
        since = time.perf_counter()

    loader = RolloutLoader(train_env, RolloutPolicy(module.agent), recipe.ppo.rollout_steps, rounds + 1)
    make_trainer(physics.device, [LambdaCallback(on_train_batch_end=alternate)], None).fit(module, train_dataloaders=loader)
    return {
        "case": "ratios", "body": body, "num_envs": num_envs, "threads": threads.physics,
        "raw_steps_per_s": statistics.median(r for _, r in pairs),
        "env_steps_per_s": statistics.median(e for e, _ in pairs),
        "train_steps_per_s": statistics.median(t for t, _ in trained),
        "env_ratio": statistics.median(e / r for e, r in pairs),
        "train_ratio": statistics.median(t / r for t, r in trained),
    }
