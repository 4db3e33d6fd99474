"""LangChain retriever; its engine, and with it the safety policy, is fixed at construction."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, model_validator
from qdrant_client import models

from hysac_retrieval import AsyncSafeSearch, SafeSearch
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.integrations import CONTENT_KEYS, Fields, FixedSearch
from hysac_retrieval.results import SearchResult
from hysac_retrieval.types import Modality

_TRACING = frozenset({"verbose"})
"""Arguments that `invoke` passes on although they are meant for the callbacks."""


class HySACRetriever(BaseRetriever):
    """Safe search as a LangChain retriever: ``retriever.invoke("a dog", k=3, filter=…)``.

    A call chooses the query, `k` and a further filter; it cannot ask for unsafe results, and its filter cannot widen
    the search. A retriever cannot be changed once it is made.

    Attributes:
        engine: Engine with its policy (`hysac_retrieval.connect`).
        async_engine: Engine for `ainvoke` (`hysac_retrieval.aconnect`); without it, `engine` in a thread.
        k: Documents to return at most.
        filter: A Qdrant filter, or its JSON form, that holds in every search; that of a call is joined to it.
        modality: Kind of points to find; None for both.
        safe: Whether only safe points may be returned. False needs an engine whose policy allows it.
        content_key: The payload field with the text of a document, or several, of which the first present is taken.
        metadata_key: The payload field with its metadata; None for all other fields of the payload.
            ``metadata["hysac"]`` has id, distance, unsafe score, radius and modality of the hit.

    Raises:
        SettingsError: There is no engine, or an option is out of range.
        UnsafeNotAllowedError: ``safe=False`` where the engine's policy does not allow it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True, extra="forbid")

    engine: SafeSearch | None = Field(default=None, repr=False, exclude=True)
    async_engine: AsyncSafeSearch | None = Field(default=None, repr=False, exclude=True)
    k: int = 4
    filter: models.Filter | Mapping[str, Any] | None = None
    modality: Modality | None = None
    safe: bool = Field(default=True, strict=True)
    content_key: str | tuple[str, ...] = CONTENT_KEYS
    metadata_key: str | None = None

    @cached_property
    def _search(self) -> FixedSearch:
        return FixedSearch(self.engine, self.async_engine, self.k, self.filter, self.modality, self.safe)

    @cached_property
    def _fields(self) -> Fields:
        return Fields.of(self.content_key, self.metadata_key)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        _ = self._search
        return self

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        **others: Any,
    ) -> list[Document]:
        _expect_none(others)
        return self._documents(self._search.search(query, k, filter))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        **others: Any,
    ) -> list[Document]:
        _expect_none(others)
        return self._documents(await self._search.asearch(query, k, filter))

    def _documents(self, result: SearchResult) -> list[Document]:
        return [
            Document(id=str(hit.id), page_content=self._fields.text(hit) or "", metadata=self._fields.described(hit))
            for hit in result
        ]


def _expect_none(others: Mapping[str, Any]) -> None:
    if unknown := others.keys() - _TRACING:
        raise SettingsError(
            f"unknown argument {', '.join(sorted(unknown))}; a call takes k and filter",
            hint="Give everything else when the retriever is made",
        )
