"""The judge of an evaluation during training: the recipe's validation clips in worlds of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mm_torch import build
from mm_torch.callbacks.evaluation import Evaluation, Findings
from mm_torch.callbacks.records import Records
from mm_torch.config.load import RecipeError
from mm_torch.config.schema import Recipe
from mm_torch.evaluation import figures
from mm_torch.evaluation.comparison import summarise
from mm_torch.evaluation.job import evaluation_device, thresholds_of, warn_of_leakage
from mm_torch.evaluation.recording import rollout_of
from mm_torch.evaluation.tracker import ClipResult, Trace, Tracker, evaluation_recipe, track_together
from mm_torch.maths import ranks
from mm_torch.playback import take_of
from mm_torch.ppo.policy import Agent
from mm_torch.video import gl_backend, write_video

FILM_SECONDS = 5.0


class Validation:
    """Tracks the validation clips with whatever agent it is given; its reference is theirs.

    Args:
        recipe: of the run.
        threads: of the physics pool.

    Raises:
        MotionError: the validation clips cannot be used.
        VideoError: a film is wanted and there is no OpenGL.
    """

    def __init__(self, recipe: Recipe, threads: int) -> None:
        settings = recipe.evaluation
        warn_of_leakage(recipe.motions, settings.motions)
        if settings.video:
            gl_backend()
        own = evaluation_recipe(recipe, settings.motions or recipe.motions, thresholds_of(recipe))
        bank = build.build_bank(own, build.build_body(own), evaluation_device(own))
        self.tracker = Tracker(own, bank, threads)
        self.video = settings.video

    def __call__(self, agent: Agent) -> Findings | None:
        """Evaluate an agent, all ranks together; its mode and the global random state stay as they are.

        Returns:
            What was found; None on ranks after the first.
        """
        traces: list[Trace] = []
        training = agent.training
        results = track_together(self.tracker, agent.eval(), record=traces.append)
        agent.train(training)
        everything = ranks.merge_on_first({t.number: vars(t) for t in traces})
        if not ranks.is_first():
            return None
        traces = [Trace(**everything[clip]) for clip in sorted(everything)]
        return Findings(
            score=score(results), summary=summarise(results), clips=[r.row() for r in results], table=_table(results),
            draw=partial(figures.draw, self.tracker.body, self.tracker.bank, results, traces),
            film=partial(self._film, traces) if self.video else None,
        )

    def _film(self, traces: list[Trace], path: Path) -> bytes:
        longest = max(traces, key=lambda t: len(t.qpos))
        path.parent.mkdir(parents=True, exist_ok=True)
        take = take_of(rollout_of(self.tracker.body, longest, "validation"), self.tracker.body)
        write_video(self.tracker.body, [take.cut(FILM_SECONDS)], path)
        return figures.as_gif(path)


def score(results: list[ClipResult]) -> float:
    """Reward a frame over all frames of all clips; frames that were not tracked earn nothing."""
    return sum(r.episode_return for r in results) / sum(r.frames for r in results)


def _table(results: list[ClipResult]) -> str:
    rows = [r.row() for r in results]
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def evaluation_callback(recipe: Recipe, run_dir: Path, threads: int, records: Records) -> list[Evaluation]:
    """The callback that the recipe's ``evaluation`` section asks for; none where it asks for none.

    Args:
        recipe: of the run.
        run_dir: run directory.
        threads: of the physics pool.
        records: the clock of training.

    Raises:
        RecipeError: a schedule that cannot be.
    """
    every = recipe.evaluation.every_steps
    if every < 0:
        raise RecipeError(f"evaluation.every_steps={every}: must be 0 (off) or a number of control steps")
    if every == 0:
        if recipe.evaluation.motions is not None:
            raise RecipeError(
                "evaluation.motions: nothing is evaluated during training; set evaluation.every_steps=N, for example "
                f"{max(1, recipe.total_steps // 20)}, or leave evaluation.motions out"
            )
        return []
    judge = Validation(recipe, threads)
    return [Evaluation(run_dir, every, judge, figures.write_png, records)]
