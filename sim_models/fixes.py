"""Optional repairs of the published models, by name; a body without any is the published one, unchanged.

``docs/model_validation.md`` shows what each changes, before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import mujoco
import numpy as np

PHANTOMS = tuple(f"{name}_{side}" for name in ("clavphant", "scapphant", "humphant", "humphant1") for side in "rl")
PHANTOM_INERTIA = 1e-4  # kg m^2, the least that the models' compiler lets through and what their other 1 g frames have
SHOULDERS = tuple(f"{name}_{side}" for name in ("elv_angle", "shoulder_elv", "shoulder_rot") for side in "rl")
SHOULDER_ARMATURE = 0.01  # kg m^2, as the models give hips, knees and elbows
KNEES = ("knee_angle_r", "knee_angle_l")
LAT1_SHIFT = -0.11  # m, see `_lat1_length`


class FixError(ValueError):
    """No fix has the name asked for, or it does not apply to the body."""


@dataclass(frozen=True)
class Fix:
    """A repair: what it does in a sentence, the element that tells whether a model has the defect, and the edit."""

    description: str
    needs: Callable[[mujoco.MjSpec], object]
    apply: Callable[[mujoco.MjSpec], None]


def _phantom_inertia(spec: mujoco.MjSpec) -> None:
    """Replace the frames' inertia by the least, and the joints' that lived on it by the armature of the other large joints.

    A hanging arm leaves hardly any inertia about ``elv_angle``: without armature the simulation becomes unstable there.
    """
    for name in (*PHANTOMS, "thorax"):
        body = spec.body(name)
        if body is not None and body.mass < 0.01:
            body.inertia = [PHANTOM_INERTIA] * 3
            body.fullinertia = [float("nan")] * 6
    for name in SHOULDERS:
        spec.joint(name).armature = SHOULDER_ARMATURE


def _long_thoracic(spec: mujoco.MjSpec) -> None:
    for site in spec.sites:
        if site.name.startswith("LTpT_T12_l_") and site.pos[2] > 0:
            site.pos = site.pos * [1.0, 1.0, -1.0]


def _lat1_length(spec: mujoco.MjSpec) -> None:
    """Shift the declared length range, which shortens the tendon and keeps fibre length and force.

    The published wrapping of LAT1 made its path shorter; its length range still belongs to the longer one.
    """
    for name in ("LAT1", "LAT1_left"):
        muscle = spec.actuator(name)
        muscle.lengthrange = muscle.lengthrange + LAT1_SHIFT


def _knee_ranges(spec: mujoco.MjSpec) -> None:
    """Widen the range of every joint that a knee drives to the values of its polynomial over the knee's range.

    Extremes lie at the ends and where the derivative is zero.
    """
    for coupling in spec.equalities:
        if coupling.name2 in KNEES:
            polynomial = np.polynomial.Polynomial(coupling.data[:5])
            low, high = spec.joint(coupling.name2).range
            turns = polynomial.deriv().roots()
            turns = turns.real[(np.abs(turns.imag) < 1e-9) & (turns.real > low) & (turns.real < high)]
            values, joint = polynomial(np.array([low, high, *turns])), spec.joint(coupling.name1)
            joint.range = [min(joint.range[0], values.min()), max(joint.range[1], values.max())]


FIXES: dict[str, Fix] = {
    "phantom_inertia": Fix(
        "1 g frames of the shoulder (and of the thorax) get the inertia of a small body in place of up to 1 kg m^2, shoulder "
        "joints an armature",
        lambda spec: spec.body("clavphant_r"), _phantom_inertia),
    "long_thoracic_left": Fix(
        "the path of LTpT_T12_l is mirrored to the left side; published, it lies on the right",
        lambda spec: spec.actuator("LTpT_T12_l"), _long_thoracic),
    "lat1_length": Fix(
        f"LAT1 and LAT1_left get a length range shifted by {1e3 * LAT1_SHIFT:.0f} mm, in which they produce force",
        lambda spec: spec.actuator("LAT1"), _lat1_length),
    "knee_ranges": Fix(
        "joints that the knee drives get ranges that hold what their polynomials take, up to 0.25 mrad and 0.04 mm more",
        lambda spec: spec.joint(KNEES[0]), _knee_ranges),
}


def apply_fixes(spec: mujoco.MjSpec, names: Sequence[str]) -> None:
    """Apply fixes to a published model, in place.

    Args:
        spec: published model.
        names: keys of ``FIXES``.

    Raises:
        FixError: a name is unknown, or the model lacks what the fix repairs.
    """
    for name in names:
        if name not in FIXES:
            near = get_close_matches(name, FIXES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise FixError(f"unknown fix {name!r}: choose of {', '.join(FIXES)}{hint}")
        if FIXES[name].needs(spec) is None:
            raise FixError(f"fix {name!r} does not apply to {spec.modelname!r}, which lacks the part it repairs")
        FIXES[name].apply(spec)
