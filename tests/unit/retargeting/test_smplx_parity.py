"""Own joint kinematics of SMPL+H against the package smplx, on a synthetic model file with the stand-in's joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools.convert_smplh import convert
from tools.retargeting.body_model import SMPLH_PARENTS, forward, load_body_model
from tools.retargeting.smplh import STAND_IN_JOINTS

pytestmark = pytest.mark.smpl
smplx = pytest.importorskip("smplx", reason="needs the extra smpl")
torch = pytest.importorskip("torch")
FAR = 2**32 - 1  # the released files write the root's parent so
FRAMES = 50


def write_model(path: Path, betas: int) -> Path:
    """Four vertices around each joint, whose mean is the joint; the shape basis moves them at random."""
    rng = np.random.default_rng(0)
    joints = np.concatenate([STAND_IN_JOINTS, STAND_IN_JOINTS[[20] * 15 + [21] * 15] + rng.normal(0, 0.05, (30, 3))])
    corners = 0.02 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    vertices = (joints[:, None] + corners).reshape(-1, 3)
    parents = np.array([FAR, *SMPLH_PARENTS[1:]])
    np.savez(
        path, v_template=vertices, f=np.zeros((1, 3), int), shapedirs=rng.normal(0, 0.01, (len(vertices), 3, betas)),
        posedirs=np.zeros((len(vertices), 3, 459)), J_regressor=np.kron(np.eye(52), np.full((1, 4), 0.25)),
        weights=np.kron(np.eye(52), np.ones((4, 1))),
        kintree_table=np.stack([parents, np.arange(52)]).astype(np.uint32),
        hands_componentsl=np.eye(45), hands_componentsr=np.eye(45), hands_meanl=np.zeros(45), hands_meanr=np.zeros(45),
    )  # fmt: skip
    return path


@pytest.mark.parametrize("count", [10, 16])
def test_all_52_joints_equal_those_of_smplx(tmp_path: Path, count: int):
    rng = np.random.default_rng(1)
    poses, trans = rng.normal(0, 0.5, (FRAMES, 52, 3)), rng.normal(0, 1, (FRAMES, 3))
    betas = rng.normal(0, 1, count)
    path = write_model(tmp_path / "SMPLH_NEUTRAL.npz", count)

    class AllShapes(smplx.SMPLH):
        SHAPE_SPACE_DIM = count  # otherwise the package cuts 16 coefficients to 10

    model = AllShapes(
        str(path), ext="npz", use_pca=False, flat_hand_mean=True, num_betas=count, batch_size=FRAMES, dtype=torch.float64,
        vertex_ids=dict.fromkeys(smplx.vertex_ids.vertex_ids["smplh"], 0),
    )
    columns = torch.from_numpy(poses.reshape(FRAMES, -1))
    theirs = model(
        betas=torch.from_numpy(np.tile(betas, (FRAMES, 1))), global_orient=columns[:, :3], body_pose=columns[:, 3:66],
        left_hand_pose=columns[:, 66:111], right_hand_pose=columns[:, 111:], transl=torch.from_numpy(trans),
    ).joints[:, :52].detach().numpy()
    convert(path, tmp_path / "slim.npz")
    for file in (path, tmp_path / "slim.npz"):
        ours, _ = forward(load_body_model(file).joints(betas), poses, trans)
        assert np.abs(ours - theirs).max() < 1e-6
