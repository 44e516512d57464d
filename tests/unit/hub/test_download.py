"""Paths on the hub: read from a cache in the hub's layout or from a server, by the real library in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mm_torch.hub.download import HubError, local_path
from tests.unit.hub.hubs import COMMIT, fill_cache, serve

REPO = Path(__file__).parents[3]
CODE = """
import json, sys
from mm_torch.hub.download import HubError, local_path
for suffix, text in json.loads(sys.argv[1]):
    try:
        print(json.dumps([True, str(local_path(text, suffix))]))
    except HubError as error:
        print(json.dumps([False, str(error)]))
"""
Resolve = Callable[..., list[tuple[bool, str]]]


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    """Resolve paths in a fresh process whose hub is set by environment variables, as a user sets it."""

    def run(*paths: str, suffix: str = ".ckpt", **environment: str) -> list[tuple[bool, str]]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        done = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps([(suffix, path) for path in paths])], cwd=REPO,
            env=plain | {"HF_HOME": str(tmp_path / "home")} | environment, capture_output=True, text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return [tuple(json.loads(line)) for line in done.stdout.splitlines()]

    return run


def test_local_paths_stay_as_they_are() -> None:
    for path in ("runs/toy", Path("clips"), "hf:/x"):
        assert local_path(path, ".npz") == Path(path)


def test_a_cache_answers_without_a_network(resolve: Resolve, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fill_cache(cache, "models/me/arms", {"checkpoints/last.ckpt": b"new", "README.md": b"card"})
    fill_cache(cache, "models/me/arms", {"checkpoints/last.ckpt": b"old", "best.ckpt": b"best"}, "v1")
    offline = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    found = resolve("hf://me/arms", "hf://me/arms@v1", "hf://me/arms/best.ckpt@v1", "hf://me/arms@v1/checkpoints", **offline)
    assert all(ok for ok, _ in found), found
    root, old, best, folder = (Path(path) for _, path in found)
    assert (root / "checkpoints/last.ckpt").read_bytes() == b"new"
    assert (old / "checkpoints/last.ckpt").read_bytes() == (folder / "last.ckpt").read_bytes() == b"old"
    assert best.read_bytes() == b"best" and best.is_relative_to(cache)


def test_home_names_the_cache_too_and_datasets_have_their_own_place(resolve: Resolve, tmp_path: Path) -> None:
    fill_cache(tmp_path / "elsewhere" / "hub", "datasets/me/clips", {"walks/a.npz": b"1", "walks/fast/b.npz": b"2"})
    words = {"HF_HOME": str(tmp_path / "elsewhere"), "HF_HUB_OFFLINE": "1", "suffix": ".npz"}
    (ok, path), (others, message) = resolve("hf://datasets/me/clips/walks", "hf://me/clips/walks", **words)
    assert ok and [p.name for p in sorted(Path(path).rglob("*.npz"))] == ["a.npz", "b.npz"]
    assert not others and "not in the cache" in message


def test_what_a_cache_lacks_is_said(resolve: Resolve, tmp_path: Path) -> None:
    fill_cache(tmp_path / "cache", "models/me/arms", {"checkpoints/last.ckpt": b"new", "policy.pkl": b"a pickle"})
    offline = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    paths = ("hf://me/legs", "hf://me/arms@v2", "hf://me/arms/best.ckpt", "hf://me/arms/clips", "hf://me/arms/policy.pkl")
    found = resolve(*paths, **offline)
    for path, (ok, message) in zip(paths, found, strict=True):
        assert not ok and message.startswith(f"{path}: ") and "\n" not in message and "HF_HUB_OFFLINE is set" in message
    assert all("not in the cache" in message for _, message in found[:2])
    assert "no best.ckpt in that repository as far as it is in the cache" in found[2][1]
    assert "no policy.pkl/*.ckpt in that" in found[4][1]  # it is there, and not read


@pytest.mark.parametrize(
    "path",
    ["hf://me/arms/../../x.ckpt", "hf://me/arms/a/./x.ckpt", "hf://me/arms@..%2F..%2Fx", "hf://me/arms/x.ckpt@../../y",
     "hf://me/arms/..\\x.ckpt", "hf://me/arms@/etc"],
)
def test_no_path_leads_out_of_its_repository(path: str) -> None:
    with pytest.raises(HubError, match=r"leads out of the repository|Empty revision"):
        local_path(path, ".ckpt")


@pytest.mark.parametrize(
    ("path", "message"),
    [("hf://", "Write hf://user/repo"), ("hf://arms", "'namespace/name', got 'arms'"), ("hf://me/..", "Write hf://user/repo"),
     ("hf://me/arms/a//b.ckpt", "empty segments"), ("hf://me/arms@", "Empty revision"),
     ("hf://spaces/me/arms", "names a space"), ("hf://buckets/me/arms", "names a bucket")],
)
def test_malformed_paths_are_refused(path: str, message: str) -> None:
    with pytest.raises(HubError, match=message):
        local_path(path, ".ckpt")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"hf://me/arms: needs huggingface_hub; .*pip install 'mm_torch\[hub\]'"):
        local_path("hf://me/arms", ".ckpt")


# -- a hub on this machine --------------------------------------------------------------------------------------------
def test_files_are_downloaded_once_and_only_those_wanted(resolve: Resolve) -> None:
    files = {"checkpoints/last.ckpt": b"weights", "policy.pkl": b"a pickle", "clips/a.npz": b"clip"}
    with serve({"models/me/arms": files}) as (address, seen):
        hub = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_secret"}
        (ok, path), = resolve("hf://me/arms", **hub)
        assert ok, path
        assert [p.name for p in Path(path).rglob("*") if p.is_file()] == ["last.ckpt"]
        assert (Path(path) / "checkpoints/last.ckpt").read_bytes() == b"weights"
        assert any("/resolve/" in line for line in seen)
        assert not [line for line in seen if "me/arms" in line and not line.endswith("Bearer hf_secret")]
        assert not [line for line in seen if "pkl" in line or "npz" in line]
        seen.clear()
        (ok, message), = resolve("hf://me/arms/best.ckpt", **hub)
        assert not ok and f"no best.ckpt in that repository; look at {address}/me/arms" in message
        assert not [line for line in seen if "/resolve/" in line]
    (ok, again), = resolve("hf://me/arms", **hub)  # the server is gone
    assert ok and again == path
    (ok, message), = resolve("hf://me/arms/clips", suffix=".npz", **hub)
    assert not ok and "not in the cache, and the hub does not give it (no connection)" in message
    assert Path(path).name == COMMIT


def test_what_a_hub_refuses_is_one_line_with_the_remedy(resolve: Resolve) -> None:
    places = {"models/me/gated": "GatedRepo", "models/me/old": "RevisionNotFound", "models/me/off": "DisabledRepo",
              "models/me/evil": {"../../../x.ckpt": b"escapes"}}
    wanted = {
        "hf://me/nowhere": "no such repository, or a private one; check the name, and log in",
        "hf://me/gated": "access is restricted; ask for it at {}/me/gated and log in (hf auth login)",
        "hf://me/old@v9": "no revision 'v9'; {}/me/old lists",
        "hf://me/off": "the hub does not give it (answer 403)",
        "hf://me/evil": "Invalid filename '../../../x.ckpt'",
    }
    with serve(places) as (address, _):
        found = resolve(*wanted, HF_ENDPOINT=address)
    for path, (ok, message) in zip(wanted, found, strict=True):
        assert not ok and message.startswith(f"{path}: ") and "\n" not in message, message
        assert wanted[path].format(address) in message
