"""What MuJoCo's scenes get beside the body: the ghost and the arrows."""

from __future__ import annotations

import mujoco
import numpy as np

from mm_torch.viewer.scene import ARROW, GHOST

ARROW_WIDTH = 0.012  # m


def ghost_options() -> mujoco.MjvOption:
    """The ghost shows bones, neither muscles nor sites."""
    options = mujoco.MjvOption()
    options.sitegroup[:] = 0
    options.flags[mujoco.mjtVisFlag.mjVIS_TENDON] = 0
    return options


def add_ghost(
    scene: mujoco.MjvScene, model: mujoco.MjModel, data: mujoco.MjData, options: mujoco.MjvOption
) -> None:
    """Add a translucent body in the pose of ``data`` to a scene."""
    first = scene.ngeom
    mujoco.mjv_addGeoms(
        model, data, options, mujoco.MjvPerturb(), mujoco.mjtCatBit.mjCAT_DYNAMIC.value, scene
    )
    for geom in scene.geoms[first : scene.ngeom]:
        geom.rgba[:] = GHOST
        geom.matid, geom.transparent = -1, 1


def add_arrows(scene: mujoco.MjvScene, arrows: np.ndarray) -> None:
    """Add arrows (A, 2, 3) m, tail and tip, to a scene."""
    kind, zero = mujoco.mjtGeom.mjGEOM_ARROW, np.zeros(3)
    for tail, tip in arrows[: scene.maxgeom - scene.ngeom]:
        geom = scene.geoms[scene.ngeom]
        mujoco.mjv_initGeom(geom, kind, zero, zero, np.eye(3).ravel(), np.array(ARROW, dtype=np.float32))
        mujoco.mjv_connector(geom, kind, ARROW_WIDTH, tail, tip)
        geom.size[2] *= 2.0  # the renderer draws arrows half as long as that
        scene.ngeom += 1
