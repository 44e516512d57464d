"""Which joint of a BVH skeleton is which: small YAML files, shipped for known skeletons and written by users for others.

======================= =================================================================================== ==============
``joints``              our point or segment to joint of the file; an end site is ``PARENT end``            see ``NEEDED``
``unit``                m, cm, mm, inch or metres of one unit                                               else ``units=``
``up``                  vertical axis of the world, y or z                                                  else ``up=``
``rest``                ``zero``: the pose of all-zero channels stands upright with hanging legs;           ``zero``
                        ``none``: it does not, orientations are calibrated from the motion
``tilted_feet``         the feet of that pose are turned outwards with spread shins                         ``false``
``drop_frames``         first frames that are no motion                                                     0
``recognise``           joints by which a shipped file knows its skeleton
``acknowledgement``     what the captures' owner asks to be said; copied into the clips
======================= =================================================================================== ==============
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mm_torch.config.plain_yaml import LARGEST, YamlError, check_yaml
from tools.retargeting.skeleton import POINTS, SIDES, CaptureError
from tools.retargeting.units import metres

SKELETONS = Path(__file__).parent / "skeletons"
NEEDED = ("pelvis", "trunk", *POINTS)
FINGERS = tuple(f"{side}_fingers" for side in SIDES)  # give the hand's direction; otherwise that of the forearm
UP_AXES, RESTS = ("y", "z"), ("zero", "none")


@dataclass(frozen=True)
class Rig:
    """A skeleton, as the table above says; ``unit`` in m and ``up`` are None where the file leaves them open."""

    name: str
    joints: Mapping[str, str]
    unit: float | None = None
    up: str | None = None
    rest: str = "zero"
    tilted_feet: bool = False
    drop_frames: int = 0
    recognise: tuple[str, ...] = ()
    acknowledgement: str = ""


def read_rig(path: Path) -> Rig:
    """Read a mapping file.

    Raises:
        CaptureError: the file is missing or no mapping; the message names the key and what it takes.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
        check_yaml(text, "the file")
        content = yaml.safe_load(text)
    except YamlError as error:
        raise CaptureError(f"{path}: no YAML that a mapping can be ({error}); see {SKELETONS.name}/ for examples") from None
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}; mapping= takes a YAML file like those in {SKELETONS.name}/") from None
    except (yaml.YAMLError, ValueError) as error:
        raise CaptureError(f"{path}: no YAML ({' '.join(str(error).split())}); see {SKELETONS.name}/ for examples") from None
    if not isinstance(content, dict) or not isinstance(content.get("joints"), dict):
        raise CaptureError(f"{path}: a mapping has the key joints with one line for each of {', '.join(NEEDED)}")
    _known(path, content, {*Rig.__dataclass_fields__} - {"name"})
    _known(path, content["joints"], {*NEEDED, *FINGERS})
    if missing := [name for name in NEEDED if name not in content["joints"]]:
        raise CaptureError(f"{path}: joints lacks {', '.join(missing)}; name the joint of the file that is it")
    values = dict(content, name=path.stem, joints={k: str(v) for k, v in content["joints"].items()})
    if "unit" in content:
        values["unit"] = metres(str(content["unit"]))
    recognise = content.get("recognise", [])
    if not isinstance(recognise, list) or not all(isinstance(name, str) for name in recognise):
        raise CaptureError(f"{path}: recognise: {recognise!r}; a list of joints is needed")
    values["recognise"] = tuple(recognise)
    values["acknowledgement"] = str(content.get("acknowledgement", ""))
    _one_of(path, values, "up", UP_AXES)
    _one_of(path, values, "rest", RESTS)
    _one_of(path, values, "tilted_feet", (False, True))
    if not isinstance(values.get("drop_frames", 0), int) or values.get("drop_frames", 0) < 0:
        raise CaptureError(f"{path}: drop_frames: {values['drop_frames']!r}; a number of frames is needed")
    return Rig(**values)


def _known(path: Path, content: dict[str, Any], names: Collection[str]) -> None:
    for key in content:
        if key not in names:
            near = get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; choose from {', '.join(sorted(names))}"
            raise CaptureError(f"{path}: unknown key {key!r}{hint}")


def _one_of(path: Path, values: dict[str, Any], key: str, choices: tuple[object, ...]) -> None:
    if key in values and values[key] not in choices:
        raise CaptureError(f"{path}: {key}: {values[key]!r}; choose {' or '.join(str(c).lower() for c in choices)}")


@cache
def shipped() -> tuple[Rig, ...]:
    """The skeletons that are recognised."""
    return tuple(read_rig(path) for path in sorted(SKELETONS.glob("*.yaml")))


def rig_for(path: Path, names: Collection[str], mapping: Path | None) -> Rig:
    """The mapping of a BVH file.

    Args:
        path: the file.
        names: its joints.
        mapping: the mapping that the user names, instead of a shipped one.

    Raises:
        CaptureError: the skeleton is unknown, or the mapping names a joint that the file lacks.
    """
    known = [rig for rig in shipped() if set(rig.recognise) <= set(names)]
    if mapping is None and not known:
        raise CaptureError(
            f"{path}: unknown skeleton with root {next(iter(names))!r}; write a mapping like those in "
            f"tools/retargeting/{SKELETONS.name}/ and give mapping=FILE.yaml. Joints of the file: {', '.join(names)}"
        )
    rig = known[0] if mapping is None else read_rig(mapping)
    for ours, theirs in rig.joints.items():
        if theirs not in names:
            near = get_close_matches(theirs, names, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; its joints are {', '.join(names)}"
            raise CaptureError(f"{path}: no joint {theirs!r}, which mapping {rig.name} takes for {ours}{hint}")
    return rig
