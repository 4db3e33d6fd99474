"""Indexing of folders, files and rows: sources become items, items become points in a collection."""

from hysac_retrieval.ingest.journal import FailedItem, IndexReport, Journal
from hysac_retrieval.ingest.pipeline import collection_for, index_sources
from hysac_retrieval.ingest.sources import Item, SourceOptions, read_sources

__all__ = [
    "FailedItem",
    "IndexReport",
    "Item",
    "Journal",
    "SourceOptions",
    "collection_for",
    "index_sources",
    "read_sources",
]
