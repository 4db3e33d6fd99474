"""Packages of Qdrant that are installed: what is too old is said, instead of failing somewhere inside."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from hysac_retrieval.errors import VersionError

LEAST = {"qdrant-client": (1, 20), "qdrant-edge-py": (0, 9)}
"""Oldest versions, as in ``pyproject.toml``: earlier clients have no named vectors to add and no acosh in formulas."""


def expect_versions() -> None:
    """Raise `VersionError` if a package is too old."""
    for package, least in LEAST.items():
        try:
            installed = version(package)
        except PackageNotFoundError:  # of a distribution that keeps no metadata
            continue
        found = re.match(r"(\d+)\.(\d+)", installed)
        if found is not None and (int(found[1]), int(found[2])) < least:
            needed = ".".join(map(str, least))
            raise VersionError(
                f"{package} {installed} is installed, and hysac-retrieval needs {needed} or later",
                hint=f"Install it with: pip install '{package}>={needed}' (it speaks to servers that are older, too)",
            )


expect_versions()
