"""Warp kernels of distances between the parts of a body, and of the rows that keep them apart.

Spheres and capsules are segments with a radius: two of them have a closed form. An ellipsoid and a segment: the signed
distance of a point to an ellipsoid is convex, its minimum along the segment is found by Newton steps. Two ellipsoids: the
direction of the largest separation is a fixed point. For all, ``d = n . (p_b - p_a)`` with the common normal n, so that
``dd/dq = n . (J_b - J_a)`` at any point of the normal.
"""

from __future__ import annotations

import warp as wp

from tools.retargeting.kernels import (
    HALF,
    ONE,
    TINY,
    TWO,
    ZERO,
    Window,
    add_product,
    add_pull,
    column,
    mat33,
    real,
    vec3,
    vec6,
    wrench,
)

wp.set_module_options({"enable_backward": False})

PROJECTION_STEPS, SEGMENT_STEPS, FIXED_POINT_STEPS = wp.constant(5), wp.constant(3), wp.constant(12)
SEGMENTS, ELLIPSOID_SEGMENT, ELLIPSOIDS = wp.constant(0), wp.constant(1), wp.constant(2)
SMALLEST = wp.constant(wp.float64(1e-12))


@wp.struct
class Geoms:
    """G geoms, and N pairs of them, an ellipsoid before a segment.

    ============= ============================================================= ============
    link          that carries the geom                                         (G,)
    center, turn  place and axes in its frame                                   (G,)
    size, half    semi-axes, or radius first; half length of a capsule          (G,) m
    bound         radius of a ball around it                                    (G,) m
    first, second geoms of each pair                                            (N,)
    kind          of the pair: SEGMENTS, ELLIPSOID_SEGMENT, ELLIPSOIDS          (N,)
    start, dofs   those that move pair n apart: ``dofs[start[n] : start[n + 1]]`` (N + 1,)
    sign          1 where such a dof moves the second geom, -1: the first
    ============= ============================================================= ============
    """

    link: wp.array(dtype=int)
    center: wp.array(dtype=vec3)
    turn: wp.array(dtype=mat33)
    size: wp.array(dtype=vec3)
    half: wp.array(dtype=real)
    bound: wp.array(dtype=real)
    first: wp.array(dtype=int)
    second: wp.array(dtype=int)
    kind: wp.array(dtype=int)
    start: wp.array(dtype=int)
    dofs: wp.array(dtype=int)
    sign: wp.array(dtype=real)


@wp.func
def surface_parameter(y: vec3, axes: vec3) -> real:
    """Parameter t of the surface point ``a_i^2 y_i / (t + a_i^2)`` below y in an ellipsoid's frame.

    It is the largest root of ``sum (a_i y_i / (t + a_i^2))^2 = 1``, found by Newton steps on its inverse square root,
    which is nearly straight.
    """
    square = wp.cw_mul(axes, axes)
    least = wp.max(wp.cw_mul(axes, wp.abs(y)) - square)  # at most the root
    t = wp.max(least, -wp.min(square) * (ONE - TINY))
    for _ in range(PROJECTION_STEPS):
        below = square + vec3(t, t, t)
        part = wp.cw_div(wp.cw_mul(axes, y), below)
        term = wp.cw_mul(part, part)
        f = term[0] + term[1] + term[2]
        slope = -TWO * (term[0] / below[0] + term[1] / below[1] + term[2] / below[2])
        t -= TWO * f * (f - ONE) / ((ONE + wp.sqrt(f)) * wp.min(slope, -SMALLEST))
    return t


@wp.func
def project(y: vec3, axes: vec3) -> tuple[real, vec3]:
    """Signed distance of a point to an ellipsoid with semi-axes in its own frame, and the outward normal there."""
    t = surface_parameter(y, axes)
    gradient = wp.cw_div(y, wp.cw_mul(axes, axes) + vec3(t, t, t))
    size = wp.length(gradient)
    return t * size, gradient / wp.max(size, SMALLEST)  # y - x = t y w, its length along n: t |y w|


@wp.func
def turning(y: vec3, axes: vec3, normal: vec3, along: vec3) -> real:
    """Second derivative of that distance along a direction."""
    t = surface_parameter(y, axes)
    square = wp.cw_mul(axes, axes)
    inverse = wp.cw_div(vec3(ONE, ONE, ONE), square + vec3(t, t, t))
    twice = wp.cw_mul(inverse, inverse)
    fall = wp.dot(wp.cw_mul(square, twice), wp.cw_mul(wp.cw_mul(y, y), inverse))
    rate = wp.dot(wp.cw_mul(square, twice), wp.cw_mul(y, along)) / wp.max(fall, SMALLEST)
    change = wp.cw_mul(inverse, along) - wp.cw_mul(twice, y) * rate
    size = wp.length(wp.cw_mul(y, inverse))
    return (wp.dot(change, along) - wp.dot(change, normal) * wp.dot(normal, along)) / wp.max(size, SMALLEST)


@wp.func
def unit(v: vec3, fallback: vec3) -> vec3:
    """Direction of a vector, another one where it has none."""
    size = wp.length(v)
    if size > TINY:
        return v / size
    return fallback


@wp.func
def between_segments(a: vec3, u: vec3, b: vec3, v: vec3, fallback: vec3) -> tuple[real, vec3, vec3]:
    """Distance of segments ``a + s u`` and ``b + t v``, |s|, |t| <= 1: closest points by clamping one after the other."""
    w = a - b
    uu, vv, uv = wp.dot(u, u), wp.dot(v, v), wp.dot(u, v)
    uw, vw = wp.dot(u, w), wp.dot(v, w)
    full = uu * vv - uv * uv
    s = real(0.0)
    if full > TINY * uu * vv:
        s = wp.clamp((uv * vw - vv * uw) / wp.max(full, real(1.0e-18)), -ONE, ONE)
    t = wp.clamp((uv * s + vw) / wp.max(vv, real(1.0e-18)), -ONE, ONE)
    s = wp.clamp((uv * t - uw) / wp.max(uu, real(1.0e-18)), -ONE, ONE)
    p = a + s * u
    across = b + t * v - p
    normal = unit(across, fallback)
    return wp.dot(across, normal), normal, p


@wp.func
def ellipsoid_to_segment(center: vec3, turn: mat33, axes: vec3, b: vec3, v: vec3) -> tuple[real, vec3, vec3]:
    """Least signed distance along the segment ``b + s v``: safeguarded Newton on its derivative, which rises along it."""
    local, along = wp.transpose(turn) * (b - center), wp.transpose(turn) * v
    scaled = wp.cw_div(along, wp.cw_mul(axes, axes))
    low, high = real(-1.0), real(1.0)
    s = wp.clamp(-wp.dot(local, scaled) / wp.max(wp.dot(along, scaled), SMALLEST), -ONE, ONE)
    for _ in range(SEGMENT_STEPS):
        at = local + s * along
        distance, normal = project(at, axes)
        slope = wp.dot(normal, along)
        end = low
        if slope < ZERO:
            low = s
            end = high
        if slope > ZERO:
            high = s
            end = low
        step = s - slope / wp.max(turning(at, axes, normal, along), TINY)
        if step >= low and step <= high:
            s = step
        elif wp.abs(end) == ONE:  # the first overshoot goes to the end, later ones halve
            s = end
        else:
            s = HALF * (low + high)
    distance, normal = project(local + s * along, axes)
    return distance, turn * normal, b + s * v


@wp.func
def ellipsoids(a: vec3, turn: mat33, axes: vec3, b: vec3, other_turn: mat33, other: vec3) -> tuple[real, vec3, vec3]:
    """Largest separation ``n . D - |A n| - |B n|`` over unit n: ``(d + A A^T / |A n| + B B^T / |B n|) n`` points to D."""
    across = b - a
    first = turn * wp.diag(wp.cw_mul(axes, axes)) * wp.transpose(turn)
    second = other_turn * wp.diag(wp.cw_mul(other, other)) * wp.transpose(other_turn)
    normal = unit(across, column(turn, 0))
    near = wp.sqrt(wp.max(wp.dot(normal, first * normal), SMALLEST))
    far = wp.sqrt(wp.max(wp.dot(normal, second * normal), SMALLEST))
    for _ in range(FIXED_POINT_STEPS):
        d = wp.dot(normal, across) - near - far
        matrix = d * wp.identity(n=3, dtype=real) + first / near + second / far
        normal = unit(wp.inverse(matrix) * across, normal)
        near = wp.sqrt(wp.max(wp.dot(normal, first * normal), SMALLEST))
        far = wp.sqrt(wp.max(wp.dot(normal, second * normal), SMALLEST))
    return wp.dot(normal, across) - near - far, normal, a + first * normal / near


@wp.func
def pair_distance(
    geoms: Geoms, n: int, f: int, position: wp.array2d(dtype=vec3), rotation: wp.array2d(dtype=mat33)
) -> tuple[real, vec3, vec3]:
    """Distance of a pair in a frame, negative where they overlap; unit normal to the second; a point of the normal."""
    i, j = geoms.first[n], geoms.second[n]
    a_turn = rotation[f, geoms.link[i]] * geoms.turn[i]
    b_turn = rotation[f, geoms.link[j]] * geoms.turn[j]
    a = position[f, geoms.link[i]] + rotation[f, geoms.link[i]] * geoms.center[i]
    b = position[f, geoms.link[j]] + rotation[f, geoms.link[j]] * geoms.center[j]
    along = geoms.half[j] * column(b_turn, 2)
    distance, normal, point = real(0.0), vec3(), vec3()
    if geoms.kind[n] == SEGMENTS:
        distance, normal, point = between_segments(a, geoms.half[i] * column(a_turn, 2), b, along, column(a_turn, 0))
        distance -= geoms.size[i][0] + geoms.size[j][0]
    elif geoms.kind[n] == ELLIPSOID_SEGMENT:
        distance, normal, point = ellipsoid_to_segment(a, a_turn, geoms.size[i], b, along)
        distance -= geoms.size[j][0]
    else:
        distance, normal, point = ellipsoids(a, a_turn, geoms.size[i], b, b_turn, geoms.size[j])
    return distance, normal, point


@wp.kernel
def mark_near(
    geoms: Geoms, position: wp.array2d(dtype=vec3), rotation: wp.array2d(dtype=mat33), reach: real,
    near: wp.array2d(dtype=wp.bool),
) -> None:
    """Which pairs (F, N) are closer than a reach."""
    f, n = wp.tid()
    i, j = geoms.first[n], geoms.second[n]
    a = position[f, geoms.link[i]] + rotation[f, geoms.link[i]] * geoms.center[i]
    b = position[f, geoms.link[j]] + rotation[f, geoms.link[j]] * geoms.center[j]
    near[f, n] = False
    if wp.length(b - a) < geoms.bound[i] + geoms.bound[j] + reach:
        distance, _normal, _point = pair_distance(geoms, n, f, position, rotation)
        near[f, n] = distance < reach


@wp.kernel
def measure(
    geoms: Geoms, position: wp.array2d(dtype=vec3), rotation: wp.array2d(dtype=mat33),
    frame: wp.array(dtype=int), pair: wp.array(dtype=int),
    distance: wp.array(dtype=real),
) -> None:
    """Distances of candidates (E,)."""
    e = wp.tid()
    d, _normal, _point = pair_distance(geoms, pair[e], frame[e], position, rotation)
    distance[e] = d


@wp.kernel
def repel_rows(
    geoms: Geoms, window: Window, position: wp.array2d(dtype=vec3), rotation: wp.array2d(dtype=mat33),
    screw: wp.array2d(dtype=vec6), first: wp.array(dtype=int), pair: wp.array(dtype=int), room: real, weight: real,
    row: wp.array2d(dtype=real), hessian: wp.array3d(dtype=real), gradient: wp.array2d(dtype=real),
    cost: wp.array(dtype=real),
) -> None:
    """Rows ``w (room - d)^2 / room`` of the candidates ``pair[first[f] : first[f + 1]]`` of frame f that are too close.

    ``row`` (F, V) is room to work in.
    """
    f = wp.tid()
    for e in range(first[f], first[f + 1]):
        n = pair[e]
        distance, normal, point = pair_distance(geoms, n, f, position, rotation)
        near = room - distance
        if near > ZERO:
            value = weight * (TWO * near - room)
            if near < room:
                value = weight * near * near / room
            a = (-TWO * weight * wp.min(near / room, ONE)) * wrench(point, normal)
            cost[f] += value * value
            start, stop = geoms.start[n], geoms.start[n + 1]
            for k in range(start, stop):
                row[f, k - start] = geoms.sign[k] * wp.dot(a, screw[f, geoms.dofs[k]])
            add_pull(geoms.dofs, start, stop, window, f, row, value, gradient)
            add_product(geoms.dofs, start, stop, window, f, row, ONE, hessian)
