"""What tools/publish.py writes is a model card that the hub reads and a policy that runs; it uploads only when asked to."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants

from mm_torch.callbacks.checkpoint import KEY, read_checkpoint
from mm_torch.command import EXPECTED
from mm_torch.evaluation.job import Plan, evaluate, load_agent
from mm_torch.evaluation.report import write_results
from mm_torch.motion.clip import load_clip
from mm_torch.motion.library import library_dir
from mm_torch.policy.box import BOX
from mm_torch.policy.bundle import export_policy
from mm_torch.policy.terms import clip_terms, motion_source
from tests.unit.hub.hubs import serve
from tools import publish


@pytest.fixture(scope="module")
def evaluation(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of an evaluation of the toy run."""
    plan = Plan((str(toy_run),), None, tmp_path_factory.mktemp("results") / "evaluation", threads=1)
    write_results(plan, evaluate(plan))
    return plan.out


@pytest.fixture(scope="module")
def bundle(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_policy(toy_run, tmp_path_factory.mktemp("exports") / "policy", ("torchscript",))


def front_matter(card: Path) -> dict:
    _, front, _ = card.read_text().split("---\n", 2)
    return yaml.safe_load(front)


def test_a_checkpoint_becomes_a_folder_that_is_one(toy_run: Path, evaluation: Path, tmp_path: Path) -> None:
    out = tmp_path / "card"
    publish.main([str(toy_run), f"out={out}", f"evaluation={evaluation}"])
    assert [p.relative_to(out).as_posix() for p in sorted(out.rglob("*")) if p.is_file()] == [
        "NOTICE", "README.md", "checkpoints/last.ckpt", "recipe.yaml"]
    own, theirs = load_agent(toy_run)[1], load_agent(out)[1]
    assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), theirs.state_dict().values(), strict=True))
    stored = read_checkpoint(out)
    assert set(stored) == {"state_dict", KEY} and "rng" not in stored[KEY] and "simulation" not in stored[KEY]
    written = "".join((out / name).read_text() for name in ("README.md", "recipe.yaml")) + str(stored[KEY])
    assert str(toy_run) not in written and str(tmp_path) not in written and str(Path.home()) not in written


def test_the_card_says_what_it_is_and_the_hub_reads_it(toy_run: Path, evaluation: Path, tmp_path: Path) -> None:
    publish.main([str(toy_run), f"out={tmp_path / 'toy'}", f"evaluation={evaluation}"])
    path = tmp_path / "toy" / "README.md"
    front, text = front_matter(path), path.read_text()
    summary = json.loads((evaluation / "summary.json").read_text())
    assert front["license"] == "apache-2.0" and "toy_arm" in front["tags"] and front["library_name"] == "mm_torch"
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "4 motions (the built-in library)"
    values = {m["type"]: m["value"] for m in result["metrics"]}
    assert values == pytest.approx({k: v for k, v in summary.items() if k != "clips"}, abs=1e-6)
    extra = read_checkpoint(toy_run)[KEY]
    for words in (extra["model_hash"], "`toy_arm`", "2,048 control steps on 4 motions", "CC BY 4.0",
                  f"| relative site error | {summary['relative_site_error']:.4g} | m |", "checkpoint=hf://USER/toy"):
        assert words in text, words
    read = ModelCard.load(path)
    assert {r.metric_type: r.metric_value for r in read.data.eval_results} == values
    assert read.data.license == "apache-2.0"


def test_the_arms_carry_their_term(tmp_path: Path) -> None:
    publish.main([str(BOX), f"out={tmp_path / 'arms'}"])
    front, text = front_matter(tmp_path / "arms" / "README.md"), (tmp_path / "arms" / "README.md").read_text()
    assert (front["license"], front["license_name"], front["license_link"]) == ("other", "mobl-arms-non-commercial", "NOTICE")
    assert "solely for non-commercial purposes" in text and "MoBL-ARMS" in (tmp_path / "arms" / "NOTICE").read_text()
    assert "model-index" not in front and "Not evaluated." in text


def test_a_bundle_becomes_a_folder_that_runs(bundle: Path, tmp_path: Path) -> None:
    (own := Path(shutil.copytree(bundle, tmp_path / "policy")) / "diary.txt").write_text("mine")
    out = tmp_path / "card"
    publish.main([str(own.parent), f"out={out}"])
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()} | {"README.md"}
    sheet, front = json.loads((bundle / "policy.json").read_text()), front_matter(out / "README.md")
    values = {m["type"]: m["value"] for m in front["model-index"][0]["results"][0]["metrics"]}
    runs = sheet["evaluation"].values()
    assert values["episode_length"] == pytest.approx(sum(r["episode_length"] for r in runs) / len(runs), abs=1e-6)
    assert min(r["relative_site_error"] for r in runs) < values["relative_site_error"] < max(
        r["relative_site_error"] for r in runs)
    assert "run_policy.py" in (out / "README.md").read_text()
    assert sheet["clips_from"]["terms"] == ["composed by this project, no captured motion; CC BY 4.0"]


def test_terms_come_from_the_clips(tmp_path: Path) -> None:
    clip = load_clip(library_dir("toy_arm") / "curl.npz")
    says = {"a": {"format": "AMASS SMPL+H"}, "b": {"format": "ASF/AMC", "acknowledgement": "Thanks."}, "c": {}}
    for name, provenance in says.items():
        replace(clip, provenance=provenance).save(tmp_path / "clips" / f"{name}.npz")
    assert "may not be passed on" in clip_terms(tmp_path / "clips" / "a.npz")
    assert clip_terms(tmp_path / "clips" / "b.npz") == "ASF/AMC; terms not stated in the files; Thanks."
    found = motion_source("toy_arm", str(tmp_path / "clips"))
    assert (found["from"], found["clips"]) == ("clips", 3)
    assert "unknown source; terms not stated in the files" in found["terms"]
    assert motion_source("toy_arm", str(tmp_path / "gone"))["clips"] is None


def test_only_its_own_folders_are_replaced(toy_run: Path, bundle: Path, tmp_path: Path) -> None:
    for _ in range(2):
        publish.main([str(toy_run), f"out={tmp_path / 'card'}"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("keep")
    with pytest.raises(EXPECTED, match="was not written by this tool"):
        publish.main([str(toy_run), f"out={tmp_path / 'mine'}"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card", "mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "give one CHECKPOINT"), (["a", "b", "out=c"], "give one CHECKPOINT"), (["a"], "out=DIR"),
     (["nowhere", "out=card"], "no such checkpoint"), (["RUN", "out=card", "evaluation=gone"], "no evaluation of one policy"),
     (["RUN", "out=card", "privat=false"], "did you mean 'private'"), (["OLD", "out=card"], "export the policy again")],
)
def test_wrong_words_leave_nothing(
    words: list[str], message: str, toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "policy.json").write_text(json.dumps({"evaluation": {"a": {"episode_length": 1}}}))
    with pytest.raises(EXPECTED, match=message):
        publish.main([{"RUN": str(toy_run), "OLD": "old"}.get(word, word) for word in words])
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


# -- upload -----------------------------------------------------------------------------------------------------------
def test_an_upload_needs_a_name_a_token_and_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(EXPECTED, match=r"repo=me/arms: no token; log in \(hf auth login\)"):
        publish.main(["anything", "out=card", "repo=me/arms"])
    with pytest.raises(EXPECTED, match=r"repo=arms: .*Write repo=USER/NAME"):
        publish.main(["anything", "out=card", "repo=arms"])
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EXPECTED, match=r"pip install 'mm_torch\[hub\]'"):
        publish.main(["anything", "out=card", "repo=me/arms"])


@pytest.mark.parametrize("private", [True, False])
def test_the_folder_is_uploaded_with_the_own_token(private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "card" / "checkpoints").mkdir(parents=True)
    (tmp_path / "card" / "README.md").write_text("---\nlibrary_name: mm_torch\n---\n")
    (tmp_path / "card" / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    uploaded: dict[str, bytes] = {}
    with serve({"models/me/arms": uploaded}) as (address, seen):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        publish.check_upload("me/arms")
        assert address in publish.upload(tmp_path / "card", "me/arms", private)
        created = next(line for line in seen if line.startswith("POST /api/repos/create"))
        assert f'"visibility":"{"private" if private else "public"}"' in created
    assert uploaded == {p.relative_to(tmp_path / "card").as_posix(): p.read_bytes()
                        for p in (tmp_path / "card").rglob("*") if p.is_file()}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EXPECTED, match=r"repo=me/arms: .*offline.*the folder .* stays"):
        publish.upload(tmp_path / "card", "me/arms", private)
