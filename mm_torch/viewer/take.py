"""What is shown: takes, the programme that they are chosen from, and where in a take we are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from mm_torch.viewer.scene import force_arrows
from sim_models.embodiment import Embodiment


class ViewerError(RuntimeError):
    """Something cannot be shown; the message says what, why and the remedy."""


class Instant(NamedTuple):
    """One moment of a take: positions (Q,), activations (M,), ghost's positions (Q,), force arrows (A, 2, 3) m, label."""

    qpos: np.ndarray
    act: np.ndarray | None = None
    ref_qpos: np.ndarray | None = None
    arrows: np.ndarray | None = None
    label: str = ""


@dataclass(frozen=True, eq=False)
class Take:
    """One piece of motion to show.

    ========== =================================================== ========= =======
    name       what is shown                                       str
    fps        frames per second of the arrays below               float     1/s
    qpos       positions of the body                               (F, Q)    m, rad
    act        muscle activations, or None: muscles in one colour  (F, M)    [0, 1]
    ref_qpos   positions of the ghost, or None: no ghost           (F, Q)    m, rad
    force      of the ground on each foot, world, or None          (F, 2, 3) N
    force_at   where it acts, world; NaN without contact           (F, 2, 3) m
    note       one sentence on the take                            str
    ========== =================================================== ========= =======
    """

    name: str
    fps: float
    qpos: np.ndarray
    act: np.ndarray | None = None
    ref_qpos: np.ndarray | None = None
    force: np.ndarray | None = None
    force_at: np.ndarray | None = None
    note: str = ""

    @property
    def duration(self) -> float:
        """Time from the first to the last frame in s."""
        return (len(self.qpos) - 1) / self.fps

    def cut(self, seconds: float) -> Take:
        """The beginning of the take."""
        rows = slice(0, round(seconds * self.fps) + 1)
        arrays = {name: getattr(self, name) for name in ("qpos", "act", "ref_qpos", "force", "force_at")}
        return replace(self, **{name: None if a is None else a[rows] for name, a in arrays.items()})

    def at(self, seconds: float) -> Instant:
        """The frame nearest to a time; the last one after the end."""
        row = min(round(seconds * self.fps), len(self.qpos) - 1)
        act, ghost, force, place = (None if a is None else a[row] for a in
                                    (self.act, self.ref_qpos, self.force, self.force_at))
        arrows = None if force is None or place is None else force_arrows(force, place)
        return Instant(self.qpos[row], act, ghost, arrows, f"{self.name}  {row / self.fps:.2f} s")

    def instants(self, fps: float) -> Iterator[Instant]:
        """The frames nearest to each frame time of a video."""
        return (self.at(i / fps) for i in range(int(self.duration * fps + 1e-9) + 1))


Performer = Callable[[str, float], Take]  # clip, most seconds


@dataclass(frozen=True, eq=False)
class Programme:
    """What can be shown: clips, and who performs them. Performers work when they are asked, and raise ``ViewerError``.

    ========== =========================================================================
    body       embodiment
    clips      names of the clips
    performers name to performer, for example policies; the first is shown first
    ========== =========================================================================
    """

    body: Embodiment
    clips: Sequence[str]
    performers: Mapping[str, Performer]

    def from_clip(self, clip: str | None) -> str:
        """A clip's name where it exists, the first one for None.

        Raises:
            ViewerError: no clip of that name.
        """
        if clip is not None and clip not in self.clips:
            near = get_close_matches(clip, self.clips, n=3) or self.clips[:8]
            raise ViewerError(f"clip={clip}: no such motion among {len(self.clips)}; near it: {', '.join(near)}")
        return self.clips[0] if clip is None else clip

    def takes(self, clip: str | None, seconds: float) -> Iterator[Take]:
        """Takes of the first performer: of one clip, or of all in order until the time is filled.

        Raises:
            ViewerError: no clip of that name, or it cannot be performed.
        """
        perform = next(iter(self.performers.values()))
        for name in self.clips if clip is None else [self.from_clip(clip)]:
            take = perform(name, seconds)
            seconds -= take.duration
            yield take
            if seconds <= 0:
                return


@dataclass
class Playhead:
    """Where in a take we are. It runs in a loop.

    ======== ================================== ====
    duration of the take                        s
    position within it                          s
    playing  whether time goes on
    speed    seconds of the take a second
    ======== ================================== ====
    """

    duration: float = 0.0
    position: float = 0.0
    playing: bool = True
    speed: float = 1.0

    def advance(self, elapsed: float) -> None:
        """Let time go on by ``elapsed`` s of a clock; past the end it starts again."""
        if self.playing:
            self.position += elapsed * self.speed
            if self.position > self.duration:
                self.position = 0.0

    def jump(self, seconds: float) -> None:
        """Move by some time, within the take."""
        self.position = min(max(self.position + seconds, 0.0), self.duration)
