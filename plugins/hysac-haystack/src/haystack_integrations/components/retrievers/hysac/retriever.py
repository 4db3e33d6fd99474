"""Haystack retriever; collection, model and safety policy are fixed at construction and saved with the pipeline."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.core.errors import SerializationError
from haystack.dataclasses import ByteStream
from haystack.document_stores.types import FilterPolicy
from haystack.utils import Secret
from qdrant_client import models

from haystack_integrations.components.retrievers.hysac.filters import qdrant_filter
from haystack_integrations.components.retrievers.hysac.policies import policy_from_dict, policy_to_dict
from hysac_retrieval import SafeSearch, SafetyPolicy, aconnect, connect
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.integrations import CONTENT_KEYS, Fields, FixedSearch, closeness, farthest
from hysac_retrieval.results import SearchResult
from hysac_retrieval.search.queries import Query
from hysac_retrieval.types import Modality


@component
class HySACRetriever:
    """Safe search as a Haystack component.

    A run chooses the query, `top_k`, `score_threshold` and `filters`; it cannot ask for unsafe results, and neither its
    filters nor a filter policy can widen the search. The score of a document is 1 / (1 + distance); ``meta["hysac"]``
    has id, distance, unsafe score, radius and modality.
    """

    def __init__(
        self,
        collection: str | None = None,
        *,
        url: str | None = None,
        location: str | None = None,
        api_key: Secret | None = None,
        prefer_grpc: bool = False,
        model: str = "hysac-mini",
        policy: SafetyPolicy | None = None,
        safe: bool = True,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        filter_policy: str | FilterPolicy = FilterPolicy.MERGE,
        modality: Modality | None = None,
        content_key: str | Sequence[str] = CONTENT_KEYS,
        meta_key: str | None = None,
        score_threshold: float | None = None,
        engine: SafeSearch | None = None,
    ) -> None:
        """Keep the settings; nothing is opened before `warm_up`.

        Args:
            collection: Name of the collection.
            url: Address of a Qdrant server.
            location: A folder for the embedded engine.
            api_key: Key for `url`.
            prefer_grpc: Whether to use gRPC for `url`.
            model: Bundled name, folder or hub repository of the model.
            policy: Safety policy; None for one that never allows unsafe results.
            safe: Whether only safe documents may be returned. False needs a policy that allows it.
            top_k: Documents to return at most.
            filters: Haystack filters of every run that brings none.
            filter_policy: Whether filters of a run hold beside `filters` (``MERGE``) or replace them (``REPLACE``).
                Neither touches the safety policy.
            modality: Kind of points to find; None for both.
            content_key: Payload field with the content, or several: the first present counts, for filters the first.
            meta_key: The payload field with its meta; None for all other fields of the payload.
            score_threshold: Least score of a document, 0 to 1, in every run that brings none; None for any.
            engine: An open engine, instead of `collection` and its place. A pipeline with it cannot be saved.

        Raises:
            SettingsError: An option is out of range, or contradicts another.
            UnsafeNotAllowedError: ``safe=False`` where the policy does not allow it.
        """
        _expect_one_place(collection, engine, url, location)
        if engine is not None and (policy, api_key) != (None, None):
            raise SettingsError("an engine brings its own place and policy", hint="Leave out api_key and policy")
        self.collection, self.url, self.prefer_grpc, self.model = collection, url, prefer_grpc, model
        self.api_key, self.meta_key = api_key, meta_key
        self.location = None if location is None else os.fspath(location)
        self.policy = SafetyPolicy(allow_unsafe=False) if policy is None else policy
        self.safe, self.top_k, self.filters = safe, top_k, filters
        self.score_threshold = score_threshold
        farthest(score_threshold)
        self.filter_policy = FilterPolicy.from_str(str(filter_policy))
        self.modality: Modality | None = modality
        self.content_key = [content_key] if isinstance(content_key, str) else list(content_key)
        self._given = engine
        self._opening = threading.Lock()  # runs may come from several threads, and a folder is opened once
        (self.policy if engine is None else engine.policy).expect_allowed(safe)
        self._filter(None)
        self._search = None if engine is None else self._fixed(engine=engine)
        self._async_search: FixedSearch | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the component as plain values, with its policy.

        Raises:
            SerializationError: It was made with an open engine, or with an API key that is not an environment variable.
        """
        if self._given is not None:
            raise SerializationError(
                "made with an open engine. To save it, give collection and url or location instead"
            )
        return default_to_dict(
            self,
            collection=self.collection,
            url=self.url,
            location=self.location,
            api_key=None if self.api_key is None else self.api_key.to_dict(),
            prefer_grpc=self.prefer_grpc,
            model=self.model,
            policy=policy_to_dict(self.policy),
            safe=self.safe,
            top_k=self.top_k,
            filters=self.filters,
            filter_policy=str(self.filter_policy),
            modality=self.modality,
            content_key=self.content_key,
            meta_key=self.meta_key,
            score_threshold=self.score_threshold,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> HySACRetriever:
        """Make the component from plain values."""
        values = dict(data.get("init_parameters", {}))
        if values.get("policy") is not None:
            values["policy"] = policy_from_dict(values["policy"])
        made: HySACRetriever = default_from_dict(cls, {**data, "init_parameters": values})
        return made

    def warm_up(self) -> None:
        """Open the collection and load the model, once."""
        with self._opening:
            if self._search is None:
                assert self.collection is not None  # without one there is an engine, and with it a search
                options = {"location": self.location} if self.url is None else self._server()
                engine = connect(self.collection, model=self.model, policy=self.policy, **options)
                self._search = self._fixed(engine=engine)

    async def warm_up_async(self) -> None:
        """As `warm_up`, without blocking; the embedded engine works in a thread."""
        if self.url is None:
            await asyncio.to_thread(self.warm_up)
        elif self._async_search is None:
            assert self.collection is not None
            engine = aconnect(self.collection, model=self.model, policy=self.policy, **self._server())
            self._async_search = self._fixed(async_engine=await engine)

    def close(self) -> None:
        """Close the collection; a later run opens it again."""
        search, self._search = self._search, None if self._given is None else self._search
        if self._given is None and search is not None and search.engine is not None:
            search.engine.close()

    async def close_async(self) -> None:
        """As `close`, for blocking and asynchronous runs."""
        await asyncio.to_thread(self.close)
        search, self._async_search = self._async_search, None
        if search is not None and search.async_engine is not None:
            await search.async_engine.close()

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str | ByteStream | Path,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Search.

        Args:
            query: A text, or an image as `ByteStream` or `Path`.
            filters: Haystack filters; they can only narrow what the safety policy leaves.
            top_k: Documents to return at most.
            score_threshold: Least score of a document, 0 to 1.

        Returns:
            ``documents``, nearest first.

        Raises:
            UntranslatableFilterError: Qdrant cannot express the filters.
            HysacError: The search failed.
        """
        self.warm_up()
        assert self._search is not None
        return self._documents(self._search.search(_query(query), top_k, self._filter(filters), score_threshold))

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str | ByteStream | Path,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """As `run`, without blocking."""
        await self.warm_up_async()
        search = self._async_search or self._search
        assert search is not None
        found = await search.asearch(_query(query), top_k, self._filter(filters), score_threshold)
        return self._documents(found)

    def _fixed(self, **engines: Any) -> FixedSearch:
        return FixedSearch(
            **engines,
            limit=self.top_k,
            modality=self.modality,
            safe=self.safe,
            score_threshold=self.score_threshold,
        )

    def _server(self) -> dict[str, Any]:
        key = None if self.api_key is None else self.api_key.resolve_value()
        return {"url": self.url, "api_key": key, "prefer_grpc": self.prefer_grpc}

    def _filter(self, of_run: Mapping[str, Any] | None) -> models.Filter | None:
        """Join the filters of a run; an empty one is none, as elsewhere in Haystack."""
        held = [self.filters, of_run] if self.filter_policy is FilterPolicy.MERGE else [of_run or self.filters]
        parts = [qdrant_filter(one, content_key=self.content_key[0], meta_key=self.meta_key) for one in held if one]
        return models.Filter(must=[*parts]) if parts else None

    def _documents(self, result: SearchResult) -> dict[str, list[Document]]:
        fields = Fields.of(self.content_key, self.meta_key)
        documents = [
            Document(id=str(hit.id), content=fields.text(hit), meta=fields.described(hit), score=closeness(hit))
            for hit in result
        ]
        return {"documents": documents}


def _expect_one_place(collection: str | None, engine: SafeSearch | None, url: str | None, location: str | None) -> None:
    if (collection is None) == (engine is None):
        raise SettingsError("what to search is not clear", hint="Give either a collection and its place, or an engine")
    if engine is not None and (url, location) != (None, None):
        raise SettingsError("an engine brings its own place and policy", hint="Leave out url and location")
    if collection is not None and (url is None) == (location is None):
        raise SettingsError("where the collection lives is not clear", hint="Give exactly one of url and location")


def _query(query: str | ByteStream | Path) -> Query:
    return query.data if isinstance(query, ByteStream) else query
