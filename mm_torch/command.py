"""How every verb starts: help, one-line errors and exit codes."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable

from mm_torch.callbacks.checkpoint import CheckpointError
from mm_torch.config.load import RecipeError
from mm_torch.distillation.labels import LabelError
from mm_torch.evolution.search import SearchError
from mm_torch.hub.download import HubError
from mm_torch.motion.clip import MotionError
from mm_torch.policy.modules import PolicyFileError
from mm_torch.ppo.optim import GradientError
from mm_torch.sim.physics import PhysicsError
from mm_torch.viewer.take import ViewerError
from sim_models.registry import BodyError

EXPECTED = (
    RecipeError, BodyError, HubError, MotionError, LabelError, SearchError, CheckpointError, GradientError, PhysicsError,
    PolicyFileError, ViewerError,
)
EXIT = "Exit status: 0 done, 2 an option or a file cannot be used; the line on stderr says which, and what helps."
# What a disk that is full, read-only or closed to us answers, and what helps
DISK = {
    errno.ENOSPC: "make room", errno.EDQUOT: "make room in your quota", errno.EFBIG: "raise the limit on file sizes",
    errno.EROFS: "choose a directory that can be written", errno.EACCES: "choose a directory that can be written",
    errno.EPERM: "choose a directory that can be written",
}


def run_command(main: Callable[[list[str]], None], arguments: list[str], description: str | None) -> None:
    """Run a verb: ``-h`` prints its description and ``EXIT``; a foreseen error becomes one line on stderr and exit code 2.

    Args:
        main: the verb.
        arguments: command-line words.
        description: its help text.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    if {"-h", "--help"} & set(arguments):
        print(f"{(description or '').strip()}\n\n{EXIT}")
        return
    try:
        main(arguments)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(
            f"error: {error.filename or 'writing'}: {os.strerror(error.errno)}; {DISK[error.errno]} (an interrupted "
            "training goes on with resume=RUN_DIR)", file=sys.stderr,
        )
        raise SystemExit(2) from None
