"""Inverse kinematics of a whole motion at once: Gauss-Newton within limits, couplings eliminated, smooth by a penalty.

Minimises ``sum_t |W r(q_t)|^2 + sum_td k_d (q_{t+1} - 2 q_t + q_{t-1})_d^2`` over all frames. The penalty is a low-pass
without phase: at the cut-off ``f_c`` its weight ``k_d = h_d / (2 pi f_c dt)^4`` equals the stiffness ``h_d`` with which
the data hold dof d. Noise and badly observed moments (an arm hanging straight down has no elevation plane) are bridged,
while contact terms are met by the motion that comes out: nothing is filtered, and so spoiled, afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.retargeting import rotations
from tools.retargeting.kinematics import MotionKinematics, Pose
from tools.retargeting.targets import Targets

POSTURE_WEIGHT = 0.002  # m/rad towards neutral; decides only what nothing else does

FIRST_DAMPING = 0.1  # of the median stiffness; freer first steps overshoot into postures that a frame does not leave
# m^2: a dof that the data hold less (twist of a straight arm, wrist, toes) is smoothed as if they held it so much; its
# cut-off is lower by the fourth root of the ratio.
SOFTEST = 0.1


@dataclass(frozen=True)
class Residuals:
    """Rows of a least-squares problem per frame: values (F, R) and derivatives (F, R, D), both weighted."""

    value: np.ndarray
    jacobian: np.ndarray


Term = Callable[[Pose], Residuals]


def target_term(kinematics: MotionKinematics, targets: Targets, neutral: np.ndarray) -> Term:
    """Distance of sites and orientations from the targets, and a trace of the neutral posture (D,)."""
    hinge = np.isfinite(kinematics.limits()[0])
    posture = POSTURE_WEIGHT * np.eye(kinematics.dofs)[hinge]

    def term(pose: Pose) -> Residuals:
        frames = len(pose.qpos)
        shift = (pose.body_pos - targets.position) * targets.weight[:, None]
        shift_jac = kinematics.position_jacobian(pose) * targets.weight[:, None, None]
        error = rotations.log(pose.body_mat[:, targets.turn_sites] @ np.swapaxes(targets.turn, -1, -2))
        turn = error * targets.turn_weight[:, None]
        turn_jac = kinematics.rotation_jacobian(pose)[:, targets.turn_sites] * targets.turn_weight[:, None, None]
        rest = POSTURE_WEIGHT * (kinematics.coordinates(pose.qpos) - neutral)[:, hinge]
        return Residuals(
            np.concatenate([shift.reshape(frames, -1), turn.reshape(frames, -1), rest], axis=1),
            np.concatenate(
                [jac.reshape(frames, -1, kinematics.dofs) for jac in (shift_jac, turn_jac)]
                + [np.broadcast_to(posture, (frames, *posture.shape))], axis=1,
            ),
        )

    return term


@dataclass(frozen=True)
class Smoothness:
    """Cut-off frequency in Hz and frame rate in Hz of the acceleration penalty."""

    cutoff: float
    fps: float

    def weights(self, jacobian: np.ndarray) -> np.ndarray:
        """(D,) weights ``k_d`` from the data's Jacobian (F, R, D)."""
        stiffness = np.median(np.einsum("frd,frd->fd", jacobian, jacobian), axis=0)
        return np.maximum(stiffness, SOFTEST) / (2.0 * np.pi * self.cutoff / self.fps) ** 4


def solve(
    kinematics: MotionKinematics,
    qpos: np.ndarray,
    terms: list[Term],
    smoothness: Smoothness,
    iterations: int,
    tolerance: float = 1e-4,
) -> np.ndarray:
    """Minimise the terms over a motion.

    Args:
        kinematics: of the body.
        qpos: (F, Q) first guess; put within the limits.
        terms: residuals; the first sets the scale of the smoothness weights.
        smoothness: of the result.
        iterations: at most.
        tolerance: relative decrease of the cost that ends the iterations.

    Returns:
        (F, Q) positions within the limits and with exact couplings.
    """
    low, high = kinematics.limits()
    qpos = _clip(kinematics, qpos, low, high)
    pose = kinematics.pose(qpos)
    rows = [term(pose) for term in terms]
    weights = smoothness.weights(rows[0].jacobian)
    cost, damping = _cost(rows, kinematics, qpos, weights), np.full(len(qpos), FIRST_DAMPING)
    for _ in range(iterations):
        hessian, gradient = _normal(rows)
        gradient += _smooth_gradient(kinematics, qpos, weights)
        coordinates = kinematics.coordinates(qpos)
        free = ~(((coordinates <= low + 1e-9) & (gradient > 0)) | ((coordinates >= high - 1e-9) & (gradient < 0)))
        scale = np.diag(np.maximum(np.median(np.einsum("fdd->fd", hessian), axis=0), 1e-8))
        for _ in range(6):
            delta = solve_smooth(hessian + damping[:, None, None] * scale, weights, -gradient, free)
            trial = kinematics.step(qpos, np.clip(coordinates + delta, low, high) - coordinates)
            trial_pose = kinematics.pose(trial)
            trial_rows = [term(trial_pose) for term in terms]
            trial_cost = _cost(trial_rows, kinematics, trial, weights)
            # Frames that got worse are damped more, also where the step as a whole is good: they hold up no others.
            worse = trial_cost > cost + 1e-9
            damping = np.clip(np.where(worse, np.maximum(damping, 1e-3) * 10.0, damping * 0.3), 1e-7, 1e6)
            if trial_cost.sum() < cost.sum():
                break
        else:
            return qpos
        improvement = 1.0 - trial_cost.sum() / max(cost.sum(), 1e-30)
        qpos, rows, cost = trial, trial_rows, trial_cost
        if improvement < tolerance:
            break
    return qpos


def _clip(kinematics: MotionKinematics, qpos: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    coordinates = kinematics.coordinates(qpos)
    return kinematics.step(qpos, np.clip(coordinates, low, high) - coordinates)


def _normal(rows: list[Residuals]) -> tuple[np.ndarray, np.ndarray]:
    hessian = sum(np.swapaxes(r.jacobian, 1, 2) @ r.jacobian for r in rows)
    gradient = sum(np.einsum("frd,fr->fd", r.jacobian, r.value) for r in rows)
    return hessian, gradient


def _bend(kinematics: MotionKinematics, qpos: np.ndarray) -> np.ndarray:
    return np.diff(kinematics.tangent(qpos), axis=0)  # (F - 2, D)


def _cost(rows: list[Residuals], kinematics: MotionKinematics, qpos: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(F,) cost of each frame; an acceleration counts for its middle frame."""
    cost = sum((r.value**2).sum(axis=1) for r in rows)
    cost[1:-1] += (weights * _bend(kinematics, qpos) ** 2).sum(axis=1)
    return cost


def _smooth_gradient(kinematics: MotionKinematics, qpos: np.ndarray, weights: np.ndarray) -> np.ndarray:
    bend = weights * _bend(kinematics, qpos)
    gradient = np.zeros((len(qpos), kinematics.dofs))
    gradient[:-2] += bend
    gradient[1:-1] -= 2.0 * bend
    gradient[2:] += bend
    return gradient


def solve_smooth(hessian: np.ndarray, weights: np.ndarray, right: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Solve ``(H + D2^T diag(k) D2) x = b`` with some entries of x held at zero.

    Two frames make one block, so that the matrix is block tridiagonal; block elimination costs O(F D^3).

    Args:
        hessian: (F, D, D) blocks, one per frame.
        weights: (D,) k.
        right: (F, D) b.
        free: (F, D) entries that are not held.

    Returns:
        (F, D) x.
    """
    frames, dofs = right.shape
    bands = _second_difference(frames)
    padded = frames + frames % 2
    blocks = np.zeros((padded // 2, 2 * dofs, 2 * dofs))
    upper = np.zeros((padded // 2, 2 * dofs, 2 * dofs))
    hold = np.zeros((padded, dofs))
    hold[:frames] = free
    b = np.zeros((padded, dofs))
    b[:frames] = np.where(free, right, 0.0)
    diagonal = np.arange(dofs)
    for half in (0, 1):
        part = slice(half * dofs, (half + 1) * dofs)
        own = hessian[half::2]
        mask = hold[half::2][: len(own)]
        blocks[: len(own), part, part] = own * mask[:, :, None] * mask[:, None, :]
        entry = np.zeros((padded // 2, dofs))
        entry[: len(own)] = weights * bands[0][half::2, None]
        kept = hold[half::2]
        blocks[:, half * dofs + diagonal, half * dofs + diagonal] += np.where(kept > 0, entry, 1.0)
        after = np.zeros((padded // 2, dofs))  # coupling of a frame with the next but one: same half of the next block
        after[: len(bands[2][half::2])] = weights * bands[2][half::2, None]
        upper[:-1, half * dofs + diagonal, half * dofs + diagonal] = (after * kept)[:-1] * kept[1:]
    next_one = np.zeros((padded, dofs))
    next_one[: frames - 1] = weights * bands[1][:, None]
    inside = next_one[0::2] * hold[0::2] * hold[1::2]
    blocks[:, diagonal, dofs + diagonal] += inside
    blocks[:, dofs + diagonal, diagonal] += inside
    upper[:-1, dofs + diagonal, diagonal] = next_one[1::2][:-1] * hold[1::2][:-1] * hold[2::2]
    return _block_tridiagonal(blocks, upper, b.reshape(padded // 2, 2 * dofs)).reshape(padded, dofs)[:frames]


def _second_difference(frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diagonal and the two upper diagonals of ``D2^T D2`` for F >= 3 frames."""
    pattern = np.zeros((frames - 2, 3)) + np.array([1.0, -2.0, 1.0])
    main, first, second = np.zeros(frames), np.zeros(frames - 1), np.zeros(frames - 2)
    for k in range(3):
        main[k : k + frames - 2] += pattern[:, k] ** 2
    for k in range(2):
        first[k : k + frames - 2] += pattern[:, k] * pattern[:, k + 1]
    second += pattern[:, 0] * pattern[:, 2]
    return main, first, second


def _block_tridiagonal(blocks: np.ndarray, upper: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a symmetric block tridiagonal system; ``upper[k]`` couples block k with block k + 1."""
    count, size = right.shape
    carried, partial = np.empty((count, size, size)), np.empty((count, size))
    matrix, vector = blocks[0], right[0]
    for k in range(count):
        both = np.linalg.solve(matrix, np.concatenate([upper[k], vector[:, None]], axis=1))
        carried[k], partial[k] = both[:, :size], both[:, size]
        if k + 1 < count:
            matrix = blocks[k + 1] - upper[k].T @ carried[k]
            vector = right[k + 1] - upper[k].T @ partial[k]
    out = np.empty((count, size))
    out[-1] = partial[-1]
    for k in range(count - 2, -1, -1):
        out[k] = partial[k] - carried[k] @ out[k + 1]
    return out
