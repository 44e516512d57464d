"""Run by the interpreter that has MyoSuite: ``python myosuite_worker.py ENV SECONDS`` prints rates of one world as JSON.

Environment steps with random actions and plain ``mj_step`` of the same model alternate in pieces of 50 control steps; the
plain steps go through the environment's actions, in a state of their own that is reset when the environment's is.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata

import gymnasium
import mujoco
import myosuite  # noqa: F401  (registers the environments)

PIECE = 50


def main(name: str, seconds: float) -> dict[str, float | int | str]:
    """Rates in control steps a second."""
    env = gymnasium.make(name)
    inner = env.unwrapped
    model, frames = inner.model, inner.frame_skip
    data = mujoco.MjData(model)
    env.reset(seed=0)
    spent = {"env": 0.0, "raw": 0.0}
    steps = 0
    end = time.perf_counter() + seconds
    while steps == 0 or time.perf_counter() < end:
        controls, fresh = [], []
        start = time.perf_counter()
        for _ in range(PIECE):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            controls.append(inner.data.ctrl.copy())
            fresh.append(terminated or truncated)
            if fresh[-1]:
                env.reset()
        spent["env"] += time.perf_counter() - start
        start = time.perf_counter()
        for ctrl, ended in zip(controls, fresh, strict=True):
            data.ctrl[:] = ctrl
            mujoco.mj_step(model, data, nstep=frames)
            if ended:
                mujoco.mj_resetData(model, data)
        spent["raw"] += time.perf_counter() - start
        steps += PIECE
    facts = {"version": metadata.version("myosuite"), "muscles": int(model.nu), "control_s": frames * model.opt.timestep}
    return facts | {k: steps / s for k, s in spent.items()}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float(sys.argv[2]))))
