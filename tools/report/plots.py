"""Plots of a report as pictures that a page can hold."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Drawing

from mm_torch.motion.clip import load_clip
from sim_models.embodiment import Embodiment
from tools.report import pictures
from tools.report.measure import Measured
from tools.report.tables import FIGURES, Figure

MOST_ROWS = 80  # of the map of sites over clips
DPI = 100
BLUE, RED, AMBER = pictures.LEFT, pictures.RIGHT, "#e6902e"


def data_uri(content: bytes, kind: str) -> str:
    """An image of a kind (``png``, ``jpeg``) as an address that holds it."""
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def close(drawing: Drawing) -> str:
    """The drawing as a PNG address; frees it."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, dpi=DPI, metadata={"Software": None})
    plt.close(drawing)
    return data_uri(buffer.getvalue(), "png")


def over_clips(clips: Sequence[Measured]) -> str:
    """Every figure over the clips, each sorted by itself, with its bound and its three worst clips named."""
    shown = [(f, f.values(clips)) for f in FIGURES]
    shown = [(figure, values) for figure, values in shown if np.isfinite(values).any()]
    columns = 5
    drawing, axes = plt.subplots(-(-len(shown) // columns), columns, figsize=(16, 2.5 * -(-len(shown) // columns)),
                                 layout="constrained", squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, (figure, values) in zip(axes.flat, shown, strict=False):
        _sorted_values(axis, figure, values, [c.name for c in clips])
    return close(drawing)


def _sorted_values(axis: plt.Axes, figure: Figure, values: np.ndarray, names: list[str]) -> None:
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    place = np.arange(1, len(order) + 1)
    axis.plot(place, values[order], ".-", color=BLUE, linewidth=0.8, markersize=4)
    axis.set_title(figure.label, fontsize=10)
    bound = figure.factor * figure.bound
    if bound == bound:
        axis.axhline(bound, color=RED, linewidth=1.0, linestyle="--")
        axis.text(0.98, bound, f"bound ({figure.holds_for})", color=RED, fontsize=8, va="bottom", ha="right",
                  transform=axis.get_yaxis_transform())
    worst_first = order if figure.least else order[::-1]
    worst = [f"{names[i].split('/')[-1]} {values[i]:,.3g}" for i in worst_first[:3] if values[i] != 0]
    axis.text(0.03, 0.72, "\n".join(worst), fontsize=8, va="center", transform=axis.transAxes, color="#444444")
    top = np.nanmax([values[order].max(), bound])
    axis.set_ylim(min(0.0, values[order].min()) - 0.02 * top, 1.15 * top if top > 0 else 1.0)
    axis.set_xlim(0.5, len(order) + 0.5)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def fit_by_site(body: Embodiment, clips: Sequence[Measured]) -> str | None:
    """Fit of every site: a dot per clip, the mean as a bar, left and right in their colours; None without errors."""
    errors = 1e3 * np.array([c.site_rmse for c in clips if len(c.site_rmse)]).reshape(-1, len(body.site_names))
    if not len(errors):
        return None
    names = [n.removesuffix("_mimic") for n in body.site_names]
    colours = [BLUE if n.startswith("left") else RED if n.startswith("right") else "#777777" for n in names]
    drawing, axis = plt.subplots(figsize=(11, 4.2), layout="constrained")
    axis.bar(range(len(names)), errors.mean(axis=0), color=colours, alpha=0.45)
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, errors.shape)
    axis.scatter(np.arange(len(names)) + jitter, errors, s=7, color=np.repeat([colours], len(errors), axis=0).ravel(),
                 alpha=0.7)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_ylabel("distance from target, mm")
    axis.grid(alpha=0.25, axis="y")
    return close(drawing)


def site_map(body: Embodiment, clips: Sequence[Measured]) -> str | None:
    """Fit of every site in every clip as colours; the worst clips where there are many; None without errors."""
    fitted = sorted((c for c in clips if len(c.site_rmse)), key=lambda c: -float((c.site_rmse**2).mean()))[:MOST_ROWS]
    if not fitted:
        return None
    errors = 1e3 * np.array([c.site_rmse for c in fitted])
    drawing, axis = plt.subplots(figsize=(11, 1.6 + 0.19 * len(fitted)), layout="constrained")
    image = axis.imshow(errors, aspect="auto", cmap="magma_r", vmin=0.0)
    axis.set_xticks(range(errors.shape[1]), [n.removesuffix("_mimic") for n in body.site_names], rotation=40, ha="right")
    axis.set_yticks(range(len(fitted)), [c.name for c in fitted], fontsize=8)
    drawing.colorbar(image, label="mm", shrink=min(1.0, 0.3 + 8.0 / len(fitted)))
    return close(drawing)


def joint_percentiles(body: Embodiment, clips: Sequence[Measured]) -> str:
    """Median, 95th and 99th percentile of speed and jerk of the independent joints over all frames of all clips."""
    names = [body.joint_names[j] for j in body.independent_hinges]
    drawing, axes = plt.subplots(1, 2, figsize=(13, 1.2 + 0.2 * len(names)), layout="constrained", sharey=True)
    unit = ("speed, rad/s", "jerk, rad/s\N{SUPERSCRIPT THREE}")
    for axis, label, values in zip(axes, unit, ([c.speed for c in clips], [c.jerk for c in clips]), strict=True):
        half, most, nearly_all = np.percentile(np.concatenate(values), (50, 95, 99), axis=0)
        place = np.arange(len(names))
        axis.hlines(place, half, nearly_all, color="#aaaaaa", linewidth=1.5)
        for marker, column, name in (("o", half, "50 %"), ("D", most, "95 %"), ("|", nearly_all, "99 %")):
            axis.plot(column, place, marker, color=BLUE if marker == "o" else AMBER if marker == "D" else "#444444",
                      markersize=5, label=name)
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
        axis.set_xlim(left=0.0)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    axes[1].legend(loc="lower right")
    return close(drawing)


WORST: dict[str, tuple[str, float]] = {  # per-frame figure of ``Measured`` to its title and factor to the unit in it
    "fit": ("fit, mm", 1e3),
    "floor_depth": ("in the floor, mm", 1e3),
    "self_depth": ("in itself, mm", 1e3),
    "jump": ("tendon jump, %", 1e2),
    "speed": ("fastest joint, rad/s", 1.0),
    "jerk": ("joint jerk, rad/s\N{SUPERSCRIPT THREE}", 1.0),
}


def per_frame(clip: Measured, name: str) -> np.ndarray:
    """A figure of ``WORST`` in every frame of a clip (a difference belongs to its first frame); may be empty."""
    values = getattr(clip, name)
    if not values.size:
        return np.zeros(0)
    if name == "fit":
        return np.sqrt((values**2).mean(axis=1))
    return values.max(axis=1) if values.ndim == 2 else values


def worst_frames(body: Embodiment, clips: Sequence[Measured]) -> str:
    """The worst frame over all clips of every per-frame figure, drawn."""
    drawing, axes = plt.subplots(1, len(WORST), figsize=(15, 4.2))
    drawing.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.84, wspace=0.05)
    for axis, (name, (label, factor)) in zip(axes, WORST.items(), strict=True):
        peaks = [per_frame(c, name).max(initial=0.0) for c in clips]
        worst = clips[int(np.argmax(peaks))]
        axis.set_title(label, fontsize=10)
        pictures.frame_axes(axis, body, 1, 1.0)
        if max(peaks) <= 0:
            axis.text(0.5, 0.5, "none", ha="center", transform=axis.transAxes)
            continue
        frame = int(per_frame(worst, name).argmax())
        clip = load_clip(worst.path)
        error = clip.fit_error[frame] if clip.fit_error.size else None
        pictures.draw_stick(axis, body, clip.qpos[frame], 0.0, error)
        size = factor * max(peaks)
        text = f"{size:,.0f}" if size >= 1e3 else f"{size:.3g}"
        axis.set_title(f"{label.replace(',', f' {text}')}\n{worst.name}\nframe {frame}", fontsize=10)
    return close(drawing)


def stick_strip(body: Embodiment, qpos: np.ndarray, frames: Sequence[int], error: np.ndarray) -> str:
    """Poses of some frames side by side as stick figures; dots grow with the distance of a site from its target."""
    step = 1.3
    drawing, axis = plt.subplots(figsize=(1.5 * len(frames), 2.0), layout="constrained")
    pictures.frame_axes(axis, body, len(frames), step)
    for place, frame in enumerate(frames):
        pictures.draw_stick(axis, body, qpos[frame], place * step, error[frame] if error.size else None)
    return close(drawing)
