"""Joints of a parametric body (SMPL family) for a subject's shape, from a model file without pickles.

Only joints are needed, and they are affine in the shape: ``J(betas) = J_template + J_shapes betas`` with
``J_template = J_regressor v_template`` and ``J_shapes = J_regressor shapedirs``. ``tools/convert_smplh.py`` stores these
two; a full model npz is reduced to them when it is loaded.
Source: SMPL (Loper et al. 2015), SMPL-H (Romero et al. 2017), SMPL-X (Pavlakos et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mm_torch.motion.npz import NpzError, read_npz
from tools.retargeting import rotations
from tools.retargeting.atomic import replacing
from tools.retargeting.skeleton import CaptureError

# Parents of the pelvis and the 21 body joints, which all models of the family share; then of SMPL-H's fingers: three
# joints each of index, middle, little, ring finger and thumb, left hand (22 to 36) before right hand (37 to 51).
BODY_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
HANDS = ((20, 22), (21, 37))  # wrist and first finger joint
SMPLH_PARENTS = BODY_PARENTS + tuple(
    joint - 1 if (joint - first) % 3 else wrist for wrist, first in HANDS for joint in range(first, first + 15)
)
FAMILIES = {24: "SMPL", 52: "SMPL+H", 55: "SMPL-X"}
# SMPL-X stores expressions behind the shapes in one array: columns there are to how many of them are shapes.
SMPLX_SHAPES = {400: 300, 20: 10}

FULL = ("v_template", "shapedirs", "J_regressor", "kintree_table")
SLIM = ("joint_template", "joint_shapes", "parents")
DOWNLOAD = (
    'register at https://mano.is.tue.mpg.de, download "Extended SMPL+H model" (16 betas), unpack it outside the '
    "repository, run python tools/convert_smplh.py neutral/model.npz out=smplh_neutral.npz and give "
    "smplh_model=smplh_neutral.npz; or leave smplh_model= out for the stand-in body"
)


@dataclass(frozen=True, eq=False)
class BodyModel:
    """Joints of a body as a function of its shape; Y up, facing +Z, left is +X.

    ======== ============================================================ =========
    template joints of the mean body                                      (J, 3), m
    shapes   their displacement for each unit of a shape coefficient      (J, 3, B), m
    parents  index of each joint's parent, before the joint; -1: the root J
    gender   of the bodies that the model was made from; may be unknown   text
    ======== ============================================================ =========
    """

    template: np.ndarray
    shapes: np.ndarray
    parents: tuple[int, ...]
    gender: str = "unknown"

    @property
    def family(self) -> str:
        """SMPL, SMPL+H or SMPL-X."""
        return FAMILIES[len(self.parents)]

    def joints(self, betas: np.ndarray) -> np.ndarray:
        """Rest joints (J, 3) m of a shape (any number of coefficients); those beyond the model's, the finest, do not count.

        Raises:
            CaptureError: a coefficient is not finite.
        """
        betas = np.asarray(betas, dtype=float).reshape(-1)
        if not np.isfinite(betas).all():
            raise CaptureError(f"betas {betas}: not finite; repair the capture or delete its betas for the mean body")
        count = min(len(betas), self.shapes.shape[-1])
        return self.template + self.shapes[..., :count] @ betas[:count]


def load_body_model(path: Path) -> BodyModel:
    """Read a model file: slim, as ``tools/convert_smplh.py`` writes it, or a full SMPL, SMPL+H or SMPL-X npz.

    Raises:
        CaptureError: the file is missing, no npz, pickled where it matters, lacks an array, or is no body of the family.
    """
    if not path.is_file():
        raise CaptureError(f"{path}: no such model file; {DOWNLOAD}")
    arrays = load_arrays(path, (*SLIM, *FULL))
    names = SLIM if "joint_template" in arrays else FULL
    if missing := [name for name in names if name not in arrays]:
        raise CaptureError(f"{path}: {missing[0]} is missing, so it is no body model; {DOWNLOAD}")
    if names is FULL:
        return reduce_model(arrays, str(path))
    gender = load_arrays(path, ("gender",)).get("gender", "unknown")
    parents = tuple(int(p) for p in arrays["parents"])
    model = BodyModel(arrays["joint_template"], arrays["joint_shapes"], parents, str(gender))
    _check(model, str(path))
    return model


def load_arrays(path: Path, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The wanted arrays of an npz, as far as they are there; others are not looked at.

    Raises:
        CaptureError: the file is no npz, or a wanted array is pickled.
    """
    try:
        return read_npz(path, tuple(wanted))
    except NpzError as error:
        raise CaptureError(
            f"{path}: no npz of plain arrays ({error}); a .pkl goes through tools/convert_smplh.py first, a truncated file "
            "is to be downloaded again"
        ) from None


def reduce_model(arrays: Mapping[str, np.ndarray], name: str, gender: str = "unknown") -> BodyModel:
    """The joints of a full model.

    Args:
        arrays: ``FULL``: v_template (V, 3) m, shapedirs (V, 3, B) m, J_regressor (J, V), kintree_table (2, J).
        name: of the file, for messages.
        gender: what to call it.

    Raises:
        CaptureError: shapes disagree, or the body is none of the family.
    """
    vertices, shapedirs, regressor, tree = (np.asarray(arrays[key], dtype=float) for key in FULL)
    if shapedirs.ndim != 3 or vertices.shape != shapedirs.shape[:2] or vertices.shape[1:] != (3,):
        raise CaptureError(f"{name}: v_template {vertices.shape} and shapedirs {shapedirs.shape} do not fit; get it again")
    if regressor.shape != (tree.shape[-1], len(vertices)) or tree.ndim != 2:
        raise CaptureError(f"{name}: J_regressor {regressor.shape} does not fit {len(vertices)} vertices and kintree_table "
                           f"{tree.shape}; get it again")
    count = shapedirs.shape[-1]
    if len(regressor) == 55:
        count = SMPLX_SHAPES.get(count, count)
    parents = tuple(int(p) for p in tree[0].astype(np.int64))
    shapes = np.tensordot(regressor, shapedirs[..., :count], axes=1)
    model = BodyModel(regressor @ vertices, shapes, (-1, *parents[1:]), gender)
    _check(model, name)
    return model


def save_body_model(path: Path, model: BodyModel, source_sha256: str) -> None:
    """Write a slim model file (about 30 kB), whole or not at all.

    Args:
        path: the npz to write.
        model: what to write.
        source_sha256: digest of the licensed file that it comes from.
    """
    with replacing(path) as file:
        np.savez_compressed(
            file, joint_template=model.template, joint_shapes=model.shapes, parents=np.array(model.parents),
            gender=np.array(model.gender), source_sha256=np.array(source_sha256),
        )


def forward(
    joints: np.ndarray, poses: np.ndarray, trans: np.ndarray, parents: tuple[int, ...] = SMPLH_PARENTS
) -> tuple[np.ndarray, np.ndarray]:
    """Pose a joint chain: ``G_j = G_parent exp(pose_j)``, the root joint at ``trans + J_0``.

    Args:
        joints: rest joints (J, 3) m.
        poses: (F, J, 3) axis-angle rad, each relative to its parent.
        trans: (F, 3) m.
        parents: of the J joints.

    Returns:
        Positions (F, J, 3) m and rotations since the rest pose (F, J, 3, 3), both in the file's world.
    """
    local = rotations.exp(poses)
    turn = np.empty_like(local)
    position = np.empty((len(poses), len(parents), 3))
    for j, parent in enumerate(parents):
        if parent < 0:
            turn[:, j], position[:, j] = local[:, j], trans + joints[j]
        else:
            turn[:, j] = turn[:, parent] @ local[:, j]
            position[:, j] = position[:, parent] + turn[:, parent] @ (joints[j] - joints[parent])
    return position, turn


def _check(model: BodyModel, name: str) -> None:
    count = len(model.parents)
    if count not in FAMILIES:
        raise CaptureError(f"{name}: has {count} joints; a body of the SMPL family has {', '.join(map(str, FAMILIES))} "
                           f"(MANO, 16, is a hand). {DOWNLOAD}")
    if model.parents[: len(BODY_PARENTS)] != BODY_PARENTS:
        raise CaptureError(f"{name}: its {count} joints are not connected as in the SMPL family; {DOWNLOAD}")
    if model.template.shape != (count, 3) or model.shapes.shape[:2] != (count, 3) or model.shapes.ndim != 3:
        raise CaptureError(f"{name}: joint_template {model.template.shape} and joint_shapes {model.shapes.shape} do not fit "
                           f"{count} joints; convert it again")
    if not (np.isfinite(model.template).all() and np.isfinite(model.shapes).all()):
        raise CaptureError(f"{name}: holds values that are not finite; download it again")
