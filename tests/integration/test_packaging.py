"""The wheel holds all that training needs, is small, and works without the source tree."""

from __future__ import annotations

import ast
import configparser
import csv
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mm_torch.policy.box import boxed_policy

REPO = Path(__file__).parents[2]
MAX_MEGABYTES = 5.0

IMPORT = """
import sys, time
start = time.perf_counter()
import mm_torch
seconds = time.perf_counter() - start
threads = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("Threads:"))
print(seconds, threads, sorted({"torch", "warp", "mujoco", "lightning"} & set(sys.modules)))
"""


def test_importing_the_package_is_free(tmp_path: Path) -> None:
    """Under a second, on one thread, and neither torch nor Warp is loaded for it."""
    if not Path("/proc/self/status").exists():
        pytest.skip("counts threads in /proc")
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=tmp_path, capture_output=True, text=True, check=True)
    seconds, threads, loaded = done.stdout.split(maxsplit=2)
    assert float(seconds) < 1.0 and threads == "1" and loaded.strip() == "[]"


def test_every_package_that_is_imported_is_declared() -> None:
    """By setup.cfg: of the packages' imports, those at the top of a file as requirements, others at least as extras."""
    setup = configparser.ConfigParser()
    setup.read(REPO / "setup.cfg")

    def declared(text: str) -> set[str]:
        return {canonicalize_name(Requirement(line).name) for line in text.splitlines() if line.strip()}

    required = declared(setup["options"]["install_requires"])
    optional = required.union(*map(declared, setup["options.extras_require"].values()))
    distributions = metadata.packages_distributions()
    missing = []
    for path in [*(REPO / "mm_torch").rglob("*.py"), *(REPO / "sim_models").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [node.module] if isinstance(node, ast.ImportFrom) else (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            for name in {str(n).split(".")[0] for n in names} - {"mm_torch", "sim_models"} - sys.stdlib_module_names:
                owners = {canonicalize_name(d) for d in distributions.get(name, [name])}
                if not owners & (required if node in tree.body else optional):
                    missing.append(f"{path.relative_to(REPO)} imports {name}")
    assert not missing, "\n".join(missing)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows or would add, so that no build leaves traces in the checkout."""
    target = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in [n for n in listed if (REPO / n).is_file()]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source]
    subprocess.run(words, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_bodies_recipes_and_motions_and_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_MEGABYTES * 1e6
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        assert "sim_models/toy_arm.xml" in names
        for folder, pattern in (("recipes", "*.yaml"), ("recipes/splits", "*.txt")):
            assert {p.name for p in (REPO / folder).glob(pattern)} == {
                n.rpartition("/")[2] for n in names if n.rpartition("/")[0] == f"mm_torch/{folder}"}
        assert {"LICENSE", "NOTICE"} <= {n.rpartition("/")[2] for n in names}
        assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"mm_torch", "sim_models"}
        assert file.read("mm_torch/policy/box.ckpt") == boxed_policy().read_bytes()
        clips = sorted((REPO / "mm_torch/motion/data").rglob("*.npz"))
        assert {f"mm_torch/{p.relative_to(REPO / 'mm_torch').as_posix()}" for p in clips} <= set(names)
        for clip in clips[:: len(clips) // 4]:  # compressed otherwise, without what follows from qpos, the same numbers
            with np.load(io.BytesIO(file.read(clip.relative_to(REPO).as_posix())), allow_pickle=False) as packed:
                own = np.load(clip, allow_pickle=False)
                assert set(own.files) - set(packed.files) == {"site_xpos", "site_xquat"}
                assert all(np.array_equal(packed[name], own[name]) for name in packed.files)


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    code = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=source, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as file:
        file.extractall(tmp_path, filter="data")
    unpacked = next(p for p in tmp_path.iterdir() if p.is_dir())
    assert (unpacked / "tests/conftest.py").is_file() and (unpacked / "tools/retarget.py").is_file()
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, unpacked]
    subprocess.run(words, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as again, zipfile.ZipFile(wheel) as first:
        assert sorted(again.namelist()) == sorted(first.namelist())


def packed_clip(site: Path) -> Path:
    """A motion of an installation."""
    return site / "mm_torch/motion/data/myo_bimanual/wave_right.npz"


@pytest.mark.slow
def test_training_works_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    """``-S`` leaves out the .pth files, and with them the editable installation of the checkout."""
    site = tmp_path / "site"
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel]
    subprocess.run(words, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), sysconfig.get_path("purelib")])}
    where = tmp_path / "elsewhere"
    where.mkdir()

    def python(*words: str) -> str:
        done = subprocess.run([sys.executable, "-S", *words], cwd=where, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert python("-c", "import mm_torch, sim_models; print(mm_torch.__file__)").startswith(str(site))
    python("-m", "mm_torch.train", "recipe=toy_arm", "profile=cpu", "sim=native", "total_steps=4096", "run_dir=run")
    assert (where / "run" / "checkpoints" / "last.ckpt").is_file()
    assert "Training works" in python("-m", "mm_torch.doctor")
    python("-m", "mm_torch.evaluate", f"motions={packed_clip(site)}", "checkpoint=box", "out=evaluation")
    (tracked,) = csv.DictReader((where / "evaluation" / "per_clip.csv").open(newline=""))
    assert float(tracked["frame_coverage"]) == 1.0
    python("-m", "mm_torch.export", "checkpoint=run", "out=policy", "formats=torchscript")
    assert "EVALUATED OTHERWISE" not in python("policy/run_policy.py", "curl")
