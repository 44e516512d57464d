"""Activation bars as HTML: muscle groups, or the muscles of one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from mm_torch.viewer.scene import ACTIVE, ARROW, GHOST, RELAXED, activation_colours

GROUPS = "all groups (mean)"
_ROW = ('<div style="display:flex;align-items:center;gap:6px;font:11px sans-serif;margin:1px 0">'
        '<span style="flex:0 0 44%;text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap">{name}</span>'
        '<span style="flex:1;background:#8883;height:9px"><span style="display:block;width:{percent:.0f}%;height:9px;'
        'background:{colour}"></span></span><span style="flex:0 0 2.2em">{value:.2f}</span></div>')


def activations_shown(
    act: np.ndarray, names: Sequence[str], groups: Mapping[str, np.ndarray], shown: str
) -> dict[str, float]:
    """Label to activation: the mean of each group for ``GROUPS``, else the muscles of the group ``shown``.

    Args:
        act: (M,) activations.
        names: (M,) muscles.
        groups: group to muscle ids.
        shown: name of a group, or ``GROUPS``.
    """
    if shown == GROUPS:
        return {name.replace("_", " "): float(act[ids].mean()) for name, ids in groups.items()}
    return {names[i]: float(act[i]) for i in groups[shown]}


def bars(values: Mapping[str, float]) -> str:
    """A row for each activation in [0, 1]: name, bar in the colour of the muscle, value."""
    return "".join(_ROW.format(name=escape(name), percent=100 * min(max(value, 0.0), 1.0), value=value,
                               colour=css(activation_colours(np.array(value)))) for name, value in values.items())


def css(rgba: Sequence[float] | np.ndarray) -> str:
    """A colour as CSS, without its transparency."""
    return "rgb({}, {}, {})".format(*(round(255 * float(c)) for c in rgba[:3]))


def legend() -> str:
    """What the colours mean."""
    return (
        '<div style="font:11px/1.5 sans-serif;padding:4px 12px">'
        f'<span>activation 0 <span style="display:inline-block;width:70px;height:9px;background:linear-gradient(to right,'
        f'{css(RELAXED)},{css(ACTIVE)})"></span> 1</span><br>'
        f'<span style="color:{css(GHOST)}">&#9632;</span> reference &ensp; '
        f'<span style="color:{css(ARROW)}">&#8593;</span> force of the ground, 1 m = 1000 N<br>grid: 0.5 m</div>'
    )
