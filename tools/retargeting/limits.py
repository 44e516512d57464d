"""The joint limits that retargeting keeps."""

from __future__ import annotations

import numpy as np

from sim_models.embodiment import Embodiment
from tools.retargeting.kinematics import MotionKinematics

# rad: below an elevation of 0.1 its plane is undefined and swings by half a turn within a few frames; at a pronation of 1.176
# the supinator's path jumps to the other side of its wrapping geom, by 45 % of its length (docs/model_validation.md).
NARROWED = {"shoulder_elv": (0.1, np.inf), "pro_sup": (-np.inf, 1.17)}
GRID = 20001


def limited_kinematics(body: Embodiment, device: str = "cpu") -> MotionKinematics:
    """Kinematics with the limits that retargeting keeps: no coupled joint out of range at the ends, some ranges narrowed.

    Inside a driver's interval, a coupled joint may still overrun its range by ``sim_models.couplings.RANGE_TOLERANCE``:
    the knee's published polynomials do so by up to 2.5e-4 rad where every step passes.
    """
    kinematics = MotionKinematics(body, device)
    columns = {int(dof): k for k, dof in enumerate(body.couplings.independent_dof)}
    for joint in body.independent_hinges[body.model.jnt_limited[body.independent_hinges].astype(bool)]:
        low, high = _inside(body, int(joint))
        least, most = NARROWED.get(body.model.joint(joint).name[:-2], (-np.inf, np.inf))
        low, high = max(low, least), min(high, most)
        column = columns[int(body.model.jnt_dofadr[joint])]
        kinematics.low[column], kinematics.high[column] = low, high
    return kinematics


def _inside(body: Embodiment, joint: int) -> tuple[float, float]:
    """The feasible range of a joint, shortened until no coupled joint is out of its own range at either end."""
    model, couplings = body.model, body.couplings
    low, high = (float(x) for x in body.joint_ranges[joint])
    mine = np.flatnonzero(couplings.driver_qpos == model.jnt_qposadr[joint])
    if not len(mine):
        return low, high
    grid = np.linspace(low, high, GRID)
    qpos = np.zeros((GRID, model.nq))
    qpos[:, model.jnt_qposadr[joint]] = grid
    of_qpos = {int(adr): j for j, adr in enumerate(model.jnt_qposadr)}
    least, most = model.jnt_range[[of_qpos[int(adr)] for adr in couplings.dependent_qpos[mine]]].T
    values = couplings.values(qpos)[:, mine]
    good = np.flatnonzero(((values >= least - 1e-9) & (values <= most + 1e-9)).all(axis=1))
    return (float(grid[good[0]]), float(grid[good[-1]])) if len(good) else (low, high)
