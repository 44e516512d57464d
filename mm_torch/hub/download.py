"""``hf://user/repo[/file][@revision]`` in place of a path: the files it names, downloaded into the hub's own cache."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfUri

PREFIX = "hf://"
EXTRA = "needs huggingface_hub; install the extra: pip install 'mm_torch[hub]'"
LOGIN = "log in (hf auth login)"
REPOSITORIES = ("model", "dataset")


class HubError(ValueError):
    """Something on the hub cannot be used; the message names it, what is wrong and the remedy."""


def local_path(path: Path | str, suffix: str) -> Path:
    """The local file or directory that a path names.

    A path on the hub is ``hf://user/repo``, a model repository, or ``hf://datasets/user/repo``; then, where wanted, a file or
    folder in it and ``@`` with a branch, tag or commit, which may also stand right behind the repository. Of a folder only
    the files with the suffix are downloaded, and nothing that is in the cache already; the token is that of
    ``hf auth login``.

    Args:
        path: local, which is returned as it is, or on the hub.
        suffix: of the wanted files, for example ``.npz``; a path without it is a folder.

    Raises:
        HubError: the extra ``hub`` is not installed; no such repository, revision or file; no access; no connection.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return Path(path)
    try:
        import huggingface_hub
    except ImportError:
        raise HubError(f"{text}: {EXTRA}") from None
    place, inside, revision = _parse(text)
    is_file = inside.endswith(suffix)
    below = "" if is_file else f"/*{suffix}" if inside else f"*{suffix}"
    found = _snapshot(text, place, revision, glob.escape(inside) + below) / inside
    if not (found.is_file() if is_file else any(found.rglob(f"*{suffix}"))):
        offline = " as far as it is in the cache (HF_HUB_OFFLINE is set)" if huggingface_hub.is_offline_mode() else ""
        raise HubError(f"{text}: no {inside}{below} in that repository{offline}; look at {place.to_url()}")
    return found


def _parse(text: str) -> tuple[HfUri, str, str | None]:
    """Repository, path in it and revision that a path on the hub names."""
    from huggingface_hub import HfUri, parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        uri = parse_hf_uri(text)
    except HfUriError as error:
        raise HubError(f"{text}: {error.msg.strip()} Write {PREFIX}user/repo[/file][@revision]") from None
    inside, _, revision = uri.path_in_repo.partition("@")
    revision = uri.revision or revision
    if uri.type not in REPOSITORIES:
        raise HubError(f"{text}: names a {uri.type}; write {PREFIX}user/repo for models, {PREFIX}datasets/user/repo for data")
    if {".", ".."} & {*inside.split("/"), *revision.split("/")} or "\\" in inside + revision or revision.startswith("/"):
        raise HubError(f"{text}: leads out of the repository; write the path of a file or folder in it")
    return HfUri(type=uri.type, id=uri.id), inside.strip("/"), revision or None


def _snapshot(text: str, place: HfUri, revision: str | None, pattern: str) -> Path:
    """Directory in the cache with the files of a repository that fit the pattern."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(place.id, repo_type=place.type, revision=revision, allow_patterns=pattern))
    except errors.GatedRepoError:
        reason = f"access is restricted; ask for it at {place.to_url()} and {LOGIN}"
    except errors.RepositoryNotFoundError:
        reason = f"no such repository, or a private one; check the name, and {LOGIN} if it is private"
    except errors.RevisionNotFoundError:
        reason = f"no revision {revision!r}; {place.to_url()} lists branches, tags and commits"
    except errors.LocalEntryNotFoundError as error:
        reason = (f"not in the cache, and the hub does not give it ({_why(error.__cause__)}); go online once, or copy the "
                  "cache of a machine that has it and name it with HF_HOME")
    except (errors.HTTPError, ValueError) as error:
        reason = f"{' '.join(str(error).split())}; see {place.to_url()}"
    raise HubError(f"{text}: {reason}")


def _why(cause: BaseException | None) -> str:
    """Why the library looked into its cache only."""
    from huggingface_hub import errors

    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    return f"answer {cause.response.status_code}" if isinstance(cause, errors.HfHubHTTPError) else "no connection"
