"""Our retargeting beside plain per-frame inverse kinematics: ``python tools/compare_ik.py CAPTURE ... [key=value ...]``.

Every capture is retargeted by our pipeline, then the same scaled targets are followed frame by frame with ``mink`` and the
QP solver ``daqp``: position and orientation tasks with our weights, joint limits, the couplings as one equality task, the
last frame as the first guess, steps until the norm of all task errors (m and rad) falls by less than 1e-3, ten at most:
the rule of GMR, with which upstream retargets. Both run in this process on one thread. The plain solver knows neither
smoothness nor floor, contacts or balance. One line a capture and one for all state processor time in ms a frame and the
root mean square distance from the targets of both, and the ratio of the times.

Keys: ``body`` (myo_fullbody), ``fps`` (100), ``frames`` (200: most frames of a capture, because the plain solver is slow).
Needs the extra ``ik``: ``pip install -e '.[ik]'``. Exit status: 0 done, 2 a key or a capture cannot be used.

Example: python tools/compare_ik.py cmu/02/02_01.amc frames=100
"""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from sim_models.embodiment import Embodiment
from sim_models.registry import BodyError, load_body
from tools.retargeting.metrics import fit_error
from tools.retargeting.pipeline import retarget
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.skeleton import Capture, CaptureError
from tools.retargeting.stages import solver_for
from tools.retargeting.targets import Targets

DEFAULTS = {"body": "myo_fullbody", "fps": "100", "frames": "200"}
MOST_STEPS, LEAST_GAIN = 10, 1e-3  # per frame; as in GMR, which upstream retargets with
DAMPING, COUPLING_COST = 1e-3, 200.0


class CompareError(ValueError):
    """The comparison cannot run; the message says what to change."""


@dataclass(frozen=True)
class Row:
    """Times in ms a frame and distances in m of a capture: ours and the plain solver's."""

    name: str
    frames: int
    ours_ms: float
    plain_ms: float
    ours_rmse: float
    plain_rmse: float

    def line(self) -> str:
        """For the terminal."""
        return (f"{self.name:24s} {self.frames:5d} frames  ours {self.ours_ms:6.2f} ms {1e3 * self.ours_rmse:5.1f} mm  "
                f"mink+daqp {self.plain_ms:6.2f} ms {1e3 * self.plain_rmse:5.1f} mm  "
                f"ratio {self.plain_ms / self.ours_ms:5.1f}")


def require_mink() -> ModuleType:
    """The module ``mink``.

    Raises:
        CompareError: ``mink`` or ``daqp`` is not installed.
    """
    try:
        importlib.import_module("daqp")
        return importlib.import_module("mink")
    except ImportError as error:
        raise CompareError(f"{error.name} is not installed: pip install -e '.[ik]' brings mink and daqp") from None


class PlainSolver:
    """Per-frame inverse kinematics of a body by differential steps, each a quadratic program.

    Raises:
        CompareError: ``mink`` or ``daqp`` is not installed.
    """

    def __init__(self, body: Embodiment, targets: Targets) -> None:
        self.mink: Any = require_mink()
        self.body, self.targets = body, targets
        turning = {int(s): k for k, s in enumerate(targets.turn_sites)}
        self.tasks = [
            self.mink.FrameTask(
                frame_name=bone, frame_type="body", position_cost=float(targets.weight[s]),
                orientation_cost=float(targets.turn_weight[turning[s]]) if s in turning else 0.0,
            )
            for s, bone in enumerate(body.mimic_sites.values())
        ]
        self.turning = turning
        self.configuration = self.mink.Configuration(body.model)
        self.always = [self.mink.EqualityConstraintTask(body.model, cost=COUPLING_COST)]
        self.limits = [self.mink.ConfigurationLimit(body.model)]

    def run(self, start: np.ndarray) -> np.ndarray:
        """(F, Q) motion that follows the targets from a first guess (Q,)."""
        self.configuration.update(start)
        frames = np.empty((len(self.targets.position), self.body.model.nq))
        for f in range(len(frames)):
            self._aim(f)
            error = self._error()
            for _ in range(MOST_STEPS):
                velocity = self.mink.solve_ik(
                    self.configuration, [*self.tasks, *self.always], dt=1.0, solver="daqp", damping=DAMPING,
                    limits=self.limits,
                )
                self.configuration.integrate_inplace(velocity, 1.0)
                error, before = self._error(), error
                if before - error < LEAST_GAIN:
                    break
            frames[f] = self.configuration.q
        return frames

    def _aim(self, frame: int) -> None:
        for s, task in enumerate(self.tasks):
            turn = self.targets.turn[frame, self.turning[s]] if s in self.turning else np.eye(3)
            place = self.mink.SE3.from_rotation_and_translation(
                self.mink.SO3.from_matrix(turn), self.targets.position[frame, s]
            )
            task.set_target(place)

    def _error(self) -> float:
        errors = [task.compute_error(self.configuration) for task in self.tasks]
        counted = [error[: 6 if s in self.turning else 3] for s, error in enumerate(errors)]
        return float(np.linalg.norm(np.concatenate(counted)))


def compare(body: Embodiment, path: Path, fps: float, most: int) -> Row:
    """Retarget a capture both ways.

    Raises:
        CaptureError: the file cannot be used.
        CompareError: an extra is missing, or the file holds joint angles.
    """
    capture = read_capture(path, Options(fps=fps))
    if not isinstance(capture, Capture):
        raise CompareError(f"{path}: holds joint angles, for which there is nothing to solve; give a capture")
    solver = solver_for(body, fps)
    start = time.process_time()
    motion = retarget(body, capture.resample(fps), fps)
    ours = time.process_time() - start
    few = motion.wanted.at(np.arange(min(most, len(motion.qpos))))
    plain = PlainSolver(body, few)
    guess = solver.first_guess(few)[0]
    start = time.process_time()
    followed = plain.run(guess)
    spent = time.process_time() - start
    rmse = [float(np.sqrt((fit_error(body, q, few.position) ** 2).mean())) for q in (motion.qpos[: len(followed)], followed)]
    return Row(path.stem, len(motion.qpos), 1e3 * ours / len(motion.qpos), 1e3 * spent / len(followed), *rmse)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    settings = DEFAULTS | dict(a.split("=", 1) for a in arguments if "=" in a)
    paths = [Path(a) for a in arguments if "=" not in a]
    torch.set_num_threads(1)
    try:
        unknown = sorted(settings.keys() - DEFAULTS.keys())
        if unknown or not paths:
            wrong = f"unknown key {unknown[0]!r}" if unknown else "no capture given"
            raise CompareError(f"{wrong}: compare_ik.py CAPTURE ... [{' '.join(f'{k}={v}' for k, v in DEFAULTS.items())}]")
        require_mink()
        body = load_body(settings["body"])
        rows = []
        for path in paths:
            rows.append(compare(body, path, float(settings["fps"]), int(settings["frames"])))
            print(rows[-1].line(), flush=True)
    except (CompareError, CaptureError, BodyError, ValueError, OSError) as error:
        print(f"compare_ik: {error}", file=sys.stderr)
        return 2
    weights = np.array([row.frames for row in rows], dtype=float)
    mean = [float(np.average([getattr(row, name) for row in rows], weights=weights))
            for name in ("ours_ms", "plain_ms", "ours_rmse", "plain_rmse")]
    print(Row(f"all {len(rows)}", int(weights.sum()), *mean).line())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
