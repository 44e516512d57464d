"""Own joint kinematics of SMPL+H against the package smplx, on a synthetic model file with the stand-in's joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools.retargeting.smplh import PARENTS, STAND_IN_JOINTS, forward, rest_joints

pytestmark = pytest.mark.smpl
smplx = pytest.importorskip("smplx", reason="needs the extra smpl")
torch = pytest.importorskip("torch")
FINGERS = [20, 22, 23, 20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35,
           21, 37, 38, 21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50]  # parents of joints 22 to 51
BETAS = 10


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four vertices around each joint, whose mean is the joint; the shape basis moves them at random."""
    rng = np.random.default_rng(0)
    joints = np.concatenate([STAND_IN_JOINTS, STAND_IN_JOINTS[[20] * 15 + [21] * 15] + rng.normal(0, 0.05, (30, 3))])
    corners = 0.02 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    vertices = (joints[:, None] + corners).reshape(-1, 3)
    count = len(vertices)
    regressor = np.kron(np.eye(52), np.full((1, 4), 0.25))
    parents = np.array([*PARENTS, *FINGERS])
    path = tmp_path_factory.mktemp("smplh") / "SMPLH_NEUTRAL.npz"
    np.savez(
        path, v_template=vertices, f=np.zeros((1, 3), int), shapedirs=rng.normal(0, 0.01, (count, 3, BETAS)),
        posedirs=np.zeros((count, 3, 459)), J_regressor=regressor, weights=np.kron(np.eye(52), np.ones((4, 1))),
        kintree_table=np.stack([np.where(parents < 0, 2**32 - 1, parents), np.arange(52)]).astype(np.uint32),
        hands_componentsl=np.eye(45), hands_componentsr=np.eye(45), hands_meanl=np.zeros(45), hands_meanr=np.zeros(45),
    )
    return path


def test_joints_equal_those_of_smplx(model_file: Path) -> None:
    rng = np.random.default_rng(1)
    frames = 50
    poses, trans = rng.normal(0, 0.5, (frames, 22, 3)), rng.normal(0, 1, (frames, 3))
    betas = rng.normal(0, 1, BETAS)
    model = smplx.create(
        str(model_file), model_type="smplh", ext="npz", use_pca=False, flat_hand_mean=True, num_betas=BETAS,
        batch_size=frames, dtype=torch.float64, vertex_ids=dict.fromkeys(smplx.vertex_ids.vertex_ids["smplh"], 0),
    )
    theirs = model(
        betas=torch.from_numpy(np.tile(betas, (frames, 1))), global_orient=torch.from_numpy(poses[:, 0]),
        body_pose=torch.from_numpy(poses[:, 1:].reshape(frames, -1)), transl=torch.from_numpy(trans),
    ).joints[:, :22].detach().numpy()
    ours, _ = forward(rest_joints(model_file, betas), poses, trans)
    assert np.abs(ours - theirs).max() < 1e-6
