"""What an ablation shows: a table of its settings, and whether the paper's conclusions hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mm_torch.config.load import RecipeError
from tools.ablation.curves import Curves

EARLY, LATE = (0.0, 0.2), (0.8, 1.0)  # parts of a run
MARK = "<!-- ablations -->"
HEADER = (
    "| epochs | minibatches | samples each | seeds | reward, first fifth | reward, last fifth | KL, median | KL, largest "
    "| std, largest | std, last | learning, s an iteration |"
)
CERTAIN = 2.0  # standard errors of a difference over the seeds


def figures(curves: Curves) -> dict[str, np.ndarray]:
    """Figures of a setting, (R,) each: reward early and late, KL (median, largest), std, learning time in s."""
    kl, std = curves.values["kl"], curves.values["policy_std"]
    learning = (1.0 - curves.values["collect_share"]) * np.diff(curves.values["seconds"], prepend=0.0, axis=1)
    return {
        "early": curves.mean("reward", *EARLY), "late": curves.mean("reward", *LATE), "kl": np.median(kl, axis=1),
        "kl_most": kl.max(axis=1), "std_most": std.max(axis=1), "std_last": std[:, -1], "learning": learning.mean(axis=1),
    }


def judge(more: Sequence[np.ndarray], less: Sequence[np.ndarray]) -> str:
    """Whether each setting of ``more`` exceeds each of ``less``, values (R,) of the seeds each.

    A difference of means counts beyond ``CERTAIN`` of its standard errors; one seed has none, so that nothing is decided.
    """
    if min(len(values) for values in (*more, *less)) < 2:
        return "not decided (one seed)"
    gaps = [(a.mean() - b.mean()) / max(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)), 1e-12)
            for a in more for b in less]
    if min(gaps) > CERTAIN:
        return "**holds**"
    if max(gaps) < -CERTAIN:
        return "**the opposite holds**"
    if min(gaps) < -CERTAIN:
        return "**does not hold**"
    return "not decided: differences within the spread of the seeds" if max(gaps) <= CERTAIN else "holds in part"


def table(sweep: Sequence[Curves]) -> list[str]:
    """Markdown table of settings: mean over the seeds ± standard deviation."""
    def told(values: np.ndarray, form: str) -> str:
        spread = f" ± {format(values.std(ddof=1), form)}" if len(values) > 1 else ""
        return f"{format(values.mean(), form)}{spread}"

    lines = [HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    for curves in sweep:
        f, s = figures(curves), curves.setting
        cells = [s.epochs, s.minibatches, s.size, len(f["kl"]), told(f["early"], ".3f"), told(f["late"], ".3f"),
                 told(f["kl"], ".2g"), f"{f['kl_most'].max():.2g}", f"{f['std_most'].max():.3f}", told(f["std_last"], ".3f"),
                 f"{f['learning'].mean():.2f}"]
        lines.append("".join(f"| {cell} " for cell in cells) + "|")
    return lines


def conclusions(epochs: Sequence[Curves], sizes: Sequence[Curves]) -> list[str]:
    """The paper's conclusions, one line each with what these runs say; sweeps in rising order of epochs and of size."""
    lines = []
    if len(epochs) > 1:
        one, *others = [figures(curves) for curves in epochs]
        lines += [
            f"- More epochs learn faster at first: {judge([f['early'] for f in others], [one['early']])}.",
            f"- A single epoch ends best: {judge([one['late']], [f['late'] for f in others])}.",
            "- A single epoch stays calm, reuse does not (largest KL): "
            f"{judge([np.log(f['kl_most']) for f in others], [np.log(one['kl_most'])])}.",
        ]
    if len(sizes) > 1:
        small, large = figures(sizes[0]), figures(sizes[-1])
        pair = f"{sizes[-1].setting.size} against {sizes[0].setting.size} samples"
        lines += [
            f"- Larger minibatches end better ({pair}): {judge([large['late']], [small['late']])}.",
            f"- Larger minibatches are calmer (median KL): {judge([small['kl']], [large['kl']])}.",
            f"- Larger minibatches overshoot less (largest std): {judge([small['std_most']], [large['std_most']])}.",
        ]
    return lines


def report(epochs: Sequence[Curves], sizes: Sequence[Curves]) -> str:
    """Markdown: conclusions and tables."""
    run = epochs[0]
    text = [f"{run.steps[-1]:,.0f} control steps a run, {len(run.steps)} iterations of {run.setting.samples} samples.", "",
            "Epochs:", "", *table(epochs), "", "Minibatches:", "", *table(sizes), "", *conclusions(epochs, sizes)]
    return "\n".join(text) + "\n"


def into_page(text: str, page: Path) -> None:
    """Put ``text`` between the two marks of a page.

    Raises:
        RecipeError: the page is missing or has no two marks.
    """
    parts = page.read_text().split(MARK) if page.is_file() else []
    if len(parts) != 3:
        raise RecipeError(f"page={page}: give a Markdown file with two lines {MARK}, between which the result goes")
    page.write_text(f"{parts[0]}{MARK}\n{text}{MARK}{parts[2]}")
