"""Measured cycles that users download themselves: Gait120 (.mot, .mat), Fukuchi's texts, OpenSim tables of one cycle.

Angles come out in degrees in our signs, EMG as envelopes over the cycle. A file holds one cycle, or ready averages over it;
several files are averaged. Nothing of these data sets is part of this project.
"""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from tools.analysis.norm_tables import POINTS, Band, Citation, GaitError
from tools.retargeting.mot import load_mot

SUFFIXES = (".mot", ".sto", ".txt", ".mat")
CYCLE_NAME = re.compile(r"(?:\.mot|\.sto|ang\.txt|processed\.txt|^ConvertedData\.mat)$", re.IGNORECASE)
ANGLES = ("hip_flexion", "hip_adduction", "knee_angle", "ankle_angle", "subtalar_angle")
# Column of a Fukuchi text by our joint; %s is the speed of a running file (25, 35, 45), empty where the file has one only.
WALKING_COLUMNS = {"hip_flexion": "HipAngleZ", "hip_adduction": "HipAngleX", "knee_angle": "KneeAngleZ",
                   "ankle_angle": "AnkleAngleZ"}
RUNNING_COLUMNS = {"hip_flexion": "hipAngZ", "hip_adduction": "hipAngX", "knee_angle": "kneeAngZ", "ankle_angle": "ankleAngZ"}
GAIT120_EMG = {  # channel to muscle; the medial gastrocnemius is misspelt there
    "VastusLateralis": "vastus lateralis", "RectusFemoris": "rectus femoris", "VastusMedialis": "vastus medialis",
    "TibialisAnterior": "tibialis anterior", "BicepsFemoris": "biceps femoris long", "Semitendinosus": "semitendinosus",
    "GastrocnemuisMedialis": "gastrocnemius medialis", "GastrocnemiusLateralis": "gastrocnemius lateralis",
    "SoleusMedialis": "soleus", "PeroneusLongus": "peroneus longus", "PeroneusBrevis": "peroneus brevis",
}  # fmt: skip
TASK, ENVELOPE = "LevelWalking", "EMGs_interpolated"


@dataclass
class Cycles:
    """Cycles (101,) by quantity or muscle, from any number of files."""

    angles: dict[str, list[np.ndarray]] = field(default_factory=dict)
    envelopes: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, kind: dict[str, list[np.ndarray]], name: str, values: np.ndarray) -> None:
        """Keep one cycle, resampled to 101 points."""
        at = np.linspace(0.0, 1.0, len(values))
        kind.setdefault(name, []).append(np.interp(np.linspace(0.0, 1.0, POINTS), at, values))


@dataclass(frozen=True)
class References:
    """Means and SD over the files given as reference=: of angles by quantity, of EMG envelopes by muscle."""

    angles: Mapping[str, Band] = field(default_factory=dict)
    envelopes: Mapping[str, Band] = field(default_factory=dict)


def find_files(path: Path) -> list[Path]:
    """The file, those that a pattern matches, or the cycles among all files below a directory, in order.

    Below a directory, files are taken by the names of their data sets: raw forces, markers and other tasks lie there, too.
    """
    if path.is_dir():
        cycles = (p for p in path.rglob("*") if CYCLE_NAME.search(p.name))
        return sorted(p for p in cycles if TASK in p.parts or "JointAngle" not in p.parts)
    return [path] if path.is_file() else sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())


def read_references(path: Path) -> References:
    """Read a file, all files that a pattern matches, or every cycle below a directory.

    Raises:
        GaitError: nothing there, or a file that cannot be read.
        CaptureError: an OpenSim table cannot be read.
    """
    files = find_files(path)
    if not files:
        raise GaitError(f"reference={path}: no such file, and no file of that pattern or below that directory (*.mot, *.sto, "
                        "*ang.txt, *processed.txt, ConvertedData.mat)")
    cycles = Cycles()
    for file in files:
        _read(file, cycles)
    if not cycles.angles and not cycles.envelopes:
        raise GaitError(f"reference={path}: {len(files)} files, none with joint angles or EMG over a cycle")
    theirs = "that of the data set"
    cited = Citation(f"{len(files)} files of {path.name}", theirs, theirs, "unknown", float("nan"), "as measured",
                     "as the files")
    return References(*({n: _band(n, rows, cited) for n, rows in kind.items()} for kind in (cycles.angles, cycles.envelopes)))


def _band(name: str, rows: list[np.ndarray], cited: Citation) -> Band:
    return Band(name, np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) if len(rows) > 1 else None, cited)


def _read(file: Path, cycles: Cycles) -> None:
    suffix = file.suffix.lower()
    if suffix in (".mot", ".sto"):
        read_opensim(file, cycles)
    elif suffix == ".txt":
        read_fukuchi(file, cycles)
    elif suffix == ".mat":
        read_gait120(file, cycles)
    else:
        raise GaitError(f"reference={file}: a {suffix or 'nameless'} file; known are {', '.join(SUFFIXES)}. C3D "
                        "holds markers, not joint angles: export angles from it first")


def read_opensim(file: Path, cycles: Cycles) -> None:
    """One cycle of joint angles (Gait120's ``stepSS.mot``); both sides count where both are there, Gait120's right only.

    Raises:
        CaptureError: not a table of joint angles.
    """
    motion = load_mot(file, fps_in=1.0)  # a cycle, whatever its rate
    sides = "r" if re.fullmatch(r"step\d+", file.stem, re.IGNORECASE) else "rl"
    for name in ANGLES:
        for side in sides:
            if f"{name}_{side}" in motion.joint_names:
                values = np.degrees(motion.qpos[:, motion.joint_names.index(f"{name}_{side}")])
                cycles.add(cycles.angles, name, values)


def read_fukuchi(file: Path, cycles: Cycles) -> None:
    """Ready cycles: ``WBDSxxwalkTyyang.txt`` (walking) or ``RBDSxxxprocessed.txt`` (running, 2.5 m/s).

    Raises:
        GaitError: not 101 rows of such columns.
    """
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter="\t") if any(row)]
    if not rows or len(rows) != POINTS + 1:
        raise GaitError(f"reference={file}: {max(len(rows) - 1, 0)} rows below a heading, {POINTS} are needed: give "
                        "Fukuchi's ...ang.txt or ...processed.txt, not raw markers or forces")
    column = {name.lower(): k for k, name in enumerate(rows[0])}
    found = False
    for side in "rl":
        for joint in WALKING_COLUMNS:
            names = (f"{side}{WALKING_COLUMNS[joint]}", f"{side}{RUNNING_COLUMNS[joint]}25")
            at = next((column[n.lower()] for n in names if n.lower() in column), None)
            if at is not None:
                cycles.add(cycles.angles, joint, _numbers(file, rows, at))
                found = True
    if not found:
        raise GaitError(f"reference={file}: no column RHipAngleZ or RhipAngZ25 (columns {', '.join(rows[0][:5])} ...)")


def _numbers(file: Path, rows: list[list[str]], column: int) -> np.ndarray:
    try:
        values = np.array([row[column] for row in rows[1:]], dtype=float)
    except (ValueError, IndexError) as error:
        raise GaitError(f"reference={file}: column {rows[0][column]}: {error}; copy the file again") from None
    if not np.isfinite(values).all():
        raise GaitError(f"reference={file}: column {rows[0][column]} holds values that are not finite; leave the file out")
    return values


def read_gait120(file: Path, cycles: Cycles) -> None:
    """EMG envelopes of level walking in a Gait120 file that holds plain structs (``ConvertedData.mat``).

    Raises:
        GaitError: not such a file; what MATLAB itself saved as tables (``ProcessedData.mat``) can be read by MATLAB only.
    """
    try:
        data = loadmat(file, struct_as_record=False, squeeze_me=True)
    except (MatReadError, ValueError, NotImplementedError, TypeError, OSError) as error:
        raise GaitError(f"reference={file}: {error}; save it in MATLAB with -v7 and plain structs") from None
    if TASK not in data or not hasattr(data[TASK], "_fieldnames"):
        raise GaitError(f"reference={file}: no struct {TASK!r} in it; give Gait120's ConvertedData.mat")
    before = sum(map(len, cycles.envelopes.values()))
    for trial in _children(data[TASK], "Trial"):
        for step in _children(trial, "Step"):
            record = getattr(step, ENVELOPE, None)
            for channel in getattr(record, "_fieldnames", ()):
                if channel in GAIT120_EMG:
                    cycles.add(cycles.envelopes, GAIT120_EMG[channel], np.asarray(getattr(record, channel), dtype=float))
    if sum(map(len, cycles.envelopes.values())) == before:
        raise GaitError(f"reference={file}: no {TASK}.TrialNN.StepNN.{ENVELOPE} with named channels; a MATLAB table (as in "
                        "ProcessedData.mat) must be turned into a struct by MATLAB's table2struct(..., 'ToScalar', true)")


def _children(record: Any, prefix: str) -> list[Any]:
    names = [n for n in getattr(record, "_fieldnames", ()) if re.fullmatch(rf"{prefix}\d+", n)]
    return [getattr(record, n) for n in names if hasattr(getattr(record, n), "_fieldnames")]
