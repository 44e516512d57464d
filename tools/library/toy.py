"""Motions of the toy arm: smooth sinusoids in both joints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mm_torch.motion.clip import Clip
from sim_models.embodiment import Embodiment
from tools.library.provenance import own_motion

FPS = 100.0

# name: (seconds, joint: ((mean rad, ((amplitude rad, Hz, phase rad), ...))))
MOTIONS: dict[str, tuple[float, dict[str, tuple[float, tuple[tuple[float, float, float], ...]]]]] = {
    "swing": (4.0, {"shoulder": (0.5, ((0.5, 0.5, 0.0),)), "elbow": (0.8, ((0.3, 0.5, 0.9),))}),
    "curl": (3.0, {"shoulder": (0.2, ((0.1, 1 / 3, 0.0),)), "elbow": (1.1, ((0.7, 2 / 3, -1.57),))}),
    "reach": (4.0, {"shoulder": (0.9, ((0.6, 0.25, -1.57),)), "elbow": (1.0, ((0.6, 0.25, 1.57),))}),
    "figure_eight": (4.0, {"shoulder": (0.7, ((0.35, 0.5, 0.0),)), "elbow": (1.0, ((0.35, 1.0, 0.0),))}),
}


def toy_clips(body: Embodiment) -> Iterator[Clip]:
    """All motions of the toy arm: ``q_j(t) = mean + sum amplitude sin(2 pi f t + phase)``."""
    for name, (seconds, joints) in MOTIONS.items():
        t = np.arange(round(seconds * FPS) + 1) / FPS
        qpos = np.zeros((len(t), body.model.nq))
        for joint, (mean, waves) in joints.items():
            curve = mean + sum(a * np.sin(2 * np.pi * f * t + p) for a, f, p in waves)
            qpos[:, body.model.joint(joint).qposadr[0]] = curve
        yield Clip.from_qpos(body, qpos, FPS, name=name, provenance=own_motion("sinusoids", {"joints": joints}))
