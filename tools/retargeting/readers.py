"""A file in, a motion in the common form out: which reader a file needs, and what it may have to be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mm_torch.motion.clip import RATES
from mm_torch.motion.npz import npz_keys
from tools.retargeting.asf import INCH, RATE, load_amc, skeleton_of
from tools.retargeting.bvh import load_bvh
from tools.retargeting.lead_in import without_lead_in
from tools.retargeting.mot import load_mot
from tools.retargeting.repair import repaired
from tools.retargeting.skeleton import Capture, CaptureError, JointMotion
from tools.retargeting.smplh import load_amass
from tools.retargeting.trajectory import load_trajectory
from tools.retargeting.units import check_size, metres


@dataclass(frozen=True)
class Options:
    """What the command line sets.

    =========== ============================================================================================= ======
    fps         rate of the clips                                                                             1/s
    source      reader by name, or ``auto``
    asf         skeleton of AMC files, where it is not beside them
    fps_in      rate of the captures, where they name none or a wrong one                                     1/s
    up          vertical axis of the files: y, z or auto
    units       unit of length of the files: m, cm, mm, inch or a number of metres; None: as the file says
    mapping     YAML that names the joints of a BVH skeleton
    lead_in     first frames to drop; None: found by a jump
    repair      whether frames that no body can move through are bridged, and cut off at the ends
    smplh_model SMPL+H (or SMPL-X) model as npz, for the subject's proportions
    activations whether muscles are solved
    fixes       repairs of the published body (``sim_models.fixes``)
    =========== ============================================================================================= ======
    """

    fps: float = 100.0
    source: str = "auto"
    asf: Path | None = None
    fps_in: float | None = None
    up: str = "auto"
    units: str | None = None
    mapping: Path | None = None
    lead_in: int | None = None
    repair: bool = True
    smplh_model: Path | None = None
    activations: bool = True
    fixes: tuple[str, ...] = ()


Motion = Capture | JointMotion
Reader = Callable[[Path, Options], Motion]


def _unit(options: Options, default: float) -> float:
    return default if options.units is None else metres(options.units)


def _read_amass(path: Path, options: Options) -> Capture:
    return load_amass(path, options.fps_in, options.up, options.smplh_model, _unit(options, 1.0))


def _read_amc(path: Path, options: Options) -> Capture:
    return load_amc(path, options.asf, options.fps_in or RATE, _unit(options, INCH))


def _read_bvh(path: Path, options: Options) -> Capture:
    unit = None if options.units is None else metres(options.units)
    return load_bvh(path, options.mapping, options.fps_in, None if options.up == "auto" else options.up, unit)


def _read_mot(path: Path, options: Options) -> JointMotion:
    return load_mot(path, options.fps_in, options.units)


def _read_trajectory(path: Path, options: Options) -> JointMotion:
    return load_trajectory(path, options.fps_in)


READERS: dict[str, Reader] = {
    "amass": _read_amass,
    "smplx": _read_amass,
    "asf": _read_amc,
    "bvh": _read_bvh,
    "mot": _read_mot,
    "trajectory": _read_trajectory,
}
SUFFIXES = {".npz": "amass", ".amc": "asf", ".bvh": "bvh", ".mot": "mot"}


def read_capture(path: Path, options: Options) -> Motion:
    """Read a capture with the named reader, or with the one that its suffix (of an npz: its keys) asks for.

    Raises:
        CaptureError: the suffix belongs to no reader, or the file cannot be used.
    """
    motion = READERS[_source(path, options)](path, options)
    motion.check(str(path))
    if not RATES[0] <= motion.fps <= RATES[1]:
        raise CaptureError(f"{path}: frame rate {motion.fps:g} is none that motions are recorded at; give fps_in=")
    if isinstance(motion, JointMotion):
        return _cut(motion, str(path), options.lead_in or 0)
    motion = without_lead_in(motion, str(path), options.lead_in)
    check_size(motion, str(path), options.units is not None)
    return repaired(motion) if options.repair else motion


def _source(path: Path, options: Options) -> str:
    if options.source != "auto":
        return options.source
    source = SUFFIXES.get(path.suffix.lower())
    if source is None:
        raise CaptureError(f"{path}: no reader for suffix {path.suffix!r}; name one with source={'|'.join(READERS)}")
    return "trajectory" if source == "amass" and "qpos" in npz_keys(path) else source


def _cut(motion: JointMotion, name: str, frames: int) -> JointMotion:
    """The motion without its first frames; joint angles are the outcome of somebody's work, in which no jump is sought."""
    motion = motion.drop(frames).noting(lead_in=frames)
    motion.check(f"{name}: after lead_in={frames}" if frames else name)
    return motion


def source_files(path: Path, options: Options) -> list[Path]:
    """Files that decide what is read: the capture, and of skeleton, mapping and body model those that it needs.

    A file that is missing is left out; the reader says so.
    """
    source = SUFFIXES.get(path.suffix.lower()) if options.source == "auto" else options.source
    needed = {"asf": skeleton_of(path, options.asf), "bvh": options.mapping, "amass": options.smplh_model,
              "smplx": options.smplh_model}.get(str(source))
    return [path, *([needed] if needed is not None and needed.is_file() else [])]
