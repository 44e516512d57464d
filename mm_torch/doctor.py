"""``python -m mm_torch.doctor [disk=DIR]``: look at this installation and say what is missing for what.

disk        directory whose free space is looked at, for example where runs are to go; default: the present one

One line each: packages and their versions, optional extras, GPU, cores and threads, rendering, recipes, motions and
policy, disk, licences. ``ok`` works, ``none`` is not here and what needs it is named, ``bad`` stands in the way of training.
Exit code: 0, or 1 where something is bad.

Example: python -m mm_torch.doctor disk=runs
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from mm_torch.command import run_command
from mm_torch.config.load import RecipeError, recipe_names
from mm_torch.config.options import read_options
from mm_torch.motion.clip import MotionError
from mm_torch.motion.library import library_clips
from mm_torch.policy.box import boxed_policy
from mm_torch.policy.modules import PolicyFileError
from mm_torch.sim.threads import available_cpus, budget_threads
from mm_torch.video import VideoError, gl_backend
from sim_models.registry import BODIES

OK, NONE, BAD = "ok", "none", "bad"
MIN_FREE_GB = 2.0
CUDA_TORCH = "a CUDA build of torch: make train TORCH_INDEX=https://download.pytorch.org/whl/cu130"
# what each extra is for
EXTRAS = {
    "smpl": "SMPL path of the tests (its licence: non-commercial scientific research only)",
    "ik": "tools/compare_ik.py",
    "hub": "hf://user/repo where a checkpoint or clips are taken, and tools/publish.py",
    "notebook": "docs/first_hour.ipynb",
    "onnx": "mm_torch.export formats=onnx",
    "upstream": "tools/convert_checkpoint.py",
    "viewer": "mm_torch.play viewer=web",
    "test": "make test",
}
LICENCES = (
    ("myo_fullbody, myo_bimanual",
     "their arm (MoBL-ARMS) is for non-commercial purposes only, and so are policies trained on them"),
    ("toy_arm, built-in motions", "Apache-2.0, as mm_torch"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: state (``OK``, ``NONE`` or ``BAD``), what was looked at, what was found or is to be done."""

    state: str
    what: str
    text: str


def main(arguments: list[str]) -> None:
    """Entry point."""
    findings = list(look(Path(read_options(arguments, {"disk": "."})["disk"])))
    print(report(findings))
    if any(f.state == BAD for f in findings):
        raise SystemExit(1)


def look(disk: Path) -> Iterator[Finding]:
    """Everything that is looked at, in the order of the report."""
    yield Finding(OK, "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding(OK, "mm_torch", f"{metadata.version('mm_torch')} in {Path(__file__).parent}")
    yield from packages(metadata.requires("mm_torch") or [], metadata.version)
    yield from gpus()
    yield from threads()
    yield rendering()
    yield from data()
    yield disk_space(disk)
    yield from (Finding(OK, "licence", f"{what}: {terms}") for what, terms in LICENCES)


def packages(requires: Iterable[str], version_of: Callable[[str], str]) -> Iterator[Finding]:
    """Required packages one by one, optional ones by extra.

    Args:
        requires: requirements as in the package's metadata.
        version_of: installed version of a package; raises ``PackageNotFoundError``.
    """
    requirements = [Requirement(text) for text in requires]
    for requirement in [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]:
        found, fits = _installed(requirement, version_of)
        wanted = f"{requirement.name}{requirement.specifier}"
        remedy = f"{found or 'not installed'}; pip install '{wanted}'"
        yield Finding(OK if fits else BAD, requirement.name, found if fits else remedy)
    for extra, purpose in EXTRAS.items():
        members = [r for r in requirements if r.marker is not None and r.marker.evaluate({"extra": extra})]
        missing = [r.name for r in members if not _installed(r, version_of)[1]]
        lacks = f"; lacks {', '.join(missing) or 'its entry in this (older) installation'}: pip install 'mm_torch[{extra}]'"
        there = bool(members) and not missing
        yield Finding(OK if there else NONE, f"extra {extra}", f"for {purpose}{'' if there else lacks}")


def _installed(requirement: Requirement, version_of: Callable[[str], str]) -> tuple[str, bool]:
    """Installed version (empty: none) of a requirement and whether it fits."""
    try:
        found = version_of(requirement.name)
    except metadata.PackageNotFoundError:
        return "", False
    return found, requirement.specifier.contains(found, prereleases=True)


def gpus() -> Iterator[Finding]:
    """CUDA devices, or why there is none."""
    if not torch.cuda.is_available():
        remedy = CUDA_TORCH if torch.version.cuda is None else f"a driver that fits torch's CUDA {torch.version.cuda}"
        yield Finding(NONE, "GPU", f"for profile=cuda; training takes profile=cpu and sim=native. Needs a GPU and {remedy}")
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield Finding(OK, "GPU", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")


def threads() -> Iterator[Finding]:
    """Cores, and how they are shared."""
    budget = budget_threads()
    yield Finding(OK, "threads", f"{available_cpus()} cores: physics {budget.physics}, torch {budget.torch}")
    limit = os.environ.get("OMP_NUM_THREADS")
    if limit is not None:
        yield Finding(OK, "OMP_NUM_THREADS", f"{limit}; training sets torch's threads itself")


def rendering() -> Finding:
    """The OpenGL back end that videos would take."""
    try:
        return Finding(OK, "rendering", gl_backend())
    except VideoError as error:
        return Finding(NONE, "rendering", f"for mm_torch.play and pictures; {error}")


def data() -> Iterator[Finding]:
    """Recipes, built-in motions and the policy that came with the installation."""
    names = recipe_names()
    yield (Finding(OK, "recipes", ", ".join(names)) if names else
           Finding(BAD, "recipes", "none came with this installation; install mm_torch again"))
    for body in BODIES:
        try:
            yield Finding(OK, "motions", f"{len(library_clips(body))} built in for {body}")
        except MotionError as error:
            yield Finding(BAD, "motions", str(error))
    try:
        yield Finding(OK, "policy", f"one in the box, {boxed_policy().stat().st_size / 1e6:.1f} MB: python -m mm_torch.play")
    except PolicyFileError as error:
        yield Finding(NONE, "policy", f"for mm_torch.play without checkpoint=; {error}")


def disk_space(directory: Path) -> Finding:
    """Free space where runs go."""
    if not directory.is_dir():
        raise RecipeError(f"disk={directory}: no such directory; name one that exists")
    free = shutil.disk_usage(directory).free / 1e9
    if not os.access(directory, os.W_OK):
        return Finding(BAD, "disk", f"{directory.resolve()} cannot be written; run where it can, or give run_dir=DIR")
    if free < MIN_FREE_GB:
        return Finding(BAD, "disk", f"{free:.1f} GB free in {directory.resolve()}; a run needs {MIN_FREE_GB:g} GB: make room")
    return Finding(OK, "disk", f"{free:.0f} GB free in {directory.resolve()}")


def report(findings: list[Finding]) -> str:
    """The lines, aligned, and a summary."""
    width = max(len(f.what) for f in findings)
    lines = [f"{f.state:4}  {f.what:{width}}  {f.text}" for f in findings]
    bad, none = ([f.what for f in findings if f.state == state] for state in (BAD, NONE))
    lines.append(f"Training does not work yet: {', '.join(bad)}" if bad else
                 "Training works: python -m mm_torch.train recipe=toy_arm")
    if none:
        lines.append(f"Not here, and needed only for what their lines say: {', '.join(none)}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
