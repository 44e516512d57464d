"""A checkpoint of MuscleMimic as one of ours: ``python tools/convert_checkpoint.py ORBAX_DIR out=FILE.ckpt``.

ORBAX_DIR  a directory checkpoint_N that MuscleMimic 0.1.0 wrote, or a directory that holds several (the latest complete one
           is taken); reading needs the extra upstream (pip install 'mm_torch[upstream]'), neither JAX nor MuscleMimic
out        checkpoint to write; an older one is replaced

Plain, gated-residual and soft-mixture towers, the statistics of the observation normaliser and the standard deviation are
taken over, and of the configuration what has a counterpart; the recipe is one under compat=upstream. The optimiser's state
is not: the file can be evaluated, played, exported and fine-tuned (init_from=), not resumed. See docs/upstream.md.

Example: python tools/convert_checkpoint.py checkpoints/checkpoint_12500 out=mm.ckpt
         python -m mm_torch.evaluate checkpoint=mm.ckpt motions=clips
"""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightning
import torch

from mm_torch import build
from mm_torch.callbacks.checkpoint import FORMAT, KEY, PACKAGES, CheckpointError
from mm_torch.command import run_command
from mm_torch.config.load import RecipeError, to_plain
from mm_torch.config.schema import Recipe
from mm_torch.motion.bank import load_bank
from mm_torch.motion.library import library_clips
from mm_torch.ppo.policy import Agent
from sim_models.embodiment import Embodiment
from tools.convert.networks import network_of, weights_of
from tools.convert.orbax_directory import UpstreamCheckpoint, read_upstream
from tools.convert.settings import recipe_of, trained_on
from tools.retargeting.atomic import replacing

USE = "use convert_checkpoint.py ORBAX_DIR out=FILE.ckpt"


def convert(source: Path | str) -> dict[str, Any]:
    """The content of a checkpoint of ours with the policy of one of MuscleMimic.

    Args:
        source: its Orbax directory.

    Returns:
        What ``torch.save`` is to write: tensors and plain containers.

    Raises:
        CheckpointError: the source cannot be used.
    """
    theirs = read_upstream(source)
    recipe = recipe_of(theirs, network_of(theirs.path, theirs.arrays))
    body = build.build_body(recipe)
    layout = observation_layout(recipe, body)
    check_sizes(theirs, recipe, body, layout)
    agent = Agent.of(recipe, body, layout, len(body.muscle_names))
    weights = weights_of(theirs.path, theirs.arrays, agent)
    progress = theirs.progress
    return {
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": {f"agent.{name}": tensor for name, tensor in weights.items()},
        KEY: {
            "format": FORMAT,
            "recipe": to_plain(recipe),
            "layout": [list(term) for term in layout],
            "body": body.name,
            "model_hash": body.model_hash,
            "muscles": list(body.muscle_names),
            "clips": [],
            "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "iteration": int(progress.get("update_number", 0)),
            "control_steps": int(progress.get("global_timestep", 0)),
            "seconds": 0.0,
            "best": None,
            "score": None,
            "upstream": progress | {"motions": trained_on(theirs.experiment)},
        },
    }


def observation_layout(recipe: Recipe, body: Embodiment) -> list[tuple[str, int, int]]:
    """Name, first and last column (exclusive) of each term, found in an environment of one world."""
    physics = build.build_physics(replace(recipe, sim="native"), body, num_envs=1, threads=1)
    env = build.build_env(replace(recipe, num_envs=1), physics, load_bank(body, library_clips(body.name)[:1]))
    return [(term.name, term.start, term.end) for term in env.layout]


def check_sizes(
    theirs: UpstreamCheckpoint, recipe: Recipe, body: Embodiment, layout: list[tuple[str, int, int]]
) -> None:
    """Refuse a policy that sees or moves something else than ours.

    Raises:
        CheckpointError: observation, muscles or mimic sites differ.
    """
    seen = next((a.shape for n, a in theirs.arrays.items() if n.startswith("run_stats.") and n.endswith(".mean")), (0,))
    size = layout[-1][2]
    if seen != (size,):
        raise CheckpointError(
            f"{theirs.path}: its policy sees {seen[-1]} numbers, {body.name} shows {size} under compat=upstream with "
            f"look-ahead {list(recipe.task.lookahead_steps)}; another observation layout cannot be taken over"
        )
    moved = theirs.arrays.get("params.log_std")
    if moved is not None and moved.shape != (len(body.muscle_names),):
        raise CheckpointError(f"{theirs.path}: its policy moves {moved.shape[-1]} muscles, {body.name} with fingers="
                              f"{str(recipe.body.fingers).lower()} has {len(body.muscle_names)}")
    sites = theirs.experiment.get("env_params", {}).get("goal_params", {}).get("sites_for_mimic")
    if sites is not None and list(sites) != list(body.site_names):
        raise CheckpointError(f"{theirs.path}: its policy follows the sites {', '.join(sites)}; known is only "
                              f"{', '.join(body.site_names)}")


def write(checkpoint: dict[str, Any], out: Path) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written; what was there before stays.
    """
    try:
        with replacing(out) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(f"out={out}: cannot be written ({reason}); name a file in a directory that can") from None


def main(arguments: list[str]) -> None:
    """Entry point."""
    sources = [a for a in arguments if "=" not in a]
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    if len(sources) != 1 or set(given) != {"out"} or not given["out"].endswith(".ckpt"):
        raise RecipeError(f"{' '.join(arguments) or 'no words'}: {USE}")
    checkpoint, out = convert(sources[0]), Path(given["out"])
    write(checkpoint, out)
    extra = checkpoint[KEY]
    net, weights = extra["recipe"]["net"], sum(t.numel() for n, t in checkpoint["state_dict"].items() if ".nets." in n)
    print(f"{out}: {extra['body']}, {net['kind']} towers {net['hidden']}, {weights:,} weights, {extra['layout'][-1][2]} "
          f"observed numbers, {len(extra['muscles'])} muscles, after {extra['control_steps']:,} control steps on "
          f"{extra['upstream']['motions']}")


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
