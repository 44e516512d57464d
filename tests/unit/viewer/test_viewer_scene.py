"""How a frame looks, without a browser: muscle paths, colours, arrows, triangles, bars, and the time in a take."""

from __future__ import annotations

import copy

import mujoco
import numpy as np
import pytest

from mm_torch.viewer import shapes
from mm_torch.viewer.bars import GROUPS, activations_shown, bars, legend
from mm_torch.viewer.scene import (
    ACTIVE,
    METRES_PER_NEWTON,
    RELAXED,
    activation_colours,
    force_arrows,
    most_segments,
    muscle_segments,
    padded,
    pose,
    tendon_colours,
)
from mm_torch.viewer.take import Playhead, Programme, Take, ViewerError
from sim_models.registry import load_body

SHAPES = """<mujoco><asset><mesh name="m" vertex="0 0 0  1 0 0  0 1 0  0 0 1"/></asset><worldbody>
<geom type="plane" size="1 1 1"/>
<body pos="0 0 1"><freejoint/><geom type="sphere" size=".1"/><geom type="box" size=".1 .2 .3" pos="1 0 0" quat="0 0 0 1"/>
<geom type="capsule" size=".1 .2" rgba="1 0 0 1"/><geom type="cylinder" size=".1 .2" rgba="1 0 0 1"/>
<geom type="ellipsoid" size=".1 .2 .3" rgba="0 1 0 1"/><geom type="mesh" mesh="m"/>
<geom type="box" size="9 9 9" group="3"/><geom type="box" size="9 9 9" rgba="0 0 0 0"/></body></worldbody></mujoco>"""


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume of a closed surface: positive where its triangles turn outward."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return float(np.einsum("ti,ti->", a, np.cross(b, c)) / 6.0)


# -- muscles ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["toy_arm", "myo_bimanual"])
def test_segments_make_up_the_tendon_paths(name: str) -> None:
    body = load_body(name)
    data, generator = mujoco.MjData(body.model), np.random.default_rng(0)
    low, high = body.joint_ranges[body.hinge_ids].T
    for share in generator.random((5, len(low))):
        qpos = body.neutral_qpos.copy()
        qpos[body.hinge_qpos] = low + share * (high - low)
        pose(body.model, data, qpos)
        ends, tendon = muscle_segments(body.model, data)
        assert len(ends) <= most_segments(body.model)
        straight = np.bincount(tendon, np.linalg.norm(ends[:, 1] - ends[:, 0], axis=-1), body.model.ntendon)
        # an arc around a bone is longer than the straight piece that is drawn
        assert (straight <= data.ten_length + 1e-9).all() and straight.sum() > 0.97 * data.ten_length.sum()


def test_a_pulley_ends_a_branch() -> None:
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><site name="a"/><site name="b" pos="1 0 0"/><site name="c" pos="0 5 0"/>
        <site name="d" pos="0 6 0"/></worldbody>
        <tendon><spatial><site site="a"/><site site="b"/><pulley divisor="2"/>
        <site site="c"/><site site="d"/></spatial></tendon></mujoco>"""
    )
    data = mujoco.MjData(model)
    pose(model, data, model.qpos0)
    ends, tendon = muscle_segments(model, data)
    np.testing.assert_array_equal(ends, [[[0, 0, 0], [1, 0, 0]], [[0, 5, 0], [0, 6, 0]]])
    assert tendon.tolist() == [0, 0]


def test_colours_follow_the_activation() -> None:
    body = load_body("toy_arm")
    np.testing.assert_allclose(activation_colours(np.array([-1.0, 0.0, 1.0, 2.0])), [RELAXED, RELAXED, ACTIVE, ACTIVE])
    act = np.zeros(6)
    act[3] = 1.0
    pulled = body.model.actuator_trnid[3, 0]
    colours = tendon_colours(body.model, act)
    assert [i for i in range(6) if np.allclose(colours[i], ACTIVE)] == [pulled]
    np.testing.assert_array_equal(tendon_colours(body.model, None), body.model.tendon_rgba)


def test_padding_repeats_the_last_row() -> None:
    np.testing.assert_array_equal(padded(np.array([[1], [2]]), 4), [[1], [2], [2], [2]])


# -- forces -----------------------------------------------------------------------------------------------------------
def test_an_arrow_begins_where_the_force_acts_and_is_as_long_as_it_is_strong() -> None:
    force = np.array([[30.0, 0.0, 800.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    at = np.array([[0.1, 0.2, 0.0], [np.nan] * 3, [0.0, 0.0, 0.0]])
    arrows = force_arrows(force, at)
    assert arrows.shape == (1, 2, 3)
    np.testing.assert_allclose(arrows[0, 0], at[0])
    np.testing.assert_allclose(arrows[0, 1] - arrows[0, 0], METRES_PER_NEWTON * force[0])


# -- triangles --------------------------------------------------------------------------------------------------------
def test_shapes_have_the_volume_of_their_geoms() -> None:
    model = mujoco.MjModel.from_xml_string(SHAPES)
    full = {"sphere": 4 / 3 * np.pi * 0.1**3, "box": 8 * 0.006, "mesh": 1 / 6, "ellipsoid": 4 / 3 * np.pi * 0.006,
            "capsule": np.pi * 0.01 * 0.4 + 4 / 3 * np.pi * 0.1**3, "cylinder": np.pi * 0.01 * 0.4}
    kinds = ["plane", "sphere", "box", "capsule", "cylinder", "ellipsoid", "mesh"]
    for geom, kind in enumerate(kinds[1:], 1):
        found = volume(*shapes.geom_triangles(model, geom))
        assert found == pytest.approx(full[kind], rel=0.08), kind  # round ones have 16 sides
        assert found <= full[kind] * (1 + 1e-6)


def test_shapes_are_joined_by_colour_in_the_frame_of_their_body() -> None:
    model = mujoco.MjModel.from_xml_string(SHAPES)
    made = shapes.body_shapes(model)  # neither the plane, nor group 3, nor what cannot be seen
    assert [s.body for s in made] == [1, 1, 1]
    assert {s.rgba for s in made} == {(0.5, 0.5, 0.5, 1.0), (1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0)}
    grey = next(s for s in made if s.rgba[0] == 0.5)
    assert grey.vertices[:, 0].max() == pytest.approx(1.1, abs=1e-6)  # the box, beside the body
    assert all(s.faces.max() < len(s.vertices) for s in made)


def test_an_unknown_kind_of_geom_is_named() -> None:
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><asset><hfield name="h" nrow="2" ncol="2" size="1 1 1 1"/></asset><worldbody>'
        '<geom name="hill" type="hfield" hfield="h"/></worldbody></mujoco>'
    )
    with pytest.raises(ValueError, match=r"'hill'.*HFIELD"):
        shapes.body_shapes(model)


def test_coarse_bones_keep_their_shape() -> None:
    model = copy.copy(load_body("myo_bimanual").model)
    fine = [tuple(a.copy() for a in shapes.mesh_triangles(model, mesh)) for mesh in range(model.nmesh)]
    shapes.coarsen(model)
    coarse = [shapes.mesh_triangles(model, mesh) for mesh in range(model.nmesh)]
    assert sum(len(f) for _, f in coarse) < 0.35 * sum(len(f) for _, f in fine)
    for (vertices, faces), (coarse_vertices, coarse_faces) in zip(fine, coarse, strict=True):
        corners, kept = vertices[faces.ravel()], coarse_vertices[coarse_faces.ravel()]
        np.testing.assert_allclose(np.ptp(kept, axis=0), np.ptp(corners, axis=0), atol=2.5 * shapes.COARSEST)
        assert coarse_faces.min() >= 0


# -- bars -------------------------------------------------------------------------------------------------------------
def test_bars_show_groups_or_the_muscles_of_one() -> None:
    act, groups = np.array([0.2, 0.4, 1.0]), {"left_leg": np.array([0, 1]), "trunk": np.array([2])}
    assert activations_shown(act, ("a", "b", "c"), groups, GROUPS) == pytest.approx({"left leg": 0.3, "trunk": 1.0})
    assert activations_shown(act, ("a", "b", "c"), groups, "left_leg") == pytest.approx({"a": 0.2, "b": 0.4})
    shown = bars({"<b>": 0.25, "full": 1.5})
    assert "&lt;b&gt;" in shown and "width:25%" in shown and "width:100%" in shown and "rgb(255, 31, 20)" in shown
    assert "1 m = 1000 N" in legend() and METRES_PER_NEWTON == 1e-3


# -- takes ------------------------------------------------------------------------------------------------------------
def take(name: str = "a", frames: int = 101) -> Take:
    qpos = np.arange(frames, dtype=float)[:, None]
    return Take(name, 100.0, qpos, ref_qpos=-qpos, force=np.full((frames, 2, 3), 100.0), force_at=np.zeros((frames, 2, 3)))


def test_a_take_gives_the_nearest_frame() -> None:
    instant = take().at(0.252)
    assert instant.qpos == [25.0] and instant.ref_qpos == [-25.0] and instant.act is None
    assert instant.arrows is not None and instant.arrows.shape == (2, 2, 3) and instant.label == "a  0.25 s"
    assert take().at(9.0).qpos == [100.0]
    assert [i.qpos[0] for i in take().instants(50.0)] == list(range(0, 101, 2))
    short = take().cut(0.5)
    assert short.duration == 0.5 and len(short.force) == 51 and short.act is None


def test_the_playhead_runs_in_a_loop_and_stops() -> None:
    head = Playhead(duration=1.0, speed=0.5)
    head.advance(1.0)
    assert head.position == 0.5
    head.playing = False
    head.advance(1.0)
    assert head.position == 0.5
    head.jump(9.0)
    assert head.position == 1.0
    head.playing = True
    head.advance(0.1)
    assert head.position == 0.0


def test_a_programme_fills_the_time() -> None:
    asked = []

    def perform(clip: str, seconds: float) -> Take:
        asked.append((clip, round(seconds, 6)))
        return take(clip).cut(seconds)

    programme = Programme(load_body("toy_arm"), ("walk", "run", "jump"), {"policy": perform})
    assert [t.name for t in programme.takes(None, 1.5)] == ["walk", "run"]
    assert asked == [("walk", 1.5), ("run", 0.5)]
    assert [t.name for t in programme.takes("jump", 9.0)] == ["jump"]
    with pytest.raises(ViewerError, match="clip=wakl: no such motion among 3; near it: walk"):
        programme.from_clip("wakl")
