"""``python -m mm_torch.bodies``: list every body with its sizes, with and without moving fingers.

It takes no options. Sizes: nq positions, nv velocities, muscles, mimic sites, couplings, independent degrees of freedom, kg.

Example: python -m mm_torch.bodies
"""

from __future__ import annotations

import sys

from mm_torch.command import run_command
from mm_torch.config.options import read_options
from mm_torch.report import describe_body
from sim_models.embodiment import Embodiment
from sim_models.registry import BODIES, load_body


def variants() -> list[Embodiment]:
    """All bodies; those with fingers twice, first with the fingers held."""
    bodies = []
    for name in BODIES:
        held, moving = load_body(name), load_body(name, fingers=True)
        bodies += [held] if held.model_hash == moving.model_hash else [held, moving]
    return bodies


def main(arguments: list[str]) -> None:
    """Entry point."""
    read_options(arguments, {})
    for body in variants():
        print(f"{describe_body(body)}\n  sites: {', '.join(body.site_names)}\n  Warp budgets per world: "
              f"{body.contact_budget} contacts, {body.constraint_budget} constraint rows")


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
