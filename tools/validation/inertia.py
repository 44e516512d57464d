"""Mass and inertia: phantom inertias, triangle inequality; segments' masses, centres and radii against tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

import mujoco
import numpy as np

from tools.validation.findings import Finding
from tools.validation.subject import Subject

MAX_GYRATION = 0.5  # m; harmless 1 g attachment frames reach 0.32 m
SEGMENTS = {  # segment, one side: bodies, de Leva 1996 male %, Winter 2009 % (J Biomech 29:1223)
    "head and neck": (r"neck|head", 6.94, 8.1),
    "lumbar": (r"lumbar[1-5]|Abdomen", 16.33, 13.9),
    "thorax": (r"torso", 15.96, 21.6),
    "pelvis and sacrum": (r"pelvis|sacrum", 11.17, 14.2),
    "upper arm": (r"humerus_r", 2.71, 2.8),
    "forearm": (r"(?:ulna|radius)_r", 1.62, 1.6),
    "thigh": (r"(?:femur|patella)_r", 14.16, 10.0),
    "shank": (r"tibia_r", 4.33, 4.65),
    "foot": (r"(?:talus|calcn|toes)_r", 1.37, 1.45),
}
WHOLE = {"head", "pelvis", "femur_r"}  # a body without these is a part, and fractions of its mass mean nothing
OFF = 0.25
# limb, one side: bodies, where it begins and ends (origins), then by table (de Leva 1996 male, Winter 2009): its centre of
# mass from there and its radius of gyration across, in % of its length (de Leva: mean of the sagittal and frontal ones)
LIMBS = {
    "upper arm": (r"humerus_r", "humerus_r", "ulna_r", (57.72, 43.6), (27.7, 32.2)),
    "forearm": (r"(?:ulna|radius)_r", "ulna_r", "lunate_r", (45.74, 43.0), (27.1, 30.3)),
    "thigh": (r"(?:femur|patella)_r", "femur_r", "tibia_r", (40.95, 43.3), (32.9, 32.3)),
    "shank": (r"tibia_r", "tibia_r", "talus_r", (43.95, 43.3), (24.9, 30.2)),
}
CENTRE_OFF = 5.0  # % of the limb's length


def phantom(subject: Subject) -> Iterator[Finding]:
    """Bodies whose inertia belongs to no body of that mass, or to none at all."""
    m = subject.model
    for b in range(1, m.nbody):
        name, mass, inertia = m.body(b).name, m.body_mass[b], np.sort(m.body_inertia[b])
        if mass <= 0:
            if mass < 0 or inertia.max() > 0:
                yield Finding("ERROR", "inertia.mass", name, float(mass), "kg", f"mass {mass:.3g} kg with inertia")
            continue
        radius = float(np.sqrt(inertia[2] / mass))
        if radius > MAX_GYRATION:
            yield Finding("ERROR", "inertia.gyration", name, radius, "m",
                          f"{mass:.3g} kg with {inertia[2]:.3g} kg m^2: radius of gyration {radius:.2f} m")
        if inertia[0] + inertia[1] < inertia[2] * (1 - 1e-6):
            yield Finding("ERROR", "inertia.triangle", name, float(inertia[2] / (inertia[0] + inertia[1])), "",
                          "principal inertias violate the triangle inequality")


def fractions(subject: Subject) -> Iterator[Finding]:
    """Segment masses that are off by more than 25 % from both tables."""
    m = subject.model
    names = [m.body(b).name for b in range(m.nbody)]
    if not set(names) >= WHOLE:
        return
    total = m.body_mass.sum()
    for segment, (pattern, *tables) in SEGMENTS.items():
        mine = 100 * sum(m.body_mass[b] for b, n in enumerate(names) if re.fullmatch(pattern, n)) / total
        off = [mine / t - 1 for t in tables]
        level = "WARN" if min(abs(o) for o in off) > OFF else "INFO"
        yield Finding(level, "inertia.fraction", segment, float(mine), "% of body mass",
                      f"{mine:.2f} %; de Leva {tables[0]} ({off[0]:+.0%}), Winter {tables[1]} ({off[1]:+.0%})")


def limbs(subject: Subject) -> Iterator[Finding]:
    """Centre of mass and radius of gyration of each limb at neutral, along and across the line between its joints."""
    m, data = subject.model, subject.data
    names = [m.body(b).name for b in range(m.nbody)]
    data.qpos[:] = subject.neutral
    mujoco.mj_kinematics(m, data)
    for limb, (pattern, first, last, centres, radii) in LIMBS.items():
        if first not in names or last not in names:
            continue
        line = data.body(last).xpos - data.body(first).xpos
        length = float(np.linalg.norm(line))
        bodies = [b for b, n in enumerate(names) if re.fullmatch(pattern, n)]
        centre, radius = _centre_and_radius(subject, bodies, line / length)
        along = 100 * float((centre - data.body(first).xpos) @ line) / length**2
        off = [along - c for c in centres]
        level = "WARN" if min(abs(o) for o in off) > CENTRE_OFF else "INFO"
        yield Finding(level, "inertia.centre", limb, along, "% of length",
                      f"centre of mass {along:.1f} % of {1e3 * length:.0f} mm from the proximal joint; de Leva {centres[0]} "
                      f"({off[0]:+.1f}), Winter {centres[1]} ({off[1]:+.1f})")
        across = 100 * radius / length
        off = [across / r - 1 for r in radii]
        level = "WARN" if min(abs(o) for o in off) > OFF else "INFO"
        yield Finding(level, "inertia.radius", limb, across, "% of length",
                      f"radius of gyration across {across:.1f} %; de Leva {radii[0]} ({off[0]:+.0%}), "
                      f"Winter {radii[1]} ({off[1]:+.0%})")


def _centre_and_radius(subject: Subject, bodies: list[int], axis: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre of mass (3,) of bodies in m, world, and their mean radius of gyration in m about it, across ``axis``.

    ``r^2 = (tr(I) - axis' I axis) / (2 m)``.
    """
    m, data = subject.model, subject.data
    mass = m.body_mass[bodies]
    centre = mass @ data.xipos[bodies] / mass.sum()
    inertia = np.zeros((3, 3))
    for b in bodies:
        turn, arm = data.ximat[b].reshape(3, 3), data.xipos[b] - centre
        inertia += turn @ np.diag(m.body_inertia[b]) @ turn.T + m.body_mass[b] * (arm @ arm * np.eye(3) - np.outer(arm, arm))
    return centre, float(np.sqrt((np.trace(inertia) - axis @ inertia @ axis) / (2 * mass.sum())))
