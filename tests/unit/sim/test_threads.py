"""Cores are shared between the physics pool and torch in one place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mm_torch.sim.threads import ThreadBudget, apply, available_cpus, budget_threads


@pytest.mark.parametrize(("cores", "physics", "intra_op"), ((1, 1, 1), (2, 2, 1), (3, 3, 1), (16, 16, 8)))
def test_budget(cores: int, physics: int, intra_op: int) -> None:
    assert budget_threads(cores) == ThreadBudget(physics=physics, torch=intra_op)


def test_budget_of_this_process_is_possible() -> None:
    assert 1 <= budget_threads().torch <= budget_threads().physics == available_cpus()


def test_container_quota_cuts_the_cores(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    unlimited = available_cpus(tmp_path / "missing")
    quota.write_text("100000 100000\n")
    assert available_cpus(quota) == 1
    quota.write_text("max 100000\n")
    assert available_cpus(quota) == unlimited
    quota.write_text("50000 100000\n")
    assert available_cpus(quota) == 1


def test_apply_sets_torch_threads() -> None:
    before = torch.get_num_threads()
    try:
        apply(ThreadBudget(physics=4, torch=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_no_core_is_refused() -> None:
    with pytest.raises(ValueError, match="cpu_count 0"):
        budget_threads(0)
