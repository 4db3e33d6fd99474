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

    A call chooses the query, `k`, `score_threshold` and a further filter; it cannot ask for unsafe results, and its
    filter cannot widen the search. A retriever cannot be changed once it is made.

    Attributes:
        engine: Engine with its policy (`hysac_retrieval.connect`).
        async_engine: Engine for `ainvoke` (`hysac_retrieval.aconnect`); without it, `engine` in a thread.
        k: Documents to return at most.
        filter: A Qdrant filter, or its JSON form, that holds in every search; that of a call is joined to it.
        modality: Kind of points to find; None for both.
        safe: Whether only safe points may be returned. False needs an engine whose policy allows it.
        content_key: The payload field with the text of a document, or several, of which the first present is taken.
            Without one it is the name of the picture's file, or the id: `EnsembleRetriever` merges equal texts.
        metadata_key: The payload field with its metadata; None for all other fields of the payload.
            ``metadata["hysac"]`` has id, distance, unsafe score, radius and modality of the hit.
        score_threshold: Least score of a document, 0 to 1, as ``similarity_score_threshold`` of vector stores has it;
            the score is 1 / (1 + distance). None for any.

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
    score_threshold: float | None = None

    @cached_property
    def _search(self) -> FixedSearch:
        return FixedSearch(
            self.engine, self.async_engine, self.k, self.filter, self.modality, self.safe, self.score_threshold
        )

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
        score_threshold: float | None = None,
        **others: Any,
    ) -> list[Document]:
        _expect_none(others)
        return self._documents(self._search.search(query, k, filter, score_threshold))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
        **others: Any,
    ) -> list[Document]:
        _expect_none(others)
        return self._documents(await self._search.asearch(query, k, filter, score_threshold))

    def _documents(self, result: SearchResult) -> list[Document]:
        return [
            Document(id=str(hit.id), page_content=text, metadata=self._fields.described(hit))
            for hit, text in zip(result.hits, self._fields.named(result.hits), strict=True)
        ]


def _expect_none(others: Mapping[str, Any]) -> None:
    if unknown := others.keys() - _TRACING:
        raise SettingsError(
            f"unknown argument {', '.join(sorted(unknown))}; a call takes k, filter and score_threshold",
            hint="Give everything else when the retriever is made",
        )
