"""Safe search over images and text in Qdrant (HySAC), as a LlamaIndex retriever and node postprocessor."""

from llama_index.retrievers.hysac.postprocessor import HySACPostprocessor
from llama_index.retrievers.hysac.retriever import HySACRetriever

__all__ = ["HySACPostprocessor", "HySACRetriever"]
