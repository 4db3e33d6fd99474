"""The frameworks' own stores of Qdrant over a guarded client: they run, and find safe points only."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from haystack import Document as HaystackDocument
from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore as LangChainStore
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaIndexStore
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from support.qdrant_server import QDRANT, own_or_local
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval import AsyncSafeQdrantClient, SafeQdrantClient
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import NotGuardedError

SIZE, NAME = 8, "documents"
TEXTS = ["a dog", "a gun", "a cat", "a knife", "a tree"]
UNSAFE = {"a gun", "a knife"}
SAFE = [text for text in TEXTS if text not in UNSAFE]
IDS = [str(uuid.uuid5(uuid.NAMESPACE_DNS, text)) for text in TEXTS]


def vector(text: str) -> list[float]:
    found: list[float] = np.random.default_rng(len(text) * 100 + ord(text[-1])).normal(size=SIZE).tolist()
    return found


class Words(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return vector(text)


@pytest.fixture(params=["memory", *QDRANT])
def client(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    with own_or_local(request.param) as made:
        yield made


def score(client: QdrantClient) -> None:
    """Give the points scores, as `hysac attach` does."""
    with Index.attach(NAME, dim=DIM, curvature=CURVATURE, safety=profile(), client=client) as index:
        for identity, text in zip(IDS, TEXTS, strict=True):
            low = 3.4 if text in UNSAFE else 1.5
            index.annotate([identity], random_points(1, low=low, high=low + 0.1), modality="text")


async def copied(client: QdrantClient) -> AsyncQdrantClient:
    """An asynchronous client with the same collection."""
    made = AsyncQdrantClient(":memory:")
    info = client.get_collection(NAME).config
    await made.create_collection(
        NAME,
        vectors_config=info.params.vectors,
        sparse_vectors_config=info.params.sparse_vectors,
        metadata=info.metadata,
    )
    records: list[Any] = client.scroll(NAME, limit=99, with_vectors=True)[0]
    points = [models.PointStruct(id=one.id, vector=one.vector, payload=one.payload) for one in records]
    await made.upsert(NAME, points)
    return made


def test_langchain_qdrant(client: QdrantClient) -> None:
    client.create_collection(NAME, models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
    own = LangChainStore(client, NAME, Words())
    own.add_documents([Document(text, metadata={"n": n}) for n, text in enumerate(TEXTS)], ids=IDS)
    score(client)
    store = LangChainStore(client=SafeQdrantClient(client), collection_name=NAME, embedding=Words())
    harmless = [one for one in own.similarity_search_with_score("a gun", k=9) if one[0].page_content not in UNSAFE]
    assert store.similarity_search_with_score("a gun", k=9) == harmless
    assert len(harmless) == len(SAFE)
    assert {one.page_content for one in store.similarity_search("a gun", k=2)} <= {*SAFE}
    assert {one.page_content for one in store.max_marginal_relevance_search("a gun", k=3, fetch_k=5)} == {*SAFE}
    only = models.Filter(must=[models.FieldCondition(key="metadata.n", match=models.MatchAny(any=[0, 1]))])
    assert [one.page_content for one in store.similarity_search("a gun", filter=only)] == ["a dog"]
    assert [one.page_content for one in store.get_by_ids([IDS[1], IDS[2]])] == ["a cat"]
    assert {one.page_content for one in store.as_retriever(search_kwargs={"k": 9}).invoke("a gun")} == {*SAFE}
    assert {one.page_content for one in asyncio.run(store.asimilarity_search("a gun", k=9))} == {*SAFE}
    with pytest.raises(NotGuardedError):
        store.add_documents([Document("new")])


@pytest.mark.filterwarnings("ignore")
def test_llama_index(client: QdrantClient) -> None:
    own = LlamaIndexStore(NAME, client=client)
    nodes = [
        TextNode(id_=i, text=t, embedding=vector(t), metadata={"n": t[-3:]}) for i, t in zip(IDS, TEXTS, strict=True)
    ]
    own.add(nodes)
    score(client)
    store = LlamaIndexStore(NAME, client=SafeQdrantClient(client))
    query = VectorStoreQuery(query_embedding=vector("a gun"), similarity_top_k=9)
    assert {node.get_content() for node in store.query(query).nodes or ()} == {*SAFE}
    query.filters = MetadataFilters(filters=[MetadataFilter(key="n", value="gun")])
    assert store.query(query).nodes == []
    assert {node.get_content() for node in store.get_nodes(node_ids=IDS)} == {*SAFE}

    async def check() -> None:
        other = await copied(client)
        both = LlamaIndexStore(NAME, client=SafeQdrantClient(client), aclient=AsyncSafeQdrantClient(other))
        asked = VectorStoreQuery(query_embedding=vector("a gun"), similarity_top_k=9)
        assert {node.get_content() for node in (await both.aquery(asked)).nodes or ()} == {*SAFE}
        await other.close()

    asyncio.run(check())


@pytest.mark.filterwarnings("ignore")
def test_haystack(client: QdrantClient) -> None:
    own = QdrantDocumentStore(":memory:", index=NAME, embedding_dim=SIZE)
    own._client = client
    own._set_up_collection(NAME, SIZE, False, "cosine", False, True, on_disk=False)
    documents = [HaystackDocument(id=i, content=t, embedding=vector(t)) for i, t in zip(IDS, TEXTS, strict=True)]
    own.write_documents(documents)
    found = {record.payload["content"]: record.id for record in client.scroll(NAME, limit=99)[0] if record.payload}
    with Index.attach(NAME, dim=DIM, curvature=CURVATURE, safety=profile(), client=client) as index:
        for text, identity in found.items():
            low = 3.4 if text in UNSAFE else 1.5
            index.annotate([identity], random_points(1, low=low, high=low + 0.1), modality="text")
    store = QdrantDocumentStore(":memory:", index=NAME, embedding_dim=SIZE)
    store._client = SafeQdrantClient(client)
    assert store.count_documents() == len(SAFE)
    assert {one.content for one in store.filter_documents()} == {*SAFE}
    retriever = QdrantEmbeddingRetriever(document_store=store, top_k=9)
    assert {one.content for one in retriever.run(vector("a gun"))["documents"]} == {*SAFE}
    assert store.filter_documents({"field": "content", "operator": "==", "value": "a gun"}) == []
