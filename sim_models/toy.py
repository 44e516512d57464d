"""The toy arm: two joints, six muscles, for tests and a first training of minutes."""

from __future__ import annotations

from pathlib import Path

import mujoco

from sim_models import edits
from sim_models.embodiment import Embodiment


def published() -> mujoco.MjSpec:
    """The model as it stands in its file."""
    return mujoco.MjSpec.from_file(str(Path(__file__).with_name("toy_arm.xml")))


def toy_arm(fingers: bool = False, fixes: tuple[str, ...] = ()) -> Embodiment:
    """Compile the toy arm (it has no fingers, so ``fingers`` changes nothing)."""
    spec = published()
    sites = {"shoulder_mimic": "post", "elbow_mimic": "forearm", "hand_mimic": "hand"}
    return Embodiment(
        name="toy_arm",
        model=edits.prepare(spec, sites, fingers, fixes),
        mimic_sites=sites,
        feet={},
        touch_sensors=(),
        lateral_axis=1,
        contact_budget=4,
        constraint_budget=16,
        fixes=fixes,
    )
