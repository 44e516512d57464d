"""How clips and captures are shared among processes, and what is written where, without starting any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mm_torch import processes
from mm_torch.evaluation import recording
from mm_torch.evaluation.recording import rollout_writer
from mm_torch.evaluation.tracker import Trace
from mm_torch.maths import ranks
from mm_torch.sim.threads import available_cpus
from tools import retarget
from tools.retargeting import manifest
from tools.retargeting.inputs import UsageError
from tools.retargeting.jobs import Job
from tools.retargeting.manifest import make_row, merge_parts, part, read_manifest, write_manifest

TRACE = Trace("walk", 0, *(np.zeros((2, 3)),) * 5, rewards={}, total=np.zeros(2), finished=True)


@pytest.mark.parametrize("hands", (1, 2, 3, 7, 200))
def test_pieces_are_dealt_once_and_evenly(hands: int) -> None:
    sizes = np.random.default_rng(hands).integers(1, 900, 120).tolist()
    dealt = ranks.deal(sizes, hands)
    assert sorted(p for hand in dealt for p in hand) == list(range(120)) and all(hand == sorted(hand) for hand in dealt)
    loads = [sum(sizes[p] for p in hand) for hand in dealt]
    assert max(loads) - min(loads) <= max(sizes) and dealt == ranks.deal(sizes, hands)
    if hands == 2:
        assert max(loads) - min(loads) <= 5  # the small ones come last and even out what is left


def test_pieces_without_size_are_dealt_by_number() -> None:
    assert ranks.deal([0, 0, 0, 0, 0], 2) == [[0, 2, 4], [1, 3]]
    assert ranks.deal([0, 0, 9, 0], 2) == [[2], [0, 1, 3]]
    assert ranks.deal([], 2) == [[], []] and ranks.deal([3, 1], 1) == [[0, 1]]


def test_arrays_travel_as_tensors_with_the_same_bits() -> None:
    tree = {"a": np.array([1.1, float("nan")]), "b": {"c": np.asarray(3), "d": np.zeros((0, 2), np.float32)}}
    tree |= {"e": "x", "f": 0.1}
    back = ranks._converted(ranks._converted(tree))
    for found, expected in ((back["a"], tree["a"]), (back["b"]["c"], tree["b"]["c"]), (back["b"]["d"], tree["b"]["d"])):
        assert found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()
    assert back["e"] == "x" and back["f"] == 0.1
    assert ranks.merge_on_first({3: tree, 1: None}) == {3: tree, 1: None} and ranks.agreed("words")


def test_only_a_launcher_makes_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")  # a batch script's own command, not started by srun
    monkeypatch.setenv("SLURM_JOB_NAME", "job")
    assert not ranks.launched() and processes.find_processes() is processes.ALONE
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert ranks.launched()


def test_processes_of_a_machine_share_its_cores() -> None:
    cores = available_cpus()
    assert processes.ALONE.threads(0).physics == cores and processes.ALONE.threads(3).physics == 3
    shared = replace(processes.ALONE, world=4 * cores, local_world=2 * cores)
    assert shared.threads(0).physics == 1 and replace(shared, local_world=1).threads(0).physics == cores


def test_clips_of_one_name_have_files_of_their_own_whoever_writes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, Any] = {}
    monkeypatch.setattr(recording, "rollout_of", lambda body, trace, source: trace)
    monkeypatch.setattr(recording, "write_rollout", lambda path, trace: written.update({path.name: trace.number}))
    for number in (3, 0, 2):
        write = rollout_writer(None, ("walk", "a/b", "walk", "walk"), tmp_path, "test")  # type: ignore[arg-type]
        write(replace(TRACE, number=number))
    assert written == {"walk.npz": 0, "walk-2.npz": 2, "walk-3.npz": 3}


# -- captures ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Seven captures of 100, 200 ... bytes, of which the last two were made already, one with other settings."""
    made = []
    for number in range(7):
        source = tmp_path / f"{number}.bvh"
        source.write_bytes(b"x" * 100 * (number + 1))
        known = {5: ("hash", "config"), 6: ("hash", "older")}.get(number)
        made.append(Job(str(number), source, tmp_path / f"{number}.npz", tmp_path / "t", False, "config", known))
    return made


@pytest.mark.parametrize("of", (0, 1))
def test_captures_are_dealt_by_what_is_to_be_made(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch, of: int
) -> None:
    first = json.dumps(ranks.deal([100, 200, 300, 400, 500, 0, 700], 2))
    said: list[str] = []
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: of)
    monkeypatch.setattr(ranks, "texts", lambda text: said.append(text) or ([text] * 2 if len(said) == 1 else [first, "[]"]))
    assert sorted(job.name for job in retarget.share_of_rank(jobs)) == sorted(
        str(number) for number in json.loads(first)[of])
    assert said[1] == (first if of == 0 else "[]")
    monkeypatch.setattr(ranks, "texts", lambda text: [text, "other"])
    with pytest.raises(UsageError, match="start all with the same words"):
        retarget.share_of_rank(jobs)


def test_one_process_does_all_in_order(jobs: list[Job]) -> None:
    assert retarget.share_of_rank(jobs) == jobs


def test_rows_of_processes_that_died_are_taken_into_the_manifest(tmp_path: Path) -> None:
    def row(clip: str, status: str = "ok") -> manifest.Row:
        return make_row({"clip": clip, "status": status}, {})

    write_manifest(tmp_path / manifest.NAME, [row("a", "failed"), row("z")])
    write_manifest(part(tmp_path, 0), [row("a")])
    write_manifest(part(tmp_path, 12), [row("c"), row("b")])
    half = tmp_path / f".{part(tmp_path, 1).name}.abc.tmp"
    half.write_text("clip,sta")
    with manifest.locked(tmp_path):
        rows = merge_parts(tmp_path)
    assert rows == read_manifest(tmp_path / manifest.NAME) and "".join(sorted(rows)) == "abcz"
    assert rows["a"]["status"] == "ok" and not list(tmp_path.glob("*rank*")) and not half.exists()
    assert merge_parts(tmp_path) == rows and merge_parts(tmp_path / "empty") == {}
