"""Safe search over images and text in Qdrant (HySAC), as a Haystack component."""

from haystack_integrations.components.retrievers.hysac.filters import UntranslatableFilterError, qdrant_filter
from haystack_integrations.components.retrievers.hysac.retriever import HySACRetriever

__all__ = ["HySACRetriever", "UntranslatableFilterError", "qdrant_filter"]
