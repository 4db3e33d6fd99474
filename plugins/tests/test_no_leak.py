"""No plugin returns an unsafe point: whatever the records are, and whatever a filter or an argument of a call says.

The engine's own policy would allow unsafe results here, so that nothing but the plugin stands in the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from adapters import PLUGINS, QUERY, Asked
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.runnables import ConfigurableField
from mcp import Client
from numpy.typing import NDArray
from qdrant_client import models
from support.hostile import allowed, fill, modest, payloads, user_filters
from support.qdrant_server import QDRANT
from support.spaces import CURVATURE, DIM, index_on, profile, random_points

from haystack_integrations.components.retrievers.hysac import HySACRetriever as HaystackRetriever
from hysac_mcp import make_server
from hysac_retrieval import AsyncSafeSearch, Index, SafeSearch, SafetyPolicy, aconnect
from hysac_retrieval.errors import UnsafeNotAllowedError
from langchain_hysac import HySACRetriever as LangChainRetriever
from llama_index.retrievers.hysac import HySACRetriever as LlamaIndexRetriever

# What a plugin answers to `Asked` without a filter, that is not all safe points: `similar` leaves out its own point,
# `explain` shows some.
PARTIAL = ("mcp",)


class FixedEncoder:
    """A model to which every text is the same unsafe point."""

    dim, curvature, lift, safety = DIM, CURVATURE, None, profile()

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def encode_text(self, texts: list[str], /) -> NDArray[np.float32]:
        return np.repeat(random_points(1, seed=5, low=3.0), len(texts), axis=0).astype(np.float32)

    def encode_image(self, images: list[Any], /) -> NDArray[np.float32]:
        return self.encode_text(images)


@pytest.fixture(scope="module", params=["edge", *QDRANT])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with index_on(request.param, tmp_path_factory.mktemp("leak")) as made:
        yield made


@pytest.fixture(scope="module")
def engines(index: Index) -> tuple[SafeSearch, Callable[[], AsyncSafeSearch]]:
    """A blocking engine, and what makes an asynchronous one, which lives in one event loop only."""
    encoder, policy = FixedEncoder(index.metadata.fingerprint), SafetyPolicy(allow_unsafe=True)
    return (
        SafeSearch(index, encoder, policy=policy),
        lambda: aconnect(index.name, store=index.store, model=encoder, policy=policy),
    )


haystack_fields = st.sampled_from(["meta.k", "k", "meta.hysac.unsafe", "hysac.model", "id", "meta.nothing", "content"])
haystack_values = st.sampled_from([None, 0, 1, 0.9, "another-model", "image", True, "7"])


def haystack_filters() -> st.SearchStrategy[dict[str, Any]]:
    equal = st.fixed_dictionaries(
        {"field": haystack_fields, "operator": st.sampled_from(["==", "!="]), "value": haystack_values}
    )
    among = st.fixed_dictionaries(
        {
            "field": haystack_fields,
            "operator": st.sampled_from(["in", "not in"]),
            "value": st.lists(haystack_values, max_size=3),
        }
    )
    ordered = st.fixed_dictionaries(
        {
            "field": st.sampled_from(["meta.k", "meta.hysac.unsafe"]),
            "operator": st.sampled_from([">", ">=", "<", "<="]),
            "value": st.sampled_from([0, 0.6, -1.0, "2024-01-01"]),
        }
    )
    return st.recursive(
        st.one_of(equal, among, ordered),
        lambda inner: st.fixed_dictionaries(
            {"operator": st.sampled_from(["AND", "OR", "NOT"]), "conditions": st.lists(inner, max_size=3)}
        ),
        max_leaves=5,
    )


@pytest.mark.parametrize("plugin", PLUGINS)
@modest
@given(
    rows=st.lists(payloads(), min_size=1, max_size=12),
    user=st.one_of(st.none(), user_filters()),
    filters=st.one_of(st.none(), haystack_filters()),
    limit=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_no_plugin_returns_an_unsafe_point(
    plugin: str,
    index: Index,
    engines: tuple[SafeSearch, Callable[[], AsyncSafeSearch]],
    rows: list[dict[str, Any] | None],
    user: models.Filter | None,
    filters: dict[str, Any] | None,
    limit: int,
    seed: int,
) -> None:
    there = fill(index, rows, seed)
    asked = Asked(engines[0], engines[1](), tuple(there), user, filters, limit)
    for found in PLUGINS[plugin](asked):
        for one in found:
            assert allowed(there[int(one)][1], 0.5, index.metadata.fingerprint), there[int(one)][1]


@pytest.mark.parametrize("plugin", [name for name in PLUGINS if name not in PARTIAL])
@modest
@given(rows=st.lists(payloads(), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_every_plugin_returns_all_safe_points(
    plugin: str,
    index: Index,
    engines: tuple[SafeSearch, Callable[[], AsyncSafeSearch]],
    rows: list[dict[str, Any] | None],
    seed: int,
) -> None:
    there = fill(index, rows, seed)
    expected = {str(i) for i, (_, row) in there.items() if allowed(row, 0.5, index.metadata.fingerprint)}
    for found in PLUGINS[plugin](Asked(engines[0], engines[1](), tuple(there))):
        assert found == expected


def call_tool(engine: AsyncSafeSearch, name: str, arguments: dict[str, Any]) -> Any:
    async def ask() -> Any:
        async with Client(make_server(engine)) as client:
            return await client.call_tool(name, arguments)

    answer = asyncio.run(ask())
    if answer.is_error:
        raise PermissionError(answer.content[0].text)
    return answer


SNEAKY: dict[str, Callable[[SafeSearch, AsyncSafeSearch], Any]] = {
    "langchain invoke": lambda engine, _: LangChainRetriever(engine=engine).invoke(QUERY, safe=False),
    "langchain search_kwargs": lambda engine, _: LangChainRetriever(engine=engine).invoke(
        QUERY, search_kwargs={"safe": False}
    ),
    "langchain policy": lambda engine, _: LangChainRetriever(engine=engine).invoke(QUERY, policy=SafetyPolicy()),
    "langchain ainvoke": lambda engine, _: asyncio.run(LangChainRetriever(engine=engine).ainvoke(QUERY, safe=False)),
    "langchain construction kwargs": lambda engine, _: LangChainRetriever(engine=engine, search_kwargs={"safe": False}),
    "langchain assignment": lambda engine, _: setattr(LangChainRetriever(engine=engine), "safe", False),
    "llama_index retrieve": lambda engine, _: LlamaIndexRetriever(engine).retrieve(QUERY, safe=False),
    "llama_index qdrant_filters": lambda engine, _: LlamaIndexRetriever(engine).retrieve(
        QUERY, qdrant_filters=models.Filter()
    ),
    "haystack run": lambda engine, _: HaystackRetriever(engine=engine).run(QUERY, safe=False),
    "haystack filter policy": lambda engine, _: HaystackRetriever(engine=engine).run(QUERY, filter_policy="replace"),
    "mcp find_by_text": lambda _, engine: call_tool(engine, "find_by_text", {"query": QUERY, "safe": False}),
    "mcp find_by_image": lambda _, engine: call_tool(engine, "find_by_image", {"image": "eA==", "safe": False}),
    "mcp similar": lambda _, engine: call_tool(engine, "similar", {"id": 0, "safe": False}),
    "mcp explain": lambda _, engine: call_tool(engine, "explain", {"query": QUERY, "safe": False}),
    "mcp threshold": lambda _, engine: call_tool(engine, "find_by_text", {"query": QUERY, "threshold": 1}),
}


@pytest.mark.parametrize("sneaky", SNEAKY)
def test_a_call_that_asks_for_unsafe_results_is_an_error(
    sneaky: str, engine: SafeSearch, async_engine: AsyncSafeSearch
) -> None:
    # TypeError: no such argument; ValueError: a validation or settings error; PermissionError: of `call_tool`.
    with pytest.raises((TypeError, ValueError, PermissionError)):
        SNEAKY[sneaky](engine, async_engine)


@pytest.mark.parametrize(
    "make",
    [
        lambda engine: LangChainRetriever(engine=engine, safe=False),
        lambda engine: LlamaIndexRetriever(engine, safe=False),
        lambda engine: HaystackRetriever(engine=engine, safe=False),
        lambda engine: (
            LangChainRetriever(engine=engine)
            .configurable_fields(safe=ConfigurableField(id="safe"))
            .with_config(configurable={"safe": False})
            .invoke(QUERY)
        ),
    ],
    ids=["langchain", "llama_index", "haystack", "langchain configurable"],
)
def test_the_engine_s_policy_has_the_last_word_at_construction(
    make: Callable[[SafeSearch], Any], strict: SafeSearch
) -> None:
    with pytest.raises(UnsafeNotAllowedError):
        make(strict)
