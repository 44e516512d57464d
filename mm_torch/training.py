"""A training run from its resolved recipe: one run directory, resumable at any iteration."""

from __future__ import annotations

import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from mm_torch import build
from mm_torch.callbacks import checkpoint as ckpt
from mm_torch.callbacks.distillation import Distillation
from mm_torch.callbacks.evolution import Evolution
from mm_torch.callbacks.records import Records
from mm_torch.callbacks.stopping import Stopping
from mm_torch.config.load import RecipeError, to_yaml
from mm_torch.config.schema import Recipe
from mm_torch.evaluation.validation import evaluation_callback
from mm_torch.maths import ranks
from mm_torch.ppo.module import PpoModule
from mm_torch.ppo.policy import RolloutPolicy
from mm_torch.ppo.rollout import RolloutLoader
from mm_torch.processes import ALONE, Processes, together
from mm_torch.report import print_run
from mm_torch.sim.threads import apply

log = logging.getLogger(__name__)


def train(recipe: Recipe) -> Path:
    """Train until the budget of steps or minutes is used up, or until interrupted.

    Args:
        recipe: resolved recipe; ``resume`` continues that run bit for bit (on the CPU), ``init_from`` starts from the
            weights and observation statistics of a checkpoint. Where torchrun or srun started several processes, each
            steps ``num_envs`` worlds of its own (docs/scaling.md).

    Returns:
        The run directory: recipe.yaml, metrics.csv, TensorBoard events, checkpoints/{last,best}.ckpt, and what ``evaluation``
        asks for.

    Raises:
        RecipeError: the run directory is taken, or a term is unknown.
        CheckpointError, MotionError: a file cannot be used.
        SystemExit: another process of the run has gone; ``resume=`` goes on.
    """
    with together("go on with resume=RUN_DIR") as found:
        return _train(recipe, found)


def _train(recipe: Recipe, found: Processes) -> Path:
    resumed = ckpt.read_checkpoint(recipe.resume) if recipe.resume else None
    run_dir = _run_dir(recipe, ranks.texts(time.strftime("%Y%m%d-%H%M%S"))[0])
    _check_agreement(recipe)
    threads = found.threads(recipe.threads)
    apply(threads)
    torch.manual_seed(recipe.seed)

    body = build.build_body(recipe)
    physics = build.build_physics(recipe, body, recipe.num_envs, threads.physics)
    bank = build.build_bank(recipe, body, physics.device)
    failures = run_dir / "failed_worlds"
    env = build.build_env(recipe, physics, bank, failures if found.world == 1 else failures / f"rank{found.rank}")
    module = PpoModule(recipe, env)
    _start_weights(recipe, module, resumed)
    if found.rank:  # rank 0 goes on with the generator that drew the weights
        torch.manual_seed(ranks.rank_seed(recipe.seed, found.rank))
    if ranks.is_first():
        print_run(recipe, run_dir, env, module, build.backend(recipe))
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "recipe.yaml").write_text(to_yaml(recipe))

    seconds = 0.0 if resumed is None else resumed[ckpt.KEY]["seconds"]
    records, stopping = Records(run_dir, seconds), Stopping(recipe.max_minutes)
    checkpoints = ckpt.Checkpoints(run_dir, recipe.checkpoint_minutes, records)
    callbacks = [
        records, stopping, checkpoints, Evolution(run_dir, records, stopping), Distillation(run_dir, records, stopping),
        *evaluation_callback(recipe, run_dir, threads.physics, records),
    ]
    if resumed is not None:
        checkpoints.best, checkpoints.score = resumed[ckpt.KEY]["best"], resumed[ckpt.KEY]["score"]
        callbacks.append(ckpt.ResumeOptimiser(str(recipe.resume), resumed))
    loader = RolloutLoader(
        env, RolloutPolicy(module.agent, recipe.ppo.upstream), recipe.ppo.rollout_steps,
        module.total_iterations - module.iteration,
    )
    if not len(loader):
        raise RecipeError(f"total_steps={recipe.total_steps} are done already; give more to go on")
    trainer = make_trainer(env.device, callbacks, run_dir, found, partial=recipe.ppo.value_warmup > 0)
    trainer.fit(module, train_dataloaders=loader)
    if ranks.is_first():
        print(f"\n{stopping.reason or 'budget of steps used up'}: {module.control_steps:,} control steps in "
              f"{records.seconds / 60:.1f} min; run directory {run_dir}")
    return run_dir


def make_trainer(
    device: torch.device, callbacks: list[Any], run_dir: Path | None, found: Processes = ALONE, partial: bool = False
) -> lightning.Trainer:
    """Lightning trainer of one pass over a ``RolloutLoader``: no progress bar, no checkpoints of its own.

    Args:
        device: where the environment lives.
        callbacks: ours.
        run_dir: where TensorBoard events go; None for no logger.
        found: the processes of the run.
        partial: whether a loss may leave parameters out.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=found.local_world,
        num_nodes=found.nodes,
        strategy=found.strategy(partial),
        plugins=[found.environment],
        logger=TensorBoardLogger(run_dir, name="", version="tensorboard") if run_dir is not None else False,
        callbacks=callbacks,
        max_epochs=1,
        min_epochs=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def _start_weights(recipe: Recipe, module: PpoModule, resumed: dict[str, Any] | None) -> None:
    layout = [[s.name, s.start, s.end] for s in module.env.layout]
    body = module.env.physics.body
    if resumed is not None:
        ckpt.check_compatible(recipe.resume, resumed, body, layout)  # type: ignore[arg-type]
        ckpt.restore_run(recipe.resume, module, resumed)  # type: ignore[arg-type]
        return
    if recipe.init_from is not None:
        start = ckpt.read_checkpoint(recipe.init_from)
        ckpt.check_compatible(recipe.init_from, start, body, layout)
        ckpt.load_weights(recipe.init_from, module.agent, start)
    else:
        _start_statistics(recipe, module)
    ranks.copy_from_first(module.agent.state_dict().values())
    if recipe.ppo.reset_std is not None:
        with torch.no_grad():
            module.agent.nets.log_std.fill_(math.log(recipe.ppo.reset_std))


def _start_statistics(recipe: Recipe, module: PpoModule) -> None:
    """Let a fresh normaliser see what episodes start from; the original's sees one row of zeros."""
    start = module.env.reset()["observation"]
    module.agent.normaliser.update(torch.zeros_like(start[: int(ranks.is_first())]) if recipe.ppo.upstream else start)


def _check_agreement(recipe: Recipe) -> None:
    """Refuse what several processes cannot do, and processes that were started with different words."""
    if ranks.world_size() > 1 and recipe.distillation.labels:
        raise RecipeError(
            f"distillation.labels={recipe.distillation.labels}: labels are made by one process; do that alone, then start "
            "several with distillation.labels=0 init_from=RUN_DIR/checkpoints/distilled.ckpt"
        )
    if ranks.world_size() > 1 and recipe.evolution.steps:
        raise RecipeError(
            f"evolution.steps={recipe.evolution.steps}: one process searches the gains of the reflexes; do that alone, then "
            "start several with evolution.steps=0 init_from=RUN_DIR/checkpoints/evolved.ckpt"
        )
    if not ranks.agreed(to_yaml(recipe)):
        raise RecipeError("the processes of this run resolved different recipes; start all with the same words and files")


def _run_dir(recipe: Recipe, started: str) -> Path:
    if recipe.resume is not None and recipe.run_dir is None:
        path = Path(recipe.resume)
        return path if path.is_dir() else path.parent.parent
    run_dir = Path(recipe.run_dir or f"runs/{recipe.recipe}-{started}")
    if recipe.resume is None and (run_dir / "metrics.csv").exists():
        raise RecipeError(f"run_dir={run_dir} holds a run already; continue it with resume={run_dir} or name another")
    return run_dir
