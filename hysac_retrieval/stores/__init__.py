"""Vector stores: an embedded engine in a folder, or anything a `QdrantClient` reaches."""

from hysac_retrieval.stores import installed  # first: what follows needs them
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.open import Connection, open_store, opening, server_options
from hysac_retrieval.stores.retry import Retry
from hysac_retrieval.stores.types import (
    CollectionSpec,
    Group,
    GroupQuery,
    HnswOptions,
    StorageOptions,
    StoredPoint,
    VectorQuery,
)

__all__ = [
    "CollectionSpec",
    "Connection",
    "Group",
    "GroupQuery",
    "HnswOptions",
    "Retry",
    "StorageOptions",
    "Store",
    "StoredPoint",
    "VectorQuery",
    "installed",
    "open_store",
    "opening",
    "server_options",
]
