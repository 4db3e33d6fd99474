"""Indexing: sources list items, a planner selects what is to be done, an encoding makes points, a sink takes them.

    indexing, attaching    the two ways in: files into a collection of their own; an application's collection
    protocols              the parts of a run, which any source, cluster or collection can take the place of
    sources/               folders, files, tables, shards, datasets, an application's collection
    pipeline/              plan, decode, encode, sinks, and the one loop that runs them
    ray                    decoding and encoding on a cluster
    journal, report        failures across runs; outcome of a run
    status                 what of the sources is in a collection

The names below are loaded when they are first used, so that a worker process loads next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hysac_retrieval.ingest.attaching import aattach as aattach
    from hysac_retrieval.ingest.attaching import attached_collection_for as attached_collection_for
    from hysac_retrieval.ingest.attaching import fill as fill
    from hysac_retrieval.ingest.indexing import RunOptions as RunOptions
    from hysac_retrieval.ingest.indexing import check_sources as check_sources
    from hysac_retrieval.ingest.indexing import index_sources as index_sources
    from hysac_retrieval.ingest.items import FailedItem as FailedItem
    from hysac_retrieval.ingest.items import Item as Item
    from hysac_retrieval.ingest.journal import Journal as Journal
    from hysac_retrieval.ingest.report import IndexReport as IndexReport
    from hysac_retrieval.ingest.report import OnProgress as OnProgress
    from hysac_retrieval.ingest.report import Progress as Progress
    from hysac_retrieval.ingest.sources.collections import Content as Content
    from hysac_retrieval.ingest.sources.open import Listing as Listing
    from hysac_retrieval.ingest.sources.options import Fields as Fields
    from hysac_retrieval.ingest.sources.options import SourceOptions as SourceOptions
    from hysac_retrieval.ingest.sources.vectors import StoredVectors as StoredVectors
    from hysac_retrieval.ingest.status import Status as Status
    from hysac_retrieval.ingest.status import status_of as status_of

_HOMES = {
    "attaching": ("aattach", "attached_collection_for", "fill"),
    "indexing": ("RunOptions", "check_sources", "index_sources"),
    "items": ("FailedItem", "Item"),
    "journal": ("Journal",),
    "report": ("IndexReport", "OnProgress", "Progress"),
    "sources.collections": ("Content",),
    "sources.open": ("Listing",),
    "sources.options": ("Fields", "SourceOptions"),
    "sources.vectors": ("StoredVectors",),
    "status": ("Status", "status_of"),
}
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value  # looked up once, then an ordinary attribute
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
