"""The whole way of a collection that is none of ours: its labels, a fitted bundle, a safe search, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.applications import NAME, Application, application
from support.foreign import SIZE, encode

from hysac_export.evaluation.calibrate import Wanted
from hysac_export.fit.bundle import FitOptions, write_bundle
from hysac_export.fit.labels.collection import labelled_vectors
from hysac_export.fit.radial import fit_heads
from hysac_export.fit.scores import Labelled
from hysac_retrieval import SafeQdrantClient, SafetyPolicy, connect
from hysac_retrieval.collection.attach import open_attached
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import UnsafeNotAllowedError
from hysac_retrieval.ingest import StoredVectors, attached_collection_for, fill
from hysac_retrieval.stores import opening

ANIMALS = ("dog", "cat", "horse", "cow", "bird", "wolf", "fish", "mouse", "bear", "hen")
PLACES = ("park", "house", "garden", "street", "school", "harbour", "field", "lake")
TEXTS = [
    f"a {animal} and a {thing} in a {place}" for thing in ("ball", "gun") for animal in ANIMALS for place in PLACES
]
SAFE = {row for row, text in enumerate(TEXTS) if "gun" not in text}
OWN = StoredVectors("own", "text")


def own(_: Any, payload: dict[str, Any]) -> list[float]:
    found: list[float] = encode([payload["title"]])[0].tolist()
    return found


def fitted(app: Application, out: Path) -> Bundle:
    """Fit to what the payload of three in four points says."""
    with opening(app.place, keep=False) as (store, _):
        found = labelled_vectors(store, NAME, OWN, "nsfw")
    assert (len(found.ids), found.unlabelled) == (120, 40)
    wanted = Wanted(max_miss=0.02)
    fits = fit_heads({"text": Labelled.of(found.vectors, found.unsafe)}, wanted)
    return write_bundle(fits, out, FitOptions(name="own", labels="payload", wanted=wanted))


@pytest.mark.parametrize("where", ["edge", "memory", "server"])
def test_from_payload_labels_to_safe_searches_and_back_byte_for_byte(where: str, tmp_path: Path) -> None:
    langchain = pytest.importorskip("langchain_hysac")
    rows = [
        {"title": text, "price": row + 0.5, **({} if row % 4 == 3 else {"nsfw": row not in SAFE})}
        for row, text in enumerate(TEXTS)
    ]
    with application(where, tmp_path / "data", rows, named=True, encode=own, size=SIZE) as app:
        before = app.look()
        model = Encoder(fitted(app, tmp_path / "fitted"), threads=1)
        with attached_collection_for(model, NAME, OWN, **app.place) as index:
            report = fill(index, model, OWN)
        assert (report.indexed["text"], report.failures) == (len(TEXTS), 0)
        assert app.own() == before

        policy = SafetyPolicy(allow_unsafe=False)
        unsafe = "a dog and a gun in a park"
        with connect(NAME, model=model, policy=policy, **app.place) as engine:
            for query in (encode(["a dog and a ball in a park"])[0], encode([unsafe])[0]):
                result = engine.search(query, limit=len(TEXTS))
                assert {hit.id for hit in result} == SAFE
            assert result.query.redirected
            with pytest.raises(UnsafeNotAllowedError):
                engine.search(query, safe=False)
        with connect(NAME, model=model, encode=encode, policy=policy, **app.place) as engine:
            retriever = langchain.HySACRetriever(engine=engine, k=len(TEXTS), content_key="title")
            documents = retriever.invoke(unsafe)
            assert {int(document.id) for document in documents} == SAFE
            assert documents[0].page_content in {TEXTS[row] for row in SAFE}
        assert app.own() == before
        if app.client is not None:
            guarded = SafeQdrantClient(app.client)
            found = guarded.query_points(NAME, query=encode([unsafe])[0].tolist(), using="own", limit=len(TEXTS)).points
            assert {point.id for point in found} == SAFE
            assert {record.id for record in guarded.scroll(NAME, limit=len(TEXTS))[0]} == SAFE

            # Each search by cosine in qdrant-client's local mode scales what is stored once more, by a last digit.
            before = {key: (payload, app.own()[key][1]) for key, (payload, _) in before.items()}
        with opening(app.place, keep=False) as (store, _):
            open_attached(store, NAME).detach()
        assert app.look() == before
