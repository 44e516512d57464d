"""Pictures of an evaluation: reward over time, errors by joint, success by clip, muscle activations."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import imageio
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mm_torch.evaluation.tracker import ClipResult, Trace
from mm_torch.motion.bank import ReferenceBank
from sim_models.embodiment import Embodiment

DPI = 90
MOST_ROWS = 40  # joints or clips shown; the worst of more
BLUE, RED, GREY = "#2f6db3", "#c0392b", "#888888"
GIF_EVERY, GIF_SCALE = 5, 2  # of a film every fifth picture, half as wide and high


def draw(
    body: Embodiment, bank: ReferenceBank, results: Sequence[ClipResult], traces: Sequence[Trace]
) -> dict[str, np.ndarray]:
    """All pictures of an evaluation.

    Args:
        body: embodiment.
        bank: the clips that were tracked.
        results: of every clip.
        traces: of every clip, in any order.

    Returns:
        Name to (H, W, 3) uint8.
    """
    return {
        "reward_terms": reward_terms(traces, bank.fps),
        "joint_errors": joint_errors(body, traces),
        "success": success(results, bank.fps),
        "activations": activations(body, bank, traces),
    }


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 into a PNG file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    Image.fromarray(picture).save(temporary, format="png")
    temporary.replace(path)


def as_gif(film: Path) -> bytes:
    """A film as a small animated GIF, which TensorBoard plays among its images."""
    with imageio.get_reader(film) as reader:
        seconds = GIF_EVERY / reader.get_meta_data()["fps"]
        pictures = [Image.fromarray(p).reduce(GIF_SCALE) for i, p in enumerate(reader) if i % GIF_EVERY == 0]
    encoded = io.BytesIO()
    pictures[0].save(encoded, format="gif", save_all=True, append_images=pictures[1:], duration=1000 * seconds, loop=0)
    return encoded.getvalue()


def _sheet(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def reward_terms(traces: Sequence[Trace], fps: float) -> np.ndarray:
    """Mean of each unweighted reward term over the clips still tracked, against the time since their start."""
    figure = _sheet(9, 5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    longest = max(len(t.qpos) for t in traces)
    seconds = np.arange(1, longest) / fps

    def mean(columns: list[np.ndarray]) -> np.ndarray:
        padded = np.full((len(columns), longest), np.nan)
        for row, column in zip(padded, columns, strict=True):
            row[: len(column)] = column
        return np.nanmean(padded[:, 1:], axis=0)

    if longest > 1:
        for name in traces[0].rewards:
            top.plot(seconds, mean([t.rewards[name] for t in traces]), linewidth=1.2, label=name)
        top.plot(seconds, mean([t.total for t in traces]), color="black", linewidth=2, label="reward")
    alive = np.sum([np.arange(1, longest) < len(t.qpos) for t in traces], axis=0)
    bottom.fill_between(seconds, alive, step="pre", color=GREY, alpha=0.5)
    top.set(ylim=(0, 1.02), ylabel="1 is the reference", title="Reward terms over time, mean of the clips still tracked")
    top.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    bottom.yaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.set(xlabel="time since the start of the clip, s", ylabel="clips", ylim=(0, None))
    return _pixels(figure)


def joint_errors(body: Embodiment, traces: Sequence[Trace]) -> np.ndarray:
    """Root mean square error of each independent joint: mean over clips, whiskers their standard deviation."""
    joints = body.independent_hinges
    address = body.model.jnt_qposadr[joints]
    slide = body.model.jnt_type[joints] == 2
    errors = np.array([np.sqrt(np.mean((t.qpos - t.ref_qpos)[1:, address] ** 2, axis=0)) for t in traces if len(t.qpos) > 1])
    errors = errors.reshape(-1, len(joints)) * np.where(slide, 100.0, 180.0 / np.pi)
    names = [f"{body.joint_names[j]}{' (cm)' if s else ''}" for j, s in zip(joints, slide, strict=True)]
    figure = _sheet(7, 1.2 + 0.2 * min(len(joints), MOST_ROWS))
    axis = figure.subplots()
    if len(errors):
        mean, spread = errors.mean(axis=0), errors.std(axis=0)
        order = np.argsort(mean)[-MOST_ROWS:]
        _bars(axis, [names[i] for i in order], mean[order], BLUE)
        axis.errorbar(mean[order], np.arange(len(order)), xerr=spread[order], fmt="none", ecolor="black", elinewidth=0.8)
    axis.set(xlabel="root mean square error, degrees", xlim=(0, None),
             title=f"Error by joint: mean and SD over {len(errors)} clips")
    return _pixels(figure)


def success(results: Sequence[ClipResult], fps: float) -> np.ndarray:
    """Share of each clip that was tracked; red where it ended early. Of many clips the worst are shown."""
    order = sorted(results, key=lambda r: (r.frame_coverage, r.clip), reverse=True)[-MOST_ROWS:]
    figure = _sheet(7, 1.2 + 0.2 * len(order))
    axis = figure.subplots()
    colours = [RED if r.early_termination else BLUE for r in order]
    names = [f"{r.clip} ({r.frames / fps:.1f} s)" for r in order]
    _bars(axis, names, np.array([100.0 * r.frame_coverage for r in order]), colours)
    whole = sum(not r.early_termination for r in results)
    shown = "" if len(order) == len(results) else f", the worst {len(order)} shown"
    axis.set(xlabel="frames tracked, %", xlim=(0, 100),
             title=f"{whole} of {len(results)} clips tracked to their end (red: ended early){shown}")
    return _pixels(figure)


def _bars(axis: Axes, names: Sequence[str], values: np.ndarray, colour: str | Sequence[str]) -> None:
    axis.barh(np.arange(len(names)), values, color=colour, height=0.75)
    axis.set_yticks(np.arange(len(names)), names, fontsize=7)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.grid(axis="x", alpha=0.3)


def activations(body: Embodiment, bank: ReferenceBank, traces: Sequence[Trace]) -> np.ndarray:
    """Heat map of muscle activations over the clip that was tracked longest, beside those its reference carries."""
    trace = max(traces, key=lambda t: len(t.qpos))
    order = np.concatenate(list(body.muscle_groups.values()))
    panels = {"policy": trace.activation}
    if bank.act is not None:
        start = int(bank.offsets[trace.number])
        panels["reference"] = bank.act[start : start + len(trace.qpos)].double().cpu().numpy()
    figure = _sheet(4.2 * len(panels) + 1.5, 6)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    end = len(trace.qpos) / bank.fps
    for axis, (name, values) in zip(axes, panels.items(), strict=True):
        shown = axis.imshow(values[:, order].T, aspect="auto", origin="upper", extent=(0, end, len(order), 0), vmin=0, vmax=1,
                            cmap="magma", interpolation="nearest")
        axis.set(title=name, xlabel="time, s")
    edges = np.cumsum([0, *(len(ids) for ids in body.muscle_groups.values())])
    axes[0].set_yticks((edges[:-1] + edges[1:]) / 2, [g.replace("_", " ") for g in body.muscle_groups], fontsize=8)
    for axis in axes:
        axis.hlines(edges[1:-1], 0, end, color="white", linewidth=0.6)
    figure.colorbar(shown, ax=list(axes), label="activation", shrink=0.6)
    figure.suptitle(f"Muscle activations in {trace.clip} (tracked longest)")
    return _pixels(figure)
