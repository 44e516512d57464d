"""Rollouts survive the disk, and a file that is none says why."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mm_torch.evaluation.rollout_file import DOUBLE, FORCES, SHAPES, Rollout, RolloutError, read_rollout, write_rollout

SIZES = {"F": 5, "Q": 9, "V": 8, "J": 2, "M": 3, "S": 4}


@pytest.fixture
def rollout() -> Rollout:
    """Random numbers in every field; the left foot is in the air at one frame."""
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=[SIZES.get(x, x) for x in shape]) for n, shape in SHAPES.items()}
    arrays["foot_centre_of_pressure"][2, 1] = np.nan
    return Rollout(
        kind="rollout", body="toy", clip="walk", source="last.ckpt", control_rate=100.0, mass_kg=84.27,
        joint_names=("knee", "hip"), muscle_names=("a", "b", "c"), site_names=("p", "q", "r", "s"), fingers=True, **arrays,
    )


def test_what_is_written_is_read(rollout: Rollout, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "walk.npz"
    write_rollout(path, rollout)
    assert [p.name for p in path.parent.iterdir()] == ["walk.npz"]
    again = read_rollout(path)
    for field in fields(Rollout):
        old, new = getattr(rollout, field.name), getattr(again, field.name)
        if field.name in SHAPES:
            np.testing.assert_array_equal(new, old if field.name in DOUBLE else old.astype(np.float32))
        else:
            assert old == new, field.name
    assert again.has_forces and np.isnan(again.foot_centre_of_pressure[2, 1]).all()


def test_a_replay_has_no_forces(rollout: Rollout, tmp_path: Path) -> None:
    path = tmp_path / "replay.npz"
    write_rollout(path, replace(rollout, kind="replay", **dict.fromkeys(FORCES)))
    again = read_rollout(path)
    assert not again.has_forces and all(getattr(again, name) is None for name in FORCES)
    assert again.kind == "replay" and again.muscle_length.shape == (5, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"kind": "film"}, "rollout, replay"),
        ({"joint_names": ("knee", "knee")}, "joint_names.*twice"),
        ({"com": np.zeros((4, 3))}, r"com: of shape \(4, 3\), must be \(5, 3\)"),
        ({"muscle_length": None}, "muscle_length: missing"),
        ({"qvel": np.full((5, 8), np.nan)}, "qvel.*not finite"),
        ({"foot_names": ("left", "right")}, "foot_names"),
    ),
)
def test_fields_that_do_not_fit_are_refused(rollout: Rollout, change: dict[str, object], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        replace(rollout, **change)


def test_files_that_are_no_rollouts_are_refused(rollout: Rollout, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(RolloutError, match="no such file"):
        read_rollout(path)
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(RolloutError, match="not a readable npz"):
        read_rollout(path)
    np.savez(path, qpos=np.zeros(3))
    with pytest.raises(RolloutError, match="no key 'schema'"):
        read_rollout(path)
    write_rollout(path, rollout)
    whole = dict(np.load(path))
    np.savez(path, **(whole | {"schema": 2}))
    with pytest.raises(RolloutError, match="schema 2"):
        read_rollout(path)
    np.savez(path, **{k: v for k, v in whole.items() if k != "site_position"})
    with pytest.raises(RolloutError, match="no key 'site_position'"):
        read_rollout(path)
    np.savez(path, **(whole | {"com": np.zeros((2, 3))}))
    with pytest.raises(RolloutError, match=r"x\.npz: com: of shape"):
        read_rollout(path)
    np.savez(path, **(whole | {"com": np.array([{}], dtype=object)}))
    with pytest.raises(RolloutError, match="not a readable npz"):
        read_rollout(path)
