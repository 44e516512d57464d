"""CMU's original captures: an ASF skeleton and an AMC motion.

Source: Acclaim format. Lengths are inches divided by the length unit of the file (CMU: 0.45), angles degrees; a bone
turns by ``C Rz Ry Rx C^T`` with ``C = Rz Ry Rx`` of its axis; the rest pose faces +Z, Y up. AMC files carry no frame
rate: that of the CMU database is 120 Hz, and only its skeleton is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.retargeting import rotations
from tools.retargeting.skeleton import SIDES, Capture, CaptureError, assemble

INCH = 0.0254
RATE = 120.0
LARGEST = 1e9  # of any unit and angle
PROVENANCE = {
    "format": "ASF/AMC",
    "acknowledgement": "The data used in this project was obtained from mocap.cs.cmu.edu. "
    "The database was created with funding from NSF EIA-0196217.",
}
_PAIRED = ("hipjoint", "femur", "tibia", "foot", "toes", "clavicle", "humerus", "radius", "wrist", "hand")
_NEEDED = {"root", "thorax", *(side + bone for side in "lr" for bone in _PAIRED)}


@dataclass(frozen=True)
class Bone:
    """A bone of the rest pose: parent's name, end minus start (3,) m, frame (3, 3) and the names of its angles."""

    parent: str
    offset: np.ndarray
    frame: np.ndarray
    dof: tuple[str, ...]


def euler(degrees: np.ndarray) -> np.ndarray:
    """``Rz Ry Rx`` (..., 3, 3) of angles (..., 3) about x, y, z in degrees."""
    x, y, z = (rotations.about_axis(a, np.radians(degrees[..., a])) for a in range(3))
    return z @ y @ x


def read_asf(path: Path, unit: float = INCH) -> tuple[dict[str, Bone], float]:
    """Bones by name, parents first, and the length unit in m.

    Args:
        path: the skeleton.
        unit: metres of what lengths are given in, before the file's own divisor.

    Raises:
        CaptureError: the file is no ASF skeleton, is damaged, or lacks bones of the CMU skeleton.
    """
    text = read_text(path)
    sections: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words and words[0].startswith(":"):
            sections[words[0]] = current = []
        elif words and sections:
            current.append(words)
    if not {":units", ":bonedata", ":hierarchy"} <= sections.keys():
        raise CaptureError(f"{path}: not an ASF skeleton (:units, :bonedata and :hierarchy are needed)")
    if ["angle", "rad"] in sections[":units"]:
        raise CaptureError(f"{path}: angles in radians; only degrees are read: convert the skeleton and its motions")
    try:
        unit /= next((float(w[1]) for w in sections[":units"] if w[0] == "length"), 1.0)
        bones = _bones(sections[":hierarchy"], _bone_records(sections[":bonedata"]), unit)
    except (ValueError, LookupError, ZeroDivisionError) as error:
        raise CaptureError(f"{path}: the skeleton is damaged ({error}); copy the file again") from None
    if missing := sorted(_NEEDED - bones.keys()):
        raise CaptureError(f"{path}: bone {missing[0]} is missing; only the CMU skeleton is supported")
    return bones, unit


def _bones(
    hierarchy: list[list[str]], records: dict[str, dict[str, list[str]]], unit: float
) -> dict[str, Bone]:
    if not 0.0 < unit < float("inf"):
        raise ValueError(f"length unit {unit:g} m")
    bones = {"root": Bone("", np.zeros(3), np.eye(3), ("rx", "ry", "rz"))}
    for parent, *children in hierarchy:
        for child in children if parent not in ("begin", "end") else ():
            if parent not in bones or child in bones:
                raise ValueError(f"the hierarchy names {child} twice or before its parent {parent}")
            values = records[child]
            x, y, z = numbers(values["direction"][:3])
            a, b, c = numbers(values["axis"][:3])
            (length,) = numbers(values["length"][:1])
            bones[child] = Bone(
                parent,
                np.array([x, y, z]) * length * unit,
                euler(np.array([a, b, c])),
                tuple(values.get("dof", ())),
            )
    return bones


def _bone_records(lines: list[list[str]]) -> dict[str, dict[str, list[str]]]:
    records: dict[str, dict[str, list[str]]] = {}
    record: dict[str, list[str]] = {}
    for key, *values in lines:
        if key == "begin":
            record = {}
        elif key == "end":
            records[record["name"][0]] = record
        else:
            record.setdefault(key, values)
    return records


def read_amc(path: Path, bones: dict[str, Bone]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Root positions (F, 3) in file units and angles (F, 3) about x, y, z in degrees by bone.

    Raises:
        CaptureError: a line is not understood, or a bone is unknown to the skeleton or has another number of angles.
    """
    order = {"rx": 0, "ry": 1, "rz": 2}
    frames: list[dict[str, list[float]]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0][0] in "#:":
            continue
        if len(words) == 1 and words[0].isdigit():
            frames.append({})
            continue
        wanted = 6 if words[0] == "root" else len(bones[words[0]].dof) if words[0] in bones else -1
        if not frames or len(words) - 1 != wanted:
            raise CaptureError(f"{path}:{number}: {line[:40]!r} does not fit the skeleton; name another with asf=")
        try:
            frames[-1][words[0]] = numbers(words[1:])
        except ValueError as error:
            raise CaptureError(f"{path}:{number}: {error}; the file is damaged, copy it again") from None
    if not frames or any("root" not in frame for frame in frames):
        raise CaptureError(f"{path}: no frames, or a frame without root; the file is truncated or no AMC")
    root = np.array([frame["root"] for frame in frames])
    angles = {"root": root[:, 3:]}
    for name, bone in bones.items():
        if name != "root":
            angles[name] = np.zeros((len(frames), 3))
            columns = [order[d] for d in bone.dof if d in order]
            given = [name in frame for frame in frames]
            if any(given) and not all(given):
                raise CaptureError(f"{path}: {name} is missing in frame {given.index(False) + 1} of {len(frames)}; the file "
                                   "is truncated or damaged, copy it again")
            if columns and all(given):
                angles[name][:, columns] = np.array([frame[name] for frame in frames])[:, : len(columns)]
    return root[:, :3], angles


def numbers(words: Iterable[str]) -> list[float]:
    """The numbers of a text file.

    Raises:
        ValueError: a word is no number, or one that no capture holds: not finite, or beyond ``LARGEST``.
    """
    values = [float(w) for w in words]
    if not (good := np.abs(values) <= LARGEST).all():
        raise ValueError(f"{values[int(good.argmin())]:g} is neither a length nor an angle")
    return values


def forward(
    bones: dict[str, Bone], unit: float, position: np.ndarray, angles: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """World positions (F, 3) m of the bones' ends and their rotations (F, 3, 3) since the rest pose, Y-up."""
    ends, turns = {"root": position * unit}, {"root": euler(angles["root"])}
    for name, bone in bones.items():
        if name != "root":
            turns[name] = turns[bone.parent] @ (bone.frame @ euler(angles[name]) @ bone.frame.T)
            ends[name] = ends[bone.parent] + turns[name] @ bone.offset
    return ends, turns


def skeleton_of(path: Path, asf: Path | None = None) -> Path:
    """Skeleton of a motion: the given one, or ``SUBJECT.asf`` beside it, the subject being the name up to the first ``_``."""
    return asf or path.with_name(path.stem.split("_")[0] + ".asf")


def load_amc(path: Path, asf: Path | None = None, fps: float = RATE, unit: float = INCH) -> Capture:
    """Read an AMC motion with its skeleton.

    Args:
        path: the motion.
        asf: its skeleton, where it is not the one that ``skeleton_of`` expects.
        fps: frames per second.
        unit: metres of what lengths are given in, before the skeleton's own divisor.

    Raises:
        CaptureError: the skeleton is not found, or a file cannot be read.
    """
    skeleton = skeleton_of(path, asf)
    if not skeleton.is_file():
        raise CaptureError(f"{path}: skeleton {skeleton.name} is not beside it; name the skeleton with asf=")
    bones, scale = read_asf(skeleton, unit)
    ends, turns = forward(bones, scale, *read_amc(path, bones))
    points, spins, rest = {}, {"pelvis": turns["root"], "trunk": turns["thorax"]}, {}
    for side in SIDES:
        s = side[0]
        bone_ends = dict(hip="hipjoint", knee="femur", ankle="tibia", toes="foot", shoulder="clavicle", elbow="humerus",
                         wrist="wrist")
        points |= {f"{side}_{point}": ends[s + bone] for point, bone in bone_ends.items()}
        spins |= {f"{side}_{part}": turns[s + part] for part in ("foot", "toes", "hand")}
        # The rest pose is abducted 20 degrees at the hip and the feet are tilted with the shins.
        rest |= {f"{side}_foot": bones[s + "tibia"].offset, f"{side}_toes": bones[s + "tibia"].offset,
                 f"{side}_hand": bones[s + "hand"].offset}
    notes = {"skeleton": skeleton.name, "unit_m": unit, "up": "y", "subject_shape": "bone lengths of the skeleton"}
    try:
        return assemble(points, spins, rest, fps, PROVENANCE | notes)
    except ValueError as error:
        raise CaptureError(f"{path}: a bone of {skeleton.name} points the wrong way ({error}); copy the file again") from None


def read_text(path: Path) -> str:
    """Contents of a text file, or a CaptureError that names it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}; check the path") from None
