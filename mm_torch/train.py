"""``python -m mm_torch.train recipe=NAME [key.sub=value ...]``: train a policy.

recipe        a file of recipes/ (toy_arm, bimanual_demo, fullbody_generalist ...) or a path to a YAML file
motions       directory or file with clips; default: the built-in motion library
run_dir       directory to write; default: runs/<recipe>-<time>
total_steps   budget of PPO in control steps; default: the recipe's. What comes before PPO has budgets of its own:
              evolution.steps (docs/reflexes.md), distillation.labels (docs/guided.md)
max_minutes   budget in minutes; default: none
num_envs      worlds; default: the profile's
profile       cuda or cpu; default: cuda where a GPU is found
resume        run directory or checkpoint to continue, bit for bit on the CPU (no recipe= needed)
init_from     checkpoint to fine-tune, with recipe=fullbody_finetune motions=DIR ppo.reset_std=0.2; box: the policy of the
              arms that comes with the installation
compat        upstream reproduces MuscleMimic 0.1.0; default: corrected
motions and init_from may lie on the Hugging Face Hub: hf://user/repo[/file][@revision] (extra hub).
Every other key, with its meaning and default: mm_torch/config/schema.py. Ctrl-C, SIGTERM and SIGUSR1 finish the
iteration and save; SIGTERM and SIGUSR1 end it with 75. What else can go wrong: docs/faults.md.

Example: python -m mm_torch.train recipe=toy_arm run_dir=runs/toy max_minutes=1
         python -m mm_torch.train recipe=fullbody_finetune init_from=hf://me/walker motions=clips ppo.reset_std=0.2
"""

from __future__ import annotations

import sys

import torch
from omegaconf import OmegaConf

from mm_torch.callbacks.checkpoint import KEY, open_checkpoint, read_checkpoint
from mm_torch.callbacks.stopping import signals_of_a_verb
from mm_torch.command import run_command
from mm_torch.config.load import RecipeError, load_recipe, parse_overrides, to_recipe
from mm_torch.config.schema import Recipe
from mm_torch.hub.download import PREFIX
from mm_torch.policy.box import named_checkpoint
from mm_torch.training import train

LEARNED = ("body", "net", "task")  # sections that weights depend on


def recipe_from(arguments: list[str]) -> Recipe:
    """Resolve the command line; a resumed run starts from its stored recipe, a fine-tune keeps the network and task."""
    overrides = parse_overrides(arguments)
    if overrides.get("resume"):
        if str(overrides.resume).startswith(PREFIX):
            raise RecipeError(f"resume={overrides.resume}: a run goes on in its own directory; begin one with init_from=")
        path, checkpoint = open_checkpoint(str(overrides.resume))
        stored, overrides.resume = checkpoint[KEY]["recipe"], str(path)
        keep = OmegaConf.create(stored | {"resume": None, "init_from": None, "run_dir": None, "max_minutes": None})
        return to_recipe(OmegaConf.merge(OmegaConf.structured(Recipe), keep, overrides))
    learned = None
    if overrides.get("init_from"):
        start = named_checkpoint(str(overrides.init_from))
        arguments, stored = [*arguments, f"init_from={start}"], read_checkpoint(start)[KEY]["recipe"]
        learned = OmegaConf.create({name: stored[name] for name in LEARNED})
    return load_recipe(arguments, cuda_available=torch.cuda.is_available(), learned=learned)


def main(arguments: list[str]) -> None:
    """Entry point."""
    with signals_of_a_verb():
        train(recipe_from(arguments))


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
