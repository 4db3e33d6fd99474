"""Indexing of folders, files, tables and datasets: sources become items, items become points in a collection.

Data flows one way: `sources` lists items, `plan` decides which are to be done, `workers` decode, `pipeline` encodes and
stores, `journal` keeps what failed. The names below are loaded when they are first used, so that a worker process loads
next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hysac_retrieval.ingest.items import FailedItem, Item
    from hysac_retrieval.ingest.journal import IndexReport, Journal
    from hysac_retrieval.ingest.pipeline.filling import FillReport, attached_collection_for, fill
    from hysac_retrieval.ingest.pipeline.run import Progress, collection_for, index_sources, open_sources
    from hysac_retrieval.ingest.sources.collections import Content
    from hysac_retrieval.ingest.sources.open import Listing
    from hysac_retrieval.ingest.sources.options import Fields, SourceOptions
    from hysac_retrieval.ingest.status import Status, status_of

__all__ = [
    "Content",
    "FailedItem",
    "Fields",
    "FillReport",
    "IndexReport",
    "Item",
    "Journal",
    "Listing",
    "Progress",
    "SourceOptions",
    "Status",
    "attached_collection_for",
    "collection_for",
    "fill",
    "index_sources",
    "open_sources",
    "status_of",
]

_HOMES = {
    "Content": "sources.collections",
    "FailedItem": "items",
    "Fields": "sources.options",
    "FillReport": "pipeline.filling",
    "IndexReport": "journal",
    "Item": "items",
    "Journal": "journal",
    "Listing": "sources.open",
    "Progress": "pipeline.run",
    "SourceOptions": "sources.options",
    "Status": "status",
    "attached_collection_for": "pipeline.filling",
    "collection_for": "pipeline.run",
    "fill": "pipeline.filling",
    "index_sources": "pipeline.run",
    "open_sources": "pipeline.run",
    "status_of": "status",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # asked for once, then an ordinary attribute
    return value
