"""How a frame looks: colours of muscles, their paths as segments, forces as arrows. Pure functions of model and state."""

from __future__ import annotations

import mujoco
import numpy as np

RELAXED, ACTIVE = np.array([0.20, 0.35, 0.85, 1.0]), np.array([1.0, 0.12, 0.08, 1.0])
GHOST = (0.25, 0.55, 1.0, 0.3)
ARROW = (0.15, 0.75, 0.2, 1.0)
METRES_PER_NEWTON = 1e-3
LEAST_FORCE = 5.0  # N; smaller forces get no arrow
LEGEND = (
    ("muscles", "activation 0 blue, 1 red"),
    ("ghost", "reference"),
    ("arrows", "force of the ground, 1 m = 1000 N"),
)
_WRAPS = (mujoco.mjtWrap.mjWRAP_SPHERE, mujoco.mjtWrap.mjWRAP_CYLINDER)
_PULLEY = -2  # in ``wrap_obj``: the path ends here and another branch begins


def activation_colours(act: np.ndarray) -> np.ndarray:
    """Colours (..., 4) in [0, 1] from blue to red for activations (...)."""
    share = np.clip(act, 0.0, 1.0)[..., None]
    return (1.0 - share) * RELAXED + share * ACTIVE


def tendon_muscles(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Muscles (K,) that pull on tendons, and their tendons (K,)."""
    pulls = model.actuator_trntype == mujoco.mjtTrn.mjTRN_TENDON
    return np.flatnonzero(pulls), model.actuator_trnid[pulls, 0]


def tendon_colours(model: mujoco.MjModel, act: np.ndarray | None) -> np.ndarray:
    """Colours (ntendon, 4): by activation (M,) where a muscle pulls, else (and for None) the model's own."""
    colours = np.array(model.tendon_rgba, dtype=float)
    if act is not None:
        muscles, tendons = tendon_muscles(model)
        colours[tendons] = activation_colours(act[muscles])
    return colours


def pose(model: mujoco.MjModel, data: mujoco.MjData, qpos: np.ndarray) -> None:
    """Put a body into a pose: bodies, geoms, lights and tendon paths, no dynamics."""
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    mujoco.mj_tendon(model, data)


def most_segments(model: mujoco.MjModel) -> int:
    """Most straight pieces that the tendon paths of a model can have."""
    return int(model.nwrap + np.isin(model.wrap_type, _WRAPS).sum())


def muscle_segments(model: mujoco.MjModel, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
    """Tendon paths as straight pieces.

    Args:
        model: model.
        data: after ``pose``.

    Returns:
        World ends (P, 2, 3) m of each piece and its tendon (P,). P changes with the pose, as paths touch and leave the
        bones they wrap around.
    """
    points, objects = data.wrap_xpos.reshape(-1, 3), data.wrap_obj.reshape(-1)
    tendon = np.full(len(points), -1)
    for t, (first, count) in enumerate(zip(data.ten_wrapadr, data.ten_wrapnum, strict=True)):
        tendon[first : first + count] = t
    goes_on = (tendon[:-1] == tendon[1:]) & (tendon[:-1] >= 0) & (objects[:-1] != _PULLEY) & (objects[1:] != _PULLEY)
    start = np.flatnonzero(goes_on)
    return np.stack([points[start], points[start + 1]], axis=1), tendon[start]


def padded(array: np.ndarray, length: int) -> np.ndarray:
    """The array with its last row repeated up to a length, so that what is sent always has one shape."""
    return np.concatenate([array, np.repeat(array[-1:], length - len(array), axis=0)])


def force_arrows(force: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Arrows (A, 2, 3) m, tail and tip, for forces (K, 3) N at places (K, 3) m; none where no force is.

    ``tip = tail + force / (1000 N/m)``.
    """
    there = (np.linalg.norm(force, axis=-1) > LEAST_FORCE) & np.isfinite(at).all(axis=-1)
    tail = np.asarray(at[there], dtype=float)
    return np.stack([tail, tail + METRES_PER_NEWTON * force[there]], axis=1)
