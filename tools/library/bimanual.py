"""Motions of the two arms on the fixed thorax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np

from mm_torch.motion.clip import Clip
from sim_models.embodiment import Embodiment
from tools.library.arms import FPS, ArmMotion, arm_angles, arm_motions, place_arms
from tools.library.provenance import own_motion


def bimanual_clips(body: Embodiment) -> Iterator[Clip]:
    """All arm motions of the library, the resting arm at its rest posture."""
    return perform(body, arm_motions())


def perform(body: Embodiment, motions: Mapping[str, ArmMotion]) -> Iterator[Clip]:
    """A clip of each arm motion, named as its key."""
    for name, motion in motions.items():
        t = np.arange(round(motion.seconds * FPS) + 1) / FPS
        still = np.repeat(body.neutral_qpos[None], len(t), axis=0)
        qpos = place_arms(body, still, arm_angles(motion, t), motion.arms)
        yield Clip.from_qpos(body, qpos, FPS, name=name,
                             provenance=own_motion("minimum-jerk moves between postures", asdict(motion)))
