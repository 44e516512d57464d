"""Search for reflex gains before the first PPO iteration: a table, and a file to go on from."""

from __future__ import annotations

import csv

import lightning

from mm_torch.callbacks.before import BeforePpo
from mm_torch.evolution.search import Generation, Search
from mm_torch.ppo.module import PpoModule

STATE, TABLE, EVOLVED = "evolution.npz", "evolution.csv", "evolved.ckpt"


class Evolution(BeforePpo):
    """Let the reflexes of a new run find their gains.

    After each generation the search is in ``RUN/evolution.npz`` and its figures in ``RUN/evolution.csv``. A run that ended
    before its first PPO iteration goes on with them on resuming.
    """

    name, checkpoint = "evolution", EVOLVED

    def wanted(self, module: PpoModule) -> bool:
        """See ``BeforePpo``."""
        return module.recipe.evolution.steps > 0

    def teach(self, trainer: lightning.Trainer, module: PpoModule) -> None:
        """See ``BeforePpo``."""
        config, state = module.recipe.evolution, self.run_dir / STATE
        search = Search(module.agent, module.env, config, module.recipe.seed)
        if state.exists():
            search.load(state)
        found = search.control_steps
        with (self.run_dir / TABLE).open("a", newline="") as table:
            rows = csv.writer(table)
            if not table.tell():
                rows.writerow([*Generation._fields, "seconds"])

            def tell(done: Generation) -> None:
                rows.writerow([*(f"{x:.6g}" for x in done), f"{self.records.seconds + self.seconds:.2f}"])
                table.flush()
                search.save(state)
                text = (f"generation {done.generation} | length {done.episode_length:.0f} | return "
                        f"{done.episode_return:.1f} | site {100 * done.relative_site_error:.1f} cm")
                self.report(trainer, text, done._asdict(), done.control_steps, found, config.steps, "steps")

            search.run(tell, self.stopping.due)
        module.env.reset()  # the episodes under way are the candidates'
