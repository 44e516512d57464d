"""The built-in motion library: clips made by this project, so that training needs no download."""

from __future__ import annotations

from pathlib import Path

from mm_torch.motion.clip import MotionError

DATA = Path(__file__).with_name("data")


def library_dir(body_name: str) -> Path:
    """Folder with the built-in clips of a body.

    Args:
        body_name: registry name of the embodiment.

    Raises:
        MotionError: the library has no motions for that body.
    """
    folder = DATA / body_name
    if not any(folder.glob("*.npz")):
        have = ", ".join(sorted(p.name for p in DATA.iterdir() if p.is_dir())) if DATA.is_dir() else "none"
        raise MotionError(
            f"the built-in library has no motions for body {body_name!r} (it has: {have}); give motions=PATH, or make "
            "clips with tools/retarget.py"
        )
    return folder


def library_clips(body_name: str) -> list[Path]:
    """Files of the built-in clips of a body, sorted by name.

    Args:
        body_name: registry name of the embodiment.

    Raises:
        MotionError: the library has no motions for that body.
    """
    return sorted(library_dir(body_name).glob("*.npz"))
