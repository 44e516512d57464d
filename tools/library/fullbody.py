"""Motions of the full body: standing, squats, arm and trunk motions on the feet, walking, running."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mm_torch.motion.clip import Clip
from sim_models.embodiment import Embodiment
from tools.library.gait import Cycle, Gait, play
from tools.library.nearest import nearest_cycle
from tools.library.norms import norms
from tools.library.provenance import own_motion, published_motion
from tools.library.stance import perform, stance_motions
from tools.library.synthesis import solve_cycle

FPS = 100.0

_TABLE = norms()["spatiotemporal"]["walking"]


def _walk(name: str, speed: float, cadence: float, contact: float = 0.01, **settings: Any) -> Gait:
    row, usual = _TABLE[name], _TABLE["comfortable"]
    knee = row["peak_knee"] / usual["peak_knee"]
    return Gait("walking", speed, cadence, row["stance"], knee_scale=knee, contact=contact, **settings)


COMFORTABLE = _walk("comfortable", 1.20, 117.0)
# name: (gait, phase of the first frame, seconds)
GAITS: dict[str, tuple[Gait, float, float]] = {
    "walk_slow": (_walk("slow", 0.94, 97.9, contact=0.0, loose=(0.04, 0.01), hip_scale=0.90), 0.0, 4.9),
    "walk": (COMFORTABLE, 0.0, 4.5),
    "walk_big_arms": (replace(COMFORTABLE, arm=tuple(np.deg2rad([8.0, 16.0, 35.0, 15.0])),
                              abduction=np.deg2rad(17.0)), 0.0, 4.5),
    "walk_fast": (_walk("fast", 1.45, 134.0, hip_scale=1.05), 0.0, 4.2),
    "run": (Gait("running", 2.5, 178.0, 0.40, pelvis_offset=np.deg2rad(4.3), flat=(0.0, 0.09, 0.15, 0.27),
                 step_width=0.075, surge=((0.2, 0.36),), lean=tuple(np.deg2rad([4.0, 8.0])),
                 arm=tuple(np.deg2rad([-2.0, 12.0, 85.0, 15.0])), abduction=np.deg2rad(20.0),
                 least_knee=np.deg2rad(14.0), airborne=True),
            0.0, 4.05),
}


def fullbody_clips(body: Embodiment) -> Iterator[Clip]:
    """All motions of the full body."""
    for name, motion in stance_motions().items():
        arms = asdict(motion.arms) if motion.arms else {}
        provenance = own_motion("fixed feet, balanced centre of mass", {"seconds": motion.seconds, "arms": arms})
        yield Clip.from_qpos(body, perform(body, motion, FPS), FPS, name=name, provenance=provenance)
    cycles: dict[Gait, Cycle] = {}
    for name, (gait, start, seconds) in GAITS.items():
        if gait not in cycles:
            cycles[gait] = (solve_cycle if gait.airborne else nearest_cycle)(body, gait)
        qpos = play(body, cycles[gait], start, seconds, FPS)
        parameters = asdict(cycles[gait].gait) | {"start_phase": start}
        yield Clip.from_qpos(body, qpos, FPS, name=name,
                             provenance=published_motion(norms()[gait.norm], parameters, not gait.airborne))
