"""Enforce the policy of an engine on the nodes of any retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Self

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import Field, model_validator

from hysac_retrieval import AsyncSafeSearch, SafeSearch
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.integrations import GIVE_ENGINE
from hysac_retrieval.payload import stored_id
from hysac_retrieval.types import PointId


class HySACPostprocessor(BaseNodePostprocessor):
    """Drops every node that a safe search of the engine could not return.

    A node is judged by the stored point of its id: score, model and the rules of the policy. Its own metadata does not
    count. A node whose id is no point of the collection, or a point without a valid score of this model, is dropped. So
    node ids must be ids of the collection, as they are for retrievers over it and for pipelines that keep `node_id`.

    Attributes:
        engine: Engine with the policy (`hysac_retrieval.connect`).
        async_engine: The same for asynchronous use (`hysac_retrieval.aconnect`); without it, `engine` in a thread.
        id_key: The metadata field with the id of a node's point; None for the id of the node itself.

    Raises:
        SettingsError: There is no engine.
    """

    engine: SafeSearch | None = Field(default=None, repr=False, exclude=True)
    async_engine: AsyncSafeSearch | None = Field(default=None, repr=False, exclude=True)
    id_key: str | None = None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.engine is None and self.async_engine is None:
            raise SettingsError("there is no engine", hint=GIVE_ENGINE)
        return self

    @classmethod
    def class_name(cls) -> str:
        """Name for serialization."""
        return "HySACPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if self.engine is None:
            raise SettingsError("there is only an asynchronous engine", hint="Use apostprocess_nodes, or give engine=")
        ids = [self._id(node) for node in nodes]
        return _kept(nodes, ids, self.engine.permitted(_known(ids)))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if self.async_engine is None:
            return await asyncio.to_thread(self._postprocess_nodes, nodes, query_bundle)
        ids = [self._id(node) for node in nodes]
        return _kept(nodes, ids, await self.async_engine.permitted(_known(ids)))

    def _id(self, node: NodeWithScore) -> PointId | None:
        """Return the id of a node's point; None if it cannot be one."""
        value: Any = node.node.node_id if self.id_key is None else node.node.metadata.get(self.id_key)
        return stored_id(value)


def _known(ids: list[PointId | None]) -> list[PointId]:
    return [one for one in ids if one is not None]


def _kept(nodes: list[NodeWithScore], ids: list[PointId | None], permitted: Collection[PointId]) -> list[NodeWithScore]:
    return [node for node, one in zip(nodes, ids, strict=True) if one is not None and one in permitted]
