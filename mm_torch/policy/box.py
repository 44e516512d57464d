"""The policy in the box: the arms, trained by this project on its built-in motions, part of every installation."""

from __future__ import annotations

from pathlib import Path

from mm_torch.policy.modules import PolicyFileError

BOX = Path(__file__).with_name("box.ckpt")
WORD = "box"  # stands for it on the command line


def boxed_policy() -> Path:
    """The checkpoint of the arms (``myo_bimanual``, 64 muscles) that comes with the installation.

    It is an ordinary checkpoint without what only resuming needs, so every verb takes it; ``docs/first_hour.md`` says with
    which command, seed and time it was trained and how well it tracks.

    Raises:
        PolicyFileError: the installation lacks it.
    """
    if not BOX.is_file():
        raise PolicyFileError(f"{BOX}: the policy in the box is missing from this installation; install mm_torch again, or "
                              "name a checkpoint of your own")
    return BOX


def named_checkpoint(name: str) -> str:
    """The checkpoint that a word of the command line names: ``box`` the policy in the box, any other itself."""
    return str(boxed_policy()) if name == WORD else name
