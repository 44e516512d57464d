"""Names of muscles and fingers: side, mirror partner and group, read off the published naming scheme."""

from __future__ import annotations

import re

FINGER_JOINT = re.compile(r"^(?:(?:cmc|mp|ip)|(?:mcp|pm|md)[2-5])_(?:flexion|abduction)_[rl]$")
FINGER_MUSCLE = re.compile(
    r"^(?:(?:FDS|FDP|EDC|RI|LU_RB|UI_UB)[2-5]|EDM|EIP|EPL|EPB|FPL|APL|OP)(?:_left)?$"
)
FINGER_TENDON = re.compile(FINGER_MUSCLE.pattern.replace("(?:_left)?$", "_tendon(?:_left)?$"))

_WRIST_AND_SHOULDER = re.compile(
    r"^(?:DELT[123]|SUPSP|INFSP|SUBSC|TMIN|TMAJ|PECM[123]|LAT[123]|CORB|TRI(?:long|lat|med)|ANC|SUP|BIC(?:long|short)"
    r"|BRA|BRD|ECR[LB]|ECU|FC[RU]|PL|PT|PQ)(?:_left)?$"
)
_LEG = re.compile(
    r"^(?:add(?:brev|long|mag\w+)|bf[ls]h|e[dh]l|f[dh]l|gas(?:lat|med)|gl(?:max|med|min)[123]|grac|iliacus|per(?:brev|long)"
    r"|piri|psoas|recfem|sart|semi(?:mem|ten)|soleus|tfl|tib(?:ant|post)|vas(?:int|lat|med))_[rl]$"
)


def mirror_name(name: str, names: set[str]) -> str:
    """Partner of a left or right element, or the name itself where the element lies on the midline.

    Args:
        name: element name: ``x_r``/``x_l``, ``x``/``x_left`` (arm muscles) ``right_x``/``left_x`` (sites)
            or ``r_x``/``l_x`` (sensors).
        names: all names of that kind of element; the partner is one of them.
    """
    candidates = (
        re.sub(r"_r$", "_l", name),
        re.sub(r"_l$", "_r", name),
        re.sub(r"_left$", "", name),
        f"{name}_left",
        re.sub(r"^right_", "left_", name),
        re.sub(r"^left_", "right_", name),
        re.sub(r"^r_", "l_", name),
        re.sub(r"^l_", "r_", name),
    )
    return next((c for c in candidates if c != name and c in names), name)


def muscle_group(name: str) -> str:
    """Group of a muscle: ``{right,left}_{hand,arm,leg}`` or ``trunk``."""
    side = "left" if name.endswith(("_left", "_l")) else "right"
    if FINGER_MUSCLE.match(name):
        return f"{side}_hand"
    if _WRIST_AND_SHOULDER.match(name):
        return f"{side}_arm"
    return f"{side}_leg" if _LEG.match(name) else "trunk"
