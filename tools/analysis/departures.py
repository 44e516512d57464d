"""Where in the stride a walking body leaves its reference: errors by phase of the reference's gait, and which part is off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mm_torch.evaluation.rollout_file import Rollout
from sim_models.embodiment import Embodiment
from tools.analysis.contacts import by_soles, debounced
from tools.analysis.replay import replay
from tools.analysis.strides import FORWARD, rotation

PHASES = ("right foot takes over", "right foot alone", "left foot takes over", "left foot alone", "flight")
TRUNK, ARMS, LEGS = ("upper_body", "head", "shoulder"), ("elbow", "hand"), ("knee", "ankle", "toes")
PARTS = ("head and trunk", "arms", "right leg", "left leg")
DIRECTIONS = (("behind", "ahead"), ("to the right", "to the left"), ("low", "high"))  # forward, left, up
SHORTEST = 0.05  # s: shorter phases belong to their neighbours
AFTER = 0.15  # s after the departure over which it is looked at which way parts are off


@dataclass(frozen=True, eq=False)
class Departure:
    """How one rollout leaves its reference.

    ======== ================================================================================== =========== ====
    clip     name of the motion
    error    mean distance of the other sites from the reference, relative to the main site     (F,)        m
    parts    the same over the sites of each of ``PARTS``                                       (F, 4)      m
    away     mean offset of these sites from the reference, relative to the main site:
             forward, left, up                                                                  (F, 4, 3)   m
    phase    index of ``PHASES`` at each frame, by the reference                                (F,) int
    frame    first frame after which the error never comes below the limit again; F if none     int
    rate     frames per second                                                                  float       1/s
    ======== ================================================================================== =========== ====
    """

    clip: str
    error: np.ndarray
    parts: np.ndarray
    away: np.ndarray
    phase: np.ndarray
    frame: int
    rate: float

    @property
    def leaves(self) -> bool:
        """Whether it leaves the reference before the rollout ends."""
        return self.frame < len(self.error)

    @property
    def told(self) -> str:
        """Time and phase of the departure and which part was off most soon after, in words."""
        if not self.leaves:
            return "stays near the reference"
        soon = slice(self.frame, self.frame + max(1, round(AFTER * self.rate)))
        part = int(self.parts[soon].mean(axis=0).argmax())
        way = self.away[soon, part].mean(axis=0)
        axis = int(np.abs(way).argmax())
        return (f"leaves at {self.frame / self.rate:.2f} s ({PHASES[self.phase[self.frame]]}), {PARTS[part]} "
                f"{100 * abs(way[axis]):.0f} cm {DIRECTIONS[axis][int(way[axis] > 0)]}")


def departure(rollout: Rollout, body: Embodiment, limit: float) -> Departure:
    """Compare a rollout with its reference.

    Args:
        rollout: of a body that walks.
        body: its embodiment.
        limit: m; error beyond which it is away from its reference.
    """
    reference = replay(body, rollout.ref_qpos, rollout.control_rate, rollout.clip, "reference")
    off = rollout.site_position - reference.site_position
    relative = off - off[:, :1]
    distance = np.linalg.norm(relative, axis=-1)
    members = [_sites(rollout, parts, side) for parts, side in ((TRUNK, ""), (ARMS, ""), (LEGS, "right"), (LEGS, "left"))]
    away = np.stack([relative[:, m].mean(axis=1) for m in members], axis=1) @ heading(rollout.ref_qpos)
    error = distance[:, 1:].mean(axis=1)
    near = np.flatnonzero(error < limit)
    return Departure(
        rollout.clip, error, np.stack([distance[:, m].mean(axis=1) for m in members], axis=1), away,
        phases(by_soles(body, rollout.ref_qpos, rollout.control_rate), rollout.control_rate),
        int(near[-1]) + 1 if len(near) else 0, rollout.control_rate,
    )


def heading(qpos: np.ndarray) -> np.ndarray:
    """Axes forward, left and up of the pelvis as columns (F, 3, 3), the first two horizontal, for positions (F, Q)."""
    forward = (rotation(qpos[:, 3:7]) @ FORWARD) * [1.0, 1.0, 0.0]
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    up = np.broadcast_to([0.0, 0.0, 1.0], forward.shape)
    return np.stack([forward, np.cross(up, forward), up], axis=2)


def _sites(rollout: Rollout, parts: tuple[str, ...], side: str) -> list[int]:
    return [k for k, name in enumerate(rollout.site_names) if name.startswith(side) and any(part in name for part in parts)]


def phases(contact: np.ndarray, rate: float) -> np.ndarray:
    """Index of ``PHASES`` (F,) from contacts (F, 2): with both feet down, the one that came down last takes over."""
    contact = np.stack([debounced(foot, round(SHORTEST * rate)) for foot in contact.T], axis=1)
    single = contact[contact[:, 0] != contact[:, 1]]
    taker = int(len(single) > 0 and single[0, 1])  # of feet that are both down at first: the one that stays
    out = np.empty(len(contact), dtype=int)
    for frame, (right, left) in enumerate(contact):
        if right != left:
            taker = int(right)  # the foot that is in the air will take over
            out[frame] = 1 if right else 3
        else:
            out[frame] = (0 if taker == 0 else 2) if right else 4
    return out

