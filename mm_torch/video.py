"""Videos of a body and its reference: offscreen MuJoCo rendering with the reference as a translucent ghost."""

from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import imageio
import mujoco
import numpy as np

from sim_models.embodiment import Embodiment

FPS = 50
GHOST = (0.25, 0.55, 1.0, 0.3)
RELAXED, ACTIVE = np.array([0.25, 0.3, 0.65, 1.0]), np.array([1.0, 0.15, 0.1, 1.0])
MAX_GEOMS = 10_000
BACKENDS = ("egl", "osmesa", "glfw", "cgl")
_PROBE = """
import importlib, sys, mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100.value)
"""


class VideoError(RuntimeError):
    """A video cannot be made; the message says what is missing and the remedy."""


@dataclass(frozen=True, eq=False)
class Take:
    """One piece of motion to show.

    ========== =================================================== ======= =======
    name       what is shown, for messages                         str
    fps        frames per second of the arrays below               float   1/s
    qpos       positions of the body                               (F, Q)  m, rad
    act        muscle activations, or None: muscles in one colour  (F, M)  [0, 1]
    ref_qpos   positions of the ghost, or None: no ghost           (F, Q)  m, rad
    ========== =================================================== ======= =======
    """

    name: str
    fps: float
    qpos: np.ndarray
    act: np.ndarray | None = None
    ref_qpos: np.ndarray | None = None

    def instants(self) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
        """``qpos, act, ref_qpos`` nearest to each frame time of a video."""
        last = len(self.qpos) - 1
        for i in range(int(last / self.fps * FPS) + 1):
            row = min(round(i * self.fps / FPS), last)
            yield (
                self.qpos[row], None if self.act is None else self.act[row],
                None if self.ref_qpos is None else self.ref_qpos[row],
            )


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

    Muscles are coloured from blue (relaxed) to red (fully active); the camera follows the root horizontally.

    Args:
        body: embodiment; its model is copied.
        width: image width in pixels.
        height: image height in pixels.
    """

    def __init__(self, body: Embodiment, width: int, height: int) -> None:
        self.body, self.model = body, copy.copy(body.model)
        quality = self.model.vis.quality
        quality.numslices, quality.numstacks, quality.shadowsize = 12, 6, 2048  # twice as fast in software
        self._gl = importlib.import_module(f"mujoco.{gl_backend()}").GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_resizeOffscreen(width, height, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._scene = mujoco.MjvScene(self.model, maxgeom=MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._data, self._ghost = mujoco.MjData(self.model), mujoco.MjData(self.model)
        self._options, self._ghost_options = mujoco.MjvOption(), mujoco.MjvOption()
        for options in (self._options, self._ghost_options):
            options.sitegroup[:] = 0
        self._ghost_options.flags[mujoco.mjtVisFlag.mjVIS_TENDON] = 0
        tendon = self.model.actuator_trntype == mujoco.mjtTrn.mjTRN_TENDON
        self._muscles, self._tendons = np.flatnonzero(tendon), self.model.actuator_trnid[tendon, 0]
        self._camera = self._place_camera()

    def _place_camera(self) -> mujoco.MjvCamera:
        self._data.qpos[:] = self.body.neutral_qpos
        mujoco.mj_kinematics(self.model, self._data)
        self._offset = self.model.stat.center[:2] - self._data.xpos[self.body.site_body_ids[0], :2]
        camera = mujoco.MjvCamera()
        camera.lookat[:] = self.model.stat.center
        camera.distance, camera.azimuth, camera.elevation = 1.25 * self.model.stat.extent, 135.0, -12.0
        return camera

    def frame(self, qpos: np.ndarray, act: np.ndarray | None = None, ref_qpos: np.ndarray | None = None) -> np.ndarray:
        """Picture of one instant.

        Args:
            qpos: (Q,) positions of the body.
            act: (M,) activations in [0, 1].
            ref_qpos: (Q,) positions of the ghost.

        Returns:
            (height, width, 3) uint8.
        """
        if act is not None:
            share = np.clip(act[self._muscles], 0.0, 1.0)[:, None]
            self.model.tendon_rgba[self._tendons] = (1.0 - share) * RELAXED + share * ACTIVE
        self._pose(self._data, qpos)
        self._camera.lookat[:2] = self._data.xpos[self.body.site_body_ids[0], :2] + self._offset
        mujoco.mjv_updateScene(
            self.model, self._data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        if ref_qpos is not None:
            self._add_ghost(ref_qpos)
        self._gl.make_current()
        mujoco.mjr_render(self._rect, self._scene, self._context)
        image = np.empty((self._rect.height, self._rect.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(image, None, self._rect, self._context)
        return np.flipud(image)

    def _pose(self, data: mujoco.MjData, qpos: np.ndarray) -> None:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)
        mujoco.mj_camlight(self.model, data)
        mujoco.mj_tendon(self.model, data)

    def _add_ghost(self, qpos: np.ndarray) -> None:
        self._pose(self._ghost, qpos)
        first = self._scene.ngeom
        mujoco.mjv_addGeoms(
            self.model, self._ghost, self._ghost_options, mujoco.MjvPerturb(), mujoco.mjtCatBit.mjCAT_DYNAMIC.value,
            self._scene,
        )
        for geom in self._scene.geoms[first : self._scene.ngeom]:
            geom.rgba[:] = GHOST
            geom.matid, geom.transparent = -1, 1

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


def write_video(body: Embodiment, takes: Sequence[Take], path: Path | str, width: int = 640, height: int = 480) -> int:
    """Render takes one after the other into an H.264 file of 50 frames per second, written atomically.

    Args:
        body: embodiment.
        takes: what to show.
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
        with Stage(body, width, height) as stage, imageio.get_writer(
            temporary, format="FFMPEG", mode="I", fps=FPS, codec="libx264", quality=8, macro_block_size=2
        ) as writer:
            for take in takes:
                for instant in take.instants():
                    writer.append_data(stage.frame(*instant))
                    count += 1
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
