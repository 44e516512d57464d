"""The search for activations: what it finds can be played back, is no worse, and does not depend on the day."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mm_torch.evolution.beam import Beam, BeamSettings, BeamWorlds, Window
from mm_torch.motion.bank import ReferenceBank
from mm_torch.ppo.policy import Agent
from mm_torch.sim.native import NativePhysics
from mm_torch.task.env import MimicEnv
from sim_models.registry import load_body
from tests.unit.task.worlds import begin, library_clip, recipe
from tools.refine_activations import COLUMNS, with_others
from tools.retargeting.atomic import write_csv

WORDS = ("recipe=fullbody_generalist", "task.action.reflexes=true", "evolution.steps=0")
SETTINGS = BeamSettings(window=8, horizon=12, elites=2)
STEPS, WORLDS = 24, 32


def worlds(kind: type[MimicEnv], count: int, **limits: float) -> MimicEnv:
    task = recipe(*WORDS, *(f"task.termination.{name}={value}" for name, value in limits.items())).task
    body = load_body("myo_fullbody", False)
    clip = library_clip(body, 0, act=True)
    bank = ReferenceBank.build(body, [clip, clip])
    bank.lengths[1] = len(bank.frames.qpos) // 2 - 35  # the second ends early
    return kind(NativePhysics(body, count, 1), bank, task)


def agent(env: MimicEnv) -> Agent:
    torch.manual_seed(0)
    made = Agent.of(recipe(*WORDS), env.physics.body, [(s.name, s.start, s.end) for s in env.layout], 31).eval()
    made.normaliser.update(env.reset()["observation"])
    return made


def search(env: MimicEnv, told: list[Window], clip: int = 1) -> tuple[Tensor, int]:
    assert isinstance(env, BeamWorlds)
    return Beam(agent(env), env, SETTINGS).refine(clip, told.append)


def follow(act: Tensor | None) -> tuple[Tensor, float]:
    """Positions at the end of the second clip with given activations, and the mean relative site error on the way."""
    env = worlds(MimicEnv, 2)
    policy = agent(env)
    if act is not None:
        env.bank.act[int(env.bank.offsets[1]) :][: len(act)] = act
    env.use_reflexes(policy.reflexes)
    begin(env, 1, 0)
    error, hold = 0.0, env.task.action.hold_steps
    for step in range(STEPS):
        if step % hold == 0:
            with torch.no_grad():
                action = policy.mean_action(env.current_observation)
        env.advance(action, torch.ones(2, dtype=torch.bool), observed=step % hold == hold - 1)
        error += env.context().relative_site_distance[0].item() / STEPS
    return env.physics.state.qpos[0].clone(), error


@pytest.fixture(scope="module")
def found() -> tuple[Tensor, int, list[Window], MimicEnv]:
    env, told = worlds(BeamWorlds, WORLDS), []
    return *search(env, told), told, env


def test_what_is_found_can_be_played_back_and_is_better(found: tuple[Tensor, int, list[Window], MimicEnv]) -> None:
    act, frame, told, _ = found
    assert frame == STEPS and [w.frame for w in told] == [8, 16, 24] and act.dtype == torch.float16
    _, error = follow(act)
    assert error == pytest.approx(sum(w.relative_site_error for w in told) / 3, rel=0.02)
    assert error < follow(None)[1]


def test_activations_before_the_first_step_and_of_other_clips_stay(
    found: tuple[Tensor, int, list[Window], MimicEnv]
) -> None:
    act, _, _, env = found
    own = env.bank.act[int(env.bank.offsets[1]) :][: len(act)]
    assert torch.equal(act[0], own[0]) and not torch.equal(act[1:], own[1:])
    assert torch.equal(env.bank.act[: len(env.bank.act) // 2], worlds(MimicEnv, 2).bank.act[: len(env.bank.act) // 2])
    assert act.min() >= 0.0 and act.max() <= 1.0


def test_the_same_again(found: tuple[Tensor, int, list[Window], MimicEnv]) -> None:
    act, _, _, env = found
    search(env, [], clip=0)  # another clip in between
    assert torch.equal(search(env, [])[0], act)


def test_where_all_fall_it_ends_and_keeps_what_there_was() -> None:
    env, told = worlds(BeamWorlds, WORLDS, relative_site_deviation=1e-6), []
    act, frame = search(env, told)
    assert frame == 0 and not told
    assert torch.equal(act, env.bank.act[int(env.bank.offsets[1]) :][: len(act)])


def test_the_table_keeps_the_lines_of_earlier_runs(tmp_path: Path) -> None:
    table, earlier = tmp_path / "refined.csv", [{"clip": name, "status": "ok", "length": 9} for name in "ab"]
    write_csv(table, COLUMNS, with_others(table, earlier))
    now = [{"clip": name, "status": "left alone"} for name in "ac"] + [{"clip": "b", "status": "ok", "length": 12}]
    write_csv(table, COLUMNS, with_others(table, now))
    rows = {row["clip"]: (row["status"], row["length"]) for row in csv.DictReader(table.open())}
    assert rows == {"a": ("ok", "9"), "b": ("ok", "12"), "c": ("left alone", "")}
