"""Left against right: masses, joints, muscles, paths, moment arms and contact pairs; what has no partner is listed."""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np

from sim_models.muscles import mirror_name
from tools.validation.findings import Finding
from tools.validation.subject import Subject

SITE = 1e-5  # m
ARM = 1e-3  # m/rad
FRAME = 0.01  # deg
STRAYS = 3  # grid points at which the two sides may fall on different sides of a path switch


def _partners(names: list[str]) -> np.ndarray:
    return np.array([names.index(mirror_name(n, set(names))) for n in names], dtype=int)


def _bodies(subject: Subject) -> np.ndarray:
    return _partners([subject.model.body(b).name for b in range(subject.model.nbody)])


def _reflections(subject: Subject) -> np.ndarray:
    """(B, 3, 3): maps coordinates in a body's frame to its partner's, for a mirror image of the whole body."""
    d, mirror = subject.data, np.eye(3)
    d.qpos[:] = subject.neutral
    mujoco.mj_kinematics(subject.model, d)
    mirror[subject.body.lateral_axis, subject.body.lateral_axis] = -1
    rotation = d.xmat.reshape(-1, 3, 3)
    return rotation[_bodies(subject)].transpose(0, 2, 1) @ mirror @ rotation


def _exact(reflections: np.ndarray) -> np.ndarray:
    """Signed permutations: the limbs' own mirror frames, freed from the tilt of their attachment."""
    whole = np.round(reflections)
    ok = np.abs(reflections - whole).max(axis=(1, 2)) < 0.01
    return np.where(ok[:, None, None], whole, reflections)


def frames(subject: Subject) -> Iterator[Finding]:
    """Mirror frames of body parts that do not agree with the sagittal plane of the world."""
    raw = _reflections(subject)
    trace = np.einsum("bij,bij->b", raw, _exact(raw))
    angle = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    tilted = np.flatnonzero(angle > FRAME)
    if len(tilted):
        yield Finding("WARN", "symmetry.frame", f"{len(tilted)} bodies", float(angle.max()), "deg",
                      f"mirror frame off the world's sagittal plane by up to {angle.max():.4f} deg (first: "
                      f"{subject.model.body(int(tilted[0])).name}); limbs are compared in their own frames")


def masses(subject: Subject) -> Iterator[Finding]:
    """Bodies whose mass or inertia differs from their partner's."""
    m = subject.model
    for b, p in enumerate(_bodies(subject)):
        if p > b and not (np.isclose(m.body_mass[b], m.body_mass[p], rtol=1e-6)
                          and np.allclose(m.body_inertia[b], m.body_inertia[p], rtol=1e-4, atol=1e-12)):
            yield Finding("ERROR", "symmetry.mass", f"{m.body(b).name}, {m.body(int(p)).name}",
                          float(m.body_mass[b] - m.body_mass[p]), "kg", "mass or inertia differs between the sides")


def parameters(subject: Subject) -> Iterator[Finding]:
    """Joints and muscles whose parameters differ from their partner's."""
    m, (partner, sign) = subject.model, subject.body.mirror_joints
    ids = subject.body.hinge_ids
    for i, p in enumerate(partner):
        a, b = ids[i], ids[p]
        mine, other = m.jnt_range[a], m.jnt_range[b] * sign[i]
        if b > a and not np.allclose(mine, np.sort(other), atol=1e-6):
            yield Finding("WARN", "symmetry.joint", f"{m.joint(int(a)).name}, {m.joint(int(b)).name}",
                          float(np.abs(mine - np.sort(other)).max()), "rad or m", "joint ranges differ")
    for a, b in _muscle_pairs(subject):
        for field in ("gainprm", "biasprm", "dynprm", "lengthrange"):
            x = getattr(m, f"actuator_{field}")
            off = float(np.abs(x[a] - x[b]).max())
            if not np.allclose(x[a], x[b], rtol=1e-6, atol=1e-6):
                yield Finding("WARN", "symmetry.muscle", f"{subject.muscle_name(a)}, {subject.muscle_name(b)}",
                              off, "", f"{field} differs between the sides")


def _muscle_pairs(subject: Subject) -> list[tuple[int, int]]:
    partner = subject.body.mirror_muscles
    return [(int(a), int(partner[a])) for a in subject.muscles if partner[a] > a]


def _path(subject: Subject, tendon: int) -> list[tuple[int, int]]:
    m = subject.model
    span = range(m.tendon_adr[tendon], m.tendon_adr[tendon] + m.tendon_num[tendon])
    return [(int(m.wrap_type[w]), int(m.wrap_objid[w])) for w in span]


def paths(subject: Subject) -> Iterator[Finding]:
    """Muscles whose path points are not the mirror image of their partner's."""
    m, bodies, reflect = subject.model, _bodies(subject), _exact(_reflections(subject))
    site = int(mujoco.mjtWrap.mjWRAP_SITE)
    for a, b in _muscle_pairs(subject):
        mine, other = (_path(subject, int(m.actuator_trnid[x, 0])) for x in (a, b))
        name = f"{subject.muscle_name(a)}, {subject.muscle_name(b)}"
        if [k for k, _ in mine] != [k for k, _ in other]:
            yield Finding("WARN", "symmetry.path", name, float(abs(len(mine) - len(other))), "elements",
                          "the paths have different elements")
            continue
        off = 0.0
        for (kind, x), (_, y) in zip(mine, other, strict=True):
            if kind == site:
                here, there = m.site_bodyid[x], m.site_bodyid[y]
                moved = reflect[here] @ m.site_pos[x] - m.site_pos[y]
                off = max(off, float(np.linalg.norm(moved)) if bodies[here] == there else np.inf)
        if off > SITE:
            yield Finding("WARN", "symmetry.path", name, 1e3 * off, "mm", f"path points differ by up to {1e3 * off:.3g} mm")


def arms(subject: Subject) -> Iterator[Finding]:
    """Muscles whose moment arms are not their partner's over the joints' ranges."""
    m, (partner, sign) = subject.model, subject.body.mirror_joints
    place = {int(j): i for i, j in enumerate(subject.body.hinge_ids)}
    for a, b in _muscle_pairs(subject):
        ta, tb = (int(m.actuator_trnid[x, 0]) for x in (a, b))
        worst, where = 0.0, ""
        for joint, sweep in subject.sweeps.items():
            i = place[joint]
            other = subject.sweeps[int(subject.body.hinge_ids[partner[i]])].slope[:, tb] * sign[i]
            off = np.sort(np.abs(sweep.slope[:, ta] - (other[::-1] if sign[i] < 0 else other)))
            value = float(off[-1 - STRAYS])
            if not np.allclose(m.jnt_range[joint], -m.jnt_range[joint][::-1]) and partner[i] == i and sign[i] < 0:
                continue  # a midline joint with a lopsided range has no mirrored grid
            if value > worst:
                worst, where = value, m.joint(joint).name
        if worst > ARM:
            left = subject.muscle_name(b) if subject.muscle_name(b).endswith(("_l", "_left")) else subject.muscle_name(a)
            yield Finding("ERROR", "symmetry.moment_arm", left, 1e3 * worst, "mm",
                          f"moment arm about {where} differs by {1e3 * worst:.1f} mm from the other side's")


def contacts(subject: Subject) -> Iterator[Finding]:
    """Contact pairs without a mirror partner."""
    m = subject.model
    names = [m.geom(g).name for g in range(m.ngeom)]
    known = set(names)
    pairs = {frozenset((names[x], names[y])) for x, y in zip(m.pair_geom1, m.pair_geom2, strict=True)}
    for pair in sorted(pairs, key=sorted):
        if frozenset(_mirror_geom(n, known) for n in pair) not in pairs:
            yield Finding("WARN", "symmetry.contact", ", ".join(sorted(pair)), 1.0, "pair", "no mirrored contact pair")


def _mirror_geom(name: str, known: set[str]) -> str:
    swap = {"r": "l", "l": "r"}
    parts = name.split("_")
    for i, part in enumerate(parts):
        if part in swap:
            other = "_".join([*parts[:i], swap[part], *parts[i + 1 :]])
            if other in known:
                return other
    return mirror_name(name, known)


def unpaired(subject: Subject) -> Iterator[Finding]:
    """Muscles and joints that no other one mirrors."""
    alone = [subject.muscle_name(a) for a in subject.muscles if subject.body.mirror_muscles[a] == a]
    ids, (partner, _) = subject.body.hinge_ids, subject.body.mirror_joints
    alone += [subject.model.joint(int(j)).name for i, j in enumerate(ids) if partner[i] == i]
    if alone:
        yield Finding("INFO", "symmetry.unpaired", f"{len(alone)} elements", float(len(alone)), "", ", ".join(alone))
