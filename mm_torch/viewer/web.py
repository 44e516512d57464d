"""A page for the browser, by viser: clips, policies, time, ghost, muscles, forces and activation bars."""

from __future__ import annotations

import contextlib
import io
import math
import socket
import time
from types import ModuleType
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from mm_torch.viewer.bars import GROUPS, activations_shown, bars, legend
from mm_torch.viewer.scene import (
    ARROW,
    GHOST,
    most_segments,
    muscle_segments,
    padded,
    pose,
    tendon_colours,
)
from mm_torch.viewer.shapes import body_shapes
from mm_torch.viewer.take import Instant, Playhead, Programme, Take, ViewerError

if TYPE_CHECKING:
    import viser

RATE = 30.0  # pictures a second
GRID = 0.5  # m
MUSCLE_WIDTH, ARROW_WIDTH = 0.006, 0.012  # m
FIELD = math.radians(45.0)  # of view, as MuJoCo's
PLAIN = np.array([0.6, 0.15, 0.15, 1.0])  # muscles without colours of activation


def load_viser() -> ModuleType:
    """The package that serves the page.

    Raises:
        ViewerError: it is not installed; names the extra.
    """
    try:
        import viser
    except ImportError:
        raise ViewerError("viewer=web: viser is not installed; pip install 'mm_torch[viewer]'") from None
    return viser


def start_server(host: str, port: int) -> viser.ViserServer:
    """A server without content.

    Raises:
        ViewerError: the address or port cannot be had, or viser is not installed.
    """
    library = load_viser()
    if not 0 <= port < 65536:
        raise ViewerError(f"port={port}: must be between 0 (any free one) and 65535")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            port = trial.getsockname()[1]
    except OSError as error:
        raise ViewerError(f"host={host} port={port}: {error.strerror}; give another, or port=0 for any free one") from None
    with contextlib.redirect_stdout(io.StringIO()):  # its own greeting
        return library.ViserServer(host=host, port=port, label="mm_torch", verbose=False)


def serve(programme: Programme, clip: str | None, seconds: float, host: str, port: int) -> None:
    """Serve the page until Ctrl-C.

    Args:
        programme: what can be chosen.
        clip: clip to start with.
        seconds: most seconds of each clip.
        host: address to serve on.
        port: port; 0: any free one.

    Raises:
        ViewerError: as for ``start_server``.
    """
    server = start_server(host, port)
    page = Page(server, programme, clip, seconds)
    print(f"http://{host}:{server.get_port()} shows {programme.body.name}; Ctrl-C ends", flush=True)
    before = time.perf_counter()
    try:
        while True:
            now = time.perf_counter()
            page.tick(now - before)
            before = now
            time.sleep(max(0.0, 1.0 / RATE - (time.perf_counter() - now)))
    except KeyboardInterrupt:
        print()
    finally:
        server.stop()


def linear(colours: np.ndarray) -> np.ndarray:
    """Linear colours of sRGB ones in [0, 1]: viser's lines take those, its meshes the others. Source: IEC 61966-2-1."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


class Page:
    """The scene and the controls, the same for everybody who looks. All work is done in ``tick``, which reads the controls.

    Args:
        server: where the page is.
        programme: what can be chosen.
        clip: clip to start with; None: the first.
        seconds: most seconds of each clip.
    """

    def __init__(self, server: viser.ViserServer, programme: Programme, clip: str | None, seconds: float) -> None:
        self.server, self.programme, self.seconds = server, programme, seconds
        self.body, self.model = programme.body, programme.body.model
        self._data, self._ghost_data = mujoco.MjData(self.model), mujoco.MjData(self.model)
        self._segments = most_segments(self.model)
        self.take: Take | None = None
        self.head = Playhead()
        self._chosen: tuple[str, str] | None = None
        self._drawn: object = None
        self._add_controls(programme.from_clip(clip))
        self._add_scene()

    def _add_controls(self, clip: str) -> None:
        gui, performers = self.server.gui, list(self.programme.performers)
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        self.performer = gui.add_dropdown("shown", performers, initial_value=performers[0])
        self.clip = gui.add_dropdown("clip", list(self.programme.clips), initial_value=clip)
        self.status = gui.add_markdown("")
        self.playing = gui.add_checkbox("play", True)
        self.time = gui.add_slider("time (s)", 0.0, 1.0, 0.01, 0.0)
        self.speed = gui.add_slider("speed", 0.1, 2.0, 0.1, 1.0)
        self.ghost = gui.add_checkbox("reference ghost", True)
        self.coloured = gui.add_checkbox("muscle colours", True)
        self.forces = gui.add_checkbox("ground forces", True)
        self.follow = gui.add_checkbox("follow the body", True)
        gui.add_html(legend())
        with gui.add_folder("activations"):
            self.group = gui.add_dropdown("muscles", [GROUPS, *self.body.muscle_groups], initial_value=GROUPS)
            self.bars = gui.add_html("")

    def _add_scene(self) -> None:
        scene, model = self.server.scene, self.model
        pose(model, self._data, self.body.neutral_qpos)
        self._world = scene.add_frame("/world", show_axes=False)
        self._bodies = {i: scene.add_frame(f"/world/body/{i}", show_axes=False) for i in range(1, model.nbody)}
        self._ghost = scene.add_frame("/world/ghost", show_axes=False)
        self._ghosts = {i: scene.add_frame(f"/world/ghost/{i}", show_axes=False) for i in range(1, model.nbody)}
        for index, shape in enumerate(body_shapes(model)):
            place = f"body/{shape.body}" if shape.body else "fixed"
            scene.add_mesh_simple(f"/world/{place}/{index}", shape.vertices, shape.faces, color=shape.rgba[:3],
                                  opacity=shape.rgba[3] if shape.rgba[3] < 1 else None)
            if shape.body:
                scene.add_mesh_simple(
                    f"/world/ghost/{shape.body}/{index}", shape.vertices, shape.faces, color=GHOST[:3], opacity=GHOST[3],
                    cast_shadow=False, receive_shadow=False,
                )
        for plane in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE):
            scene.add_grid(f"/world/floor/{plane}", 20.0, 20.0, cell_size=GRID, section_size=2 * GRID,
                           position=self._data.geom_xpos[plane], plane_color=(235, 235, 235), plane_opacity=1.0)
        nothing = np.zeros((self._segments, 2, 3))
        self._muscles = scene.add_line_segments("/world/muscles", nothing, nothing, thickness=MUSCLE_WIDTH)
        self._arrows = scene.add_arrows("/world/forces", np.zeros((2, 2, 3)), ARROW[:3], shaft_radius=ARROW_WIDTH / 2,
                                        head_radius=ARROW_WIDTH, head_length=3 * ARROW_WIDTH, visible=False)
        self._place_camera()

    def _place_camera(self) -> None:
        """In front of the body at an angle, as in the videos."""
        centre, far = self.model.stat.center.copy(), 1.3 * self.model.stat.extent
        root = self._data.xpos[self.body.site_body_ids[0]]
        self._root = np.array([root[0], root[1], 0.0])
        centre -= self._root
        azimuth, elevation = math.radians(135.0), math.radians(-12.0)
        level = math.cos(elevation)
        view = np.array([level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])
        camera = self.server.initial_camera
        camera.fov, camera.look_at, camera.position = FIELD, tuple(centre), tuple(centre - far * view)

    def tick(self, elapsed: float) -> None:
        """Do what the controls say and show the frame that is due.

        Args:
            elapsed: s since the last time.
        """
        self._load()
        if self.take is None:
            return
        self.head.playing, self.head.speed = self.playing.value, self.speed.value
        if self.time.value != self._written:  # somebody moved it
            self.head.position = min(float(self.time.value), self.head.duration)
        else:
            self.head.advance(elapsed)
        self._write_time()
        look = (self._chosen, round(self.head.position * self.take.fps), self.ghost.value, self.coloured.value,
                self.forces.value, self.follow.value, self.group.value)
        if look != self._drawn:
            self._drawn = look
            self._draw(self.take.at(self.head.position))

    def _load(self) -> None:
        chosen = self.performer.value, self.clip.value
        if chosen == self._chosen:
            return
        self._chosen = chosen
        self.status.content = f"*{self.clip.value}: one moment …*"
        try:
            self.take = self.programme.performers[chosen[0]](chosen[1], self.seconds)
        except ViewerError as error:
            self.status.content = f"**{error}**"
            return
        self.status.content = self.take.note
        self.ghost.visible, self.forces.visible = self.take.ref_qpos is not None, self.take.force is not None
        self.coloured.visible = self.take.act is not None
        self.head = Playhead(self.take.duration)
        self.time.max, self.time.step = max(self.take.duration, 0.01), round(1.0 / self.take.fps, 6)
        self._write_time()

    def _write_time(self) -> None:
        self.time.value = self._written = round(self.head.position, 3)

    def _draw(self, instant: Instant) -> None:
        with self.server.atomic():
            pose(self.model, self._data, instant.qpos)
            self._move(self._bodies, self._data)
            root = self._data.xpos[self.body.site_body_ids[0]]
            self._world.position = (-root[0], -root[1], 0.0) if self.follow.value else tuple(-self._root)
            ends, tendon = muscle_segments(self.model, self._data)
            colours = self._colours(instant.act)[tendon, None, :3].repeat(2, axis=1)
            self._muscles.points = padded(ends, self._segments).astype(np.float32)
            self._muscles.colors = np.round(255 * linear(padded(colours, self._segments))).astype(np.uint8)
            self._ghost.visible = self.ghost.value and instant.ref_qpos is not None
            if self._ghost.visible:
                pose(self.model, self._ghost_data, instant.ref_qpos)
                self._move(self._ghosts, self._ghost_data)
            self._arrows.visible = self.forces.value and instant.arrows is not None and len(instant.arrows) > 0
            if self._arrows.visible:
                self._arrows.points = padded(instant.arrows, 2).astype(np.float32)
        if instant.act is not None:
            self.bars.content = bars(
                activations_shown(instant.act, self.body.muscle_names, self.body.muscle_groups, self.group.value)
            )
        else:
            self.bars.content = "<i>this clip has no activations</i>"

    def _colours(self, act: np.ndarray | None) -> np.ndarray:
        if act is None or not self.coloured.value:
            return np.broadcast_to(PLAIN, (self.model.ntendon, 4))
        return tendon_colours(self.model, act)

    @staticmethod
    def _move(frames: dict[int, viser.FrameHandle], data: mujoco.MjData) -> None:
        for body, frame in frames.items():
            frame.position, frame.wxyz = data.xpos[body], data.xquat[body]
