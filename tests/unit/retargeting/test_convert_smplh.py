"""Model files: pickles made here, as they come from Python 2 with chumpy and scipy and as an attacker would make them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tools import convert_smplh
from tools.retargeting import body_model, rotations
from tools.retargeting.body_model import BODY_PARENTS, FULL, SMPLH_PARENTS, forward, load_body_model, reduce_model
from tools.retargeting.skeleton import CaptureError
from tools.retargeting.smplh import STAND_IN_JOINTS

VERTICES, BETAS = 120, 16
FOREIGN = {"Ch": "chumpy.ch", "dot": "chumpy.ch", "Select": "chumpy.reordering", "csc_matrix": "scipy.sparse.csc",
           "csr_matrix": "scipy.sparse.csr"}  # class to module


def full_model(joints: int = 52, betas: int = BETAS) -> dict[str, np.ndarray]:
    """A random model with the tree of SMPL+H, or with as many joints as asked for."""
    rng = np.random.default_rng(joints)
    regressor = rng.uniform(0, 1, (joints, VERTICES)) * (rng.uniform(0, 1, (joints, VERTICES)) < 0.1)
    parents = np.array([*SMPLH_PARENTS, *range(51, 60)])[:joints].astype(np.int64)
    parents[0] = 2**32 - 1  # as the released files have it
    return {
        "v_template": rng.normal(0, 1, (VERTICES, 3)), "shapedirs": rng.normal(0, 0.1, (VERTICES, 3, betas)),
        "J_regressor": regressor, "kintree_table": np.stack([parents, np.arange(joints)]).astype(np.uint32),
    }


def expected_joints(model: dict[str, np.ndarray], betas: np.ndarray) -> np.ndarray:
    return model["J_regressor"] @ (model["v_template"] + model["shapedirs"][..., : len(betas)] @ betas)


class Node:
    """Stands in a fake module for a class of chumpy or scipy: state only, as those are pickled."""

    def __init__(self, **state: object):
        self.__dict__.update(state)


@pytest.fixture
def foreign() -> Iterator[dict[str, type]]:
    """Classes that pickle under chumpy's and scipy's names; their modules exist only while the pickle is written."""
    modules = {".".join(m.split(".")[: k + 1]) for m in FOREIGN.values() for k in range(m.count(".") + 1)}
    kept = {module: sys.modules.get(module) for module in modules}
    sys.modules |= {module: types.ModuleType(module) for module in modules}
    classes = {name: type(name, (Node,), {"__module__": module}) for name, module in FOREIGN.items()}
    for name, module in FOREIGN.items():
        setattr(sys.modules[module], name, classes[name])
    yield classes
    for module, before in kept.items():
        sys.modules.pop(module, None)
        if before is not None:
            sys.modules[module] = before


def compressed(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Data, indices and row pointer of a matrix's rows."""
    rows = [np.flatnonzero(row) for row in dense]
    pointer = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int32)
    return dense[dense != 0], np.concatenate(rows).astype(np.int32), pointer


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("layout", ["csc", "csr"])
def test_pickles_with_chumpy_and_scipy_need_neither(tmp_path: Path, foreign: dict, protocol: int, layout: str):
    model = full_model()
    kept = np.random.default_rng(3).permutation(VERTICES * 3 * BETAS)
    data, indices, pointer = compressed(model["J_regressor"].T if layout == "csc" else model["J_regressor"])
    wide = np.zeros(kept.size)
    wide[kept] = model["shapedirs"].ravel()
    content = {
        **model,
        "v_template": foreign["Ch"](x=np.asfortranarray(model["v_template"]), _dirty_vars={"x"}),
        "shapedirs": foreign["Select"](a=foreign["Ch"](x=wide), idxs=kept, preferred_shape=model["shapedirs"].shape),
        "J_regressor": foreign[f"{layout}_matrix"](
            _shape=model["J_regressor"].shape, data=data, indices=indices, indptr=pointer, format=layout, maxprint=50),
        "bs_type": "lrotmin", "hands_meanl": np.float64(0.5) * np.ones(45), "count": np.float64(2.0),
    }  # fmt: skip
    (tmp_path / "SMPLH_FEMALE.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    sys.modules |= dict.fromkeys(FOREIGN.values())  # from here on an import of them fails
    made = convert_smplh.convert(tmp_path / "SMPLH_FEMALE.pkl", tmp_path / "out.npz")
    assert made.gender == "female" and made.family == "SMPL+H"
    betas = np.random.default_rng(4).normal(size=BETAS)
    loaded = load_body_model(tmp_path / "out.npz")
    np.testing.assert_allclose(loaded.joints(betas), expected_joints(model, betas), atol=1e-12)
    assert (loaded.parents, loaded.gender) == (SMPLH_PARENTS, "female")


def test_python_2_text_pickle_is_read(tmp_path: Path):
    """Protocol 0 as Python 2 writes it: ``copy_reg``, ``numpy.core`` and bytes as text with escapes."""
    array = np.array([1.5, -2.25])
    text = "".join(f"\\x{byte:02x}" for byte in array.tobytes())
    written = (
        "(dp0\nS'v_template'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\n"
        "tp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f8'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\n"
        f"tp14\nbI00\nS'{text}'\np15\ntp16\nbsS'x'\nccopy_reg\n_reconstructor\np17\n(cchumpy.ch\nCh\np18\n"
        "c__builtin__\nobject\np19\nNtp20\nRp21\n(dp22\nS'x'\np23\ng7\nsbs."
    )
    read = convert_smplh.read_model_pickle(written.encode(), "old.pkl", ("v_template", "x", "absent"))
    np.testing.assert_array_equal(read["v_template"], array)
    np.testing.assert_array_equal(read["x"], array)
    assert set(read) == {"v_template", "x"}


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: object, *arguments: object):
        self.parts = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.parts


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, "system"), (eval, "eval"), (exec, "exec"), (getattr, "getattr"), (subprocess.Popen, "Popen"),
     (np.load, "load")],
)  # fmt: skip
def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path: Path, protocol: int, function: object, named: str):
    proof = tmp_path / "ran"
    argument = f"touch {proof}" if function in (os.system, subprocess.Popen) else f"open({str(proof)!r}, 'w')"
    content = full_model() | {"extra": Call(function, argument)}
    (tmp_path / "SMPLH_MALE.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(CaptureError, match=rf"MALE\.pkl: refused: holds the name [\w.]+\.{named}, .*nothing of it was run"):
        convert_smplh.convert(tmp_path / "SMPLH_MALE.pkl", tmp_path / "out.npz")
    assert not proof.exists() and not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cchumpy_evil\nrun\n.", r"refused.*chumpy_evil\.run"),
        (b"cscipy.sparse\nload_npz\n.", r"refused.*load_npz"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(c__builtin__\nset\ntR.", "refused.*an instance of"),
        (pickle.dumps({"v_template": np.array([{}], dtype=object)}), "refused: holds an array that is not stored as bytes"),
        (pickle.dumps([1, 2]), "refused.*a list where a model is a dict"),
        (pickle.dumps(full_model())[:500], "damaged or no pickle"),
        (b"no pickle at all", "damaged or no pickle"),
        (b"", "damaged or no pickle"),
        (b"PK but no archive", "no npz of plain arrays"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, data: bytes, message: str):
    (tmp_path / "m.pkl").write_bytes(data)
    with pytest.raises(CaptureError, match=rf"m\.pkl: {message}"):
        convert_smplh.convert(tmp_path / "m.pkl", tmp_path / "out.npz")


def test_chumpy_that_would_have_to_compute_is_refused(tmp_path: Path, foreign: dict):
    content = full_model() | {"shapedirs": foreign["dot"](left=1, right=2)}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CaptureError, match=r"chumpy\.ch\.dot that holds no array but left, right"):
        convert_smplh.convert(tmp_path / "m.pkl", tmp_path / "out.npz")


def test_command_makes_a_small_file_of_the_extended_model(tmp_path: Path, capsys: pytest.CaptureFixture):
    source = tmp_path / "neutral" / "model.npz"
    source.parent.mkdir()
    model = full_model()
    pickled = np.array([{"never": "read"}], dtype=object)
    np.savez(source, **model, posedirs=np.zeros((VERTICES, 3, 459)), bs_style=pickled, gender=pickled)
    assert convert_smplh.main([str(source), f"out={tmp_path / 'small.npz'}"]) == 0
    assert "SMPL+H, neutral, 52 joints, 16 shape coefficients" in capsys.readouterr().out
    assert (tmp_path / "small.npz").stat().st_size < 40_000
    betas = np.linspace(-1, 1, BETAS)
    for file in (source, tmp_path / "small.npz"):  # the full file serves as well
        np.testing.assert_allclose(load_body_model(file).joints(betas), expected_joints(model, betas), atol=1e-12)
    with np.load(tmp_path / "small.npz", allow_pickle=False) as file:
        assert len(str(file["source_sha256"])) == 64 and set(file.files) & set(FULL) == set()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "use convert_smplh"), (["a.pkl"], "out=FILE"), (["a.pkl", "b.pkl", "out=c.npz"], "use"),
     (["a.pkl", "out=c.npz", "gender=x"], "gender=neutral"), (["a.pkl", "out=c.npz"], "no such file; register at https://mano"),
     ([__file__, "out=c.pkl"], r"ends with .npz")],
)  # fmt: skip
def test_wrong_commands_say_what_is_right(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    assert convert_smplh.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_source_is_never_overwritten(tmp_path: Path):
    np.savez(tmp_path / "model.npz", **full_model())
    with pytest.raises(CaptureError, match="give another file"):
        convert_smplh.convert(tmp_path / "model.npz", tmp_path / "model.npz")


def test_missing_model_file_names_download_and_place(tmp_path: Path):
    with pytest.raises(CaptureError, match=r"none\.npz: no such model file.*https://mano\..*convert_smplh\.py.*smplh_model="):
        load_body_model(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(shapedirs=None), "shapedirs is missing"),
        (dict(kintree_table=None), "kintree_table is missing"),
        (dict(v_template=np.zeros((9, 3))), "v_template .* do not fit"),
        (dict(J_regressor=np.zeros((50, VERTICES))), "J_regressor .* does not fit"),
        (dict(J_regressor=np.array([{}], dtype=object)), "no npz of plain arrays"),
        (dict(v_template=np.full((VERTICES, 3), np.nan)), "not finite"),
        (dict(kintree_table=np.stack([np.arange(52) - 1, np.arange(52)])), "not connected"),
    ],
)
def test_unusable_models_are_refused(tmp_path: Path, change: dict, message: str):
    content = {k: v for k, v in (full_model() | change).items() if v is not None}
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(CaptureError, match=rf"bad\.npz: .*{message}"):
        load_body_model(tmp_path / "bad.npz")


def test_a_hand_is_no_body(tmp_path: Path):
    np.savez(tmp_path / "MANO_LEFT.npz", **full_model(joints=16))
    with pytest.raises(CaptureError, match=r"has 16 joints.*is a hand"):
        load_body_model(tmp_path / "MANO_LEFT.npz")


def test_truncated_and_pickled_model_files_are_refused(tmp_path: Path):
    np.savez(tmp_path / "whole.npz", **full_model())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:3000])
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(full_model()))
    for name in ("cut.npz", "m.pkl"):
        with pytest.raises(CaptureError, match=r"no npz of plain arrays.*convert_smplh"):
            load_body_model(tmp_path / name)


@pytest.mark.parametrize("count", [0, 10, 16, 300])
def test_any_number_of_shape_coefficients(count: int):
    model = full_model()
    betas = np.random.default_rng(1).normal(size=count)
    joints = reduce_model(model, "m").joints(betas)
    np.testing.assert_allclose(joints, expected_joints(model, betas[:BETAS]), atol=1e-12)


def test_shapes_that_are_not_finite_are_refused():
    with pytest.raises(CaptureError, match=r"betas.*not finite"):
        reduce_model(full_model(), "m").joints(np.array([np.nan, 0.0]))


@pytest.mark.parametrize(("columns", "shapes"), [(400, 300), (20, 10), (16, 16)])
def test_expressions_of_smplx_are_no_shapes(columns: int, shapes: int):
    assert reduce_model(full_model(joints=55, betas=columns), "m").shapes.shape[-1] == shapes


def test_all_joints_move_as_one_body_under_a_turn_of_the_root():
    rng = np.random.default_rng(5)
    joints = np.concatenate([STAND_IN_JOINTS, rng.normal(0, 0.1, (30, 3))])
    poses, trans = rng.normal(0, 0.5, (4, 52, 3)), rng.normal(0, 1, (4, 3))
    position, turn = forward(joints, poses, trans)
    spin = rotations.exp(np.array([0.3, -0.2, 0.9]))
    spun = poses.copy()
    spun[:, 0] = rotations.log(spin @ rotations.exp(poses[:, 0]))
    other, other_turn = forward(joints, spun, trans)
    root = position[:, :1]
    np.testing.assert_allclose(other, (position - root) @ spin.T + root, atol=1e-12)
    np.testing.assert_allclose(other_turn, spin @ turn, atol=1e-12)
    lengths = np.linalg.norm(position - position[:, [max(p, 0) for p in SMPLH_PARENTS]], axis=-1)
    np.testing.assert_allclose(lengths, np.tile(lengths[:1], (4, 1)), atol=1e-12)


def test_forward_of_the_body_alone_equals_the_body_within_all_joints():
    rng = np.random.default_rng(6)
    joints, poses, trans = rng.normal(size=(52, 3)), rng.normal(size=(3, 52, 3)), rng.normal(size=(3, 3))
    whole, _ = forward(joints, poses, trans)
    part, _ = body_model.forward(joints[:22], poses[:, :22], trans, BODY_PARENTS)
    np.testing.assert_array_equal(part, whole[:, :22])
