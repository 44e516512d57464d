"""The evolution strategy: it climbs, it can be interrupted, and it reads back only what it wrote."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mm_torch.callbacks.checkpoint import KEY, CheckpointError, load_weights
from mm_torch.command import run_command
from mm_torch.config.schema import EvolutionConfig
from mm_torch.evolution.search import Generation, Search, SearchError
from mm_torch.ppo.policy import Agent
from mm_torch.task.env import MimicEnv
from mm_torch.task.reflex import PARTS
from tests.unit.task.worlds import make_env, recipe

WORDS = ("recipe=fullbody_generalist", "task.action.reflexes=true", "evolution.steps=0")
CONFIG = EvolutionConfig(steps=64 * 100 * 40, sigma=0.1, lr=0.15)


@cache
def env() -> MimicEnv:
    return make_env(*WORDS, clips=2, num_envs=64)


def agent() -> Agent:
    return Agent.of(recipe(*WORDS), env().physics.body, [(s.name, s.start, s.end) for s in env().layout], 31)


class Hill(Search):
    """Episodes of 100 steps whose return falls with the distance of the gains from a summit."""

    def _episodes(self, clip: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        gains = torch.cat([getattr(self._candidates, name).flatten(1) for name in PARTS], dim=1)
        summit = torch.linspace(-0.5, 0.5, gains.shape[1])
        height = 100.0 * torch.exp(-(gains - summit).square().sum(dim=1) / 3.0)
        return height, torch.full((len(gains),), 100)


def search(**changes: Any) -> Hill:
    return Hill(agent(), env(), replace(CONFIG, **changes), seed=3)


def never() -> bool:
    return False


def test_it_climbs_and_hands_over_the_average() -> None:
    found: list[Generation] = []
    climber = search()
    climber.run(found.append, never)
    assert [g.generation for g in found] == list(range(1, 41)) and found[-1].control_steps == CONFIG.steps
    assert found[-1].episode_return > 5.0 * found[0].episode_return
    assert torch.equal(climber.agent.reflexes.vector(), climber.averaged)
    summit = torch.linspace(-0.5, 0.5, len(climber.averaged))
    assert (climber.averaged - summit).norm() < 0.7 * summit.norm()


def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    whole, first = search(), search()
    whole.run(lambda _: None, never)
    first.run(lambda _: None, lambda: first.generation == 7)
    first.save(tmp_path / "state.npz")
    second = search()
    second.load(tmp_path / "state.npz")
    assert second.generation == 7 and torch.equal(second.agent.reflexes.vector(), first.averaged)
    second.run(lambda _: None, never)
    assert torch.equal(second.averaged, whole.averaged) and torch.equal(second.gains, whole.gains)


def test_pairs_share_clip_and_frame_and_clips_are_spread() -> None:
    clip, frame = search()._starts(32, torch.Generator().manual_seed(0))
    assert clip.bincount().tolist() == [16, 16]
    assert 6 <= int((frame == 0).sum()) <= 26 and int(frame.max()) > 0


@pytest.mark.parametrize("damage", ["truncated", "missing", "other", "pickled", "not finite"])
def test_a_damaged_state_is_named(damage: str, tmp_path: Path) -> None:
    path, one = tmp_path / "state.npz", search()
    one.save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    else:
        with np.load(path) as file:
            arrays = dict(file)
        if damage == "missing":
            del arrays["velocity"]
        elif damage == "other":
            arrays["gains"] = arrays["gains"][:-1]
        elif damage == "pickled":
            arrays["gains"] = np.array([{}], dtype=object)
        else:
            arrays["gains"][3] = np.nan
        np.savez(path, **arrays)
    with pytest.raises(SearchError, match=r"state\.npz: .*delete it to search anew"):
        search().load(path)


@pytest.mark.slow
def test_episodes_are_those_of_the_candidates_gains() -> None:
    one = Search(agent(), env(), replace(CONFIG, sigma=0.0, episode_steps=20), seed=0)
    found: list[Generation] = []
    one.run(found.append, lambda: bool(found))
    assert found[0].contrast == 0.0 and found[0].control_steps <= 64 * 20  # the two of a pair do the same
    other = Search(agent(), env(), replace(CONFIG, sigma=0.5, episode_steps=20), seed=0)
    other.run(found.append, lambda: len(found) > 1)
    assert found[1].contrast > 0.0


def test_a_damaged_state_is_one_line_of_a_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evolution.npz").write_text("nothing")

    def verb(_: list[str]) -> None:
        search().load(tmp_path / "evolution.npz")

    with pytest.raises(SystemExit) as end:
        run_command(verb, [], None)
    assert end.value.code == 2 and capsys.readouterr().err.startswith(f"error: {tmp_path / 'evolution.npz'}: ")


def test_reflexes_of_other_groups_are_refused_by_name() -> None:
    policy = agent()
    saved = {f"agent.{name}": x for name, x in policy.state_dict().items()}
    saved["agent.reflexes.stiffness"] = torch.zeros(1, 3)
    checkpoint = {"state_dict": saved, KEY: {"recipe": {"net": {"kind": "plain", "hidden": (1,)}}}}
    with pytest.raises(CheckpointError, match="other groups of joints"):
        load_weights("old.ckpt", policy, checkpoint)
    saved["agent.normaliser.mean"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="another network"):
        load_weights("old.ckpt", policy, checkpoint)
