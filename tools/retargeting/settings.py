"""The command line of ``tools/retarget.py``: inputs and ``key=value`` settings, from one table that also writes the help."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sim_models.fixes import FIXES
from tools.retargeting.body_model import DOWNLOAD
from tools.retargeting.inputs import UsageError
from tools.retargeting.readers import READERS, Options
from tools.retargeting.smplh import UP_AXES
from tools.retargeting.upstream import FREQUENCY

BODIES = ("myo_fullbody", "myo_bimanual")
UNITS = ("m", "cm", "mm", "inch")
FLAGS = {"true": True, "false": False}
REQUIRED = object()


@dataclass(frozen=True)
class Setting:
    """One key: how its text is read, the value where it is not given, and what it means.

    ``read`` raises ``ValueError`` with what is wanted in its place.
    """

    read: Callable[[str], Any]
    default: Any
    values: str
    meaning: str


def _choice(*choices: str, default: Any, meaning: str) -> Setting:
    def read(text: str) -> str:
        if text not in choices:
            near = get_close_matches(text, choices, n=1)
            raise ValueError(f"choose {'|'.join(choices)}" + (f"; did you mean {near[0]}?" if near else ""))
        return text

    return Setting(read, default, "|".join(choices), meaning)


def _several(known: Collection[str], meaning: str) -> Setting:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(sorted(set(text.split(","))))
        if unknown := [name for name in names if name not in known]:
            near = get_close_matches(unknown[0], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no {unknown[0]!r}: choose of {','.join(known)}{hint}")
        return names

    return Setting(read, (), "NAME,...", meaning)


def _flag(default: bool, meaning: str) -> Setting:
    def read(text: str) -> bool:
        if text not in FLAGS:
            raise ValueError("choose true|false")
        return FLAGS[text]

    return Setting(read, default, "true|false", meaning)


def _number(kind: type, low: float, high: float, unit: str, default: Any, meaning: str) -> Setting:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"{'a whole number' if kind is int else 'a number'} from {low:g} to {high:g} ({unit}) is needed")
        return value

    return Setting(read, default, unit, meaning)


def _unit(text: str) -> str:
    try:
        metres = 1.0 if text in UNITS else float(text)
    except ValueError:
        metres = 0.0
    if not 0.0 < metres < float("inf"):
        raise ValueError(f"choose {'|'.join(UNITS)} or a number of metres")
    return text


def _file(meaning: str, missing: str = "check the path") -> Setting:
    def read(text: str) -> Path:
        if not Path(text).is_file():
            raise ValueError(f"no such file; {missing}")
        return Path(text)

    return Setting(read, None, "FILE", meaning)


SETTINGS: dict[str, Setting] = {
    "body": _choice(*BODIES, default=REQUIRED, meaning="body that the motion is for"),
    "fixes": _several(FIXES, "repairs of the published body (docs/model_validation.md), the same as in the recipe"),
    "out": Setting(Path, REQUIRED, "DIR", "directory of the clips, made where it is missing"),
    "source": _choice("auto", *READERS, default="auto", meaning="reader; auto goes by the suffix"),
    "workers": _number(int, 1, 1024, "processes", 1, "clips a process makes at a time; the result does not depend on it"),
    "split": _file("list of clip names (recipes/splits/*.txt); other captures are left out"),
    "write_trajectory": _flag(False, "also write out/trajectory/NAME.npz as MuscleMimic 0.1.0 reads it (needs fps=100)"),
    "activations": _flag(True, "solve the muscle activations that fit the motion; about half of the time"),
    "fps": _number(float, 1, 10000, "1/s", 100.0, "rate of the clips"),
    "fps_in": _number(float, 1, 10000, "1/s", None, "rate of the captures, where they name none or a wrong one"),
    "asf": _file("skeleton of AMC files; otherwise SUBJECT.asf beside them"),
    "up": _choice(*UP_AXES, default="auto", meaning="vertical axis of npz and BVH files"),
    "units": Setting(_unit, None, "|".join((*UNITS, "METRES")), "unit of length of the captures; otherwise as they say"),
    "mapping": _file("YAML that names the joints of a BVH skeleton which is not recognised"),
    "lead_in": _number(int, 0, 1000000, "frames", None, "frames to drop at the start; otherwise a T-pose is detected"),
    "repair": _flag(True, "bridge captured frames that no body can move through, cut off broken ends; both are counted"),
    "smplh_model": _file("SMPL+H model (npz) for the subject's proportions; otherwise a stand-in body, CC0", DOWNLOAD),
}


def parse(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Inputs, and a value for every setting; ``--some-key`` is short for ``some_key=true``.

    Raises:
        UsageError: a key is unknown, missing or given twice, or a value does not fit.
    """
    inputs: list[str] = []
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("--"):
            key, equals, value = key[2:].replace("-", "_"), "=", value or "true"
        if not equals or Path(argument).exists():
            inputs.append(argument)
        elif key not in SETTINGS:
            near = get_close_matches(key, SETTINGS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"unknown key {key!r}: choose from {', '.join(SETTINGS)}{hint}")
        elif key in given:
            raise UsageError(f"{key} is given twice ({given[key]} and {value}); give it once")
        else:
            given[key] = value
    values = {key: _value(key, setting, given) for key, setting in SETTINGS.items()}
    if values["write_trajectory"] and values["fps"] != FREQUENCY:
        raise UsageError(f"fps={values['fps']:g}: write_trajectory needs fps={FREQUENCY:g}, the rate of the original's files")
    return inputs, values


def _value(key: str, setting: Setting, given: Mapping[str, str]) -> Any:
    if key not in given:
        if setting.default is REQUIRED:
            raise UsageError(f"{key} is missing: give {key}={setting.values}")
        return setting.default
    try:
        return setting.read(given[key])
    except ValueError as error:
        raise UsageError(f"{key}={given[key]}: {error}") from None


def reader_options(values: Mapping[str, Any]) -> Options:
    """The settings that change what a clip looks like."""
    return Options(**{f.name: values[f.name] for f in fields(Options)})


def describe() -> str:
    """The settings as lines of help."""
    lines = []
    for key, setting in SETTINGS.items():
        default = "required" if setting.default is REQUIRED else _shown(setting.default)
        lines.append(f"  {key + '=' + setting.values}\n      {setting.meaning}{f' ({default})' if default else ''}")
    return "\n".join(lines)


def _shown(default: Any) -> str:
    if default in (None, ()):
        return ""
    return f"default {str(default).lower() if isinstance(default, bool) else default}"
