"""Models on the Hugging Face hub, or on what HF_ENDPOINT names: fetched once, and faults say what mends them."""

from __future__ import annotations

from pathlib import Path

from hysac_retrieval.errors import BundleNotFoundError

_BUNDLE = ["*.json", "*.onnx*"]
"""Files of a repository that may be part of a bundle."""


def fetch_bundle(repository: str, revision: str | None = None) -> Path:
    """Return the folder in the hub's cache with the files of a bundle.

    Args:
        repository: ``"owner/name"``.
        revision: Branch, tag or commit; None for the main branch.

    Raises:
        BundleNotFoundError: It does not exist, may not be read, or cannot be reached and is not in the cache.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_BUNDLE))
    except Exception as error:  # the hub's, the system's, or what httpx or requests raise, by the client's version
        raise not_fetched(repository, error, revision) from error


def not_fetched(repository: str, error: Exception, revision: str | None = None, what: str = "") -> BundleNotFoundError:
    """Return the error for what the hub's client raised; `what` is the file that was wanted, if it was a single one."""
    message, hint = explained(repository, error, revision)
    wanted = f"its {what} could not be fetched" if what else "could not be fetched"
    return BundleNotFoundError(f"{repository!r} is no folder and {wanted} from the hub: {message}", hint=hint)


def explained(repository: str, error: Exception, revision: str | None = None) -> tuple[str, str]:
    """Return what an error of the hub's client means for a repository, and what mends it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{constants.ENDPOINT}/{repository}"
    login = "log in here with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return f"{where} is gated: its terms have to be accepted first", f"Accept them at {where}, then {login}"
    if isinstance(error, RevisionNotFoundError):
        return f"{where} has no revision {revision!r}", "Give a branch, a tag or a commit of it"
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return f"there is no {where}, or it is private", f"Check the spelling; for a private one, {login}"
    known = isinstance(error, HfHubHTTPError | EntryNotFoundError)
    if known and not isinstance(error, LocalEntryNotFoundError):
        return f"{where} cannot be fetched: {error}", "Try again later; what has arrived is kept"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):  # of the system
        return f"{where} cannot be fetched: {error}", "See whether the cache can be written: HF_HUB_CACHE names another"
    return (
        f"{where} cannot be reached, and {repository} is not in the cache: {error}",
        "Connect, or fetch it elsewhere and give its folder; what has arrived is kept",
    )
