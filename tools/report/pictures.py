"""Poses as pictures: stick figures always, renderings where OpenGL works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import imageio.v3 as iio
import matplotlib

matplotlib.use("Agg")
import mujoco
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from mm_torch.video import Stage, VideoError
from sim_models.embodiment import Embodiment

AZIMUTH = np.radians(45.0)  # of the stick figures' view, level with the floor; they face -y at qpos0
WIDTH, HEIGHT = 176, 240  # pixels of one rendered pose
BONE, LEFT, RIGHT, FLOOR = "#777777", "#1f6fb4", "#c03a2b", "#bbbbbb"


def view(points: np.ndarray) -> np.ndarray:
    """Parallel projection (..., 2) m of world points (..., 3) m: to the right and up in the picture."""
    across = points[..., 0] * np.cos(AZIMUTH) + points[..., 1] * np.sin(AZIMUTH)
    return np.stack([across, points[..., 2]], axis=-1)


def skeleton(body: Embodiment, qpos: np.ndarray) -> np.ndarray:
    """World positions (B, 3) m of all bodies in a pose (Q,)."""
    data = mujoco.MjData(body.model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(body.model, data)
    return data.xpos.copy()


def draw_stick(axes: Axes, body: Embodiment, qpos: np.ndarray, across: float, error: np.ndarray | None = None) -> None:
    """Draw a pose: bones by side, mimic sites as dots that grow with their error, the floor under the feet.

    Args:
        axes: where to.
        body: embodiment.
        qpos: (Q,) pose.
        across: m, where the root stands in the picture.
        error: (S,) m distance of the sites from their targets.
    """
    at = skeleton(body, qpos)
    root = at[body.site_body_ids[0]].copy()
    at[:, :2] -= root[:2]
    flat = view(at) + np.array([across, 0.0])
    parent, names = body.model.body_parentid, [body.model.body(b).name for b in range(body.model.nbody)]
    bones = [b for b in range(1, len(names)) if parent[b] > 0]
    colours = [LEFT if names[b].endswith("_l") else RIGHT if names[b].endswith("_r") else BONE for b in bones]
    if body.free_root:
        axes.plot([across - 0.5, across + 0.5], [0.0, 0.0], color=FLOOR, linewidth=1.0, zorder=0)
    axes.add_collection(LineCollection([flat[[parent[b], b]] for b in bones], colors=colours, linewidths=1.4, clip_on=False))
    sites = flat[body.site_body_ids]
    if error is not None and error.size:
        axes.scatter(*sites.T, s=4.0 + 2e4 * error**1.5, color="#e6902e", alpha=0.7, linewidths=0, zorder=3,
                     clip_on=False)


def frame_axes(axes: Axes, body: Embodiment, figures: int, step: float) -> None:
    """Set limits so that ``figures`` poses at multiples of ``step`` m are seen in full, in equal scale."""
    at = skeleton(body, body.neutral_qpos)
    low = -0.1 if body.free_root else at[:, 2].min() - 0.3
    axes.set_xlim(-0.7, (figures - 1) * step + 0.7)
    axes.set_ylim(low, at[:, 2].max() + 0.35)
    axes.set_aspect("equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)  # arms may reach over the edge


@contextmanager
def renderer(body: Embodiment) -> Iterator[Stage | None]:
    """A stage to render on, or None where no OpenGL backend works."""
    try:
        stage = Stage(body, WIDTH, HEIGHT)
    except VideoError:
        yield None
        return
    with stage:
        yield stage


def rendered_strip(stage: Stage, qpos: np.ndarray, act: np.ndarray | None, frames: Sequence[int]) -> bytes:
    """Poses of some frames side by side as a JPEG."""
    images = [stage.frame(qpos[f], None if act is None else act[f].astype(float)) for f in frames]
    return iio.imwrite("<bytes>", np.concatenate(images, axis=1), extension=".jpg", quality=80)


def strip_frames(count: int, poses: int) -> list[int]:
    """Frames of a strip: ``poses`` of ``count``, evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, poses).round().astype(int)).tolist()
