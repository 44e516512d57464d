"""One case: whole training iterations with a clock on each part."""

from __future__ import annotations

import functools
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import LambdaCallback

from mm_torch import build
from mm_torch.ppo.module import PpoModule
from mm_torch.ppo.policy import RolloutPolicy
from mm_torch.ppo.rollout import RolloutLoader
from mm_torch.sim.threads import apply, budget_threads
from mm_torch.training import make_trainer
from sim_models.embodiment import SUBSTEPS
from tools.benchmarks.setup import Clock, prepare

if TYPE_CHECKING:
    from mm_torch.sim.warp import WarpPhysics

PARTS = ("physics", "environment", "inference", "update")
RATES = ("physics", "environment", "rollout", "update", "training")


@dataclass(frozen=True)
class Case:
    """What is measured.

    ============= ===================================================================================
    body          name of the body
    worlds        N
    sim           back end: native or warp
    substeps      physics steps of a control step
    threads       cores to share between physics and torch; 0: all
    profile       cpu or cuda profile of the body's recipe: networks, observation, action map
    rollout_steps actions of the policy in a rollout
    minibatches   of an update; fewer where they do not divide the rollout
    iterations    timed iterations, after one that is not
    ============= ===================================================================================
    """

    body: str
    worlds: int
    sim: str = "native"
    substeps: int = SUBSTEPS
    threads: int = 0
    profile: str = "cpu"
    rollout_steps: int = 50
    minibatches: int = 32
    iterations: int = 2

    @property
    def divided(self) -> int:
        """The largest number of minibatches up to ``minibatches`` that divides the rollout."""
        samples = self.worlds * self.rollout_steps
        return next(m for m in range(min(self.minibatches, samples), 0, -1) if samples % m == 0)


def measure(case: Case) -> dict[str, float | int | str]:
    """Run a case.

    Returns:
        The case, ``<rate>_steps_per_s`` of ``RATES`` in control steps of worlds a second, ``<part>_share`` of ``PARTS`` in
        the time of an iteration (medians over the iterations), and ``peak_gb`` of the process. *Physics* is
        ``Physics.step``; *environment* adds action map, reward, termination, observation and resets; *rollout* adds
        inference and the collector; *training* adds the update. With warp also ``raw_steps_per_s``, ``mujoco_warp.step``
        alone from the last states, and on a GPU ``device_gb``, all memory in use there.
    """
    threads = budget_threads(case.threads or None)
    apply(threads)
    torch.manual_seed(0)
    words = [f"num_envs={case.worlds}", f"sim={case.sim}", f"profile={case.profile}",
             f"ppo.rollout_steps={case.rollout_steps}", f"ppo.minibatches={case.divided}"]
    recipe, embodiment, bank = prepare(case.body, words, case.substeps)
    physics = build.build_physics(recipe, embodiment, case.worlds, threads.physics)
    step, env_step = Clock(physics.device), Clock(physics.device)
    step.wrap_step(physics)
    env = build.build_env(recipe, physics, bank)
    module = PpoModule(recipe, env)
    loader = RolloutLoader(env, RolloutPolicy(module.agent), case.rollout_steps, case.iterations + 1)
    env.step_and_maybe_reset = env_step.wrap(env.step_and_maybe_reset)  # type: ignore[method-assign]
    rows: list[dict[str, float]] = []
    since = 0.0

    def note(*_: object) -> None:
        nonlocal since
        now = time.perf_counter()
        if since:
            rows.append(_figures(step, env_step.seconds, loader.collect_seconds, now - since))
        step.clear(), env_step.clear()
        since = time.perf_counter()

    make_trainer(physics.device, [LambdaCallback(on_train_batch_end=note)], None).fit(module, train_dataloaders=loader)
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # kB on Linux
    return {
        "case": "iteration", **asdict(case), "minibatches": case.divided, **medians, "peak_gb": peak,
        **(_device_figures(physics) if case.sim == "warp" else {}),
    }


def _device_figures(physics: WarpPhysics) -> dict[str, float]:
    """Rate of raw MuJoCo Warp, and memory in use on the GPU."""
    figures = {"raw_steps_per_s": raw_rate(physics)}
    if physics.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(physics.device)
        figures["device_gb"] = (total - free) / 1e9
    return figures


def raw_rate(physics: WarpPhysics, repeats: int = 5) -> float:
    """Control steps of worlds a second of ``mujoco_warp.step`` alone, one captured graph a control step on a GPU.

    Every repeat starts from the present states and excitations, which are put back; the median is taken.
    """
    import mujoco_warp as mjw
    import warp as wp

    saved, seconds = physics.state_dict(), []
    device = wp.device_from_torch(physics.device)

    def steps() -> None:
        for _ in range(physics.body.substeps):
            mjw.step(physics.model, physics.worlds.data)

    with wp.ScopedDevice(device):
        run = steps
        if device.is_cuda:
            with wp.ScopedCapture() as capture:
                steps()
            run = functools.partial(wp.capture_launch, capture.graph)
        for _ in range(repeats + 1):
            physics.load_state_dict(saved)
            if device.is_cuda:
                torch.cuda.synchronize(physics.device)
            start = time.perf_counter()
            run()
            wp.synchronize_device(device)
            seconds.append(time.perf_counter() - start)
    physics.load_state_dict(saved)
    return physics.num_envs / statistics.median(seconds[1:])


def _figures(step: Clock, environment: float, rollout: float, training: float) -> dict[str, float]:
    seconds = dict(zip(RATES, (step.seconds, environment, rollout, training - rollout, training), strict=True))
    parts = (step.seconds, environment - step.seconds, rollout - environment, training - rollout)
    return {f"{name}_steps_per_s": step.control_steps / s for name, s in seconds.items()} | {
        f"{name}_share": s / training for name, s in zip(PARTS, parts, strict=True)
    }
