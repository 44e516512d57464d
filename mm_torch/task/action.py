"""Action map: unbounded policy outputs to muscle excitations."""

from __future__ import annotations

from torch import Tensor

from mm_torch.config.schema import ActionConfig


def feedback(position_error: Tensor, velocity_error: Tensor, config: ActionConfig) -> Tensor:
    """Joint feedback towards the reference in units of action: ``stiffness * position_error + damping * velocity_error``.

    What a stretch reflex does: it acts in every control step, also while the policy's action is held.

    Args:
        position_error: (N, A) rad, reference minus simulated position of the independent joints.
        velocity_error: (N, A) rad/s, likewise.
        config: gains.
    """
    return config.stiffness * position_error + config.damping * velocity_error


def spread(action: Tensor, drive: Tensor | None) -> Tensor:
    """Actions (N, A) as one number a muscle (N, M).

    With ``space=joint`` there is one action an independent joint and ``drive`` (A, M) is ``sim_models.drive.joint_drive``:
    a positive action excites the muscles that turn the joint forwards and relaxes those that turn it back. None: each
    muscle has an action of its own.
    """
    return action if drive is None else action @ drive


def excite(action: Tensor, base: Tensor | float, config: ActionConfig) -> Tensor:
    """``excitation = clip(base + scale * action, low, 1)``.

    Args:
        action: (N, M), unbounded, one a muscle.
        base: excitation of a zero action: the configured offset, or the reference's activations (N, M).
        config: scale and lower bound.

    Returns:
        (N, M). With offset and scale 0.5 actions in [-1, 1] cover excitations in [0, 1]; upstream maps them one to one,
        so that its negative half does nothing.
    """
    return (base + config.scale * action).clamp(config.low, 1.0)
