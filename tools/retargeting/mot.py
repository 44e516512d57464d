"""OpenSim coordinates (.mot, .sto) of gait models, as angles of our joints.

Columns are those of Rajagopal 2016 (also Hamner, OpenCap, gait2392). World X forward, Y up, Z right, metres. The pelvis
turns by ``Rz(tilt) Rx(list) Ry(rotation)``, the arm by ``Rz(arm_flex) Rx(arm_add) Ry(arm_rot)``, both intrinsic. Our
shoulder is ``Ry(elv_angle) Rx(-shoulder_elv) Ry(shoulder_rot - elv_angle)``; on the left all signs of x and y are reversed
in both.

Source: Rajagopal et al. 2016 (doi 10.1109/TBME.2016.2586891), joint definitions; file format: OpenSim Storage, version 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tools.retargeting import rotations
from tools.retargeting.asf import read_text
from tools.retargeting.skeleton import CaptureError, JointMotion
from tools.retargeting.units import metres

PELVIS = ("pelvis_tilt", "pelvis_list", "pelvis_rotation", "pelvis_tx", "pelvis_ty", "pelvis_tz")
ARM = ("arm_flex", "arm_add", "arm_rot")
SHOULDER = ("elv_angle", "shoulder_elv", "shoulder_rot")
LIMBS = {
    name: name for name in ("hip_flexion", "hip_adduction", "hip_rotation", "knee_angle", "ankle_angle", "subtalar_angle",
                            "mtp_angle", "elbow_flex", "pro_sup")
} | {"wrist_flex": "flexion", "wrist_dev": "deviation"}
# Ours is that of OpenSim times SIGN plus ZERO. Rajagopal's wrist_dev turns towards the little finger, our deviation towards
# the thumb. The forearm's zero is fitted to the wrist markers of a trial (both sides, give or take 0.1 rad); the joints' axes
# alone would say -pi/2.
SIGN = {"wrist_dev": -1.0}
ZERO = {"pro_sup": -0.70}  # rad
# Ours is the angle of the lowest lumbar joint, which the others and the abdomen follow; the sum is what the file holds.
LUMBAR = {
    "lumbar_extension": ("flex_extension", 1.875),
    "lumbar_bending": ("lat_bending", 1.8645),
    "lumbar_rotation": ("axial_rotation", 1.13556),
}
COORDINATES = {*LIMBS, *ARM, *LUMBAR}
# OpenSim's axes, columns, in ours: we are Z-up, face -Y and have +X to our left.
WORLD = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
WRONG_WAY = np.radians(30.0)  # no knee bends forward by as much
MOST = 4.0 * np.pi  # rad: of hip and knee, which do not turn round; more is an angle in degrees
HIGHEST = 3.0  # m: median pelvis height
UNEVEN = 0.02  # of the time between frames


def read_mot(path: Path) -> tuple[dict[str, np.ndarray], bool]:
    """Columns (F,) by name as in the file, and whether angles are in degrees.

    Raises:
        CaptureError: the file is truncated, damaged, holds no joint angles, or does not say what they are in.
    """
    lines = read_text(path).splitlines()
    end = next((k for k, line in enumerate(lines) if line.strip().lower() == "endheader"), None)
    table = [] if end is None else [line.split() for line in lines[end + 1 :] if line.strip()]
    if not table:
        raise CaptureError(f"{path}: no line 'endheader' with column names below it; not an OpenSim table, or truncated")
    header = dict(line.strip().lower().partition("=")[::2] for line in lines[:end] if "=" in line)
    names, *rows = table
    wrong = next((k for k, row in enumerate(rows) if len(row) != len(names)), None)
    if wrong is not None:
        raise CaptureError(f"{path}: row {wrong} has {len(rows[wrong])} values for {len(names)} columns; copy the file again")
    told = header.get("nrows", str(len(rows)))
    if told.strip() != str(len(rows)):
        raise CaptureError(f"{path}: {len(rows)} rows where nRows={told}; the file is truncated: copy it again")
    if not any(name.removesuffix("_r").removesuffix("_l") in COORDINATES for name in names):
        raise CaptureError(f"{path}: no joint angle among its columns ({', '.join(names[:5])}); coordinates of an OpenSim "
                           "gait model are needed, e.g. hip_flexion_r")
    if (degrees := header.get("indegrees", "").strip()) not in ("yes", "no"):
        raise CaptureError(f"{path}: the header does not say what angles are in; add a line inDegrees=yes or inDegrees=no")
    if len(set(names)) != len(names):
        raise CaptureError(f"{path}: two columns are named {max(names, key=names.count)!r}; keep one")
    try:
        values = np.array(rows, dtype=float).reshape(len(rows), len(names))
    except ValueError as error:
        raise CaptureError(f"{path}: {error}; copy the file again") from None
    return dict(zip(names, values.T, strict=True)), degrees == "yes"


def load_mot(path: Path, fps_in: float | None = None, units: str | None = None) -> JointMotion:
    """Read joint angles of an OpenSim gait model.

    Joints without a column are left out, columns without a joint of ours are listed in ``provenance["left_out"]``. Knees
    that bend with negative angles (gait2392, Hamner) are turned round, and ``provenance["knee"]`` says so.

    Args:
        path: the table.
        fps_in: its rate in 1/s, instead of the one of its column ``time``.
        units: unit of the pelvis' path; metres otherwise.

    Raises:
        CaptureError: the file cannot be read, holds no joint angles, or values that contradict its header.
    """
    columns, degrees = read_mot(path)
    time = columns.pop("time", np.zeros(0))
    fps = fps_in or _rate(path, time)
    angles = {k: np.unwrap(np.radians(v) if degrees else v) for k, v in columns.items() if k not in PELVIS[3:]}
    joints, used = _joints(path, angles)
    if not joints:
        raise CaptureError(f"{path}: no joint angle with its side or of the trunk among its columns, e.g. hip_flexion_r")
    _check_degrees(path, joints)
    knees = [name for name in ("knee_angle_r", "knee_angle_l") if name in joints]
    bent = np.array([joints[name] for name in knees])
    backward = bool(bent.size) and bent.min() < -WRONG_WAY and bent.max() < WRONG_WAY
    if backward:
        joints |= {name: -joints[name] for name in knees}
    unit = metres(units) if units else 1.0
    root = None
    if _together(path, PELVIS, columns, "six of the pelvis"):
        root = pelvis({name: angles[name] if name in angles else columns[name] * unit for name in PELVIS})
        used |= set(PELVIS)
        if (height := float(np.median(root[:, 2]))) > HIGHEST:
            raise CaptureError(f"{path}: the pelvis is {height:.3g} m high with {unit:g} m a unit; give units=cm, mm or inch")
    provenance = {
        "format": "OpenSim coordinates", "angles": "degrees" if degrees else "radians", "unit_m": unit, "up": "y",
        "knee": "negative, turned round" if backward else "positive", "left_out": sorted(set(columns) - used),
    }  # fmt: skip
    return JointMotion(fps, tuple(joints), np.stack(list(joints.values()), axis=1), root, provenance)


def _joints(path: Path, angles: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], set[str]]:
    """Angles of our joints, (F,) rad by name, and the columns that they are made of."""
    joints: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for side in "rl":
        for theirs, ours in LIMBS.items():
            if (name := f"{theirs}_{side}") in angles:
                joints[f"{ours}_{side}"] = SIGN.get(theirs, 1.0) * angles[name] + ZERO.get(theirs, 0.0)
                used.add(name)
        arm = tuple(f"{name}_{side}" for name in ARM)
        if _together(path, arm, angles, "three of the arm"):
            joints |= {f"{s}_{side}": v for s, v in zip(SHOULDER, shoulder(*(angles[n] for n in arm)), strict=True)}
            used |= set(arm)
    for theirs, (ours, share) in LUMBAR.items():
        if theirs in angles:
            joints[ours] = angles[theirs] / share
            used.add(theirs)
    return joints, used


def _together(path: Path, names: tuple[str, ...], columns: dict[str, np.ndarray], what: str) -> bool:
    """Whether the columns of a joint are there; an error where only some are."""
    present = [name for name in names if name in columns]
    if present and (missing := [name for name in names if name not in columns]):
        raise CaptureError(f"{path}: column {missing[0]} is missing beside {present[0]}; export all {what}")
    return bool(present)


def shoulder(flex: np.ndarray, add: np.ndarray, rot: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plane of elevation, elevation and axial rotation, (F,) rad each, of an arm's flexion, adduction and rotation.

    ``Rz(flex) Rx(add) Ry(rot) = Ry(a) Rx(-s) Ry(b)`` gives ``elv_angle = a, shoulder_elv = s >= 0, shoulder_rot = a + b``.
    Where the arm hangs (s = 0) only ``a + b`` is determined.
    """
    turn = rotations.about_axis(2, flex) @ rotations.about_axis(0, add) @ rotations.about_axis(1, rot)
    elevation = np.arctan2(np.hypot(turn[:, 0, 1], turn[:, 2, 1]), turn[:, 1, 1])
    plane = np.arctan2(-turn[:, 0, 1], -turn[:, 2, 1])
    about = np.arctan2(turn[:, 0, 2] - turn[:, 2, 0], turn[:, 0, 0] + turn[:, 2, 2])  # a + b, sound down to s = 0
    return _continuous(plane), elevation, _continuous(about)


def pelvis(columns: dict[str, np.ndarray]) -> np.ndarray:
    """(F, 7) position m and quaternion wxyz of the root in our world, of the columns ``PELVIS`` in rad and m."""
    tilt, bend, turn, *path = (columns[name] for name in PELVIS)
    rotation = rotations.about_axis(2, tilt) @ rotations.about_axis(0, bend) @ rotations.about_axis(1, turn)
    position = np.stack(path, axis=1) @ WORLD.T
    return np.concatenate([position, rotations.to_quaternion(WORLD @ rotation @ WORLD.T)], axis=1)


def _continuous(angle: np.ndarray) -> np.ndarray:
    """Without jumps by whole turns, its mean within half a turn of zero."""
    angle = np.unwrap(angle)
    return angle - 2.0 * np.pi * np.round(angle.mean() / (2.0 * np.pi)) if len(angle) else angle


def _rate(path: Path, time: np.ndarray) -> float:
    step = np.diff(time)
    if not len(step):
        raise CaptureError(f"{path}: no frame rate: no column time, or fewer than two rows; give fps_in=")
    middle = float(np.median(step))
    if not middle > 0 or np.abs(step - middle).max() > UNEVEN * middle:
        worst = int(np.argmax(np.abs(step - middle)))
        raise CaptureError(f"{path}: time does not go on evenly (row {worst}: {step[worst]:g} s, otherwise {middle:g} s); "
                           "resample the table, or give fps_in= where the column is wrong")
    rate = len(step) / float(time[-1] - time[0])
    return round(rate, 3) if abs(rate - round(rate, 3)) < 1e-6 * rate else rate  # times are rounded in the table


def _check_degrees(path: Path, joints: dict[str, np.ndarray]) -> None:
    for name, angle in joints.items():
        if name.startswith(("hip_", "knee_", "ankle_")) and len(angle) and np.nanmax(np.abs(angle)) > MOST:
            raise CaptureError(f"{path}: {name} reaches {np.nanmax(np.abs(angle)):.3g} rad, read as the header says; the "
                               "angles are in degrees: write inDegrees=yes")
