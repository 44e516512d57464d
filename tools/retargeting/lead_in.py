"""The first frames that are no motion: a T-pose from which the capture jumps, or blends, into the motion."""

from __future__ import annotations

import numpy as np

from tools.retargeting.skeleton import Capture, CaptureError

WINDOW = 1.0  # s in which a jump out of a still pose counts as the end of a lead-in
LONGEST = 0.25  # s that the blend may take; what is fast for longer is a motion
JUMP = 12.0  # m/s: faster than any joint but in sprints, kicks and throws, which do not begin from a still pose
ABOVE = 1.5  # and so much faster than the motion that follows
STILL = 0.2  # m/s: what a held pose may move
FADING = 0.75  # a blend ends with steps that shrink by at least this factor


def find_lead_in(points: np.ndarray, fps: float) -> int:
    """Frames before the motion begins, 0 where there are none.

    A lead-in is a pose that is held, or a single frame, followed within ``WINDOW`` by steps faster than ``JUMP`` and than
    ``ABOVE`` times the 95th percentile of what follows. Several such steps are a blend; steps that fade out belong to it.

    Args:
        points: (F, K, 3) m world positions.
        fps: frames per second.
    """
    speed = np.linalg.norm(np.diff(points, axis=0), axis=2).max(axis=1) * fps  # (F - 1,)
    window, longest = int(np.ceil(WINDOW * fps)), int(np.ceil(LONGEST * fps))
    rest = speed[min(window, len(speed) // 2) :]
    limit = max(JUMP, ABOVE * float(np.percentile(rest, 95.0))) if len(rest) else JUMP
    fast = speed > limit
    if not fast[:window].any():
        return 0
    first = int(np.argmax(fast))
    if first and speed[:first].max() > STILL:
        return 0
    last = first
    while last + 1 < len(speed) and fast[last + 1]:
        last += 1
    if last > first:
        while last + 1 < len(speed) and speed[last + 1] < FADING * speed[last]:
            last += 1
    return last + 1 if last - first < longest else 0


def without_lead_in(capture: Capture, name: str, told: int | None) -> Capture:
    """The capture from where its motion begins; ``provenance["lead_in"]`` says how many frames are dropped and why.

    Args:
        capture: as in the file; ``capture.lead_in`` frames are known to precede the motion in files of its kind.
        name: of the file.
        told: frames to drop, instead of those that are known or found.

    Raises:
        CaptureError: fewer frames would remain than a motion needs.
    """
    found = find_lead_in(capture.points, capture.fps)
    frames, why = (told, "told") if told is not None else max((found, "a jump"), (capture.lead_in, "known of the format"))
    if len(capture.points) - frames < 4:
        raise CaptureError(f"{name}: a lead-in of {frames} frames ({why}) leaves {max(len(capture.points) - frames, 0)} of "
                           f"{len(capture.points)} frames; give lead_in=0 to keep all")
    return capture.drop(frames).noting(lead_in=frames, lead_in_from=why if frames else "none found")
