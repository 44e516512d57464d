"""What a CUDA graph replays must not wait for the device nor bring values from the host: checked on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mm_torch.maths.replay import Replay
from mm_torch.task.env import MimicEnv
from tests.unit.task.worlds import act, begin, make_env, noise

HOST = {"_local_scalar_dense", "nonzero", "lift_fresh", "item", "masked_select", "unique", "_unique2"}
CUDA = ("recipe=fullbody_generalist", "profile=cuda", "ppo.minibatches=1")
RECIPES = [
    CUDA,
    ("recipe=fullbody_generalist", "profile=cpu"),
    pytest.param((*CUDA, "compat=upstream"), marks=pytest.mark.slow),
    pytest.param(("recipe=bimanual_generalist", *CUDA[1:]), marks=pytest.mark.slow),
    ("recipe=toy_arm",),
]


class NoHost(TorchDispatchMode):
    """Refuses operations that would stop or spoil the capture of a CUDA graph."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in HOST or any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices):
            raise AssertionError(f"{func} needs the host")
        return func(*args, **(kwargs or {}))


@contextmanager
def captured(env: MimicEnv) -> Iterator[list[str]]:
    """Let every replay of an environment run where ``NoHost`` watches; yields the names of those that ran."""
    seen: list[str] = []

    def watch(name: str, replay: Replay[Any]) -> Any:
        def call() -> Any:
            seen.append(name)
            with NoHost():
                return replay()

        return call

    env._excite, env._place, env._look = (watch(n, getattr(env, n)) for n in ("_excite", "_place", "_look"))  # type: ignore
    env._judge = {key: watch("_judge", replay) for key, replay in env._judge.items()}  # type: ignore[misc]
    yield seen


@pytest.mark.parametrize("words", RECIPES, ids=lambda words: "-".join(w.split("=")[1] for w in words))
def test_a_control_step_stays_on_the_device(words: tuple[str, ...]) -> None:
    env = make_env(*words, clips=1, num_envs=2)
    state = begin(env)
    act(env, state, noise(env))  # the statistics learn their names
    with captured(env) as seen:
        act(env, state, noise(env))
        env.begin_episodes(torch.tensor([True, False]))
    assert set(seen) == {"_excite", "_judge", "_place", "_look"}


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x + torch.tensor([1.0, 2.0]), lambda x: torch.nonzero(x),
        lambda x: x.new_tensor([1.0, 2.0]),
    ],
)
def test_the_watch_sees_what_it_must(work: Any) -> None:
    with pytest.raises(AssertionError, match="needs the host"), NoHost():
        work(torch.ones(2))


def test_the_cpu_runs_the_work_each_time() -> None:
    calls: list[int] = []
    replay = Replay(lambda: calls.append(1), captured=False)
    for _ in range(3):
        replay()
    assert len(calls) == 3


@pytest.mark.gpu
def test_a_replayed_graph_does_the_work_anew() -> None:
    total, step = torch.zeros(3, device="cuda"), torch.ones(3, device="cuda")

    def work() -> torch.Tensor:
        total.add_(step)
        return total * 2.0

    replay = Replay(work, captured=True)
    for call in range(1, 6):
        step.fill_(float(call))
        assert replay().tolist() == [call * (call + 1.0)] * 3
    assert replay._graph is not None
