"""Mass and inertia: phantom inertias, triangle inequality, segment masses against anthropometric tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

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
