"""How every verb starts: help, one-line errors and exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from mm_torch.callbacks.checkpoint import CheckpointError
from mm_torch.config.load import RecipeError
from mm_torch.motion.clip import MotionError
from mm_torch.policy.modules import PolicyFileError
from mm_torch.sim.physics import PhysicsError
from mm_torch.video import VideoError
from sim_models.registry import BodyError

EXPECTED = (RecipeError, BodyError, MotionError, CheckpointError, PhysicsError, PolicyFileError, VideoError)


def run_command(main: Callable[[list[str]], None], arguments: list[str], description: str | None) -> None:
    """Run a verb: ``-h`` prints its description; a foreseen error becomes one line on stderr and exit code 2.

    Args:
        main: the verb.
        arguments: command-line words.
        description: its help text.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    if {"-h", "--help"} & set(arguments):
        print((description or "").strip())
        return
    try:
        main(arguments)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
