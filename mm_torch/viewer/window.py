"""MuJoCo's own viewer playing takes: drag the camera, look at every element of the model, with the ghost and the forces."""

from __future__ import annotations

import copy
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence

import glfw
import mujoco

from mm_torch.viewer.overlay import add_arrows, add_ghost, ghost_options
from mm_torch.viewer.scene import pose, tendon_colours
from mm_torch.viewer.take import Playhead, Take, ViewerError
from sim_models.embodiment import Embodiment

RATE = 60.0  # pictures a second
STEP = 0.05  # s that an arrow key moves
REMEDY = "use viewer=web and a browser, or video=FILE.mp4"


def check_display() -> None:
    """Find out whether a window can be opened here.

    Raises:
        ViewerError: there is no display; says what to use instead.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ViewerError(f"viewer=window: no display (neither DISPLAY nor WAYLAND_DISPLAY is set); {REMEDY}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what GLFW says is said below
        works = glfw.init()
    if not works:
        raise ViewerError(f"viewer=window: the display {os.environ.get('DISPLAY', '')} cannot be used; {REMEDY}")


class Remote:
    """What the keys do: space pauses, left and right move by 0.05 s, up and down (or comma and full stop) change the take.

    Args:
        takes: what is shown, in a circle.
    """

    def __init__(self, takes: Sequence[Take]) -> None:
        self.takes, self.index = takes, 0
        self.head = Playhead(takes[0].duration)
        self._keys: dict[int, Callable[[], None]] = {
            glfw.KEY_SPACE: self._pause,
            glfw.KEY_LEFT: lambda: self._jump(-STEP), glfw.KEY_RIGHT: lambda: self._jump(STEP),
            glfw.KEY_UP: lambda: self._turn(-1), glfw.KEY_DOWN: lambda: self._turn(1),
            glfw.KEY_COMMA: lambda: self._turn(-1), glfw.KEY_PERIOD: lambda: self._turn(1),
        }

    @property
    def take(self) -> Take:
        """What is shown now."""
        return self.takes[self.index]

    def press(self, key: int) -> None:
        """A key, as GLFW numbers them; other keys are MuJoCo's."""
        if key in self._keys:
            self._keys[key]()

    def _pause(self) -> None:
        self.head.playing = not self.head.playing

    def _jump(self, seconds: float) -> None:
        self.head.playing = False
        self.head.jump(seconds)

    def _turn(self, by: int) -> None:
        self.index = (self.index + by) % len(self.takes)
        self.head.duration, self.head.position = self.take.duration, 0.0


def open_window(body: Embodiment, takes: Sequence[Take]) -> None:
    """Play takes in MuJoCo's viewer until its window is closed.

    Args:
        body: embodiment.
        takes: what to show.

    Raises:
        ViewerError: there is no display.
    """
    check_display()
    from mujoco import viewer  # takes hold of the window library

    model, remote = copy.copy(body.model), Remote(takes)
    data, ghost, options = mujoco.MjData(model), mujoco.MjData(model), ghost_options()
    own = model.tendon_rgba.copy()
    print("space: pause, left and right: 0.05 s, up and down: another clip, close the window to end")
    with viewer.launch_passive(model, data, key_callback=remote.press, show_left_ui=False, show_right_ui=False) as window:
        window.opt.sitegroup[:] = 0
        window.cam.lookat[:], window.cam.distance = model.stat.center, 1.25 * model.stat.extent
        window.cam.azimuth, window.cam.elevation = 135.0, -12.0
        if body.free_root:
            window.cam.type, window.cam.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, body.site_body_ids[0]
        before = time.perf_counter()
        while window.is_running():
            now = time.perf_counter()
            remote.head.advance(now - before)
            before = now
            instant = remote.take.at(remote.head.position)
            with window.lock():
                pose(model, data, instant.qpos)
                model.tendon_rgba[:] = own if instant.act is None else tendon_colours(model, instant.act)
                window.user_scn.ngeom = 0
                if instant.ref_qpos is not None:
                    pose(model, ghost, instant.ref_qpos)
                    add_ghost(window.user_scn, model, ghost, options)
                if instant.arrows is not None:
                    add_arrows(window.user_scn, instant.arrows)
            window.set_texts((None, mujoco.mjtGridPos.mjGRID_TOPLEFT, instant.label, ""))  # waits for the window
            window.sync()
            time.sleep(max(0.0, 1.0 / RATE - (time.perf_counter() - now)))
