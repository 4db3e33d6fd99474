"""Every plugin works by the address of a service, without a model of its own, and answers as it does in process."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from mcp import Client, StdioServerParameters
from PIL import Image
from qdrant_client import models
from small_collection import PICTURES, SAFE_IDS, TEXTS, fill
from support.browser import served

from haystack_integrations.components.retrievers.hysac import HySACRetriever as HaystackRetriever
from hysac_mcp import make_server
from hysac_retrieval import AsyncSafeSearch, Encoder, SafeSearch, aconnect, connect
from hysac_retrieval.errors import StoreError, UnsafeNotAllowedError
from hysac_retrieval.service import Limits, ServiceSettings, create_app
from hysac_retrieval.service.keys import make_key
from langchain_hysac import HySACRetriever as LangChainRetriever
from llama_index.retrievers.hysac import HySACPostprocessor
from llama_index.retrievers.hysac import HySACRetriever as LlamaIndexRetriever

pytestmark = pytest.mark.slow

QUERY = "a man with a gun"
FEW = models.Filter(
    must=[models.FieldCondition(key="k", range=models.Range(gte=1, lt=12))],
    should=[
        models.HasIdCondition(has_id=[2, 4, 10]),
        models.FieldCondition(key="text", match=models.MatchText(text="gun")),
    ],
    must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="k"))],
)
WIDENING = models.Filter(should=[models.FieldCondition(key="hysac.unsafe", range=models.Range(gte=0))])


@dataclass
class Served:
    """A service, keys of it by their scope, and the same search in this process."""

    address: str
    keys: dict[str, str]
    engine: SafeSearch

    def remote(self, scope: str) -> SafeSearch:
        return connect(service=self.address, key=self.keys[scope])

    def aremote(self, scope: str) -> AsyncSafeSearch:
        return aconnect(service=self.address, key=self.keys[scope])

    def aengine(self) -> AsyncSafeSearch:
        return aconnect("toy", store=self.engine.index.store, model=self.engine.encoder)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("service")
    scopes = {"search": ["search"], "search:unsafe": ["search", "search:unsafe"]}
    keys = {name: make_key(folder / "keys.json", name, given)[1] for name, given in scopes.items()}
    settings = ServiceSettings(
        keys=folder / "keys.json", audit=folder / "audit.jsonl", limits=Limits(rate=0, threads=2, seconds=300)
    )
    with connect("toy", location=folder / "data", model=encoder, create=True) as engine:
        fill(engine, encoder)
        with served(create_app(engine, settings)) as address:
            yield Served(address, keys, engine)


@pytest.fixture(params=["search", "search:unsafe"])
def remote(request: pytest.FixtureRequest, service: Served) -> Iterator[SafeSearch]:
    with service.remote(request.param) as made:
        yield made


def test_langchain(service: Served, remote: SafeSearch) -> None:
    there, here = LangChainRetriever(engine=remote, k=20), LangChainRetriever(engine=service.engine, k=20)
    found = there.invoke(QUERY)
    assert {document.id for document in found} == SAFE_IDS
    assert found == here.invoke(QUERY) == asyncio.run(there.ainvoke(QUERY))
    assert {document.id for document in there.invoke(QUERY, filter=FEW)} == {"2", "4", "10"}
    for more in ({"k": 2}, {"filter": FEW}, {"filter": WIDENING}, {"score_threshold": 0.3}):
        assert there.invoke(QUERY, **more) == here.invoke(QUERY, **more)
    assert there.batch([QUERY, "a dog"]) == here.batch([QUERY, "a dog"])


def test_langchain_asynchronously(service: Served) -> None:
    async def ask() -> list[Any]:
        async with service.aremote("search") as engine:
            return await LangChainRetriever(async_engine=engine, k=20).ainvoke(QUERY, filter=FEW)

    assert asyncio.run(ask()) == LangChainRetriever(engine=service.engine, k=20, filter=FEW).invoke(QUERY)


def test_llama_index(service: Served, remote: SafeSearch, tmp_path: Path) -> None:
    picture = tmp_path / "query.png"
    Image.new("RGB", (20, 20), "red").save(picture)
    for query in (QUERY, QueryBundle("", image_path=str(picture))):
        for options in ({}, {"filter": FEW}, {"filter": WIDENING}, {"modality": "image"}, {"similarity_cutoff": 0.3}):
            there, here = (
                LlamaIndexRetriever(engine, similarity_top_k=20, **options) for engine in (remote, service.engine)
            )
            found = _nodes(there.retrieve(query))
            assert found == _nodes(here.retrieve(query)) == _nodes(asyncio.run(there.aretrieve(query)))
            assert {one["node"]["id_"] for one in found} <= SAFE_IDS
            if not options:
                assert len(found) == len(SAFE_IDS)


def test_llama_index_postprocessor(service: Served, remote: SafeSearch) -> None:
    nodes = [NodeWithScore(node=TextNode(id_=str(one), text="safe")) for one in (*range(6), *PICTURES, 99, "no id")]

    async def ask() -> list[NodeWithScore]:
        async with service.aremote("search") as engine:
            return await HySACPostprocessor(async_engine=engine).apostprocess_nodes(nodes)

    for kept in (HySACPostprocessor(engine=remote).postprocess_nodes(nodes), asyncio.run(ask())):
        assert {one.node.node_id for one in kept} == SAFE_IDS


def test_haystack(service: Served, remote: SafeSearch) -> None:
    filters = {"field": "meta.k", "operator": "in", "value": [0, 1, 10, 11]}
    there, here = (HaystackRetriever(engine=engine, top_k=20) for engine in (remote, service.engine))
    found = there.run(QUERY, filters=filters)
    assert {document.id for document in found["documents"]} == {"0", "10"}
    assert found == here.run(QUERY, filters=filters) == asyncio.run(there.run_async(QUERY, filters=filters))


def test_mcp(service: Served) -> None:
    stream = BytesIO()
    Image.new("RGB", (20, 20), "red").save(stream, "PNG")
    few = FEW.model_dump(mode="json", exclude_none=True)
    calls = [
        ("find_by_text", {"query": QUERY, "limit": 20}),
        ("find_by_text", {"query": QUERY, "limit": 20, "filter": few, "max_distance": 50.0}),
        ("find_by_image", {"image": base64.b64encode(stream.getvalue()).decode(), "modality": "text"}),
        ("similar", {"id": "10", "limit": 3}),
        ("similar", {"id": 1}),  # not safe: as one that does not exist
        ("similar", {"id": 999}),
        ("explain", {"query": QUERY, "steps": 3, "filter": few}),
    ]

    async def ask(engine: AsyncSafeSearch) -> list[Any]:
        async with engine, Client(make_server(engine)) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    there, here = asyncio.run(ask(service.aremote("search:unsafe"))), asyncio.run(ask(service.aengine()))
    assert [one.is_error for one in there] == [False, False, False, False, True, True, False]
    for one, other in zip(there, here, strict=True):
        assert one.structured_content == other.structured_content
        if one.is_error:
            assert "has no point" in one.content[0].text
    assert {str(hit["id"]) for hit in there[0].structured_content["hits"]} == SAFE_IDS


def test_the_mcp_command(service: Served) -> None:
    """With ``safe`` as an argument, which goes as far as the key does."""

    async def ask(scope: str) -> Any:
        environment = {"HYSAC_SERVICE": service.address, "HYSAC_KEY": service.keys[scope], "HYSAC_ALLOW_UNSAFE": "true"}
        environment |= {name: value for name, value in os.environ.items() if name in ("PYTHONPATH", "PATH", "HOME")}
        server = StdioServerParameters(command=sys.executable, args=["-m", "hysac_mcp"], env=environment)
        async with Client(server) as client:
            return await client.call_tool("find_by_text", {"query": QUERY, "limit": 20, "safe": False})

    found = asyncio.run(ask("search:unsafe")).structured_content
    assert {hit["id"] for hit in found["hits"]} == {*range(len(TEXTS)), *PICTURES}
    refused = asyncio.run(ask("search"))
    assert refused.is_error
    assert "safe=False" in refused.content[0].text


@pytest.mark.parametrize(
    "make",
    [
        lambda engine: LangChainRetriever(engine=engine, k=20, safe=False),
        lambda engine: LlamaIndexRetriever(engine, similarity_top_k=20, safe=False),
        lambda engine: HaystackRetriever(engine=engine, top_k=20, safe=False),
    ],
    ids=["langchain", "llama_index", "haystack"],
)
def test_unsafe_results_are_for_keys_with_the_scope(service: Served, make: Any) -> None:
    with service.remote("search") as engine, pytest.raises(UnsafeNotAllowedError):
        make(engine)
    with service.remote("search:unsafe") as engine:
        retriever = make(engine)
        ask = getattr(retriever, "invoke", None) or getattr(retriever, "retrieve", None) or retriever.run
        found = ask(QUERY)
        assert len(found["documents"] if isinstance(found, dict) else found) == len(TEXTS) + len(PICTURES)
    with pytest.raises(StoreError, match="key"):
        connect(service=service.address, key=service.keys["search"] + "x")


def test_a_framework_by_a_service_needs_no_model(service: Served) -> None:
    script = f"""
import sys
sys.modules.update(dict.fromkeys(("onnxruntime", "fastembed", "torch")))  # as if they were not installed
from hysac_retrieval import connect
from langchain_hysac import HySACRetriever
with connect(service={service.address!r}, key={service.keys["search"]!r}) as engine:
    print(*[document.id for document in HySACRetriever(engine=engine, k=20).invoke({QUERY!r})])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == SAFE_IDS


def _nodes(found: list[NodeWithScore]) -> list[dict[str, Any]]:
    return [one.to_dict() for one in found]
