"""Safety for an application that keeps ranking with its own vectors.

`Guard.filter` is the condition to join to a query. `SafeQdrantClient` and `AsyncSafeQdrantClient` have the
query methods of qdrant-client and put that condition wherever a method could let an unsafe point through.
"""

from hysac_retrieval.guard.clients import AsyncSafeQdrantClient, SafeQdrantClient
from hysac_retrieval.guard.condition import Guard

__all__ = ["AsyncSafeQdrantClient", "Guard", "SafeQdrantClient"]
