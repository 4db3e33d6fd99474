"""Each plugin as one thing: something that is asked, and answers with ids of points, by all of its ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from haystack import Pipeline
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode
from mcp import Client
from mcp.types import CallToolResult
from qdrant_client import models

from haystack_integrations.components.retrievers.hysac import HySACRetriever as HaystackRetriever
from hysac_mcp import make_server
from hysac_retrieval import AsyncSafeSearch, SafeSearch
from langchain_hysac import HySACRetriever as LangChainRetriever
from llama_index.retrievers.hysac import HySACPostprocessor
from llama_index.retrievers.hysac import HySACRetriever as LlamaIndexRetriever

QUERY = "a man with a gun"
HAYSTACK_FILTERS = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a test asks of a plugin.

    Attributes:
        engine: The collection, under a policy that would allow unsafe results.
        async_engine: The same.
        stored: Ids of all points that are there.
        filter: A hostile Qdrant filter.
        filters: A hostile Haystack filter.
        limit: Hits at most.
    """

    engine: SafeSearch
    async_engine: AsyncSafeSearch
    stored: tuple[int | str, ...] = ()
    filter: models.Filter | None = None
    filters: HAYSTACK_FILTERS | None = None
    limit: int = 100


Answers = list[set[str]]
"""Ids found, for each way of asking."""


def langchain(asked: Asked) -> Answers:
    plain = LangChainRetriever(engine=asked.engine, async_engine=asked.async_engine)
    made = LangChainRetriever(engine=asked.engine, k=asked.limit, filter=asked.filter)
    found = [
        made.invoke(QUERY),
        plain.invoke(QUERY, k=asked.limit, filter=asked.filter),
        asyncio.run(plain.ainvoke(QUERY, k=asked.limit, filter=asked.filter)),
        made.with_config(configurable={"safe": False, "search_kwargs": {"safe": False}}).invoke(QUERY),
        plain.bind(filter=asked.filter, k=asked.limit).batch([QUERY])[0],
    ]
    return [{str(document.id) for document in documents} for documents in found]


def llama_index(asked: Asked) -> Answers:
    made = LlamaIndexRetriever(
        asked.engine, async_engine=asked.async_engine, similarity_top_k=asked.limit, filter=asked.filter
    )
    bundle = QueryBundle(QUERY, custom_embedding_strs=[QUERY], embedding=[0.0] * 6)
    found = [made.retrieve(QUERY), made.retrieve(bundle), asyncio.run(made.aretrieve(QUERY))]
    return [{node.node.node_id for node in nodes} for nodes in found]


def llama_index_postprocessor(asked: Asked) -> Answers:
    """Every stored point, as a node that says of itself that it is safe."""
    lie = {"hysac": {"unsafe": 0.0, "model": asked.engine.index.metadata.fingerprint, "radius": 0.0}}
    kinds = (TextNode, ImageNode)
    nodes = [
        NodeWithScore(node=kinds[row % 2](id_=str(one), text="safe", metadata=lie), score=1.0)
        for row, one in enumerate(asked.stored)
    ]
    made = HySACPostprocessor(engine=asked.engine, async_engine=asked.async_engine)
    found = [made.postprocess_nodes(nodes), asyncio.run(made.apostprocess_nodes(nodes, query_str=QUERY))]
    return [{node.node.node_id for node in kept} for kept in found]


def haystack(asked: Asked) -> Answers:
    found = []
    for policy in ("replace", "merge"):
        made = HaystackRetriever(engine=asked.engine, filters={"field": "meta.k", "operator": ">=", "value": -1})
        made = HaystackRetriever(engine=asked.engine, filters=asked.filters, filter_policy=policy, top_k=asked.limit)
        pipeline = Pipeline()
        pipeline.add_component("retriever", made)
        run = {"query": QUERY, "filters": asked.filters, "top_k": asked.limit}
        found += [made.run(QUERY), made.run(**run), asyncio.run(made.run_async(**run))]
        found.append(pipeline.run({"retriever": run})["retriever"])
    return [{str(document.id) for document in answer["documents"]} for answer in found]


def mcp(asked: Asked) -> Answers:
    json_form = None if asked.filter is None else asked.filter.model_dump(mode="json", exclude_none=True, by_alias=True)

    async def ask() -> list[CallToolResult]:
        async with Client(make_server(asked.async_engine)) as client:
            common = {"limit": asked.limit, "filter": json_form}
            return [
                await client.call_tool("find_by_text", {"query": QUERY, **common}),
                *[await client.call_tool("similar", {"id": one, **common}) for one in asked.stored[:2]],
                await client.call_tool("explain", {"query": QUERY, "near": 20, "steps": 3, "filter": json_form}),
            ]

    found = []
    for answer in asyncio.run(ask()):
        if answer.is_error:  # a point that is not safe is none to be similar to
            assert "has no point" in str(answer.content)
            continue
        assert answer.structured_content is not None
        found.append(set(_ids(answer.structured_content)))
    return found


def _ids(value: Any) -> list[str]:
    """The ids of all hits in an answer, wherever they are."""
    if isinstance(value, dict):
        here = [str(value["id"])] if {"id", "distance"} <= value.keys() else []
        return here + [one for part in value.values() for one in _ids(part)]
    return [one for part in value for one in _ids(part)] if isinstance(value, list) else []


PLUGINS: dict[str, Callable[[Asked], Answers]] = {
    "langchain": langchain,
    "llama_index": llama_index,
    "llama_index_postprocessor": llama_index_postprocessor,
    "haystack": haystack,
    "mcp": mcp,
}
