"""All reference motions of a run, packed on the device."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mm_torch.hub.download import local_path
from mm_torch.motion.clip import Clip, MotionError, bind_activations, bind_to_body, clip_files, load_clip
from mm_torch.motion.resample import interpolate_linearly, resample
from sim_models.embodiment import Embodiment
from sim_models.kinematics import reference_velocity, site_motion

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference rows gathered from the bank; ``...`` is the shape of the requested frames.

    =========== ======================================================== ============== ==========
    qpos        positions                                                (..., Q)       m, rad
    qvel        velocities, consistent with qpos                         (..., V)       m/s, rad/s
    site_xpos   world positions of the mimic sites                       (..., S, 3)    m
    site_xquat  world orientations, wxyz                                 (..., S, 4)
    site_xvel   world velocities: angular, linear                        (..., S, 6)    rad/s, m/s
    =========== ======================================================== ============== ==========
    """

    qpos: Tensor
    qvel: Tensor
    site_xpos: Tensor
    site_xquat: Tensor
    site_xvel: Tensor


@dataclass(frozen=True, eq=False)
class ReferenceBank:
    """Clips concatenated frame after frame at the control rate.

    ========== =============================================================== ===============
    names      clip names                                                      (C,)
    lengths    frames of each clip                                             (C,) int64
    offsets    first frame of each clip in the packed arrays                   (C,) int64
    frames     packed reference rows                                           Reference (F, ...)
    act        activations that fit each frame; None where no clip has any     (F, M) half
    fps        control rate                                                    1/s
    ========== =============================================================== ===============
    """

    names: tuple[str, ...]
    lengths: Tensor
    offsets: Tensor
    frames: Reference
    act: Tensor | None
    fps: float

    @classmethod
    def build(cls, body: Embodiment, clips: Iterable[Clip], device: torch.device | str = "cpu") -> ReferenceBank:
        """Check, resample and pack clips.

        Args:
            body: embodiment; clips are matched to it by joint name.
            clips: motions.
            device: where the bank lives.

        Raises:
            MotionError: no clip, or one that does not fit the body.
        """
        fps = 1.0 / body.control_dt
        names, lengths, rows, acts = [], [], [], []
        strangers = []
        for clip in clips:
            qpos = resample(body, bind_to_body(clip, body), clip.fps, fps)
            qvel = reference_velocity(body, qpos, body.control_dt)
            sites = site_motion(body, qpos, qvel)
            rows.append([np.asarray(a, np.float32) for a in (qpos, qvel, *sites)])
            act = bind_activations(clip, body)
            acts.append(None if act is None else interpolate_linearly(act, clip.fps, fps, len(qpos)))
            if act is not None and clip.solved_fixes != body.fixes:
                strangers.append(clip)
            names.append(clip.name)
            lengths.append(len(qpos))
        if strangers:
            log.warning(
                "activations of %d clips (%s) are of a body with fixes %s, here they are %s; solve them anew with "
                "tools/solve_activations.py CLIPS fixes=NAME,... force=true",
                len(strangers), strangers[0].name, list(strangers[0].solved_fixes), list(body.fixes),
            )
        if not names:
            raise MotionError("no motion to train on; give motions=DIR with clips made by tools/retarget.py")
        packed = [torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*rows, strict=True)]
        length = torch.tensor(lengths, device=device)
        return cls(
            names=tuple(names), lengths=length, offsets=length.cumsum(0) - length, frames=Reference(*packed),
            act=_pack_activations(acts, lengths, body, device), fps=fps,
        )

    @property
    def num_clips(self) -> int:
        """C."""
        return len(self.names)

    @property
    def memory_bytes(self) -> int:
        """Size of the packed arrays."""
        tensors = [*vars(self.frames).values(), *([] if self.act is None else [self.act])]
        return sum(t.numel() * t.element_size() for t in tensors)

    def row(self, clip: Tensor, frame: Tensor) -> Tensor:
        """Packed row of a frame, clamped to its clip.  Args: clip (...,) and frame (...,) int64, broadcast."""
        last = rows_of(self.lengths, clip) - 1
        return rows_of(self.offsets, clip) + torch.minimum(frame.clamp_min(0), last)

    def gather(self, clip: Tensor, frame: Tensor) -> Reference:
        """Reference rows of frames, clamped to the last frame of their clips.

        Args:
            clip: (N,) or (N, 1) int64.
            frame: int64, broadcast with ``clip``; (N, K) gathers K look-ahead frames at once.
        """
        row = self.row(clip, frame)
        return Reference(*(rows_of(value, row) for value in vars(self.frames).values()))

    def activations(self, clip: Tensor, frame: Tensor) -> Tensor | None:
        """Activations (..., M) in single precision at frames, or None where no clip has any."""
        return None if self.act is None else rows_of(self.act, self.row(clip, frame)).float()


def rows_of(table: Tensor, rows: Tensor) -> Tensor:
    """Rows (..., *) of a table (F, *): ``table[rows]`` in a third of its time where they are few."""
    if rows.ndim == 1:
        return table.index_select(0, rows)
    return table.index_select(0, rows.flatten()).view(*rows.shape, *table.shape[1:])


def _pack_activations(
    acts: list[np.ndarray | None], lengths: list[int], body: Embodiment, device: torch.device | str
) -> Tensor | None:
    if all(a is None for a in acts):
        return None
    empty = [np.zeros((n, body.model.nu), np.float16) for n in lengths]
    parts = [e if a is None else a.astype(np.float16) for a, e in zip(acts, empty, strict=True)]
    return torch.from_numpy(np.concatenate(parts)).to(device)


def find_clips(motions: Path | str) -> list[Path]:
    """Clip files of a directory (recursively) or the one file given, on this machine or on the hub.

    Raises:
        MotionError: no such path, or no npz file in it.
        HubError: they are on the hub and cannot be had.
    """
    path = local_path(motions, ".npz")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MotionError(f"motions={motions}: no such file or directory; give a directory with clips (*.npz)")
    found = clip_files(path)
    if not found:
        raise MotionError(f"motions={motions}: no clip (*.npz) in that directory; make some with tools/retarget.py")
    return found


def load_bank(body: Embodiment, paths: list[Path], device: torch.device | str = "cpu") -> ReferenceBank:
    """Load clip files into a bank; a file that cannot be used is reported and left out.

    Raises:
        MotionError: none of the files can be used (the error of the first), or there is only one and it cannot.
    """
    clips, errors = [], []
    for path in paths:
        try:
            clip = load_clip(path)
            bind_to_body(clip, body)
            clips.append(clip)
        except MotionError as error:
            errors.append(error)
            log.warning("left out: %s", error)
    if not clips:
        raise errors[0]
    return ReferenceBank.build(body, clips, device)
