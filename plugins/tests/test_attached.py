"""An application's collection, with vectors and payload of its own, searched safely and given back.

The SDK, the guarded client and each plugin find its safe points and no other; what is the application's stays, byte for
byte.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from adapters import PLUGINS, Asked
from support.applications import NAME, PLACES, TEXTS, UNSAFE, application, vector

from hysac_retrieval import Encoder, SafetyPolicy, aconnect, connect
from hysac_retrieval.guard import SafeQdrantClient
from hysac_retrieval.ingest import Content, attached_collection_for, fill
from langchain_hysac import HySACRetriever as LangChainRetriever

SAFE = [row for row, text in enumerate(TEXTS) if not any(word in text for word in UNSAFE)]


@pytest.mark.parametrize("ids", ["int", "uuid"])
@pytest.mark.parametrize("where", PLACES)
def test_an_attached_collection_is_safe_through_every_way_in(
    where: str, ids: str, tmp_path: Path, encoder: Encoder
) -> None:
    content = Content(text="title")
    with application(where, tmp_path, ids=ids) as app:
        before = app.look()
        with attached_collection_for(encoder, NAME, content, **app.place) as index:
            fill(index, encoder, content)
        assert app.own() == before
        safe = {str(app.ids[row]) for row in SAFE}

        with connect(NAME, model=encoder, policy=SafetyPolicy(allow_unsafe=True), **app.place) as engine:
            assert {str(hit.id) for hit in engine.search("a man with a gun")} == safe
            asynchronous = aconnect(NAME, model=encoder, store=engine.index.store)
            for name, ask in PLUGINS.items():
                for found in ask(Asked(engine, asynchronous, tuple(app.ids))):
                    assert found <= safe, name
                    assert found, name
            documents = LangChainRetriever(engine=engine, content_key="title").invoke("a man with a gun", k=9)
            assert {document.page_content for document in documents} == {TEXTS[row] for row in SAFE}
        assert app.own() == before

        if app.client is not None:
            guarded = SafeQdrantClient(app.client)
            answer = guarded.query_points(NAME, query=vector(1), using="own" if app.named else None, limit=9)
            assert {str(point.id) for point in answer.points} == safe
        # A cosine query makes local mode divide the stored vectors by their norms once more, whoever asks.
        ranked = app.own()

        with attached_collection_for(encoder, NAME, content, **app.place) as index:
            assert index.detach() == len(TEXTS)
        assert app.look() == ranked
