"""Models on the Hugging Face hub, or on what HF_ENDPOINT names: what will be fetched is said before it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from hysac_retrieval.encoder.hub import explained
from hysac_retrieval.errors import EncoderError

Choose = Callable[[Collection[str]], list[str]]
"""Chooses files of a repository by their names."""

_log = logging.getLogger(__name__)


def fetch(repository: str, choose: Choose, *, cache: str | None = None) -> Path:
    """Return a folder with the chosen files of a hub repository, downloaded unless the cache has them.

    Args:
        repository: ``"owner/name"``.
        choose: Says which of its files are needed.
        cache: Folder to keep them in; None for the hub's own.

    Raises:
        EncoderError: The repository does not exist, may not be read, or cannot be reached and is not in the cache.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    where = f"{constants.ENDPOINT}/{repository}"
    try:
        info = HfApi().model_info(repository, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        names = choose(sizes)
        total = sum(sizes[name] for name in names)
        into = cache or constants.HF_HUB_CACHE
        _log.info(
            "%s: %d files, %.1f MB, from %s into %s, unless they are there: %s",
            repository, len(names), total / 1e6, where, into, ", ".join(names),
        )  # fmt: skip
        return Path(snapshot_download(repository, allow_patterns=names, cache_dir=cache))
    except EncoderError:
        raise
    except Exception as error:  # the hub's, offline mode, or what httpx or requests raise, by the client's version
        refused = isinstance(error, RepositoryNotFoundError | HFValidationError)
        if refused or (kept := _kept(repository, cache)) is None:
            message, hint = explained(repository, error)
            raise EncoderError(message, hint=hint) from error
        _log.info("%s cannot be reached; %s has it", where, kept)
        return kept


def _kept(repository: str, cache: str | None) -> Path | None:
    """Return the folder that an earlier download left; None if there is none."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    # Not by snapshot_download, which takes a snapshot of a repository in part for an interrupted download.
    try:
        found = [
            repo for repo in scan_cache_dir(cache).repos if (repo.repo_type, repo.repo_id) == ("model", repository)
        ]
    except CacheNotFound:
        return None
    kept = [revision for repo in found for revision in repo.revisions]
    return max(kept, key=lambda one: ("main" in one.refs, one.last_modified)).snapshot_path if kept else None


def of_kind(names: Collection[str], *endings: str) -> list[str]:
    """Return the names that end in one of some ways, sorted."""
    return sorted(name for name in names if name.endswith(endings))


def installed(name: str, marker: str) -> Path | None:
    """Return the folder in which an installed Python package carries a model, known by a file; nothing is imported."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found: list[Any] = [file for file in files(name) or () if file.name == marker]
    except (PackageNotFoundError, ValueError):
        return None
    return Path(str(found[0].locate())).parent if found else None
