"""Labelled states: kept whole, found again, refused when they are not what the run needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mm_torch.distillation.labels import Batch, LabelError, Labels
from mm_torch.distillation.student import shortfall


def batch(count: int, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(count, 5, generator=draw), torch.randn(count, 2, generator=draw),
        torch.randint(-1, 2, (count, 2), generator=draw).to(torch.int8),
    )


def test_labels_come_back_from_the_disk(tmp_path: Path) -> None:
    first = Labels(tmp_path / "labels", 10, 5, 2)
    first.add(batch(4))
    first.add(batch(4, seed=1))
    again = Labels(tmp_path / "labels", 10, 5, 2)
    assert again.count == 8 and not again.full
    for name in Batch._fields:
        torch.testing.assert_close(getattr(again._all, name)[:4], getattr(batch(4), name), rtol=0, atol=0)
    again.add(batch(4, seed=2))
    assert again.full and again.count == 10  # what there is no room for is left out
    assert len(list((tmp_path / "labels").glob("*.npz"))) == 3
    assert again.draw(7).observation.shape == (7, 5)


def test_a_file_of_another_run_is_refused(tmp_path: Path) -> None:
    Labels(tmp_path, 10, 5, 2).add(batch(4))
    with pytest.raises(LabelError, match=r"000000\.npz: observation is float32 \(4, 5\).*6.*delete"):
        Labels(tmp_path, 10, 6, 2)


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_damage_is_named(tmp_path: Path, content: bytes | None) -> None:
    Labels(tmp_path, 10, 5, 2).add(batch(4))
    path = tmp_path / "000000.npz"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(LabelError, match=r"000000\.npz.*delete the folder"):
        Labels(tmp_path, 10, 5, 2)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "000000.npz", observation=np.array([{}], dtype=object))
    with pytest.raises(LabelError, match="delete"):
        Labels(tmp_path, 10, 5, 2)


def test_no_error_beyond_a_bound_that_the_teacher_reaches() -> None:
    side = torch.tensor([[1, 0, -1, -1]], dtype=torch.int8)
    wanted = Batch(torch.empty(1, 0), torch.tensor([[1.0, 1.0, -1.0, -1.0]]), side)
    action = torch.tensor([[1.5, 1.5, -1.5, -0.5]])
    torch.testing.assert_close(shortfall(action, wanted), torch.tensor([[0.0, 0.5, 0.0, 0.5]]))
