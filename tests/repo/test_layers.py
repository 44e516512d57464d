"""The shape of the repository: who imports whom, what no file may hold, and that importing does nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGES = ("mm_torch", "sim_models")
MAX_LINES = 450

# Layer of mm_torch to the layers below it that it may import; modules directly in mm_torch (the verbs, "") may import all.
BELOW = {
    "policy": {"", "evaluation", "callbacks", "ppo", "nets", "task", "motion", "muscle", "sim", "maths", "config", "hub"},
    "evaluation": {
        "", "callbacks", "distillation", "ppo", "nets", "task", "motion", "muscle", "sim", "maths", "config", "hub",
    },
    "callbacks": {"distillation", "evolution", "ppo", "nets", "task", "motion", "sim", "maths", "config", "hub"},
    "distillation": {"ppo", "task", "motion", "muscle", "config"},
    "evolution": {"ppo", "task", "motion", "config"},
    "ppo": {"nets", "task", "maths", "config"},
    "nets": {"maths", "config"},
    "task": {"motion", "sim", "maths", "config"},
    "motion": {"maths", "config", "hub"},
    "muscle": {"motion", "sim", "maths", "config"},
    "sim": {"maths", "config"},
    "config": set(),
    "hub": set(),
    "viewer": set(),
    "maths": set(),
}
FROM_SIM = {"task": {"mm_torch.sim.physics"}}  # the contract, never a back end; types are not held to it
# layers that may read the bodies
BODIES_FOR = {"policy", "distillation", "evaluation", "callbacks", "ppo", "task", "motion", "muscle", "sim", "viewer"}
# where our packages may import a third-party package; folders end with "/" (tools may import what they like, but smplx)
CONFINED = {
    "warp": ("mm_torch/sim/",),
    "mujoco_warp": ("mm_torch/sim/",),
    "torchrl": ("mm_torch/task/env.py", "mm_torch/nets/", "mm_torch/ppo/"),
    "lightning": ("mm_torch/ppo/module.py", "mm_torch/callbacks/", "mm_torch/*.py"),
    "smplx": ("tools/retargeting/",),
    "huggingface_hub": ("mm_torch/hub/",),
    "mujoco": ("mm_torch/sim/", "mm_torch/motion/", "mm_torch/muscle/", "mm_torch/evaluation/", "mm_torch/policy/",
               "mm_torch/viewer/", "mm_torch/*.py", "sim_models/"),
    "viser": ("mm_torch/viewer/",),
    "omegaconf": ("mm_torch/config/", "mm_torch/*.py"),
}
KERNELS = [f"mm_torch/task/{name}.py" for name in ("observation", "reward", "termination", "action", "metrics")]
KERNEL_IMPORTS = {"__future__", "collections", "dataclasses", "typing", "torch", "mm_torch"}
STANDARD = sys.stdlib_module_names | {"__future__"}


@cache
def files() -> tuple[str, ...]:
    """Text files of the repository, relative; what git ignores is left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    binary = (".npz", ".png", ".gif", ".mp4", ".ckpt")
    return tuple(f for f in listed if (REPO / f).is_file() and not f.endswith(binary))


def python(*folders: str) -> list[str]:
    return [f for f in files() if f.endswith(".py") and (not folders or f.split("/")[0] in folders)]


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((REPO / file).read_text(), file)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(file: str, types: bool = True) -> Iterator[str]:
    """Dotted names that a file imports anywhere: ``from a import b`` is ``a.b`` where b is our module, else ``a``."""
    skipped = {
        id(inner) for node in ast.walk(tree(file)) if not types and is_type_checking(node) for inner in ast.walk(node)
    }
    for node in ast.walk(tree(file)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the full name"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [m for m in modules if is_module(m)]
            yield from ours
            if len(ours) < len(modules):
                yield str(node.module)


def is_module(name: str) -> bool:
    path = REPO.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def layer(module: str) -> str:
    """Layer of a module of mm_torch; empty for those directly in it."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (REPO / "mm_torch" / parts[1]).is_dir() else ""


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# -- arrows -----------------------------------------------------------------------------------------------------------
def test_every_layer_is_known() -> None:
    found = {f.split("/")[1] for f in python("mm_torch") if f.count("/") > 1}
    assert found - {"__init__.py"} == set(BELOW)


@pytest.mark.parametrize("name", sorted(BELOW))
def test_a_layer_imports_only_what_lies_below(name: str) -> None:
    wrong = []
    for file in python("mm_torch"):
        if layer(module_of(file)) != name:
            continue
        for target in imports(file):
            top, below = target.split(".")[0], layer(target)
            if top == "mm_torch" and target != "mm_torch" and below != name and below not in BELOW[name]:
                wrong.append(f"{file} imports {target}")
            if top == "sim_models" and name not in BODIES_FOR:
                wrong.append(f"{file} imports {target}")
        for target in imports(file, types=False):
            if layer(target) == "sim" and name in FROM_SIM and target not in FROM_SIM[name]:
                wrong.append(f"{file} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_arrows_have_no_circle() -> None:
    def reach(name: str, seen: tuple[str, ...]) -> None:
        assert name not in seen, " -> ".join([*seen, name])
        for below in BELOW[name] - {""}:
            reach(below, (*seen, name))

    for name in BELOW:
        reach(name, ())


def test_verbs_are_imported_by_nobody() -> None:
    verbs = {f"mm_torch.{verb}" for verb in ("train", "evaluate", "play", "export", "track", "doctor", "bodies")}
    wrong = [f"{f} imports {m}" for f in python(*PACKAGES) for m in imports(f) if m in verbs]
    assert not wrong, "\n".join(wrong)


def test_bodies_know_neither_torch_nor_the_trainer() -> None:
    allowed = {"mujoco", "numpy", "musclemimic_models", "sim_models"} | STANDARD
    wrong = [f"{f} imports {m}" for f in python("sim_models") for m in imports(f) if m.split(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_recipes_need_only_the_standard_library_and_omegaconf() -> None:
    allowed = {"omegaconf", "yaml", "mm_torch"} | STANDARD  # yaml: omegaconf's own parser, for its errors
    wrong = [f"{f} imports {m}" for f in python("mm_torch") if f.startswith("mm_torch/config/")
             for m in imports(f) if m.split(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_tools_or_tests() -> None:
    wrong = [f"{f} imports {m}" for f in python(*PACKAGES) for m in imports(f) if m.split(".")[0] in ("tools", "tests")]
    assert not wrong, "\n".join(wrong)


def allowed_here(file: str, places: tuple[str, ...]) -> bool:
    for place in places:
        if place.endswith("/") and file.startswith(place):
            return True
        if place.endswith("/*.py") and file.rpartition("/")[0] == place.removesuffix("/*.py"):
            return True
        if file == place:
            return True
    return False


@pytest.mark.parametrize("package", sorted(CONFINED))
def test_third_party_packages_stay_where_they_belong(package: str) -> None:
    wrong = [
        f"{f} imports {m}" for f in python(*PACKAGES, *(["tools"] if package == "smplx" else [])) for m in imports(f)
        if m.split(".")[0] == package and not allowed_here(f, CONFINED[package])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", KERNELS)
def test_kernels_see_tensors_only(file: str) -> None:
    assert {m.split(".")[0] for m in imports(file)} <= KERNEL_IMPORTS
    assert not [m for m in imports(file) if m.startswith(("mm_torch.sim", "mm_torch.task.env", "mm_torch.ppo"))]


def test_the_walk_sees_imports_inside_functions_and_from_imports() -> None:
    """The checks above must be able to fail."""
    assert "mm_torch.sim.warp" in set(imports("mm_torch/build.py"))
    assert "mm_torch.task.termination" in set(imports("mm_torch/task/env.py"))
    assert "mm_torch.sim.guard" in set(imports("mm_torch/task/env.py"))
    assert "mm_torch.sim.guard" not in set(imports("mm_torch/task/env.py", types=False))
    assert not allowed_here("mm_torch/motion/clip.py", CONFINED["lightning"])
    assert not allowed_here("mm_torch/motion/clip.py", CONFINED["warp"])


# -- what no file may hold --------------------------------------------------------------------------------------------
def test_files_are_readable_in_one_sitting() -> None:
    long = {f: n for f in python() if (n := len((REPO / f).read_text().splitlines())) > MAX_LINES}
    assert not long, long


def test_names_say_something() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [f for f in files() if vague & set(Path(f).with_suffix("").parts)]


def test_no_machine_paths() -> None:
    machine = re.compile(r"(?<![\w.~-])/(?:" + "|".join(["work", "tmp", "root", "home", "Users", "mnt"]) + r")/\w")
    wrong = []
    for file in files():
        for number, line in enumerate((REPO / file).read_text(errors="replace").splitlines(), 1):
            if machine.search(line):
                wrong.append(f"{file}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)
    assert machine.search("open('/" + "work/data')") and not machine.search("see a/home/b or ../" + "tmp/x")


def forbidden(node: ast.AST) -> str | None:
    """What is wrong with a node, or None."""
    if isinstance(node, ast.ExceptHandler):
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(k is None or (isinstance(k, ast.Name) and k.id == "Exception") for k in kinds):
            return "catches everything; name the errors"
        if len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
            return "swallows an error; handle it or let it rise"
    if isinstance(node, ast.Attribute) and node.attr == "nan_to_num":
        return "hides numbers that are not finite"
    if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
        if node.arg == "allow_pickle" and node.value.value is True:
            return "reads pickles"
        if node.arg == "weights_only" and node.value.value is False:
            return "reads pickles"
    return None


def test_nothing_hides_errors_or_reads_pickles() -> None:
    wrong = [
        f"{file}:{node.lineno}: {reason}" for file in python(*PACKAGES, "tools") for node in ast.walk(tree(file))
        if (reason := forbidden(node))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    ["try:\n    f()\nexcept Exception:\n    g()", "try:\n    f()\nexcept:\n    g()",
     "try:\n    f()\nexcept OSError:\n    pass", "try:\n    f()\nexcept (OSError, Exception):\n    g()",
     "torch.nan_to_num(x)", "np.load(f, allow_pickle=True)", "torch.load(f, weights_only=False)"],
)
def test_the_search_finds_what_it_forbids(text: str) -> None:
    assert any(forbidden(node) for node in ast.walk(ast.parse(text)))


# -- importing --------------------------------------------------------------------------------------------------------
SNAPSHOT = """
import importlib, os, signal, sys, warnings
import lightning, mujoco, mujoco.batch, numpy, omegaconf, tensordict, torch, torchrl.collectors, torchrl.envs
import lightning.pytorch.loggers

def state():
    import numpy as np
    return {
        "torch threads": torch.get_num_threads(), "dtype": torch.get_default_dtype(), "seed": torch.initial_seed(),
        "random": torch.get_rng_state().sum().item(), "environment": dict(os.environ), "numpy errors": np.geterr(),
        "numpy random": np.random.get_state()[1].sum(), "interrupt": signal.getsignal(signal.SIGINT),
        "warnings": len(warnings.filters), "cuda": torch.cuda.is_initialized(), "directory": sorted(os.listdir(".")),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "grad": torch.is_grad_enabled(),
    }

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = state()
print([key for key in before if before[key] != after[key]])
print("warp" in sys.modules and sys.modules["warp"]._src.context.runtime is not None)
print("smplx" in sys.modules)
"""


def test_importing_has_no_effects(tmp_path: Path) -> None:
    modules = [module_of(f) for f in python(*PACKAGES)]
    assert {"mm_torch.sim.warp", "mm_torch.train", "sim_models.toy"} <= set(modules)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPO)!r})\n{SNAPSHOT}", *modules],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    changed, warp_started, smplx_imported = done.stdout.splitlines()[-3:]
    assert changed == "[]" and warp_started == "False" and smplx_imported == "False"
    assert len(done.stdout.splitlines()) == 3, "a module prints when it is imported"
