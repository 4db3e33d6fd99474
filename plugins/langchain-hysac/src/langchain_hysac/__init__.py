"""Safe search over images and text in Qdrant (HySAC), as a LangChain retriever."""

from langchain_hysac.retriever import HySACRetriever

__all__ = ["HySACRetriever"]
