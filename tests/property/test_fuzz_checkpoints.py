"""Damaged checkpoints and flight records: one documented error, or a run that goes on; nothing is executed."""

from __future__ import annotations

import copy
import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mm_torch import build
from mm_torch.callbacks.checkpoint import KEY, CheckpointError, check_compatible, read_checkpoint, restore_run
from mm_torch.config.load import RecipeError
from mm_torch.ppo.module import PpoModule
from mm_torch.sim.guard import FlightError, FlightRecorder, replay
from mm_torch.sim.native import NativePhysics
from mm_torch.train import recipe_from
from mm_torch.training import train
from sim_models.registry import load_body
from tests.property.fuzzing import damage_bytes, damage_npz

FAST, MANY = 8, 400
WORDS = ("recipe=toy_arm", "profile=cpu", "sim=native", "num_envs=4", "threads=1", "ppo.rollout_steps=8", "ppo.minibatches=2",
         "net.hidden=[8,8]")
ODD = (None, True, -1, 0, 2**70, 1e300, float("nan"), "", "../../x", [], [[]], {}, {"a": 1}, torch.zeros(0), torch.ones(3),
       torch.zeros(2, dtype=torch.int8), torch.full((), float("nan")))


@pytest.fixture(autouse=True)
def mujoco_log_goes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(recipe_from([*WORDS, f"run_dir={folder}", "total_steps=32", "sampling.adaptive=true"]))


@pytest.fixture(scope="module")
def module(sound: Path) -> PpoModule:
    """A learner that a checkpoint may be loaded into, again and again."""
    recipe = recipe_from([f"resume={sound}"])
    body = build.build_body(recipe)
    physics = build.build_physics(recipe, body, recipe.num_envs, 1)
    return PpoModule(recipe, build.build_env(recipe, physics, build.build_bank(recipe, body, physics.device)))


def use(path: Path, module: PpoModule) -> str:
    """As ``resume=`` does: recipe, layout, weights, worlds. Anything but the two errors fails the test."""
    try:
        recipe_from([f"resume={path}"])
        checkpoint = read_checkpoint(path)
        layout = [[s.name, s.start, s.end] for s in module.env.layout]
        check_compatible(path, checkpoint, module.env.physics.body, layout)
        restore_run(path, module, checkpoint)
    except (CheckpointError, RecipeError) as error:
        assert str(error).strip() and len(str(error).splitlines()) == 1, error
        return "refused"
    return "read"


def repacked(rng: np.random.Generator, content: bytes) -> bytes:
    """One entry damaged, with check sums that fit: what no check sum can notice."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w") as copied:
        names = archive.namelist()
        victim = names[0] if rng.random() < 0.7 else str(rng.choice(names))  # the first is the pickle
        for name in names:
            data = archive.read(name)
            if name == victim and rng.random() < 0.1:
                continue
            copied.writestr(name, damage_bytes(rng, data) if name == victim else data)
    return packed.getvalue()


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in nested containers."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, branch in pairs:
        yield (*path, key)
        yield from places(branch, (*path, key))


def replaced(rng: np.random.Generator, content: bytes) -> bytes:
    """One value gone or replaced by one of another kind; half of them among what is ours."""
    checkpoint = copy.deepcopy(torch.load(io.BytesIO(content), weights_only=True))
    paths = [p for p in places(checkpoint) if p[0] in ("state_dict", KEY)]
    short = [p for p in paths if p[0] == KEY and len(p) <= 3]
    chosen = short if rng.random() < 0.5 else paths
    *way, key = chosen[int(rng.integers(len(chosen)))]
    parent = checkpoint
    for step in way:
        parent = parent[step]
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = ODD[int(rng.integers(len(ODD)))]
    packed = io.BytesIO()
    torch.save(checkpoint, packed)
    return packed.getvalue()


DAMAGE = {"bytes": damage_bytes, "an entry": repacked, "a value": replaced}


def run(kind: str, seeds: range, sound: Path, module: PpoModule, folder: Path) -> Counter[str]:
    content, counts, path = (sound / "checkpoints" / "last.ckpt").read_bytes(), Counter(), folder / "damaged.ckpt"
    for seed in seeds:
        path.write_bytes(DAMAGE[kind](np.random.default_rng(seed), content))
        try:
            counts[use(path, module)] += 1
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}")
            raise
    return counts


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_gives_the_documented_error(kind: str, sound: Path, module: PpoModule, tmp_path: Path) -> None:
    assert use(sound / "checkpoints" / "last.ckpt", module) == "read"
    assert run(kind, range(FAST), sound, module, tmp_path)["refused"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_thousands_of_damaged_checkpoints(kind: str, sound: Path, module: PpoModule, tmp_path: Path) -> None:
    counts = run(kind, range(FAST, FAST + MANY), sound, module, tmp_path)
    print(kind, dict(counts))
    assert counts["refused"] > MANY // 10


# -- flight records ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    body = load_body("toy_arm")
    physics, failed = NativePhysics(body, 2, 1), torch.tensor([True, False])
    recorder = FlightRecorder(body, 2, tmp_path_factory.mktemp("flights"), depth=3)
    for _ in range(4):
        recorder.record(physics.state, torch.rand(2, body.model.nu), ~failed)
        physics.step(torch.rand(2, body.model.nu))
    path = recorder.dump(failed)
    assert path is not None
    return path


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 2060), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_damaged_flight_record_gives_the_documented_error(seeds: range, record: Path) -> None:
    content, damaged, counts = record.read_bytes(), record.with_name("damaged.npz"), Counter[str]()
    assert len(replay(record)) == 1
    for seed in seeds:
        damaged.write_bytes(damage_npz(np.random.default_rng(seed), content))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numbers that overflow, and of names that stand there twice
                replay(damaged)
            counts["read"] += 1
        except FlightError as error:
            assert len(str(error).splitlines()) == 1
            counts["refused"] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    print(dict(counts))
    assert counts["refused"] > len(seeds) // 4 and not list(record.parent.parent.rglob("mark*"))


class Trap:
    """Would leave a mark if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.mark,)


def test_nothing_in_a_checkpoint_is_executed(sound: Path, module: PpoModule, tmp_path: Path) -> None:
    checkpoint, mark, path = read_checkpoint(sound), tmp_path / "mark", tmp_path / "trap.ckpt"
    checkpoint[KEY]["score"] = Trap(mark)
    torch.save(checkpoint, path)
    assert use(path, module) == "refused" and not mark.exists()
