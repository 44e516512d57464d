"""BVH conversions of CMU captures (B. Hahne, cgspeed): the Daz-friendly and the MotionBuilder-friendly skeleton.

The rest pose is the one of all-zero channels, Y up, facing +Z; channels are intrinsic rotations in degrees,
applied from left to right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools.retargeting import rotations
from tools.retargeting.asf import PROVENANCE, read_text
from tools.retargeting.skeleton import SIDES, Capture, CaptureError, assemble


@dataclass
class Joint:
    """A joint: parent's index (-1: none), offset (3,) from it in file units, channel names in file order."""

    name: str
    parent: int
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rig:
    """How a known skeleton is read.

    ============ =================================================================================
    unit         m per file unit
    lead_in      first frames to drop: the T-pose and the blend out of it
    pelvis       joint that carries the pelvis
    trunk        joint that carries the thorax
    points       our point to joint, with ``{}`` for the side's spelling
    spelling     left, right
    tilted_feet  whether the feet of the rest pose are tilted with the abducted shins
    fingers      joint that gives the hand's direction
    ============ =================================================================================
    """

    unit: float
    lead_in: int
    pelvis: str
    trunk: str
    points: dict[str, str]
    spelling: tuple[str, str]
    tilted_feet: bool
    fingers: str


DAZ = Rig(
    unit=0.01, lead_in=6, pelvis="hip", trunk="chest", spelling=("l", "r"), tilted_feet=False, fingers="{}Mid1",
    points=dict(hip="{}Thigh", knee="{}Shin", ankle="{}Foot", toes="{}Foot end", shoulder="{}Shldr", elbow="{}ForeArm",
                wrist="{}Hand"),
)
MOTION_BUILDER = Rig(
    unit=0.0254 / 0.45, lead_in=1, pelvis="Hips", trunk="Spine1", spelling=("Left", "Right"), tilted_feet=True,
    fingers="{}HandIndex1",
    points=dict(hip="{}UpLeg", knee="{}Leg", ankle="{}Foot", toes="{}ToeBase", shoulder="{}Arm", elbow="{}ForeArm",
                wrist="{}Hand"),
)


def read_bvh(path: Path) -> tuple[list[Joint], np.ndarray, float]:
    """Joints (end sites included, named ``<parent> end``), channel values (F, C) and the frame time in s.

    Raises:
        CaptureError: the file is truncated or no BVH.
    """
    words = read_text(path).split()
    if not words or words[0] != "HIERARCHY" or "MOTION" not in words:
        raise CaptureError(f"{path}: not a BVH file (HIERARCHY and MOTION are needed)")
    cut = words.index("MOTION")
    joints = _hierarchy(words[1:cut])
    try:
        frames, step = int(words[cut + 2]), float(words[cut + 5])
        values = np.array(words[cut + 6 :], dtype=float)
        channels = sum(len(j.channels) for j in joints)
        return joints, values.reshape(frames, channels), step
    except (ValueError, IndexError) as error:
        raise CaptureError(f"{path}: the motion part is damaged ({error}); copy the file again") from None


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
            joints[-1].offset = np.array(words[k + 1 : k + 4], dtype=float)
            k += 4
        elif word == "CHANNELS":
            count = int(words[k + 1])
            joints[-1].channels = tuple(words[k + 2 : k + 2 + count])
            k += 2 + count
        else:  # a brace
            open_joints = [*open_joints, len(joints) - 1] if word == "{" else open_joints[:-1]
            k += 1
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


def load_bvh(path: Path) -> Capture:
    """Read a BVH motion of one of the two skeletons, its lead-in dropped.

    Raises:
        CaptureError: the file cannot be read or has another skeleton.
    """
    joints, values, step = read_bvh(path)
    index = {j.name: k for k, j in enumerate(joints)}
    rig = DAZ if "abdomen" in index else MOTION_BUILDER if "LHipJoint" in index else None
    needed = [] if rig is None else [rig.points[p].format(s) for p in rig.points for s in rig.spelling]
    if rig is None or any(name not in index for name in needed):
        raise CaptureError(f"{path}: unknown skeleton with root {joints[0].name!r}; only the Daz-friendly and the "
                           "MotionBuilder-friendly CMU conversions are supported")
    positions, turns = forward(joints, values, rig.unit)
    points, spins, rest = {}, {"pelvis": turns[rig.pelvis], "trunk": turns[rig.trunk]}, {}
    for side, spelling in zip(SIDES, rig.spelling, strict=True):
        joint = {point: name.format(spelling) for point, name in rig.points.items()}
        points |= {f"{side}_{point}": positions[name] for point, name in joint.items()}
        toes = turns.get(joint["toes"], turns[joint["ankle"]])
        spins |= {f"{side}_foot": turns[joint["ankle"]], f"{side}_toes": toes, f"{side}_hand": turns[joint["wrist"]]}
        rest[f"{side}_hand"] = joints[index[rig.fingers.format(spelling)]].offset
        if rig.tilted_feet:
            shin = joints[index[joint["ankle"]]].offset
            rest |= {f"{side}_foot": shin, f"{side}_toes": shin}
    return assemble(points, spins, rest, 1.0 / step, PROVENANCE | {"format": "BVH"}).drop(rig.lead_in)
