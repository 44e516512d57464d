"""A checkpoint of MuscleMimic from its Orbax directory, without JAX: arrays by name, configuration, progress.

TensorStore reads the arrays (an OCDBT database of Zarr arrays); everything else is JSON. Nothing in the directory is run.

Source: layout of Orbax 0.12 as MuscleMimic 0.1.0 uses it: ``checkpoint_N/{train_state,config,metadata}``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mm_torch.callbacks.checkpoint import CheckpointError

EXTRA = "needs tensorstore; install the extra: pip install 'mm_torch[upstream]'"
WANTED = "give a directory checkpoint_N of MuscleMimic, or the directory that holds them"
PARTIAL = "the checkpoint is partial; copy it again, or take an earlier one"
SECTIONS = ("params", "run_stats")  # of the train state; the optimiser's state is not read
FILES = ("train_state/_METADATA", "config/metadata", "metadata/metadata")
PICKLE = b"\x80"


@dataclass(frozen=True, eq=False)
class UpstreamCheckpoint:
    """What conversion needs of a checkpoint.

    ========== ==================================================================================
    path       directory ``checkpoint_N``
    arrays     name to array, for example ``params.actor.Dense_0.kernel`` (in, out) float32
    experiment the resolved configuration's section of that name
    progress   step, update_number, global_timestep ... at the time of writing
    ========== ==================================================================================
    """

    path: Path
    arrays: dict[str, np.ndarray]
    experiment: dict[str, Any]
    progress: dict[str, Any]


def read_upstream(path: Path | str) -> UpstreamCheckpoint:
    """Read a checkpoint.

    Args:
        path: ``checkpoint_N``, or a directory with several, of which the latest complete one is read.

    Raises:
        CheckpointError: no such directory, another file or directory, a partial checkpoint, arrays that are not finite
            single-precision numbers, or the extra ``upstream`` is not installed.
    """
    folder = find_checkpoint(Path(path))
    config = _json(folder / "config" / "metadata")
    if not isinstance(config.get("experiment"), dict):
        raise CheckpointError(f"{folder}/config/metadata: no section 'experiment', so this is no checkpoint of MuscleMimic; "
                              f"{WANTED}")
    return UpstreamCheckpoint(
        path=folder, arrays=read_arrays(folder / "train_state"), experiment=config["experiment"],
        progress=_json(folder / "metadata" / "metadata"),
    )


def find_checkpoint(path: Path) -> Path:
    """The checkpoint directory that a path names.

    Raises:
        CheckpointError: there is none, or only unfinished ones.
    """
    if path.is_file():
        with path.open("rb") as file:
            pickled = file.read(1) == PICKLE
        what = "a pickle, which could run anything and is not read" if pickled else "a file, and Orbax writes directories"
        raise CheckpointError(f"{path}: {what}; {WANTED}")
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory; {WANTED}")
    numbered = {int(m[1]): p for p in path.iterdir() if (m := re.fullmatch(r"checkpoint_(\d+)", p.name)) and p.is_dir()}
    candidates = [numbered[n] for n in sorted(numbered, reverse=True)] or [path]
    complete = [p for p in candidates if _finished(p)]
    if complete:
        return complete[0]
    begun = any(".orbax-checkpoint-tmp" in str(p) for p in (path, *path.iterdir())) or (path / "train_state").exists()
    if numbered or begun:
        missing = next((f for f in FILES if not (candidates[0] / f).is_file()), "its commit mark")
        raise CheckpointError(f"{candidates[0]}: {missing} is missing; {PARTIAL}")
    raise CheckpointError(f"{path}: holds no checkpoint of MuscleMimic; {WANTED}")


def _finished(folder: Path) -> bool:
    """Whether Orbax wrote everything and committed it; published copies may lack the commit mark's file."""
    mark = folder / "_CHECKPOINT_METADATA"
    committed = not mark.is_file() or bool(_json(mark).get("commit_timestamp_nsecs"))
    return ".orbax-checkpoint-tmp" not in folder.name and committed and all((folder / f).is_file() for f in FILES)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Parameters and running statistics of a train state.

    Raises:
        CheckpointError: an array is missing, damaged, not float32 or not finite; or TensorStore is not installed.
    """
    tensorstore = _tensorstore()
    sheet = _json(folder / "_METADATA")
    tree = sheet.get("tree_metadata")
    if not isinstance(tree, dict):
        raise CheckpointError(f"{folder}/_METADATA: no list of arrays; {PARTIAL}")
    paths = [[str(part["key"]) for part in entry["key_metadata"]] for entry in tree.values()]
    names = [".".join(path) for path in paths if path[0] in SECTIONS]
    if not names:
        raise CheckpointError(f"{folder}: holds no {' nor '.join(SECTIONS)}; {WANTED}")
    driver = "zarr3" if sheet.get("use_zarr3") else "zarr"
    pending = {n: tensorstore.open({"driver": driver, "kvstore": _store(folder, n)}, read=True) for n in names}
    arrays = {}
    for name, future in pending.items():
        try:
            array = future.result().read().result()
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0][:120]
            raise CheckpointError(f"{folder}: {name} cannot be read ({reason}); {PARTIAL}") from None
        if array.dtype != np.float32:
            raise CheckpointError(f"{folder}: {name} is {array.dtype}, the original trains in float32; save it in that type")
        if not np.isfinite(array).all():
            raise CheckpointError(f"{folder}: {name} is not finite, the training had diverged; take an earlier checkpoint")
        arrays[name] = np.array(array)
    return arrays


def _store(folder: Path, name: str) -> dict[str, Any]:
    """Where an array lies: in the database, or (older Orbax) in a folder of its own."""
    base = {"driver": "file", "path": f"{folder.resolve()}/"}
    if (folder / "manifest.ocdbt").exists():
        return {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    return base | {"path": f"{base['path']}{name}/"}


def _tensorstore() -> ModuleType:
    try:
        import tensorstore
    except ImportError:
        raise CheckpointError(f"reading Orbax {EXTRA}") from None
    return tensorstore


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({str(error).splitlines()[0]}); {PARTIAL}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON mapping; {PARTIAL}")
    return content
