"""Activations that fit a reference motion: static optimisation, all frames batched."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mm_torch.muscle.box_qp import solve_box_least_squares
from mm_torch.muscle.equations import Equations, Reference, differentiate, equations_of_motion, smooth
from mm_torch.muscle.soles import SolePoints
from sim_models.embodiment import Embodiment

SOLVE_RATE = 50.0  # 1/s
ACCELERATION_SMOOTHING_S = 0.015  # standard deviation: about a 9 Hz low-pass
ACTIVATION_SMOOTHING_S = 0.010
JOINT_TOLERANCE = 1.0  # Nm (N at a slide), the unit of residual
ROOT_TOLERANCE = np.array([10.0, 10.0, 10.0, 5.0, 5.0, 5.0])  # N, Nm
RIDGE = 0.1  # charge of one muscle at full activation, in squared units of residual
FLOOR_RIDGE = 0.1  # charge of one muscle at full activation, in squared units of residual
FLOOR_LIMIT = 2.0  # body weights along one edge
SOLVER_TOLERANCE = 1e-7
_CHUNK = 16  # frames solved at once: their matrices stay in the cache


class ActivationSolution(NamedTuple):
    """Activations along a motion and what they leave unexplained at the frames' states.

    ============= ================================================================ ======== ======
    act           activations                                                      (F, M)   [0, 1]
    residual      RMS generalised force over the independent joints, root left out (F,)     Nm
    root_residual force and moment that nothing supplies at a free root            (F, 2)   N, Nm
    ============= ================================================================ ======== ======

    Residuals are those of the solved frames, interpolated; a fixed root has none.
    """

    act: np.ndarray
    residual: np.ndarray
    root_residual: np.ndarray


def solve_activations(
    body: Embodiment, qpos: np.ndarray, fps: float, *, stride: int | None = None
) -> ActivationSolution:
    """Activations with which the muscles (and the floor) produce a motion, least effort among all that do.

    At a fixed state the force of a muscle is linear in its activation, so each frame is a box-constrained least-squares
    problem: residual generalised force of the independent dofs, plus a small charge for squared activation and floor
    force. The dynamics of activation is not part of it; ``ActivationDynamics`` gives the excitations that follow.

    Args:
        body: embodiment.
        qpos: (F, Q) reference with exact couplings, F >= 3.
        fps: frames per second.
        stride: solve every so-manyth frame and interpolate; ``None`` solves at about 50 Hz.

    Returns:
        Solution of F frames, single precision.

    Raises:
        ValueError: fewer than three frames.

    Source: static optimisation after Crowninshield & Brand (1981), J. Biomech. 14:793, with exponent 2; soft equations
    of motion and free floor forces instead of measured ones are ours.
    """
    if len(qpos) < 3:
        raise ValueError(f"{len(qpos)} frames: accelerations need at least 3; give a longer motion")
    stride = max(1, round(fps / SOLVE_RATE)) if stride is None else stride
    reference = differentiate(body, qpos, fps, ACCELERATION_SMOOTHING_S)
    solved = np.unique(np.append(np.arange(0, len(qpos), stride), len(qpos) - 1))
    soles = SolePoints.of(body)
    parts = []
    for start in range(0, len(solved), _CHUNK):
        rows = solved[start : start + _CHUNK]
        equations = equations_of_motion(body, Reference(*(a[rows] for a in reference)), soles)
        parts.append(solve_frames(body, equations))
    act, residual = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    act = smooth(_interpolate(act, solved, len(qpos)), ACTIVATION_SMOOTHING_S * fps)
    return ActivationSolution(
        act.clip(0.0, 1.0).astype(np.float32), *_summarise(body, _interpolate(residual, solved, len(qpos)))
    )


def solve_frames(body: Embodiment, equations: Equations) -> tuple[Tensor, Tensor]:
    """Solve the frames' problems.

    Args:
        body: embodiment.
        equations: F frames.

    Returns:
        Activations (F, M) and residual generalised force (F, D) in N or Nm, double precision.
    """
    weight = torch.from_numpy(1.0 / _tolerance(body))[None, :, None]
    unit = FLOOR_LIMIT * body.model.body_mass.sum() * np.linalg.norm(body.model.opt.gravity)  # N at x = 1
    possible = equations.effort.isfinite()
    floor = torch.where(possible[:, None, :], equations.floor * unit, 0.0)
    ridge = FLOOR_RIDGE * torch.where(possible, equations.effort, 1.0)
    matrix = torch.cat([equations.muscle, floor], dim=2)
    charge = torch.cat([torch.full_like(equations.muscle[:, 0], RIDGE), ridge], dim=1)
    x = solve_box_least_squares(matrix * weight, equations.load * weight[:, :, 0], charge, tolerance=SOLVER_TOLERANCE)
    residual = equations.load - torch.bmm(matrix, x[:, :, None])[:, :, 0]
    return x[:, : equations.muscle.shape[2]], residual


def _tolerance(body: Embodiment) -> np.ndarray:
    """(D,) residual force that counts as one."""
    tolerance = np.full(len(body.couplings.independent_dof), JOINT_TOLERANCE)
    if body.free_root:
        tolerance[:6] = ROOT_TOLERANCE
    return tolerance


def _summarise(body: Embodiment, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RMS over the joints (F,) and root force and moment (F, 2) of residuals (F, D)."""
    root = residual[:, :6] if body.free_root else np.zeros((len(residual), 6))
    joints = residual[:, 6:] if body.free_root else residual
    parts = np.stack([np.linalg.norm(root[:, :3], axis=1), np.linalg.norm(root[:, 3:], axis=1)], axis=1)
    return np.sqrt((joints**2).mean(axis=1)).astype(np.float32), parts.astype(np.float32)


def _interpolate(values: np.ndarray, frames: np.ndarray, count: int) -> np.ndarray:
    """Rows (S, D) given at frame numbers (S,), linear in between, for frames 0 to count - 1."""
    wanted = np.arange(count)
    high = np.clip(np.searchsorted(frames, wanted), 1, len(frames) - 1)
    low = high - 1
    t = ((wanted - frames[low]) / (frames[high] - frames[low]))[:, None]
    return values[low] * (1.0 - t) + values[high] * t
