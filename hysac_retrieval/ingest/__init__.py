"""Indexing of folders, files and rows: sources become items, items become points in a collection."""

from hysac_retrieval.ingest.journal import FailedItem, IndexReport, Journal
from hysac_retrieval.ingest.pipeline import index_sources
from hysac_retrieval.ingest.sources import Item, read_sources

__all__ = ["FailedItem", "IndexReport", "Item", "Journal", "index_sources", "read_sources"]
