"""MyoBimanualArm: both arms on a fixed thorax (126 muscles; 64 without fingers)."""

from __future__ import annotations

import mujoco
import musclemimic_models

from sim_models import edits
from sim_models.embodiment import Embodiment
from sim_models.fullbody import ARM_SITES, mimic


def published() -> mujoco.MjSpec:
    """The model as published."""
    return mujoco.MjSpec.from_file(str(musclemimic_models.get_xml_path("bimanual")))


def myo_bimanual(fingers: bool = False, fixes: tuple[str, ...] = ()) -> Embodiment:
    """Compile the arms.  Source: ``musclemimic-models`` (Apache-2.0; the arm carries the MoBL-ARMS terms)."""
    spec = published()
    sites = mimic({"upper_body": "thorax"} | ARM_SITES)
    return Embodiment(
        name="myo_bimanual",
        model=edits.prepare(spec, sites, fingers, fixes),
        mimic_sites=sites,
        feet={},
        touch_sensors=(),
        lateral_axis=0,
        contact_budget=32,
        constraint_budget=256,
        fingers=fingers,
        fixes=fixes,
    )
