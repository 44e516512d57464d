"""The first guess: arms are put where their directions say, on the path that turns least."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.retargeting.guess import GRID, calmest
from tools.retargeting.metrics import fit_error
from tools.retargeting.pipeline import sites_of
from tools.retargeting.stages import Solver, solver_for

FPS = 50.0


@pytest.fixture(scope="module", params=["myo_fullbody", "myo_bimanual"])
def solver(request: pytest.FixtureRequest) -> Solver:
    return solver_for(load_body(request.param), FPS)


def _posed(body: Embodiment, frames: int, angles: dict[str, np.ndarray]) -> np.ndarray:
    qpos = np.tile(body.neutral_qpos, (frames, 1))
    for joint, track in angles.items():
        for side in "lr":
            qpos[:, body.model.joint(f"{joint}_{side}").qposadr[0]] = track
    return body.couplings.enforce(qpos)


def test_the_calmest_path_is_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    cost, first, second = rng.random((4, 3, 2)), rng.random((3, 3)), rng.random((2, 2))

    def total(path: tuple[tuple[int, int], ...]) -> float:
        steps = itertools.pairwise(path)
        return sum(cost[f][at] for f, at in enumerate(path)) + sum(first[a, b] + second[r, s] for (a, r), (b, s) in steps)

    places = list(itertools.product(range(3), range(2)))
    best = min(itertools.product(places, repeat=4), key=total)
    assert tuple(zip(*(track.tolist() for track in calmest(cost, first, second)), strict=True)) == best


def test_an_arm_is_found_within_the_spacing_of_the_table(solver: Solver):
    body, frames = solver.body, 60
    phase = 2.0 * np.pi * np.arange(frames) / frames
    qpos = _posed(body, frames, {
        "elv_angle": 0.6 + 0.6 * np.sin(phase), "shoulder_elv": 1.4 + 0.6 * np.cos(phase),
        "shoulder_rot": 0.3 * np.sin(2.0 * phase), "elbow_flex": 1.2 + 0.4 * np.cos(phase),
    })
    guess = solver.first_guess(sites_of(body, qpos)[0])
    for joint, count in GRID.items():
        for side in "lr":
            where = body.model.joint(f"{joint}_{side}")
            spacing = np.ptp(body.joint_ranges[where.id]) / (count - 1)
            assert np.abs(guess - qpos)[:, where.qposadr[0]].max() < spacing, joint


def test_an_arm_that_is_raised_over_the_head_does_not_get_stuck(solver: Solver):
    """From hanging arms, the solver of the full body stops 6 cm away."""
    body, frames = solver.body, 120
    raised = 0.3 + 2.5 * np.sin(np.pi * np.arange(frames) / (frames - 1)) ** 2
    qpos = _posed(body, frames, {"shoulder_elv": raised, "elv_angle": np.full(frames, -0.4),
                                 "shoulder_rot": np.full(frames, 0.8), "elbow_flex": np.full(frames, 0.7)})
    targets, _ = sites_of(body, qpos)
    found = solver.coarse(targets).cpu().numpy()
    assert fit_error(body, found, targets.position).max() < 0.01
