"""Motion capture to clips: ``python tools/retarget.py INPUTS... body=NAME out=DIRECTORY [key=value ...]``.

Inputs are files, directories or patterns: AMASS npz (SMPL+H or SMPL-X), AMC with its ASF beside it, CMU BVH. Each
becomes ``out/<name>.npz``; ``out/manifest.json`` holds status and figures of every clip. A file that cannot be used is
reported and the others are made all the same; the exit code is 1 when any failed, 2 when the command is wrong.

Keys: ``body`` (myo_fullbody, myo_bimanual), ``out``, ``source`` (auto, amass, smplx, asf, bvh), ``fps`` (100), ``asf``
(skeleton of AMC files), ``fps_in`` (rate of the capture, where the file names none), ``up`` (auto, y, z: vertical
axis of npz files), ``smplh_model`` (SMPL+H model as npz for the subject's proportions; a stand-in skeleton otherwise),
``activations`` (true; false leaves out the muscle activations that fit the motion, about half of the time).
"""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from difflib import get_close_matches
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.motion.clip import MotionError
from sim_models.registry import load_body
from tools.retargeting.metrics import Metrics
from tools.retargeting.pipeline import READERS, SUFFIXES, Options, make_clip
from tools.retargeting.skeleton import CaptureError
from tools.retargeting.smplh import UP_AXES

BODIES = ("myo_fullbody", "myo_bimanual")
KEYS = ("body", "out", "source", "fps", "asf", "fps_in", "up", "smplh_model", "activations")


class UsageError(ValueError):
    """The command line is wrong; the message says how to put it right."""


def parse(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Split a command line into inputs and settings.

    Raises:
        UsageError: a key is unknown.
    """
    inputs, settings = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or Path(argument).exists():
            inputs.append(argument)
        elif key in KEYS:
            settings[key] = value
        else:
            near = get_close_matches(key, KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"unknown key {key!r}: choose from {', '.join(KEYS)}{hint}")
    return inputs, settings


def _choice(settings: dict[str, str], key: str, choices: tuple[str, ...], default: str | None = None) -> str:
    value = settings.get(key, default)
    if value not in choices:
        given = "is missing" if value is None else f"{value!r} is unknown"
        raise UsageError(f"{key} {given}: give {key}={'|'.join(choices)}")
    return value


def _rate(settings: dict[str, str], key: str) -> float | None:
    if key not in settings:
        return None
    try:
        value = float(settings[key])
    except ValueError:
        value = float("nan")
    if not 1.0 <= value <= 10000.0:
        raise UsageError(f"{key}={settings[key]}: a rate between 1 and 10000 frames per second is needed")
    return value


def read_options(settings: dict[str, str]) -> Options:
    """Options of a command line.

    Raises:
        UsageError: a value is out of range or names no file.
    """
    files = {key: Path(settings[key]) if key in settings else None for key in ("asf", "smplh_model")}
    for key, path in files.items():
        if path is not None and not path.is_file():
            raise UsageError(f"{key}={path}: no such file")
    return Options(
        fps=_rate(settings, "fps") or 100.0,
        source=_choice(settings, "source", ("auto", *READERS), "auto"),
        fps_in=_rate(settings, "fps_in"),
        up=_choice(settings, "up", UP_AXES, "auto"),
        activations=_choice(settings, "activations", ("true", "false"), "true") == "true",
        **files,
    )


def find_inputs(inputs: list[str]) -> list[Path]:
    """Files named by paths, directories (searched through) and patterns, each once, in order.

    Raises:
        UsageError: an input names nothing.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        if Path(item).is_dir():
            paths = sorted(p for p in Path(item).rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            paths = [Path(item)] if Path(item).is_file() else sorted(Path(p) for p in glob.glob(item, recursive=True))
        if not paths:
            raise UsageError(f"{item}: no motion capture found there; check the path")
        found.update(dict.fromkeys(paths))
    if not found:
        raise UsageError("no inputs: python tools/retarget.py INPUTS... body=NAME out=DIRECTORY")
    return list(found)


def clip_names(paths: list[Path]) -> list[str]:
    """A name per file: its stem, with the suffix and then the directory where stems are not unique."""
    names = [path.stem for path in paths]
    suffixed = [f"{path.stem}_{path.suffix[1:].lower()}" for path in paths]
    names = [longer if names.count(name) > 1 else name for name, longer in zip(names, suffixed, strict=True)]
    placed = [f"{path.resolve().parent.name}_{name}" for path, name in zip(paths, names, strict=True)]
    names = [longer if names.count(name) > 1 else name for name, longer in zip(names, placed, strict=True)]
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise UsageError(f"several inputs would be written to {twice}.npz; make them in two calls")
    return names


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def run(paths: list[Path], body_name: str, out: Path, options: Options) -> int:
    """Make all clips; returns how many failed."""
    body = load_body(body_name)
    out.mkdir(parents=True, exist_ok=True)
    clips: dict[str, dict[str, Any]] = {}
    done: list[Metrics] = []
    for path, name in zip(paths, clip_names(paths), strict=True):
        start = time.perf_counter()
        try:
            clip, metrics = make_clip(body, path, options, name)
            clip.save(out / f"{name}.npz")
        except (CaptureError, MotionError, OSError, ArithmeticError) as error:
            clips[name] = {"status": "failed", "file": str(path), "error": str(error)}
            print(f"{name:24s} failed: {error}", flush=True)
        else:
            done.append(metrics)
            clips[name] = {"status": "ok", "file": str(path), "metrics": metrics.as_dict()}
            print(f"{name:24s} {metrics.line()}  ({time.perf_counter() - start:.1f} s)", flush=True)
        write_manifest(out / "manifest.json", {"body": body_name, "fps": options.fps, "clips": clips})
    if done:
        frames = sum(m.frames for m in done)
        print(f"{len(done)} of {len(paths)} clips, {frames} frames, {sum(m.seconds for m in done):.1f} s; fit "
              f"{sum(m.rmse_cm * m.frames for m in done) / frames:.2f} cm, deepest penetration "
              f"{max(m.penetration_mm for m in done):.1f} mm, in {out}")
    return len(paths) - len(done)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    try:
        inputs, settings = parse(arguments)
        body_name = _choice(settings, "body", BODIES)
        if "out" not in settings:
            raise UsageError("out is missing: give out=DIRECTORY")
        options, paths = read_options(settings), find_inputs(inputs)
        clip_names(paths)
    except UsageError as error:
        print(f"retarget: {error}", file=sys.stderr)
        return 2
    return 1 if run(paths, body_name, Path(settings["out"]), options) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
