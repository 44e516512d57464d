"""BVH files: any skeleton whose joints a mapping names; the cgspeed conversions of CMU captures are recognised.

The rest pose is the one of all-zero channels; channels are intrinsic rotations in degrees, applied from left to right.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tools.retargeting import rotations
from tools.retargeting.asf import numbers, read_text
from tools.retargeting.mapping import Rig, rig_for
from tools.retargeting.orientation import calibrate
from tools.retargeting.skeleton import POINTS, SIDES, Z_UP, Capture, CaptureError, assemble
from tools.retargeting.units import UNITS

UPRIGHT, HANGING = 0.8, -0.8  # cosines of trunk and legs with the vertical that a standing rest pose has at least
ALONG_AXIS = 0.95  # cosine above which left is taken for a coordinate axis
CHANNELS = frozenset(f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation"))


@dataclass
class Joint:
    """A joint: parent's index (-1: none), offset (3,) from it in file units, channel names in file order."""

    name: str
    parent: int
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    channels: tuple[str, ...] = ()


def read_bvh(path: Path) -> tuple[list[Joint], np.ndarray, float]:
    """Joints (end sites included, named ``<parent> end``), channel values (F, C) and the frame time in s.

    Raises:
        CaptureError: the file is truncated or no BVH.
    """
    words = read_text(path).split()
    if not words or words[0] != "HIERARCHY" or "MOTION" not in words:
        raise CaptureError(f"{path}: not a BVH file (HIERARCHY and MOTION are needed)")
    cut = words.index("MOTION")
    try:
        joints = _hierarchy(words[1:cut])
        header = " ".join(words[cut : cut + 8]).replace(":", " ").split()  # "Frames:" may touch its number
        frames, step = int(header[2]), float(header[5])
        values = np.array(numbers(_after_header(words[cut:])))
    except (ValueError, IndexError, StopIteration) as error:
        raise CaptureError(f"{path}: the file is damaged ({error}); copy it again") from None
    channels = sum(len(j.channels) for j in joints)
    if frames < 1 or not channels:
        raise CaptureError(f"{path}: {frames} frames of {channels} channels are no motion; copy the file again")
    if len(values) != frames * channels:
        raise CaptureError(f"{path}: {len(values)} numbers, but {frames} frames of {channels} channels need "
                           f"{frames * channels}; the file is truncated or damaged, copy it again")
    return joints, values.reshape(frames, channels), step


def _after_header(words: list[str]) -> list[str]:
    """Words after ``Frame Time: STEP``."""
    place = words.index("Time:") if "Time:" in words else next(k for k, w in enumerate(words) if w.startswith("Time:"))
    return words[place + (2 if words[place] == "Time:" else 1) :]


def _hierarchy(words: list[str]) -> list[Joint]:
    joints: list[Joint] = []
    open_joints, k = [-1], 0
    while k < len(words):
        word = words[k]
        if word in ("ROOT", "JOINT"):
            joints.append(Joint(words[k + 1], open_joints[-1]))
            k += 2
        elif word == "End":
            joints.append(Joint(f"{joints[open_joints[-1]].name} end", open_joints[-1]))
            k += 2
        elif word == "OFFSET":
            x, y, z = numbers(words[k + 1 : k + 4])
            joints[-1].offset = np.array([x, y, z])
            k += 4
        elif word == "CHANNELS":
            count = int(words[k + 1])
            joints[-1].channels = tuple(words[k + 2 : k + 2 + count])
            if count < 0 or not CHANNELS.issuperset(joints[-1].channels):
                raise ValueError(f"{joints[-1].name} has the channels {' '.join(words[k + 1 : k + 8])} ...")
            k += 2 + count
        elif word == "{":
            open_joints.append(len(joints) - 1)
            k += 1
        elif word == "}" and len(open_joints) > 1:
            open_joints.pop()
            k += 1
        else:
            raise ValueError(f"{word!r} is out of place in the hierarchy")
    if len(open_joints) > 1:
        raise ValueError(f"{len(open_joints) - 1} braces of the hierarchy are not closed")
    return joints


def forward(
    joints: list[Joint], values: np.ndarray, unit: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """World positions (F, 3) m and rotations (F, 3, 3) since the rest pose of all joints, Y-up."""
    positions: list[np.ndarray] = []
    turns: list[np.ndarray] = []
    column = 0
    for joint in joints:
        shift, turn = np.tile(joint.offset, (len(values), 1)), np.tile(np.eye(3), (len(values), 1, 1))
        for channel in joint.channels:
            axis = "XYZ".index(channel[0])
            if channel.endswith("position"):
                shift[:, axis] = values[:, column] + joint.offset[axis] * (joint.parent < 0)
            else:
                turn = turn @ rotations.about_axis(axis, np.radians(values[:, column]))
            column += 1
        if joint.parent >= 0:
            shift = positions[joint.parent] + np.einsum("fij,fj->fi", turns[joint.parent], shift * unit)
            turn = turns[joint.parent] @ turn
        else:
            shift = shift * unit
        positions.append(shift)
        turns.append(turn)
    names = [j.name for j in joints]
    return dict(zip(names, positions, strict=True)), dict(zip(names, turns, strict=True))


def load_bvh(
    path: Path,
    mapping: Path | None = None,
    fps: float | None = None,
    up: str | None = None,
    unit: float | None = None,
) -> Capture:
    """Read a BVH motion.

    Args:
        path: the file.
        mapping: names its joints, where the skeleton is none of those that are recognised.
        fps: frames per second, instead of the file's.
        up: vertical axis, y or z, instead of the mapping's.
        unit: metres of one unit of length, instead of the mapping's.

    Raises:
        CaptureError: the file cannot be read, its skeleton is unknown, or nobody says what its unit or vertical is.
    """
    joints, values, step = read_bvh(path)
    if fps is None and not step > 0:
        raise CaptureError(f"{path}: frame time {step:g} s is none; give the frame rate with fps_in=")
    rig = rig_for(path, [j.name for j in joints], mapping)
    unit = unit or rig.unit
    if unit is None:
        raise CaptureError(f"{path}: a BVH file names no unit and mapping {rig.name} neither; give "
                           f"units={'|'.join(UNITS)} or the metres of one unit")
    positions, turns = forward(joints, values, unit)
    rest, _ = forward(joints, np.zeros((1, values.shape[1])), unit)
    basis = _basis(path, rig, {name: track[0] for name, track in rest.items()}, up or rig.up)
    points = {point: positions[rig.joints[point]] @ basis for point in POINTS}
    spins = {name: basis.T @ turns[joint] @ basis for name, joint in _carriers(rig, joints).items()}
    source = {"format": "BVH", "skeleton": rig.name, "unit_m": unit, "up": "xyz"[int(np.abs(basis[:, 1]).argmax())],
              "subject_shape": "bone lengths of the file"}
    if rig.acknowledgement:
        source["acknowledgement"] = rig.acknowledgement
    directions: dict[str, np.ndarray] = {}
    if rig.rest == "zero":
        directions = _rest_directions(rig, {name: track[0] @ basis for name, track in rest.items()})
    else:
        spins = calibrate(points, spins)
    try:
        capture = assemble(points, spins, directions, fps or 1.0 / step, source)
    except ValueError as error:
        raise CaptureError(f"{path}: a limb of the rest pose points the wrong way ({error}); write rest: none in the "
                           "mapping") from None
    return replace(capture, lead_in=rig.drop_frames)


def _carriers(rig: Rig, joints: list[Joint]) -> dict[str, str]:
    """Our segment to the joint that turns with it; an end site turns with its parent."""
    parent = {j.name: joints[j.parent].name for j in joints if not j.channels}
    carrier = {"pelvis": rig.joints["pelvis"], "trunk": rig.joints["trunk"]}
    for side in SIDES:
        for segment, point in (("foot", "ankle"), ("toes", "toes"), ("hand", "wrist")):
            joint = rig.joints[f"{side}_{point}"]
            carrier[f"{side}_{segment}"] = parent.get(joint, joint)
    return carrier


def _rest_directions(rig: Rig, rest: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Directions (3,) of segments in the rest pose that are not those of our standard pose."""
    place = {ours: rest[theirs] for ours, theirs in rig.joints.items()}
    directions = {}
    for side in SIDES:
        wrist = place[f"{side}_wrist"]
        fingers = place.get(f"{side}_fingers")
        directions[f"{side}_hand"] = wrist - place[f"{side}_elbow"] if fingers is None else fingers - wrist
        if rig.tilted_feet:
            shin = place[f"{side}_ankle"] - place[f"{side}_knee"]
            directions |= {f"{side}_foot": shin, f"{side}_toes": shin}
    return directions


def _basis(path: Path, rig: Rig, rest: dict[str, np.ndarray], up: str | None) -> np.ndarray:
    """Left, up and forward of the file's world as the columns of a rotation (3, 3)."""
    if rig.rest == "none":
        if up is None:
            raise CaptureError(f"{path}: the rest pose does not say which axis is vertical; give up=y or up=z, or up: in "
                               f"mapping {rig.name}")
        return np.eye(3) if up == "y" else Z_UP
    place = {ours: rest[theirs] for ours, theirs in rig.joints.items()}
    trunk = _unit(sum(place[f"{side}_shoulder"] - place[f"{side}_hip"] for side in SIDES))
    vertical = np.eye(3)["xyz".index(up)] if up else np.round(trunk / np.abs(trunk).max() * 0.7)
    legs = [_unit(place[f"{side}_ankle"] - place[f"{side}_hip"]) @ vertical for side in SIDES]
    if trunk @ vertical < UPRIGHT or max(legs) > HANGING:
        raise CaptureError(
            f"{path}: with all channels zero, this skeleton does not stand upright along {up or 'an axis'} (trunk {trunk}); "
            f"give the right up=y or up=z, or write rest: none in the mapping"
        )
    left = place["left_hip"] - place["right_hip"]
    left = _unit(left - (left @ vertical) * vertical)
    if np.abs(left).max() > ALONG_AXIS:
        left = np.round(left)
    return np.stack([left, vertical, np.cross(left, vertical)], axis=1)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
