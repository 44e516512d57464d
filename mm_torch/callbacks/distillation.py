"""Distillation before the first PPO iteration: labels on disk."""

from __future__ import annotations

import math

import lightning

from mm_torch.callbacks.before import BeforePpo
from mm_torch.distillation.labels import Labels
from mm_torch.distillation.student import Round, Student
from mm_torch.ppo.module import PpoModule

FOLDER, DISTILLED = "labels", "distilled.ckpt"


class Distillation(BeforePpo):
    """Let the actor of a new run learn from the teacher.

    Labels go to ``RUN/labels``. A run that ended before its first PPO iteration reads them on resuming and goes on with the
    rest; the weights then follow from the labels once more.
    """

    name, checkpoint = "distillation", DISTILLED

    def wanted(self, module: PpoModule) -> bool:
        """See ``BeforePpo``."""
        return module.recipe.distillation.labels > 0

    def teach(self, trainer: lightning.Trainer, module: PpoModule) -> None:
        """See ``BeforePpo``."""
        config, env = module.recipe.distillation, module.env
        labels = Labels(self.run_dir / FOLDER, config.labels, env.current_observation.shape[-1], env.action_spec.shape[-1])
        found = labels.count

        def tell(done: Round) -> None:
            figures = {name: value for name, value in done._asdict().items() if math.isfinite(value)}
            length = f" | length {done.episode_length:.0f}" if "episode_length" in figures else ""
            text = f"error {done.error ** 0.5:.3f} of full excitation{length}"
            self.report(trainer, text, figures, done.labels, found, config.labels, "labels")

        Student(module.agent, env, labels, config).learn(tell, self.stopping.due)
