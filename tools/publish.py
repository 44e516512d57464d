"""A folder for the Hugging Face Hub: ``python tools/publish.py CHECKPOINT|BUNDLE out=DIR [evaluation=DIR] [repo=USER/NAME]``.

Writes a model card (``README.md``) with body, model hash, recipe, motions, metrics and terms, and beside it the policy: of a
checkpoint (``.ckpt`` file, run directory, or the word box) the weights, observation statistics and recipe, so that
``hf://USER/NAME`` is a checkpoint to every verb; of a bundle (``python -m mm_torch.export``) its files. What only resuming
needs and where on this machine things lie stays here. Nothing leaves this machine without ``repo=``.

out         directory to make; one that this tool wrote is replaced
evaluation  directory of python -m mm_torch.evaluate, whose figures the card shows; default: a bundle's own, else none
repo        USER/NAME to upload to, with the token of ``hf auth login`` (extra hub); made where it is missing; default: none
private     false: a repository that is made is open to all; default: true

Example: python tools/publish.py runs/toy evaluation=runs/toy/evaluation out=card
         python tools/publish.py policy out=card repo=me/arms
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mm_torch.callbacks.checkpoint import KEY, LAST, read_checkpoint
from mm_torch.command import run_command
from mm_torch.config.load import RecipeError, to_recipe, to_yaml
from mm_torch.config.options import read_options
from mm_torch.evaluation.report import UNITS
from mm_torch.hub.download import EXTRA, LOGIN, HubError
from mm_torch.policy.box import named_checkpoint
from mm_torch.policy.bundle import SHEET, new_directory
from mm_torch.policy.modules import PolicyFileError
from mm_torch.policy.terms import motion_source, source_name
from tools.make_box import KEPT, OF_THE_RUN

REPO = Path(__file__).resolve().parents[1]
CARD = "README.md"
BUNDLED = ("policy.*", "observer.*", "body.mjb.gz", "run_policy.py", "NOTICE", "clips/*.npz")  # files of a bundle
LIBRARY = "mm_torch"
OPEN_BODIES = ("toy_arm",)  # ours; every other body has the arm of MoBL-ARMS
ARM = (
    "**Non-commercial.** The arm of this body is MoBL-ARMS (Saul et al. 2015), released \"solely for non-commercial purposes "
    "(including research, academic, evaluation and personal uses)\". This restricts the body and a policy trained on it, "
    "whatever the licence of the code that trained it. `NOTICE` names all parts of the body and their terms."
)


@dataclass(frozen=True)
class Policy:
    """What a card says of a policy.

    =========== =================================================================================
    body        name, fingers, model hash
    recipe      name of the recipe
    steps       control steps trained
    trained_on  where the motions came from, how many, their terms (``motion_source``)
    clips_from  the same of the motions that lie beside the policy; None: none do
    versions    package to version
    metrics     name to value; empty where nothing was evaluated
    conditions  how the evaluation changed the body or pushed it, in words
    tested_on   motions of the evaluation
    =========== =================================================================================
    """

    body: dict[str, Any]
    recipe: str
    steps: int
    trained_on: dict[str, Any]
    clips_from: dict[str, Any] | None
    versions: dict[str, str]
    metrics: dict[str, float]
    conditions: list[str]
    tested_on: str


def main(arguments: list[str]) -> None:
    """Entry point."""
    sources = [a for a in arguments if "=" not in a]
    o = read_options([a for a in arguments if "=" in a], {"out": "", "evaluation": None, "repo": None, "private": True})
    if len(sources) != 1 or not o["out"]:
        raise RecipeError("give one CHECKPOINT or BUNDLE, and out=DIR: python tools/publish.py runs/toy out=card")
    out = Path(o["out"])
    if o["repo"] is not None:
        check_upload(o["repo"])
    write_folder(sources[0], out, None if o["evaluation"] is None else Path(o["evaluation"]), o["repo"])
    print(f"{out}: {', '.join(sorted(p.relative_to(out).as_posix() for p in out.rglob('*') if p.is_file()))}")
    if o["repo"] is not None:
        print(upload(out, o["repo"], o["private"]))


def write_folder(source: str, out: Path, evaluation: Path | None, repo: str | None) -> None:
    """Write the folder of a checkpoint or a bundle.

    Args:
        source: checkpoint file, run directory, ``box`` or bundle.
        out: directory to make.
        evaluation: directory of an evaluation; None: the bundle's own, or none.
        repo: where the card says that the policy lies; None: USER and the name of ``out``.

    Raises:
        CheckpointError, RecipeError, PolicyFileError: source, evaluation or ``out`` cannot be used.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_ours(out / CARD))):
        raise PolicyFileError(f"out={out}: exists and was not written by this tool; name a new directory")
    bundle = Path(source) if (Path(source) / SHEET).is_file() else None
    with new_directory(out) as folder:
        if bundle is not None:
            policy = of_bundle(bundle / SHEET, evaluation)
            for path in [p for pattern in BUNDLED for p in sorted(bundle.glob(pattern))]:
                target = folder / path.relative_to(bundle)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
        else:
            checkpoint = read_checkpoint(named_checkpoint(source))
            policy = of_checkpoint(checkpoint[KEY], evaluation)
            write_checkpoint(checkpoint, folder)
        (folder / CARD).write_text(card(policy, repo or f"USER/{out.name}", bundle is not None))


def of_checkpoint(extra: dict[str, Any], evaluation: Path | None) -> Policy:
    """What a checkpoint's own section says."""
    recipe = extra["recipe"]
    body = {"name": extra["body"], "fingers": recipe["body"]["fingers"], "model_hash": extra["model_hash"]}
    trained_on = motion_source(extra["body"], recipe["motions"]) | {"clips": len(extra["clips"])}
    return Policy(body, recipe["recipe"], extra["control_steps"], trained_on, None, extra["versions"],
                  *read_evaluation(evaluation))


def of_bundle(path: Path, evaluation: Path | None) -> Policy:
    """What a bundle's sheet says; without an evaluation the means of its own, each tracked frame counting once.

    Raises:
        PolicyFileError: the sheet is damaged or of an older version.
    """
    try:
        sheet = json.loads(path.read_text())
        found = read_evaluation(evaluation) if evaluation is not None else (
            _means(sheet["evaluation"].values()), [], sheet["clips_from"]["from"])
        return Policy(sheet["body"], sheet["recipe"], sheet["control_steps_trained"], sheet["trained_on"],
                      sheet["clips_from"], sheet["versions"], *found)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise PolicyFileError(f"{path}: not written by this version's export ({error!r}); export the policy again") from None


def _means(runs: Collection[dict[str, float]]) -> dict[str, float]:
    steps = sum(run["episode_length"] for run in runs)
    errors = [name for name in next(iter(runs)) if name != "episode_length"]
    means = {name: sum(run[name] * run["episode_length"] for run in runs) / steps for name in errors}
    return {"clips": len(runs)} | means | {"episode_length": steps / len(runs)}


def read_evaluation(folder: Path | None) -> tuple[dict[str, float], list[str], str]:
    """Metrics, conditions and motions of an evaluation; nothing without one.

    Raises:
        RecipeError: the directory is not that of one evaluated policy.
    """
    if folder is None:
        return {}, [], ""
    try:
        metrics = json.loads((folder / "summary.json").read_text())
        report = json.loads((folder / "report.json").read_text())
        numbers = {name: float(value) for name, value in metrics.items()}
        return numbers, list(report["conditions"]), source_name(report["motions"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RecipeError(f"evaluation={folder}: no evaluation of one policy ({' '.join(str(error).split())}); make one with "
                          "python -m mm_torch.evaluate") from None


def write_checkpoint(checkpoint: dict[str, Any], folder: Path) -> None:
    """Write what a policy consists of as a run directory, with nothing in it of this machine's paths."""
    extra = checkpoint[KEY]
    motions = extra["recipe"]["motions"]
    recipe = extra["recipe"] | OF_THE_RUN | {"motions": None if motions is None else source_name(motions)}
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("agent.")}
    (folder / "checkpoints").mkdir()
    torch.save({"state_dict": weights, KEY: {k: extra[k] for k in KEPT} | {"recipe": recipe}}, folder / "checkpoints" / LAST)
    (folder / "recipe.yaml").write_text(to_yaml(to_recipe(recipe)))
    shutil.copyfile(REPO / "NOTICE", folder / "NOTICE")


def card(policy: Policy, name: str, is_bundle: bool) -> str:
    """The model card: YAML front matter as the hub reads it, then what a person reads."""
    restricted = policy.body["name"] not in OPEN_BODIES
    finite = {k: round(v, 6) for k, v in policy.metrics.items() if math.isfinite(v)}
    title = name.rpartition("/")[2]
    front: dict[str, Any] = (
        {"license": "other", "license_name": "mobl-arms-non-commercial", "license_link": "NOTICE"} if restricted
        else {"license": "apache-2.0"}
    ) | {
        "library_name": LIBRARY, "pipeline_tag": "reinforcement-learning",
        "tags": ["motion-imitation", "musculoskeletal", "muscle-control", "mujoco", policy.body["name"]],
    }
    if finite:
        front["model-index"] = [{"name": title, "results": [{
            "task": {"type": "reinforcement-learning", "name": "motion imitation"},
            "dataset": {"type": "motion-capture", "name": f"{finite['clips']:g} motions ({policy.tested_on})"},
            "metrics": [{"type": k, "name": _label(k), "value": v} for k, v in finite.items() if k != "clips"],
        }]}]
    sections = [
        f"# {title}", _what(policy), "## Use", _use(policy, name, is_bundle), "## Metrics", _metrics(policy),
        "## Motions", _motions(policy), "## Licence", _licence(policy, restricted),
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(sections) + "\n"


def _what(policy: Policy) -> str:
    body = policy.body
    rows = {
        "body": f"`{body['name']}`{' with moving fingers' if body['fingers'] else ''}, model hash `{body['model_hash']}`",
        "recipe": f"`{policy.recipe}`",
        "trained": f"{policy.steps:,} control steps on {policy.trained_on['clips'] or 'unknown'} motions "
                   f"({policy.trained_on['from']})",
        "versions": ", ".join(f"{k} {v}" for k, v in policy.versions.items()),
    }
    table = ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
    return "A policy that moves a musculoskeletal body by its muscles after a reference motion, made with mm_torch.\n\n" + \
        "\n".join(table)


def _use(policy: Policy, name: str, is_bundle: bool) -> str:
    if is_bundle:
        return ("`python run_policy.py` tracks the motions in `clips/` with MuJoCo, NumPy and torch or onnxruntime alone; "
                f"`{SHEET}` names every number that goes in and out.")
    return "\n".join(["```sh", f"python -m mm_torch.evaluate checkpoint=hf://{name}", f"python -m mm_torch.play checkpoint=hf://"
                      f"{name} video=out.mp4", "```"])


def _metrics(policy: Policy) -> str:
    if not policy.metrics:
        return "Not evaluated."
    changed = f"; with {', '.join(policy.conditions)}" if policy.conditions else ""
    rows = [f"| {_label(k)} | {v:.4g} | {UNITS.get(k, '')} |" for k, v in policy.metrics.items() if k != "clips"]
    return "\n".join(["| metric | value | unit |", "|---|---|---|", *rows, "",
                      f"Mean action, each of {policy.metrics['clips']:g} motions ({policy.tested_on}) once from its first "
                      f"frame{changed}; errors are means over tracked control steps."])


def _motions(policy: Policy) -> str:
    lines = [f"Trained on, from {policy.trained_on['from']}:", *(f"- {terms}" for terms in policy.trained_on["terms"])]
    if policy.clips_from is not None:
        lines += ["", f"In `clips/`, from {policy.clips_from['from']}:", *(f"- {t}" for t in policy.clips_from["terms"])]
    return "\n".join(lines)


def _licence(policy: Policy, restricted: bool) -> str:
    code = "mm_torch, which made the policy, is licensed under the Apache License 2.0."
    return f"{ARM}\n\n{code}" if restricted else f"Apache-2.0. {code}"


def _label(metric: str) -> str:
    return metric.replace("_", " ")


def _is_ours(path: Path) -> bool:
    return path.is_file() and f"library_name: {LIBRARY}\n" in path.read_text(errors="replace")


def check_upload(repo: str) -> None:
    """Refuse an upload that cannot work before anything is written.

    Raises:
        HubError: the extra is missing, ``repo`` is no USER/NAME, or nobody is logged in.
    """
    try:
        from huggingface_hub import HfUri, get_token
        from huggingface_hub.errors import HfUriError
    except ImportError:
        raise HubError(f"repo={repo}: {EXTRA}") from None
    try:
        HfUri(type="model", id=repo)
    except HfUriError as error:
        raise HubError(f"repo={repo}: {error.msg.strip()} Write repo=USER/NAME") from None
    if get_token() is None:
        raise HubError(f"repo={repo}: no token; {LOGIN}")


def upload(folder: Path, repo: str, private: bool) -> str:
    """Upload a folder to the hub; returns the address of the commit.

    Raises:
        HubError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{LIBRARY}: {folder.name}")
    except (errors.HTTPError, errors.OfflineModeIsEnabled, ValueError) as error:
        raise HubError(f"repo={repo}: {' '.join(str(error).split())}; the folder {folder} stays: try again") from None
    return str(commit.commit_url)


if __name__ == "__main__":
    run_command(main, sys.argv[1:], __doc__)
