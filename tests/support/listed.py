"""A listing as two lists."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hysac_retrieval.ingest import FailedItem, Item, Listing, SourceOptions


def listed(
    sources: Sequence[str | os.PathLike[str]], options: SourceOptions | None = None
) -> tuple[list[Item], list[FailedItem]]:
    """Items of the sources, and what is none."""
    with Listing(sources, options) as listing:
        found = list(listing)
    return [one for one in found if isinstance(one, Item)], [one for one in found if isinstance(one, FailedItem)]
