"""Videos of a body: offscreen MuJoCo rendering with the reference as a ghost, muscles by activation, forces as arrows."""

from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import imageio
import mujoco
import numpy as np

from mm_torch.viewer.overlay import add_arrows, add_ghost, ghost_options
from mm_torch.viewer.scene import LEGEND, pose, tendon_colours
from mm_torch.viewer.shapes import SHOWN_GROUPS, coarsen
from mm_torch.viewer.take import Take, ViewerError
from sim_models.embodiment import Embodiment

FPS = 50
MAX_GEOMS = 10_000
NEAR_MARGIN = 1.05  # distance of a camera that was aimed, over the one at which the body would fill the picture
BACKENDS = ("egl", "osmesa", "glfw", "cgl")
_PROBE = """
import importlib, sys, mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100.value)
"""


class VideoError(ViewerError):
    """A video cannot be made; the message says what is missing and the remedy."""


def gl_backend() -> str:
    """The OpenGL backend to render with: ``MUJOCO_GL`` where set, else the first that works.

    With a display that is glfw, without one egl, then osmesa. Each is tried in a process of its own, because a backend
    that fails leaves OpenGL unusable for the next.

    Raises:
        VideoError: none works; names the packages to install.
    """
    named = os.environ.get("MUJOCO_GL", "").lower()
    if named in BACKENDS:
        candidates: tuple[str, ...] = (named,)
    elif sys.platform == "darwin":
        candidates = ("cgl",)
    else:
        candidates = ("glfw", "egl", "osmesa") if os.environ.get("DISPLAY") else ("egl", "osmesa")
    for name in candidates:
        environment = os.environ | {"MUJOCO_GL": name}
        probe = subprocess.run([sys.executable, "-c", _PROBE, name], env=environment, capture_output=True, check=False)
        if probe.returncode == 0:
            return name
    raise VideoError(
        f"no OpenGL backend works (tried {', '.join(candidates)}); install one: apt-get install libegl1 (with a GPU "
        "driver or libgl1-mesa-dri) or apt-get install libosmesa6"
    )


class Stage:
    """Renders poses of one body, off screen. Use as a context manager.

    Muscles are coloured from blue (relaxed) to red (fully active); the camera follows the root horizontally. Bones are drawn
    coarser than they are and round things with few sides: software renders that three times as fast.

    Args:
        body: embodiment; its model is copied.
        width: image width in pixels.
        height: image height in pixels.
        smooth: smooth edges, for stills; software takes twice as long for it.
    """

    def __init__(self, body: Embodiment, width: int, height: int, smooth: bool = True) -> None:
        self.body, self.model = body, copy.copy(body.model)
        quality = self.model.vis.quality
        quality.numslices, quality.numstacks, quality.shadowsize = 8, 4, 2048
        quality.offsamples = quality.offsamples if smooth else 0
        coarsen(self.model)
        self._gl = importlib.import_module(f"mujoco.{gl_backend()}").GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_resizeOffscreen(width, height, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._scene = mujoco.MjvScene(self.model, maxgeom=MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._data, self._ghost = mujoco.MjData(self.model), mujoco.MjData(self.model)
        self._options, self._ghost_options = mujoco.MjvOption(), ghost_options()
        self._options.sitegroup[:] = 0
        self._camera = self._place_camera()

    def _place_camera(self) -> mujoco.MjvCamera:
        self._data.qpos[:] = self.body.neutral_qpos
        mujoco.mj_kinematics(self.model, self._data)
        self._offset = self.model.stat.center[:2] - self._data.xpos[self.body.site_body_ids[0], :2]
        camera = mujoco.MjvCamera()
        camera.lookat[:] = self.model.stat.center
        camera.distance, camera.azimuth, camera.elevation = 1.25 * self.model.stat.extent, 135.0, -12.0
        return camera

    def aim(self, qpos: np.ndarray) -> None:
        """Turn the camera to the middle of some poses and come as near as shows all of each.

        Args:
            qpos: (F, Q) positions of the body; where it stands does not matter, the camera follows it.
        """
        points = np.concatenate([self._corners(q) for q in qpos])
        azimuth, elevation = np.deg2rad([self._camera.azimuth, self._camera.elevation])
        ahead = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        axes = np.stack([right, np.cross(right, ahead), ahead])
        seen = points @ axes.T  # (P, 3) m to the right, up and away
        middle = 0.5 * (seen.min(axis=0) + seen.max(axis=0))
        half = np.tan(0.5 * np.deg2rad(self.model.vis.global_.fovy))
        reach = np.abs(seen - middle)[:, :2] / [half * self._rect.width / self._rect.height, half]
        self._camera.distance = NEAR_MARGIN * float((reach.max(axis=1) - (seen - middle)[:, 2]).max())
        centre = middle @ axes
        self._offset, self._camera.lookat[2] = centre[:2], centre[2]

    def _corners(self, qpos: np.ndarray) -> np.ndarray:
        """Corners (P, 3) m of the boxes around the drawn geoms, horizontally relative to the root."""
        model, data = self.model, self._data
        pose(model, data, qpos)
        drawn = (model.geom_group < SHOWN_GROUPS) & (model.geom_rgba[:, 3] > 0)
        drawn &= (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE) & (model.geom_bodyid > 0)
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        box = model.geom_aabb[drawn]
        local = box[:, None, :3] + corners * box[:, None, 3:]
        place = data.geom_xpos[drawn, None] + np.einsum("gij,gkj->gki", data.geom_xmat[drawn].reshape(-1, 3, 3), local)
        place[..., :2] -= data.xpos[self.body.site_body_ids[0], :2]
        return place.reshape(-1, 3)

    def frame(
        self, qpos: np.ndarray, act: np.ndarray | None = None, ref_qpos: np.ndarray | None = None,
        arrows: np.ndarray | None = None, label: str = "",
    ) -> np.ndarray:
        """Picture of one instant.

        Args:
            qpos: (Q,) positions of the body.
            act: (M,) activations in [0, 1].
            ref_qpos: (Q,) positions of the ghost.
            arrows: (A, 2, 3) m tail and tip of forces.
            label: written at the top left, with a legend at the right; empty: neither.

        Returns:
            (height, width, 3) uint8.
        """
        if act is not None:
            self.model.tendon_rgba[:] = tendon_colours(self.model, act)
        pose(self.model, self._data, qpos)
        self._camera.lookat[:2] = self._data.xpos[self.body.site_body_ids[0], :2] + self._offset
        mujoco.mjv_updateScene(
            self.model, self._data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        if ref_qpos is not None:
            pose(self.model, self._ghost, ref_qpos)
            add_ghost(self._scene, self.model, self._ghost, self._ghost_options)
        if arrows is not None:
            add_arrows(self._scene, arrows)
        self._gl.make_current()
        mujoco.mjr_render(self._rect, self._scene, self._context)
        if label:
            shown = [row for row, there in zip(LEGEND, (act, ref_qpos, arrows), strict=True) if there is not None]
            self._write(mujoco.mjtGridPos.mjGRID_TOPLEFT, label, "")
            self._write(mujoco.mjtGridPos.mjGRID_TOPRIGHT, *("\n".join(column) for column in zip(*shown, strict=True)))
        image = np.empty((self._rect.height, self._rect.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(image, None, self._rect, self._context)
        return np.flipud(image)

    def _write(self, place: mujoco.mjtGridPos, left: str = "", right: str = "") -> None:
        if left:
            font = mujoco.mjtFont.mjFONT_NORMAL.value
            mujoco.mjr_overlay(font, place.value, self._rect, left, right, self._context)

    def close(self) -> None:
        """Give the OpenGL context back."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_video(body: Embodiment, takes: Iterable[Take], path: Path | str, width: int = 640, height: int = 480) -> int:
    """Render takes one after the other into an H.264 file of 50 frames per second, written atomically.

    Args:
        body: embodiment.
        takes: what to show; each is asked for when the one before has been rendered.
        path: file to write, ``.mp4``.
        width: even number of pixels.
        height: even number of pixels.

    Returns:
        Number of frames.

    Raises:
        VideoError: the path is no mp4, a size is odd or too small, or no OpenGL backend works.
    """
    path = Path(path)
    if path.suffix != ".mp4":
        raise VideoError(f"video={path}: must end in .mp4")
    if min(width, height) < 16 or width % 2 or height % 2:
        raise VideoError(f"width={width} height={height}: H.264 needs even numbers, at least 16")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    count = 0
    try:
        with Stage(body, width, height, smooth=False) as stage, imageio.get_writer(
            temporary, format="FFMPEG", mode="I", fps=FPS, codec="libx264", quality=8, macro_block_size=2
        ) as writer:
            for take in takes:
                for instant in take.instants(FPS):
                    writer.append_data(stage.frame(*instant))
                    count += 1
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
