"""Several processes of one run: pooled statistics, gradients of one big batch, resuming, and ranks that die."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments import LightningEnvironment
from tensordict import TensorDict

from mm_torch import build, processes
from mm_torch.callbacks.checkpoint import KEY, read_checkpoint
from mm_torch.config.load import RecipeError
from mm_torch.evaluation.job import Plan, evaluate
from mm_torch.maths import ranks
from mm_torch.nets.normaliser import ObservationNormaliser, RewardNormaliser, batch_moments
from mm_torch.ppo.loss import normalise_advantage
from mm_torch.ppo.module import RANK_BUFFERS, PpoModule
from mm_torch.processes import Processes
from mm_torch.train import recipe_from
from mm_torch.training import _check_agreement, make_trainer, train

REPO = Path(__file__).parents[2]
WORLDS, STEPS = 8, 24
TINY = (
    "recipe=toy_arm", "profile=cpu", "sim=native", f"num_envs={WORLDS}", "threads=1", f"ppo.rollout_steps={STEPS}",
    "ppo.minibatches=4", "net.hidden=[16,16]",
)
BOTH = 2 * WORLDS * STEPS  # control steps of an iteration of two ranks
ENDLESS = "total_steps=1000000000"
FIGURES = ("kl", "kl_max", "ratio_max", "policy_loss", "value_loss", "entropy", "gradient_norm", "clip_fraction")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def as_rank(of: int, port: int) -> Processes:
    """This process as one of two, started by a test."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(of),
                   "NODE_RANK": "0", "LOCAL_RANK": str(of)}
    torch.set_num_threads(1)
    environment = LightningEnvironment()
    environment.set_world_size(2)
    environment.set_global_rank(of)
    found = Processes(environment, world=2, rank=of, local_rank=of, local_world=2)
    processes.join(found)
    return found


def on_two_ranks(function: Any, *arguments: Any) -> None:
    mp.spawn(function, (free_port(), *arguments), nprocs=2)


# -- statistics and texts ---------------------------------------------------------------------------------------------
def samples(rows: int = 60) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    x = 5.0 + 3.0 * torch.randn(rows, 4, generator=g)
    x[7, 2] = float("nan")
    return {"observation": x, "reward": torch.rand(10, rows, generator=g), "done": torch.rand(10, rows, generator=g) < 0.2,
            "advantage": torch.randn(3, rows, generator=g) * 4 + 1}


def statistics_of(part: slice, advantage: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two normalisers that saw these worlds, and normalised advantages."""
    x = samples()
    seen, returns = ObservationNormaliser(4, clip=None), RewardNormaliser(len(x["observation"][part]), 0.9)
    seen.update(x["observation"][part])
    for reward, done in zip(x["reward"], x["done"], strict=True):
        returns.update(reward[part], done[part])
    found = {f"seen/{n}": b for n, b in seen.named_buffers()} | {f"returns/{n}": b for n, b in returns.named_buffers()}
    return {n: b for n, b in found.items() if "rejected" not in n and n != "returns/returns"} | {
        "advantage": normalise_advantage(advantage)
    }


def _pool(of: int, port: int, folder: str) -> None:
    as_rank(of, port)
    half = slice(0, 20) if of == 0 else slice(20, 60)  # ranks may see different numbers of samples
    advantage = samples()["advantage"][:, 30 * of : 30 * of + 30]
    torch.save(statistics_of(half, advantage), f"{folder}/{of}.pt")
    assert ranks.texts("zwölf" if of else "") == ["", "zwölf"]
    assert ranks.any_rank(of == 1) and not ranks.any_rank(False)
    states = ranks.gather_on_first({"x": torch.arange(3 + of), "name": "a" * of})
    assert [s["name"] for s in states] == ([] if of else ["", "a"])
    assert of or torch.equal(states[1]["x"], torch.arange(4))
    with pytest.raises(RecipeError, match="different recipes"):
        _check_agreement(recipe_from([*TINY, f"seed={of}"]))
    _check_agreement(recipe_from([*TINY]))
    processes.leave()


@pytest.mark.slow
def test_statistics_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    on_two_ranks(_pool, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{of}.pt", weights_only=True) for of in (0, 1))
    alone = statistics_of(slice(0, 60), samples()["advantage"])
    for name, expected in alone.items():
        if name == "advantage":
            found = torch.cat([first[name], second[name]], dim=1)
        else:
            assert torch.equal(first[name], second[name]), name  # the same bits everywhere
            found = first[name]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7, msg=name)


def test_alone_nothing_is_sent_and_nothing_changes() -> None:
    moments = batch_moments(torch.randn(5, 3), torch.ones(5, dtype=torch.bool))
    assert ranks.pooled(moments) is moments and ranks.texts("a") == ["a"]
    assert ranks.world_size() == 1 and ranks.is_first() and not dist.is_initialized()
    assert ranks.any_rank(True) and not ranks.any_rank(False)


def test_seeds_differ_between_ranks_and_the_first_has_the_recipes() -> None:
    seeds = {ranks.rank_seed(seed, of) for seed in range(50) for of in range(64)}
    assert len(seeds) == 50 * 64 and ranks.rank_seed(7, 0) == 7 and max(seeds) < 2**63


# -- one big batch ----------------------------------------------------------------------------------------------------
class Recorded:
    """A loader of one rollout that was recorded before."""

    def __init__(self, rollout: TensorDict) -> None:
        self.rollout, self.collect_seconds = rollout, 0.0

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        yield self.rollout


def rollout_of(worlds: int) -> TensorDict:
    g = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(worlds, STEPS, *shape, generator=g)

    terminated = torch.rand(worlds, STEPS, 1, generator=g) < 0.05
    truncated = ~terminated & (torch.rand(worlds, STEPS, 1, generator=g) < 0.05)
    after = TensorDict({"observation": 2 * normal(18), "reward": normal(1).sigmoid(), "done": terminated | truncated,
                        "terminated": terminated}, [worlds, STEPS])
    return TensorDict({"observation": 2 * normal(18), "action": normal(6), "log_prob": normal() - 8, "next": after},
                      [worlds, STEPS])


def update(worlds: int, part: slice, found: Processes | None = None) -> dict[str, torch.Tensor]:
    """Gradients, weights and statistics after one update from some of the 16 recorded worlds in one minibatch."""
    recipe = recipe_from([*TINY[:3], f"num_envs={worlds}", *TINY[4:], "ppo.minibatches=1", "ppo.max_grad_norm=1e9",
                          "ppo.value_clip=1e9", "ppo.max_kl=null", "ppo.entropy_weight=0.01"])
    torch.manual_seed(0)
    body = build.build_body(recipe)
    physics = build.build_physics(recipe, body, worlds, 1)
    module = PpoModule(recipe, build.build_env(recipe, physics, build.build_bank(recipe, body, physics.device)))
    module.agent.take_in(rollout_of(2 * WORLDS)["observation"][part])
    trainer = make_trainer(module.env.device, [], None, *([found] if found else []))
    trainer.fit(module, train_dataloaders=Recorded(rollout_of(2 * WORLDS)[part]))
    gradients = {f"gradient/{n}": p.grad for n, p in module.agent.named_parameters()}
    shared = {n: x for n, x in module.state_dict().items() if n not in RANK_BUFFERS}
    figures = {f"figure/{n}": torch.tensor(module.metrics[n]) for n in FIGURES}
    return gradients | shared | figures


def _update(of: int, port: int, folder: str) -> None:
    found = as_rank(of, port)
    torch.save(update(WORLDS, slice(of * WORLDS, (of + 1) * WORLDS), found), f"{folder}/{of}.pt")
    processes.leave()


@pytest.mark.slow
def test_two_ranks_learn_as_one_with_twice_the_worlds(tmp_path: Path) -> None:
    on_two_ranks(_update, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{of}.pt", weights_only=True) for of in (0, 1))
    whole, worst = update(2 * WORLDS, slice(None)), 0.0
    assert sum(n.startswith("gradient/") for n in whole) > 10
    for name, expected in whole.items():
        assert torch.equal(first[name], second[name]), name
        difference = (first[name] - expected).abs().max().item() / max(expected.abs().max().item(), 1e-12)
        worst = max(worst, difference) if name.startswith("gradient/") else worst
        assert difference < (1e-6 if name.startswith("gradient/") else 1e-5), (name, difference)
    print(f"largest difference of a gradient over its largest entry: {worst:.1e}")


# -- whole runs under torchrun ----------------------------------------------------------------------------------------
def torchrun(*words: str, processes: int = 2, **options: Any) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m",
                "mm_torch.train"]
    return subprocess.Popen([*launcher, *words], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True, **options)


def finish(process: subprocess.Popen[str], seconds: float = 170) -> str:
    try:
        return process.communicate(timeout=seconds)[0]
    finally:
        process.kill()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{n: v for n, v in row.items() if n not in ("seconds", "steps_per_s", "collect_share")}
                for row in csv.DictReader(file)]


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict | list | tuple):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for name, branch in pairs for k, v in flat(branch, f"{path}/{name}").items()}
    return {path: tree}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "straight"
    process = torchrun(*TINY, "sampling.adaptive=true", f"total_steps={3 * BOTH}", f"run_dir={folder}",
                       f"evaluation.every_steps={2 * BOTH}", "ppo.value_warmup=1")
    output = finish(process)
    assert process.returncode == 0, output
    assert output.count("# resolved recipe") == 1 and output.count("budget of steps used up") == 1
    return folder


@pytest.mark.slow
def test_torchrun_trains_with_worlds_of_their_own(straight: Path) -> None:
    assert [int(row["control_steps"]) for row in rows(straight)] == [BOTH, 2 * BOTH, 3 * BOTH]
    checkpoint = read_checkpoint(straight)
    one, (two,) = checkpoint[KEY], checkpoint[KEY]["others"]
    for name in ("clip", "frame", "observation", "action"):
        assert not torch.equal(one["simulation"]["episodes"][name], two["simulation"]["episodes"][name]), name
    assert not torch.equal(one["rng"]["cpu"], two["rng"]["cpu"])
    assert not torch.equal(one["simulation"]["generator"]["state"], two["simulation"]["generator"]["state"])
    for name, value in one["simulation"]["sampler"].items():  # what all saw
        assert torch.equal(value, two["simulation"]["sampler"][name]), name
    assert len((straight / "evaluation.csv").read_text().splitlines()) == 2  # the first rank's, of iteration 2
    assert read_checkpoint(straight / "checkpoints" / "best_validation.ckpt")[KEY]["iteration"] == 2
    count = checkpoint["state_dict"]["agent.normaliser.count"].item()
    assert count == pytest.approx(3 * BOTH + 2 * WORLDS, abs=1e-3)


@pytest.mark.slow
def test_an_evaluation_in_training_finds_what_one_process_alone_does(straight: Path, tmp_path: Path) -> None:
    (alone,) = evaluate(Plan((str(straight / "checkpoints" / "best_validation.ckpt"),), None, tmp_path, threads=1))
    with (straight / "evaluation_clips.csv").open(newline="") as file:
        together = list(csv.DictReader(file))
    assert len(together) == len(alone.results) > 2
    for found, result in zip(together, alone.results, strict=True):
        expected = result.row()
        assert {name: found[name] for name in expected} == {name: str(value) for name, value in expected.items()}


@pytest.mark.slow
def test_a_rank_that_dies_stops_the_job_which_resumes_bit_for_bit(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = torchrun(*TINY, "sampling.adaptive=true", "ppo.value_warmup=1", ENDLESS, f"run_dir={folder}",
                       "checkpoint_minutes=0")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("it     1"):
            break
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    killed = time.perf_counter()
    output = finish(process)
    assert process.returncode not in (0, None) and time.perf_counter() - killed < 60
    assert "another process of the run has gone" in output and "resume=" in output, output[-3000:]
    done = read_checkpoint(folder)[KEY]["iteration"]
    assert 0 <= done < 3, "the machine was too slow to kill a rank in time"
    process = torchrun(f"resume={folder}", f"total_steps={3 * BOTH}")
    output = finish(process)
    assert process.returncode == 0, output
    whole, parts = (flat(read_checkpoint(path)) for path in (straight, folder))
    learned = [n for n in whole if n.startswith(("/state_dict", "/optimizer_states", *(
        f"/{KEY}/{part}" for part in ("simulation", "others", "rng", "curricula", "iteration"))))]
    assert len(learned) > 60
    odd = [n for n in learned if not (torch.equal(whole[n], parts[n]) if isinstance(whole[n], torch.Tensor)
                                      else whole[n] == parts[n])]
    assert not odd and rows(folder)[-1] == rows(straight)[-1]


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_and_says_so(
    straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [f"resume={straight}", f"run_dir={tmp_path}", f"total_steps={4 * BOTH}"]
    train(recipe_from(words))
    (message,) = [m for m in caplog.messages if "process(es)" in m]
    assert "written by 2 process(es) with 8 worlds each, here 1 with 8" in message and "begin new episodes" in message
    assert [int(row["control_steps"]) for row in rows(tmp_path)] == [3 * BOTH + BOTH // 2, 4 * BOTH]
    assert [int(row["iteration"]) for row in rows(tmp_path)] == [7, 8]  # half the batch: twice the iterations
    before, after = read_checkpoint(straight), read_checkpoint(tmp_path)
    assert after[KEY]["control_steps"] == 4 * BOTH and "others" not in after[KEY]
    count = [c["state_dict"]["agent.normaliser.count"].item() for c in (before, after)]
    assert count[1] == pytest.approx(count[0] + BOTH, abs=1e-3)


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_and_ends_all(tmp_path: Path) -> None:
    process = torchrun(*TINY, ENDLESS, f"run_dir={tmp_path}", "checkpoint_minutes=1000")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("it     1"):
            break
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGUSR1)
    output = finish(process)
    assert "SIGUSR1: " in output and "exitcode  : 75" in output, output[-3000:]
    assert read_checkpoint(tmp_path)[KEY]["iteration"] == int(rows(tmp_path)[-1]["iteration"]) >= 1


# -- what is refused --------------------------------------------------------------------------------------------------
def test_machines_with_different_numbers_of_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "4", "RANK": "0",
                        "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="6 processes with 4 on this machine"):
        processes.find_processes()
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    found = processes.find_processes()
    assert (found.world, found.rank, found.local_rank, found.local_world, found.nodes) == (8, 5, 1, 4, 2)


def test_slurm_tasks_are_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "9", "SLURM_LOCALID": "1",
                        "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "12"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="ntasks-per-node"):
        processes.find_processes()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    found = processes.find_processes()
    assert (found.world, found.rank, found.local_rank, found.local_world, found.nodes) == (16, 9, 1, 8, 2)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert processes.find_processes() is processes.ALONE


def test_only_a_broken_connection_counts_as_a_lost_rank() -> None:
    found = Processes(LightningEnvironment(), world=2)
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    assert processes.lost(broken, found) and not processes.lost(broken, processes.ALONE)
    assert processes.lost(dist.DistBackendError("NCCL timeout"), found)
    assert not processes.lost(RuntimeError("The size of tensor a (3) must match"), found)
