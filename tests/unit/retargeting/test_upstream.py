"""Trajectory files of MuscleMimic 0.1.0: every array as the original writes it, and readable by our own loader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mm_torch.motion.clip import Clip, MotionError, bind_to_body, load_clip, read_arrays
from sim_models.registry import load_body
from tools.retargeting.upstream import trajectory, write_trajectory

GOLDEN = Path(__file__).parents[3] / ".." / "shared" / "golden"
FILES = {"myo_fullbody": "upstream_trajectory_fullbody.npz", "myo_bimanual": "MyoBimanualArm_reach_slow.npz"}
MOTION = ("qpos", "xpos", "xquat", "cvel", "subtree_com", "site_xpos", "site_xmat")
# Two equal principal moments of one bone leave its inertia axes free, and the original does not compare them either.
FREE = "body_iquat"


@pytest.fixture(params=sorted(FILES))
def golden(request: pytest.FixtureRequest) -> tuple[Clip, dict[str, np.ndarray]]:
    """A file of the original, and the clip that holds the same motion."""
    if not GOLDEN.is_dir():
        pytest.skip("the files of the original are not on this machine")
    arrays, body = read_arrays(GOLDEN / FILES[request.param]), load_body(request.param)
    clip = Clip.from_qpos(body, arrays["qpos"].astype(float), 100.0, provenance={}, name="golden")
    return replace(clip, qpos=arrays["qpos"].astype(float), qvel=arrays["qvel"]), arrays


def test_every_array_is_the_original_s(golden: tuple[Clip, dict[str, np.ndarray]]):
    clip, theirs = golden
    ours = trajectory(load_body(clip.body), clip)
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert np.asarray(ours[name]).dtype == array.dtype and np.shape(ours[name]) == array.shape, name
        if name == FREE:
            assert np.isclose(np.linalg.norm(ours[name], axis=-1), 1.0).all()
        elif array.dtype == np.float32:
            tolerance = 2e-6 if name in MOTION else 3e-8
            assert np.abs(ours[name] - array).max(initial=0.0) <= tolerance, name
        else:
            assert np.array_equal(ours[name], array), name


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_written_file_needs_no_pickle_and_reads_back(tmp_path: Path, name: str):
    body = load_body(name)
    qpos = np.repeat(body.neutral_qpos[None], 6, axis=0)
    qpos[:, 0] += np.linspace(0.4, 0.5, 6)
    clip = Clip.from_qpos(body, qpos, 100.0, provenance={}, name="slide")
    write_trajectory(body, clip, tmp_path / "deep" / "slide.npz")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["slide.npz"]
    back = load_clip(tmp_path / "deep" / "slide.npz")  # reads no pickles
    bound = bind_to_body(back, body)
    moved = clip.qpos - bound
    if body.free_root:
        assert np.allclose(moved[:, :2], clip.qpos[0, :2], atol=1e-6)
        moved = moved[:, 2:]
    assert np.abs(moved).max() < 1e-6 and np.abs(back.qvel - clip.qvel).max() < 1e-5
    order = [back.site_names.index(site) for site in clip.site_names]
    shift = clip.qpos[0, :2] if body.free_root else np.zeros(2)
    assert np.allclose(back.site_xpos[:, order, :2], clip.site_xpos[..., :2] - shift, atol=2e-6)


def test_another_rate_or_body_is_refused(tmp_path: Path):
    body = load_body("myo_bimanual")
    clip = Clip.from_qpos(body, np.repeat(body.neutral_qpos[None], 3, axis=0), 50.0, provenance={}, name="half")
    with pytest.raises(MotionError, match=r"half: 50 frames per second.*fps=100"):
        write_trajectory(body, clip, tmp_path / "x.npz")
    with pytest.raises(MotionError, match="not myo_fullbody"):
        trajectory(load_body("myo_fullbody"), clip)
    assert not list(tmp_path.iterdir())
