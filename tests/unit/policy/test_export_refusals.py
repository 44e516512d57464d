"""What cannot be exported is refused in one line that names it, and nothing is written."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mm_torch import export
from mm_torch.callbacks.checkpoint import KEY
from mm_torch.command import EXPECTED

WEIGHT = "agent.nets.actor.output.weight"
Change = Callable[[dict[str, Any]], object]


class RunsCode:
    """Unpickling it would raise."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('ran')",)


def refused(words: list[str], message: str, folder: Path) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(EXPECTED, match=message) as error:
        export.main([f"out={folder / 'policy'}", "formats=torchscript", *words])
    assert len(str(error.value).splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def observe(terms: Callable[[list[str]], list[str]]) -> Change:
    def change(checkpoint: dict[str, Any]) -> None:
        task = checkpoint[KEY]["recipe"]["task"]
        task["observation"] = terms(list(task["observation"]))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[KEY]["recipe"]["net"].update(kind="lstm"), "net.kind=lstm: choose one of plain, residual, moe"),
        (lambda c: c[KEY]["recipe"]["net"].update(hidden=[7, 7]), "another network"),
        (lambda c: c[KEY]["recipe"]["body"].update(name="toy_leg"), "unknown body 'toy_leg'"),
        (observe(lambda terms: terms[::-1]), r"trained on the observation \['joint_position'.*its recipe asks for"),
        (observe(lambda terms: terms[1:]), "trained on the observation"),
        (observe(lambda terms: ["smell", *terms[1:]]), "its recipe asks for .*smell"),
        (lambda c: c[KEY]["layout"][-1].__setitem__(2, 9), "another network"),
        (lambda c: c["state_dict"].pop(WEIGHT), "another network"),
        (lambda c: c["state_dict"].pop("agent.nets.log_std"), "log_std is missing"),
        (lambda c: c["state_dict"][WEIGHT].fill_(float("nan")), f"{WEIGHT} is not finite"),
        (lambda c: c[KEY].pop("layout"), "layout"),
        (lambda c: c.pop("state_dict"), "state_dict"),
        (lambda c: c.pop(KEY), "not a checkpoint of this project"),
        (lambda c: c.update(callback=RunsCode()), "not a readable checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit(change: Change, message: str, toy_run: Path, tmp_path: Path) -> None:
    checkpoint = copy.deepcopy(torch.load(toy_run / "checkpoints" / "last.ckpt", weights_only=True))
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    refused([f"checkpoint={tmp_path / 'other.ckpt'}"], message, tmp_path)


def test_files_that_are_no_checkpoints(toy_run: Path, tmp_path: Path) -> None:
    whole = (toy_run / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(RunsCode()))
    for name, message in (("empty", "no such checkpoint"), ("half.ckpt", "not a readable checkpoint"),
                          ("pickle.ckpt", "not a readable checkpoint"), ("gone.ckpt", "no such checkpoint")):
        refused([f"checkpoint={tmp_path / name}"], f"{name}.*{message}", tmp_path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="takes /proc for a directory that not even root can write")
def test_a_target_that_cannot_be_written(toy_run: Path, tmp_path: Path) -> None:
    with pytest.raises(EXPECTED, match=r"out=/proc/policy: cannot be written .*name a directory that can"):
        export.main([f"checkpoint={toy_run}", "out=/proc/policy", "formats=torchscript"])
