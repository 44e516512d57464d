"""The history file: one JSON object a line, with what it ran on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mm_torch.config.load import RecipeError
from mm_torch.sim.threads import available_cpus

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mujoco", "mujoco-warp", "torch", "torchrl", "lightning", "numpy")


def surroundings() -> dict[str, Any]:
    """Time (UTC), versions, device, cores, load of the machine and revision of the source."""
    cuda = torch.cuda.is_available()
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "revision": git.stdout.strip() or None,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "cores": available_cpus(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def append(path: Path, figures: Mapping[str, Any]) -> None:
    """Add one line; the directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({**figures, **surroundings()}, allow_nan=False)
    with path.open("a") as file:
        file.write(line + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All lines of a history.

    Raises:
        RecipeError: no such file, or a line that is no JSON object.
    """
    if not path.is_file():
        raise RecipeError(f"history={path}: no such file; a sweep writes one")
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise RecipeError(f"{path}, line {number}: not JSON ({error}); take that line out") from None
        if not isinstance(record, dict):
            raise RecipeError(f"{path}, line {number}: not an object; take that line out")
        records.append(record)
    return records
