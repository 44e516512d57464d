"""The web page, the window and what they show: real servers, a real browser and a real display where there are any."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from browser import Browser, find_browser
from PIL import Image

from mm_torch import play, video
from mm_torch.command import EXPECTED
from mm_torch.evaluation.recording import record_states
from mm_torch.evaluation.rollout_file import write_rollout
from mm_torch.playback import policy_programme, reference_programme, rollout_programme
from mm_torch.policy.box import boxed_policy
from mm_torch.viewer import window
from mm_torch.viewer.overlay import add_arrows
from mm_torch.viewer.take import Programme, Take, ViewerError
from sim_models.registry import load_body

needs_viser = pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="viser is not installed (extra viewer)")
needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed: apt-get install chromium")
needs_display = pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no display to open: apt-get install xvfb")


# -- what is shown ----------------------------------------------------------------------------------------------------
def test_all_checkpoints_of_a_run_and_the_reference_can_be_shown(toy_run: Path) -> None:
    programme = policy_programme([str(toy_run)], None)
    latest, *others, last = programme.performers
    assert latest.endswith("last") and last == "reference" and any(name.endswith("previous") for name in others)
    policy, reference = programme.performers[latest]("swing", 0.3), programme.performers[last]("swing", 0.3)
    assert policy.qpos.shape == reference.qpos.shape == (31, 2)
    assert "cm from the reference on average" in policy.note
    np.testing.assert_allclose(policy.ref_qpos, reference.qpos, atol=1e-5)
    assert policy.act is not None and policy.force is None and reference.ref_qpos is None


def test_clips_name_their_body() -> None:
    file = next(iter(reference_programme("toy_arm", False, None).clips))
    motions = Path(video.__file__).parent / "motion" / "data" / "toy_arm" / f"{file}.npz"
    programme = reference_programme(None, False, str(motions))
    assert programme.body.name == "toy_arm" and programme.clips == (file,)


def rollout_file(path: Path, **changes: object) -> Path:
    body = load_body("toy_arm")
    qpos = np.linspace(0.1, 0.4, 20)[:, None].repeat(2, axis=1)
    rollout = record_states(body, qpos, np.zeros_like(qpos), clip=path.stem, source="a test",
                            activation=np.full((20, 6), 0.5), ref_qpos=qpos + 0.2)
    write_rollout(path, replace(rollout, **changes))
    return path


def test_rollout_files_are_shown_as_they_were_recorded(tmp_path: Path) -> None:
    rollout_file(tmp_path / "a.npz")
    rollout_file(tmp_path / "b.npz")
    programme = rollout_programme(tmp_path)
    take = next(programme.takes("b", 9.0))
    assert programme.clips == ("a", "b") and take.note == "a test" and take.duration == pytest.approx(0.19)
    np.testing.assert_allclose(take.ref_qpos - take.qpos, 0.2)


def test_rollouts_of_another_body_are_refused(tmp_path: Path) -> None:
    names = tuple(f"other{i}" for i in range(6))
    with pytest.raises(ViewerError, match="other joints or muscles than toy_arm"):
        next(rollout_programme(rollout_file(tmp_path / "a.npz", muscle_names=names)).takes(None, 1.0))
    rollout_file(tmp_path / "b.npz")
    rollout_file(tmp_path / "c.npz", body="myo_bimanual")
    (tmp_path / "a.npz").unlink()
    with pytest.raises(ViewerError, match=r"c\.npz: a rollout of myo_bimanual.*of toy_arm"):
        next(rollout_programme(tmp_path).takes("c", 1.0))
    with pytest.raises(EXPECTED, match="evaluate rollouts=true"):
        rollout_programme(tmp_path.parent / "nothing.npz")


def test_a_policy_of_another_body_is_refused(toy_run: Path) -> None:
    programme = policy_programme([str(toy_run), str(boxed_policy())], None)
    with pytest.raises(ViewerError, match=r"a policy of myo_bimanual.*of toy_arm"):
        programme.performers["box"]("swing", 1.0)


def test_without_checkpoint_and_motions_the_policy_in_the_box_is_shown() -> None:
    options = play.OPTIONS | {"checkpoint": None}
    programme = play.choose_programme(options)
    assert programme.body.name == "myo_bimanual" and list(programme.performers) == ["box", "reference"]
    take = programme.performers["box"]("wave_right", 0.2)
    assert len(take.qpos) == 21 and take.ref_qpos is not None


# -- video ------------------------------------------------------------------------------------------------------------
def test_arrows_are_drawn_in_their_length() -> None:
    try:
        backend = video.gl_backend()
    except video.VideoError as error:
        pytest.skip(str(error))
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><light pos="0 -3 3"/><geom type="box" size=".04 .04 .4" pos=".5 0 .4" rgba="1 0 0 1"/>'
        "</worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    context = importlib.import_module(f"mujoco.{backend}").GLContext(320, 240)
    context.make_current()
    renderer, scene, camera = mujoco.MjrContext(model, 100), mujoco.MjvScene(model, 100), mujoco.MjvCamera()
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, renderer)
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0.25, 0, 0.4), 2.5, 90, 0
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL.value, scene)
    add_arrows(scene, np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]]]))
    image, rect = np.empty((240, 320, 3), dtype=np.uint8), mujoco.MjrRect(0, 0, 320, 240)
    mujoco.mjr_render(rect, scene, renderer)
    mujoco.mjr_readPixels(image, None, rect, renderer)
    renderer.free()
    context.free()
    colours = image.astype(int)
    box, arrow = (np.flatnonzero((colours[..., c] - colours[..., 1 - c] > 40).any(axis=1)) for c in (0, 1))
    assert abs(np.ptp(arrow) - np.ptp(box)) < 0.15 * np.ptp(box)
    assert abs(arrow.min() - box.min()) < 4  # upward from where the force acts


# -- web --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def small_programme() -> Programme:
    """Two clips of the toy arm: one with everything, one with positions only; and a performer who fails."""
    body = load_body("toy_arm")
    qpos = np.linspace(0.0, 1.0, 101)[:, None].repeat(2, axis=1)
    force, at = np.full((101, 2, 3), 100.0), np.zeros((101, 2, 3))
    full = Take("full", 100.0, qpos, np.full((101, 6), 0.5), qpos, force, at, "all of it")

    def fail(clip: str, seconds: float) -> Take:
        raise ViewerError(f"{clip} cannot be had")

    return Programme(body, ("full", "bare"), {
        "good": lambda clip, seconds: full if clip == "full" else Take("bare", 100.0, qpos[:51]), "bad": fail})


@needs_viser
def test_the_page_does_what_its_controls_say(small_programme: Programme) -> None:
    from mm_torch.viewer.web import Page, start_server

    server = start_server("127.0.0.1", 0)
    try:
        page = Page(server, small_programme, None, 20.0)
        page.tick(0.0)
        assert page.status.content == "all of it" and page.time.max == 1.0
        page.tick(0.3)
        page.speed.value = 2.0
        page.tick(0.1)
        assert page.time.value == pytest.approx(0.5)
        page.playing.value = False
        page.tick(0.1)
        assert page.time.value == pytest.approx(0.5)
        page.time.value = 0.8  # as somebody who drags the slider
        page.tick(0.1)
        assert page.head.position == pytest.approx(0.8)
        np.testing.assert_allclose(page._data.qpos, 0.8, atol=1e-6)
        assert page._ghost.visible and page._arrows.visible and "0.50" in page.bars.content
        page.ghost.value = page.forces.value = False
        page.tick(0.1)
        assert not page._ghost.visible and not page._arrows.visible
        coloured = page._muscles.colors.copy()
        page.coloured.value = False
        page.tick(0.1)
        assert (page._muscles.colors != coloured).any()
        page.clip.value = "bare"
        page.tick(0.1)
        assert page.time.max == 0.5 and "no activations" in page.bars.content and not page.ghost.visible
        page.performer.value = "bad"
        page.tick(0.1)
        assert "bare cannot be had" in page.status.content
    finally:
        server.stop()


@needs_viser
def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EXPECTED, match=f"port={port}: Address already in use; give another"):
            play.main(["body=toy_arm", "viewer=web", f"port={port}"])
    with pytest.raises(EXPECTED, match="port=70000: must be between"):
        play.main(["body=toy_arm", "viewer=web", "port=70000"])


def test_a_missing_viser_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(EXPECTED, match=r"pip install 'mm_torch\[viewer\]'"):
        play.main(["body=toy_arm", "viewer=web"])


@contextmanager
def serving(*words: str) -> Iterator[str]:
    """Address of a page that the verb serves."""
    command = [sys.executable, "-u", "-m", "mm_torch.play", "viewer=web", "port=0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(process.stdout)
        yield re.search(r"http://127\.0\.0\.1:\d+", line)[0]  # type: ignore[index]
    finally:
        process.terminate()
        process.wait(20)


CHECKBOXES = "[...document.querySelectorAll('input[type=checkbox]')].filter(x => x.offsetParent)"
TIME = "Number([...document.querySelectorAll('input')].filter(x => x.type == 'text' && x.offsetParent)[2].value)"


def settled_picture(browser: Browser, seconds: float = 60.0) -> np.ndarray:
    """(H, W, 3) of the scene beside the controls once it stands still; drawing in software may take a second a frame."""
    end, before = time.monotonic() + seconds, np.zeros(0)
    while time.monotonic() < end:
        time.sleep(2.0)
        now = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("RGB")).astype(int)[150:, :900]
        if np.array_equal(now, before):
            return now
        before = now
    raise TimeoutError("the page does not come to rest")


@pytest.mark.slow
@needs_viser
@needs_browser
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    program = find_browser() or ""
    with serving("body=myo_bimanual", "clip=wave_right") as url, Browser(program, url, tmp_path / "profile") as browser:
        browser.wait_for("document.body.innerText.includes('without physics')")
        for word in ("clip", "time (s)", "speed", "muscle colours", "activation 0", "1 m = 1000 N", "grid: 0.5 m"):
            assert word in browser.text()
        moving = browser.evaluate(TIME)
        browser.wait_for(f"{TIME} != {moving}")
        browser.click(f"{CHECKBOXES}[0]")  # pause
        browser.wait_for(f"!{CHECKBOXES}[0].checked")
        body = settled_picture(browser)
        browser.click(f"{CHECKBOXES}[1]")  # muscle colours off
        browser.wait_for(f"!{CHECKBOXES}[1].checked")
        after = settled_picture(browser)
        muscles = np.abs(after - body).max(axis=-1) > 40
        blue, plain = ((picture[muscles][:, 2] - picture[muscles][:, 0]).mean() for picture in (body, after))
        assert muscles.sum() > 1000 and blue > 50 > -20 > plain  # little active, then reddish
        assert not browser.errors


# -- window -----------------------------------------------------------------------------------------------------------
def test_no_display_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("displays are named by variables on Linux only")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(EXPECTED, match=r"no display.*viewer=web"):
        play.main(["body=toy_arm", "viewer=window", "seconds=0.1"])
    monkeypatch.setenv("DISPLAY", ":9876")
    with pytest.raises(EXPECTED, match=":9876 cannot be used"):
        window.check_display()


def test_keys_pause_move_and_change_the_take() -> None:
    takes = [Take(name, 100.0, np.zeros((n, 2))) for name, n in (("a", 101), ("b", 51))]
    remote = window.Remote(takes)
    remote.press(window.glfw.KEY_RIGHT)
    assert remote.head.position == pytest.approx(window.STEP) and not remote.head.playing
    remote.press(window.glfw.KEY_SPACE)
    assert remote.head.playing
    remote.press(window.glfw.KEY_DOWN)
    assert remote.take.name == "b" and remote.head.duration == 0.5 and remote.head.position == 0.0
    remote.press(window.glfw.KEY_PERIOD)
    remote.press(window.glfw.KEY_A)  # MuJoCo's
    assert remote.take.name == "a"


@pytest.mark.slow
@needs_display
def test_the_window_plays(tmp_path: Path) -> None:
    display = f":{os.getpid() % 10000 + 100}"
    screen = subprocess.Popen(
        ["Xvfb", display, "-screen", "0", "800x600x24", "-fbdir", tmp_path], stderr=subprocess.DEVNULL
    )
    environment = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"} | {"DISPLAY": display}
    words = [sys.executable, "-m", "mm_torch.play", "viewer=window", "body=toy_arm", "clip=reach"]
    shown = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    try:
        pictures: set[bytes] = set()
        end = time.monotonic() + 90.0
        while len(pictures) < 5 and time.monotonic() < end:
            assert shown.poll() is None
            time.sleep(1.0)
            pictures.add((tmp_path / "Xvfb_screen0").read_bytes())
        assert len(pictures) >= 5  # black, the first frame and those after it
    finally:
        for process in (shown, screen):
            process.terminate()
            process.wait(20)
