"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mm_torch.config.load import load_recipe
from mm_torch.training import train

TINY = ("recipe=toy_arm", "profile=cpu", "sim=native", "num_envs=16", "ppo.rollout_steps=32", "ppo.minibatches=4")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train the toy arm for a given number of iterations with given overrides; returns the run directory."""

    def run(iterations: int, *overrides: str) -> Path:
        run_dir = tmp_path_factory.mktemp("runs") / "run"
        words = [*TINY, f"total_steps={iterations * 16 * 32}", f"run_dir={run_dir}", *overrides]
        return train(load_recipe(words, cuda_available=False))

    return run


@pytest.fixture(scope="session")
def toy_run(tiny_run: Callable[..., Path]) -> Path:
    """Run directory of a toy arm trained for four iterations."""
    return tiny_run(4)
