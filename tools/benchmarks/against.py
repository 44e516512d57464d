"""The same ratios of another revision, and MyoSuite's own environments, alternated with ours."""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from mm_torch.config.load import RecipeError
from mm_torch.sim.threads import available_cpus
from tools.benchmarks.history import ROOT

RATES = ("raw_steps_per_s", "env_steps_per_s", "train_steps_per_s", "env_ratio", "train_ratio")
MYOSUITE_ENVS = {"myo_fullbody": "myoMimicFullbody-v0", "myo_bimanual": "myoMimicBimanual-v0"}
WORKER = Path(__file__).with_name("myosuite_worker.py")


def against_revision(revision: str, body: str, num_envs: int, rounds: int, steps: int, repeats: int) -> dict[str, Any]:
    """Run this tree's ratios and another revision's in turn.

    The other source is unpacked from git into a temporary directory and run there by its own ``tools/benchmark.py``.

    Args:
        revision: anything git knows as a commit.
        body: name of the body.
        num_envs: worlds.
        rounds: as ``ratios.run``.
        steps: as ``ratios.run``.
        repeats: runs of each.

    Returns:
        Medians of ours, ``other_<name>`` of theirs.

    Raises:
        RecipeError: git does not know the revision, or its benchmark fails.
    """
    packed = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True)
    if packed.returncode:
        raise RecipeError(f"against={revision}: {packed.stderr.decode().strip()}; give a commit, tag or branch")
    options = _options(body, num_envs, rounds, steps)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        for _ in range(repeats):
            ours.append(_ratios(ROOT, options))
            theirs.append(_ratios(Path(folder), options))
    median = {name: statistics.median(run[name] for run in ours) for name in RATES}
    other = {f"other_{name}": statistics.median(run[name] for run in theirs) for name in RATES}
    return {"case": "against", "body": body, "num_envs": num_envs, "against": revision, **median, **other}


def _options(body: str, num_envs: int, rounds: int, steps: int) -> list[str]:
    return [f"body={body}", f"num_envs={num_envs}", f"rounds={rounds}", f"steps={steps}"]


def _ratios(tree: Path, options: list[str]) -> dict[str, float]:
    """Run a tree's benchmark in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        command = [sys.executable, "tools/benchmark.py", *options, f"json={result}"]
        run = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
        if run.returncode:
            raise RecipeError(f"the benchmark of {tree} failed: {run.stderr.strip().splitlines()[-1]}")
        return json.loads(result.read_text())


def against_myosuite(python: str, body: str, seconds: float, num_envs: int, rounds: int, steps: int) -> dict[str, Any]:
    """MyoSuite's environment of the nearest body with random actions, one world a process, one process a core; then ours.

    Args:
        python: interpreter of an environment that holds MyoSuite 3 (``pip install myosuite==3.0.0``).
        body: name of the body.
        seconds: that each process steps.
        num_envs: our worlds.
        rounds: as ``ratios.run``.
        steps: as ``ratios.run``.

    Returns:
        ``myosuite_env_steps_per_s`` and ``myosuite_raw_steps_per_s`` (plain ``mj_step`` of its model), summed over the
        processes, and their ratio; ours as of ``ratios.run``.

    Raises:
        RecipeError: MyoSuite has no such body, or does not start.
    """
    if body not in MYOSUITE_ENVS:
        raise RecipeError(f"body={body}: MyoSuite has {', '.join(MYOSUITE_ENVS)}")
    command = [python, str(WORKER), MYOSUITE_ENVS[body], str(seconds)]
    single = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=single)
        for _ in range(available_cpus())
    ]
    rows = []
    for worker in workers:
        out, err = worker.communicate()
        if worker.returncode:
            raise RecipeError(f"myosuite={python}: {(err.strip() or 'no message').splitlines()[-1]}; give the python "
                              "of an environment with myosuite==3.0.0")
        rows.append(json.loads(out.strip().splitlines()[-1]))
    env, raw = (sum(row[name] for row in rows) for name in ("env", "raw"))
    ours = _ratios(ROOT, _options(body, num_envs, rounds, steps))
    return {
        "case": "myosuite", "body": body, "environment": MYOSUITE_ENVS[body], "processes": len(rows),
        "myosuite_version": rows[0]["version"], "muscles": rows[0]["muscles"], "control_s": rows[0]["control_s"],
        "myosuite_env_steps_per_s": env, "myosuite_raw_steps_per_s": raw, "myosuite_env_ratio": env / raw,
        "num_envs": num_envs, **{name: ours[name] for name in RATES},
    }
