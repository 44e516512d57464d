"""Laws of unit quaternions, in double precision."""

from __future__ import annotations

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mm_torch.maths import quaternion as quat

unit = st.floats(-1.0, 1.0, allow_subnormal=False)
small_settings = settings(max_examples=60, deadline=None)


def tensor(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


rotations = st.tuples(unit, unit, unit, unit).map(tensor).filter(lambda q: q.norm() > 0.05).map(lambda q: q / q.norm())
vectors = st.tuples(unit, unit, unit).map(tensor)


def close(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0.0, atol=atol)


def same_rotation(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    close(a * torch.sign((a * b).sum(-1, keepdim=True)), b, atol)


@small_settings
@given(rotations, rotations, rotations)
def test_product_is_associative_and_stays_unit(a: Tensor, b: Tensor, c: Tensor) -> None:
    close(quat.multiply(quat.multiply(a, b), c), quat.multiply(a, quat.multiply(b, c)))
    close(quat.multiply(a, b).norm(), tensor(()).new_ones(()))
    close(quat.multiply(a, quat.conjugate(a)), tensor((1.0, 0.0, 0.0, 0.0)))


@small_settings
@given(rotations, rotations, vectors, vectors)
def test_rotation_laws(a: Tensor, b: Tensor, v: Tensor, w: Tensor) -> None:
    close(quat.rotate(quat.multiply(a, b), v), quat.rotate(a, quat.rotate(b, v)))
    close(quat.rotate_inverse(a, quat.rotate(a, v)), v)
    close(quat.rotate(a, v).dot(quat.rotate(a, w)), v.dot(w))
    close(quat.rotate(-a, v), quat.rotate(a, v))
    handed = torch.linalg.cross(quat.rotate(a, v), quat.rotate(a, w))
    close(handed, quat.rotate(a, torch.linalg.cross(v, w)))


def test_rotation_is_right_handed_and_scalar_first() -> None:
    quarter = tensor((math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)))
    close(quat.rotate(quarter, tensor((1.0, 0.0, 0.0))), tensor((0.0, 1.0, 0.0)))


@small_settings
@given(rotations)
def test_exponential_undoes_the_logarithm(q: Tensor) -> None:
    rotvec = quat.to_rotation_vector(q)
    assert rotvec.norm() <= math.pi + 1e-12
    same_rotation(quat.from_rotation_vector(rotvec), q)
    assert torch.allclose(quat.to_rotation_vector(-q).norm(), rotvec.norm(), atol=1e-12)


@small_settings
@given(vectors, st.floats(1e-12, 3.1))
def test_logarithm_undoes_the_exponential(axis: Tensor, angle: float) -> None:
    assume(axis.norm() > 0.05)
    v = axis / axis.norm() * angle
    close(quat.to_rotation_vector(quat.from_rotation_vector(v)), v, 1e-11)


def test_no_rotation_has_zero_logarithm_and_finite_gradient() -> None:
    for sign in (1.0, -1.0):
        q = tensor((sign, 0.0, 0.0, 0.0))
        close(quat.to_rotation_vector(q), torch.zeros(3, dtype=torch.float64))
    close(quat.from_rotation_vector(torch.zeros(3, dtype=torch.float64)), tensor((1.0, 0.0, 0.0, 0.0)))


@small_settings
@given(rotations, rotations)
def test_slerp_ends_middle_and_constant_speed(a: Tensor, b: Tensor) -> None:
    assume((a * b).sum().abs() > 1e-3)  # at half a turn both arcs are equally short
    start, middle, end = (quat.slerp(a, b, tensor((t,))) for t in (0.0, 0.5, 1.0))
    same_rotation(start, a)
    same_rotation(end, b, 1e-9)
    whole = quat.angle_between(a, b)
    close(quat.angle_between(a, middle), whole / 2, 1e-9)
    close(quat.angle_between(middle, b), whole / 2, 1e-9)
    close(quat.angle_between(a, quat.slerp(a, b, tensor((0.2,)))), 0.2 * whole, 1e-9)
    same_rotation(quat.slerp(a, -b, tensor((0.5,))), middle, 1e-9)


@small_settings
@given(rotations, rotations, rotations)
def test_angle_is_a_metric_that_no_frame_changes(a: Tensor, b: Tensor, c: Tensor) -> None:
    angle = quat.angle_between(a, b)
    close(angle, quat.angle_between(b, a), 1e-9)
    close(angle, quat.angle_between(quat.multiply(c, a), quat.multiply(c, b)), 1e-7)
    assert angle <= quat.angle_between(a, c) + quat.angle_between(c, b) + 1e-9
    close(quat.angle_between(a, -a), torch.zeros((), dtype=torch.float64), 1e-7)


@small_settings
@given(rotations)
def test_matrix_round_trip(q: Tensor) -> None:
    matrix = quat.to_matrix(q)
    close(matrix @ matrix.T, torch.eye(3, dtype=torch.float64))
    close(torch.linalg.det(matrix), torch.ones((), dtype=torch.float64))
    same_rotation(quat.from_matrix(matrix), q, 1e-11)


@small_settings
@given(rotations, vectors)
def test_matrix_rotates_as_the_quaternion(q: Tensor, v: Tensor) -> None:
    close(quat.to_matrix(q) @ v, quat.rotate(q, v))


def test_matrix_of_half_turns() -> None:
    """Where the scalar part vanishes the other candidates must take over."""
    for axis in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.8, 0.0)):
        q = tensor((0.0, *axis))
        same_rotation(quat.from_matrix(quat.to_matrix(q)), q)


@small_settings
@given(rotations, st.floats(-3.0, 3.0))
def test_heading_is_about_z_and_follows_a_turn_of_the_world(q: Tensor, turn: float) -> None:
    assume(q[0] ** 2 + q[3] ** 2 > 1e-3)  # upside down there is no heading
    heading = quat.heading(q)
    close(heading[1:3], torch.zeros(2, dtype=torch.float64))
    close(heading.norm(), torch.ones((), dtype=torch.float64))
    close(quat.rotate(heading, tensor((0.0, 0.0, 1.0))), tensor((0.0, 0.0, 1.0)))
    turned = quat.multiply(quat.from_rotation_vector(tensor((0.0, 0.0, turn))), q)
    expected = quat.multiply(quat.from_rotation_vector(tensor((0.0, 0.0, turn))), heading)
    same_rotation(quat.heading(turned), expected, 1e-9)
    difference = torch.remainder(quat.yaw(turned) - quat.yaw(q) - turn + math.pi, 2 * math.pi) - math.pi
    close(difference, torch.zeros((), dtype=torch.float64), 1e-9)


@small_settings
@given(rotations)
def test_what_is_left_of_the_heading_has_no_yaw(q: Tensor) -> None:
    assume(q[0] ** 2 + q[3] ** 2 > 1e-3)
    swing = quat.multiply(quat.conjugate(quat.heading(q)), q)
    close(quat.yaw(swing), torch.zeros((), dtype=torch.float64), 1e-9)


def test_broadcasting_over_leading_dimensions() -> None:
    q = torch.nn.functional.normalize(torch.randn(5, 1, 4, dtype=torch.float64), dim=-1)
    v = torch.randn(5, 3, 3, dtype=torch.float64)
    rotated = quat.rotate(q, v)
    assert rotated.shape == v.shape and rotated.dtype == torch.float64
    close(rotated[2, 1], quat.rotate(q[2, 0], v[2, 1]))
