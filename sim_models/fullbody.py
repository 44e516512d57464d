"""MyoFullBody: trunk, arms and legs on a free root (416 muscles; 354 without fingers)."""

from __future__ import annotations

import mujoco
import musclemimic_models

from sim_models import edits
from sim_models.embodiment import Embodiment

ARM_SITES = {
    f"{side}_{site}": f"{bone}_{side[0]}"
    for side in ("left", "right")
    for site, bone in (("shoulder", "humerus"), ("elbow", "ulna"), ("hand", "lunate"))
}
LEG_SITES = {
    f"{side}_{site}": f"{bone}_{side[0]}"
    for side in ("left", "right")
    for site, bone in (("hip", "femur"), ("knee", "tibia"), ("ankle", "talus"), ("toes", "toes"))
}
SOLE_GEOMS = ("foot_col1", "foot_col3", "foot_col4", "bofoot_col1", "bofoot_col2")


def mimic(sites: dict[str, str]) -> dict[str, str]:
    """Site names as published: ``x`` becomes ``x_mimic``."""
    return {f"{site}_mimic": body for site, body in sites.items()}


def published() -> mujoco.MjSpec:
    """The model as published."""
    return mujoco.MjSpec.from_file(str(musclemimic_models.get_xml_path("myofullbody")))


def myo_fullbody(fingers: bool = False, fixes: tuple[str, ...] = ()) -> Embodiment:
    """Compile the full body.  Source: ``musclemimic-models`` (Apache-2.0; the arm carries the MoBL-ARMS terms)."""
    spec = published()
    sites = mimic({"pelvis": "pelvis", "upper_body": "lumbar1", "head": "head"} | ARM_SITES | LEG_SITES)
    return Embodiment(
        name="myo_fullbody",
        model=edits.prepare(spec, sites, fingers, fixes),
        mimic_sites=sites,
        feet={side: tuple(f"{side[0]}_{geom}" for geom in SOLE_GEOMS) for side in ("left", "right")},
        touch_sensors=("r_foot", "r_toes", "l_foot", "l_toes"),
        lateral_axis=0,
        contact_budget=96,
        constraint_budget=768,
        fingers=fingers,
        fixes=fixes,
    )
