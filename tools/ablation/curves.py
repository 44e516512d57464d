"""The runs of an ablation: their settings, their metrics over the seeds, and the picture."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

QUANTITIES = ("reward", "kl", "policy_std", "collect_share", "seconds")
WINDOW = 0.05  # share of a run over which curves are averaged
LABELS = {
    "reward": "mean reward a step", "kl": "KL divergence of an update in nat",
    "policy_std": "standard deviation of the policy",
}


@dataclass(frozen=True)
class Setting:
    """What is varied.

    =========== ================================
    epochs      gradient epochs a rollout
    minibatches minibatches a rollout
    samples     samples a rollout, of all worlds
    =========== ================================
    """

    epochs: int
    minibatches: int
    samples: int

    @property
    def name(self) -> str:
        """Name of the directory of its runs."""
        return f"epochs{self.epochs}_minibatches{self.minibatches}"

    @property
    def size(self) -> int:
        """Samples a minibatch."""
        return self.samples // self.minibatches


@dataclass(frozen=True)
class Curves:
    """Metrics of one setting.

    ======= ============================================== =======
    setting what was varied
    steps   control steps                                  (I,)
    values  name in ``QUANTITIES`` to the seeds' values    (R, I)
    ======= ============================================== =======
    """

    setting: Setting
    steps: np.ndarray
    values: dict[str, np.ndarray]

    def mean(self, name: str, start: float, stop: float) -> np.ndarray:
        """Mean (R,) of a quantity over a part of the run, 0 to 1."""
        low, high = (round(part * len(self.steps)) for part in (start, stop))
        return self.values[name][:, low : max(high, low + 1)].mean(axis=1)


def read_metrics(run_dir: Path) -> dict[str, np.ndarray]:
    """Columns ``control_steps`` and ``QUANTITIES`` (I,) of a run; empty arrays where it has none yet."""
    path, rows = run_dir / "metrics.csv", []
    if path.is_file():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in ("control_steps", *QUANTITIES)}


def read_curves(setting: Setting, directory: Path) -> Curves | None:
    """The seeds of a setting below ``directory`` that got furthest (a run under way does not count); None without any."""
    runs = [run for path in sorted((directory / setting.name).glob("seed*/")) if len((run := read_metrics(path))["kl"])]
    if not runs:
        return None
    count = max(len(run["kl"]) for run in runs)
    runs = [run for run in runs if len(run["kl"]) == count]
    return Curves(setting, runs[0]["control_steps"], {q: np.stack([r[q] for r in runs]) for q in QUANTITIES})


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean (R, I) over the last ``WINDOW`` of the run."""
    width = max(1, round(WINDOW * values.shape[1]))
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    first = np.maximum(np.arange(1, values.shape[1] + 1) - width, 0)
    last = np.arange(1, values.shape[1] + 1)
    return (sums[:, last] - sums[:, first]) / (last - first)


def draw(rows: dict[str, list[Curves]], out: Path) -> None:
    """One row of panels for each sweep: mean over the seeds, band from the lowest to the highest.

    Args:
        rows: title of a sweep to its settings; the legend names what differs.
        out: picture to write.
    """
    figure, axes = plt.subplots(len(rows), len(LABELS), figsize=(13, 3.8 * len(rows)), squeeze=False, layout="constrained")
    for row, (title, sweep) in zip(axes, rows.items(), strict=True):
        colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.88, len(sweep)))
        for axis, (name, label) in zip(row, LABELS.items(), strict=True):
            for curves, colour in zip(sweep, colours, strict=True):
                values, steps = smooth(curves.values[name]), curves.steps / 1e3
                varied = curves.setting.epochs if title == "epochs" else curves.setting.size
                axis.plot(steps, values.mean(axis=0), color=colour, label=varied)
                axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
            axis.set(xlabel="thousand control steps", ylabel=label, yscale="log" if name == "kl" else "linear")
            axis.grid(alpha=0.3)
        row[0].legend(title=title)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    plt.close(figure)
