"""Warp kernels of the solver, one thread a frame: forward kinematics, rows of the least-squares problem, their sums.

Every row of the problem is the motion of a point or a turn of one link: a *wrench* a = (moment about the world's origin,
force) whose product with the screw of a dof, a . s_d, is the row's derivative by that dof. Rows are therefore summed as
``A_l = sum a a^T`` and ``b_l = sum a r`` over those of a link l, and the normal equations follow as the mass matrix does
in the composite rigid body algorithm: with A summed over all links beyond a dof, ``H_de = s_d^T A s_e`` for every dof e
between it and the root.

Source: Featherstone, Rigid Body Dynamics Algorithms (2008), chapter 6, with A in place of the inertia.
"""

from __future__ import annotations

import warp as wp

from tools.retargeting.chain import FREE
from tools.retargeting.chain import WORLD as FIXED

wp.set_module_options({"enable_backward": False})

real, vec3, vec6 = wp.float64, wp.vec3d, wp.spatial_vectord
mat33, mat66 = wp.mat33d, wp.types.matrix((6, 6), dtype=wp.float64)
ZERO, HALF, ONE, TWO = (wp.constant(wp.float64(value)) for value in (0.0, 0.5, 1.0, 2.0))
TINY = wp.constant(wp.float64(1e-9))
WORLD, ROOT = wp.constant(FIXED), wp.constant(FREE)


@wp.struct
class Tree:
    """A ``chain.Chain`` of L links, J of them with a joint, V dofs of which the first six may be a free root's.

    ============ ============================================================================================== ============
    free         1 where there is a free root, else 0
    parent       link above each joint                                                                          (J,)
    turn, offset of the joint's frame in that link's                                                            (J,)
    qpos         address of the joint's coordinate                                                              (J,)
    origin       coordinate at which the joint is at rest                                                       (J,)
    slide        1 where the joint slides along z, 0 where it turns about z                                     (J,)
    driver       address of the coordinate that drives the joint, -1: none                                      (J,)
    slope        coefficients of its derivative by that, lowest first                                           (J, 4)
    link, column of each dof; -1 where no independent dof moves it                                              (V,)
    start, above dofs that move link l: ``above[start[l] : start[l + 1]]``, ascending                           (L + 1,), (N,)
    ============ ============================================================================================== ============
    """

    free: int
    parent: wp.array(dtype=int)
    turn: wp.array(dtype=mat33)
    offset: wp.array(dtype=vec3)
    qpos: wp.array(dtype=int)
    origin: wp.array(dtype=real)
    slide: wp.array(dtype=int)
    driver: wp.array(dtype=int)
    slope: wp.array2d(dtype=real)
    link: wp.array(dtype=int)
    column: wp.array(dtype=int)
    start: wp.array(dtype=int)
    above: wp.array(dtype=int)


@wp.struct
class Window:
    """The columns, of all independent dofs, that are solved for.

    ======= ========================================= =====
    column  of each dof within the window, -1 outside (V,)
    active  1 where a column moves the link           (L,)
    ======= ========================================= =====
    """

    column: wp.array(dtype=int)
    active: wp.array(dtype=int)


@wp.func
def column(m: mat33, k: int) -> vec3:
    """Column k of a matrix."""
    return vec3(m[0, k], m[1, k], m[2, k])


@wp.func
def axis(k: int) -> vec3:
    """Unit vector k."""
    out = vec3()
    out[k] = ONE
    return out


@wp.func
def stack(a: vec3, b: vec3) -> vec6:
    """Moment and force, or angular velocity and velocity."""
    return vec6(a[0], a[1], a[2], b[0], b[1], b[2])


@wp.func
def wrench(at: vec3, force: vec3) -> vec6:
    """A force that acts at a point, with its moment about the world's origin."""
    return stack(wp.cross(at, force), force)


@wp.kernel
def forward(
    tree: Tree, qpos: wp.array2d(dtype=real),
    position: wp.array2d(dtype=vec3), rotation: wp.array2d(dtype=mat33), screw: wp.array2d(dtype=vec6),
) -> None:
    """Places of the links (F, L), and screws (F, V) per unit speed of the dof or of what drives it."""
    f = wp.tid()
    position[f, WORLD] = vec3()
    rotation[f, WORLD] = wp.identity(n=3, dtype=real)
    if tree.free == 1:
        at = vec3(qpos[f, 0], qpos[f, 1], qpos[f, 2])
        turn = wp.quat_to_matrix(wp.normalize(wp.quatd(qpos[f, 4], qpos[f, 5], qpos[f, 6], qpos[f, 3])))
        position[f, ROOT] = at
        rotation[f, ROOT] = turn
        for k in range(3):
            screw[f, k] = stack(vec3(), axis(k))
            about = column(turn, k)
            screw[f, 3 + k] = stack(about, wp.cross(at, about))
    for j in range(tree.parent.shape[0]):
        above = tree.parent[j]
        turn = rotation[f, above] * tree.turn[j]
        at = position[f, above] + rotation[f, above] * tree.offset[j]
        z = column(turn, 2)
        moved = qpos[f, tree.qpos[j]] - tree.origin[j]
        speed = real(1.0)
        if tree.driver[j] >= 0:
            x = qpos[f, tree.driver[j]]
            speed = ((tree.slope[j, 3] * x + tree.slope[j, 2]) * x + tree.slope[j, 1]) * x + tree.slope[j, 0]
        if tree.slide[j] == 1:
            at += moved * z
            screw[f, 6 * tree.free + j] = stack(vec3(), speed * z)
        else:
            c, s = wp.cos(moved), wp.sin(moved)
            x_axis, y_axis = column(turn, 0), column(turn, 1)
            turn = wp.matrix_from_cols(c * x_axis + s * y_axis, c * y_axis - s * x_axis, z)
            screw[f, 6 * tree.free + j] = stack(speed * z, wp.cross(at, speed * z))
        position[f, ROOT + tree.free + j] = at
        rotation[f, ROOT + tree.free + j] = turn


@wp.kernel
def places(
    position: wp.array2d(dtype=vec3), rotation: wp.array2d(dtype=mat33),
    link: wp.array(dtype=int), local: wp.array(dtype=vec3), at: wp.array2d(dtype=vec3),
) -> None:
    """World positions (F, P) of points fixed to links."""
    f, p = wp.tid()
    at[f, p] = position[f, link[p]] + rotation[f, link[p]] * local[p]


@wp.func
def add_row(
    load: wp.array2d(dtype=mat66), pull: wp.array2d(dtype=vec6), f: int, link: int, a: vec6, value: real
) -> None:
    """Add a row with wrench ``a`` on a link."""
    load[f, link] += wp.outer(a, a)
    pull[f, link] += value * a


@wp.kernel
def target_rows(
    position: wp.array2d(dtype=vec3), rotation: wp.array2d(dtype=mat33), active: wp.array(dtype=int),
    link: wp.array(dtype=int), local: wp.array(dtype=vec3), wanted: wp.array2d(dtype=vec3), weight: wp.array(dtype=real),
    turn_link: wp.array(dtype=int), turn_wanted: wp.array2d(dtype=mat33), turn_weight: wp.array(dtype=real),
    load: wp.array2d(dtype=mat66), pull: wp.array2d(dtype=vec6), cost: wp.array(dtype=real),
) -> None:
    """Distances of points (F, S) and turns (F, R) of links from the wanted ones.

    A turn by the angle a counts as ``2 sin(a / 2)`` times its axis, whose derivative by the angular velocity w is
    ``cos(a / 2) w + w x r / 2``.
    """
    f = wp.tid()
    total = real(0.0)
    for p in range(link.shape[0]):
        if active[link[p]] == 1:
            at = position[f, link[p]] + rotation[f, link[p]] * local[p]
            error = weight[p] * (at - wanted[f, p])
            for k in range(3):
                add_row(load, pull, f, link[p], wrench(at, weight[p] * axis(k)), error[k])
            total += wp.length_sq(error)
    for p in range(turn_link.shape[0]):
        if active[turn_link[p]] == 1:
            between = rotation[f, turn_link[p]] * wp.transpose(turn_wanted[f, p])
            half = HALF * wp.sqrt(wp.max(ONE + wp.trace(between), real(1.0e-6)))
            skew = vec3(between[2, 1] - between[1, 2], between[0, 2] - between[2, 0], between[1, 0] - between[0, 1])
            r = skew * (HALF / half)
            for k in range(3):
                a = turn_weight[p] * (half * axis(k) + HALF * wp.cross(r, axis(k)))
                add_row(load, pull, f, turn_link[p], stack(a, vec3()), turn_weight[p] * r[k])
            total += turn_weight[p] * turn_weight[p] * wp.length_sq(r)
    cost[f] += total


@wp.kernel
def lowest_points(
    rotation: wp.array2d(dtype=mat33), link: wp.array(dtype=int), radius: wp.array(dtype=real),
    axes: wp.array(dtype=mat33), at: wp.array2d(dtype=vec3),
) -> None:
    """Bring the centres (F, P) of spheres, and of ellipsoids after them, down to their lowest surface points."""
    f, p = wp.tid()
    if p < radius.shape[0]:
        at[f, p] -= vec3(ZERO, ZERO, radius[p])
    else:
        turned = rotation[f, link[p]] * axes[p - radius.shape[0]]
        down = vec3(turned[2, 0], turned[2, 1], turned[2, 2])
        at[f, p] -= turned * down / wp.max(wp.length(down), TINY)


@wp.kernel
def contact_rows(
    low: wp.array2d(dtype=vec3), active: wp.array(dtype=int), link: wp.array(dtype=int), group: wp.array(dtype=int),
    clearance: wp.array2d(dtype=real), strength: wp.array2d(dtype=real),
    depth: real, height: real, slack: real, share: real,
    load: wp.array2d(dtype=mat66), pull: wp.array2d(dtype=vec6), cost: wp.array(dtype=real), held: wp.array2d(dtype=vec3),
) -> None:
    """Surface points (F, P) that are too low, or too high where they are the lowest of a part (F, K) that stands.

    ``held`` becomes the place at which a part touches the floor: the mean of its points, those that are ``share`` m higher
    than the lowest counting e times less.
    """
    f = wp.tid()
    for k in range(held.shape[1]):
        best, least = wp.int32(0), real(1.0e9)
        for p in range(link.shape[0]):
            if group[p] == k and low[f, p][2] < least:
                best = p
                least = low[f, p][2]
        total = real(0.0)
        middle = vec3()
        for p in range(link.shape[0]):
            if group[p] == k:
                part = wp.exp((least - low[f, p][2]) / share)
                total += part
                middle += part * low[f, p]
        held[f, k] = middle / total
        if strength[f, k] > ZERO and active[link[best]] == 1:
            over = least - clearance[f, best]
            excess = wp.min(over, ZERO) + wp.max(over - slack, ZERO)
            w = height * strength[f, k]
            add_row(load, pull, f, link[best], wrench(low[f, best], w * axis(2)), w * excess)
            cost[f] += w * w * excess * excess
    for p in range(link.shape[0]):
        over = low[f, p][2] - clearance[f, p]
        if over < ZERO and active[link[p]] == 1:
            add_row(load, pull, f, link[p], wrench(low[f, p], depth * axis(2)), depth * over)
            cost[f] += depth * depth * over * over


@wp.func
def add_product(
    dofs: wp.array(dtype=int), start: int, stop: int, window: Window, f: int, row: wp.array2d(dtype=real), factor: real,
    matrix: wp.array3d(dtype=real),
) -> None:
    """Add the product with itself of a row (F, N) whose derivatives belong to ``dofs[start : stop]``."""
    for n in range(start, stop):
        c = window.column[dofs[n]]
        if c >= 0:
            part = factor * row[f, n - start]
            for m in range(start, stop):
                e = window.column[dofs[m]]
                if e >= 0:
                    matrix[f, c, e] += part * row[f, m - start]


@wp.func
def add_pull(
    dofs: wp.array(dtype=int), start: int, stop: int, window: Window, f: int, row: wp.array2d(dtype=real), value: real,
    gradient: wp.array2d(dtype=real),
) -> None:
    """Add the derivatives of such a row times a value."""
    for n in range(start, stop):
        c = window.column[dofs[n]]
        if c >= 0:
            gradient[f, c] += value * row[f, n - start]


@wp.kernel
def slip_rows(
    tree: Tree, window: Window, screw: wp.array2d(dtype=vec6), step: wp.array2d(dtype=real),
    link: wp.array(dtype=int), held: wp.array2d(dtype=vec3), strength: wp.array2d(dtype=real), weight: real,
    row: wp.array2d(dtype=real), coupling: wp.array3d(dtype=real), gradient: wp.array2d(dtype=real),
    cost: wp.array(dtype=real),
) -> None:
    """Horizontal way of parts (F, K) that stand, from frame to frame: rows ``K_t (q_{t+1} - q_t)``, K the mean of both.

    A frame takes its share of the rows with the frame before and of those with the frame after, but of the Hessian only
    the coupling. ``step`` are the steps (F - 1, D) taken, ``row`` (F, V) is room to work in.
    """
    f = wp.tid()
    sign = real(1.0)
    for a in range(f - 1, f + 1):
        if a >= 0 and a + 1 < held.shape[0]:
            for k in range(link.shape[0]):
                both = strength[a, k] * strength[a + 1, k]
                if both > ZERO and window.active[link[k]] == 1:
                    w = HALF * weight * wp.sqrt(both)
                    start, stop = tree.start[link[k]], tree.start[link[k] + 1]
                    for x in range(2):
                        before, after = wrench(held[a, k], w * axis(x)), wrench(held[a + 1, k], w * axis(x))
                        value = real(0.0)
                        for n in range(start, stop):
                            d = tree.above[n]
                            part = real(0.0)
                            if tree.column[d] >= 0:
                                part = wp.dot(before, screw[a, d]) + wp.dot(after, screw[a + 1, d])
                                value += part * step[a, tree.column[d]]
                            row[f, n - start] = part
                        cost[f] += HALF * value * value
                        add_pull(tree.above, start, stop, window, f, row, sign * value, gradient)
                        if a == f:
                            add_product(tree.above, start, stop, window, f, row, -ONE, coupling)
        sign = -ONE


@wp.kernel
def assemble(
    tree: Tree, window: Window, screw: wp.array2d(dtype=vec6),
    load: wp.array2d(dtype=mat66), pull: wp.array2d(dtype=vec6),
    hessian: wp.array3d(dtype=real), gradient: wp.array2d(dtype=real),
) -> None:
    """Add what the links' rows (F, L) make of the normal equations of the dofs, upper triangle, and clear them."""
    f = wp.tid()
    for n in range(tree.parent.shape[0]):
        j = tree.parent.shape[0] - 1 - n
        link = ROOT + tree.free + j
        if window.active[tree.parent[j]] == 1:
            load[f, tree.parent[j]] += load[f, link]
            pull[f, tree.parent[j]] += pull[f, link]
    for d in range(tree.link.shape[0]):
        c = window.column[d]
        if c >= 0:
            link = tree.link[d]
            gradient[f, c] += wp.dot(screw[f, d], pull[f, link])
            w = load[f, link] * screw[f, d]
            for n in range(tree.start[link], tree.start[link + 1]):
                e = tree.above[n]
                x = window.column[e]
                if x >= 0 and e <= d:
                    h = wp.dot(screw[f, e], w)
                    if e != d and x == c:
                        h *= TWO
                    hessian[f, wp.min(c, x), wp.max(c, x)] += h
    for link in range(load.shape[1]):
        if window.active[link] == 1:
            load[f, link] = mat66()
            pull[f, link] = vec6()


@wp.kernel
def fill_band(
    hessian: wp.array3d(dtype=real), coupling: wp.array3d(dtype=real), added: wp.array2d(dtype=real),
    smooth: wp.array(dtype=real), free: wp.array2d(dtype=wp.bool), band: wp.array3d(dtype=real),
) -> None:
    """Lower band (F, D, 2 D + 1) of the normal equations with an acceleration penalty; entries not free are left out.

    ``band[f, d, k]`` is the entry of column ``f D + d``, k rows below the diagonal. ``added`` (F, D) goes on the diagonal,
    ``smooth`` (D,) are the weights k_d of ``D2^T diag(k) D2``.
    """
    f, d = wp.tid()
    frames, dofs = free.shape[0], free.shape[1]
    for k in range(band.shape[2]):
        band[f, d, k] = real(0.0)
    if free[f, d]:
        for e in range(d, dofs):
            if free[f, e]:
                band[f, d, e - d] = hessian[f, d, e]
        if f + 1 < frames:
            for e in range(dofs):
                if free[f + 1, e]:
                    band[f, d, dofs + e - d] = coupling[f, d, e]
        band[f, d, 0] += added[f, d]
        for t in range(wp.max(f - 2, 0), wp.min(f + 1, frames - 2)):  # accelerations of which frame f is part
            own = real(1.0)
            if f == t + 1:
                own = real(-2.0)
            band[f, d, 0] += smooth[d] * own * own
            if f < t + 2 and free[f + 1, d]:
                other = real(1.0)
                if f + 1 == t + 1:
                    other = real(-2.0)
                band[f, d, dofs] += smooth[d] * own * other
            if f == t and free[f + 2, d]:
                band[f, d, 2 * dofs] += smooth[d]
    else:
        band[f, d, 0] = real(1.0)
