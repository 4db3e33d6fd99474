"""The whole way of a collection of another encoder's vectors: labels, a head, attached, searched, given back."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.applications import NAME, application
from support.foreign import SIZE, encode, probes
from support.toy_bundle import UNSAFE_WORDS

from hysac_export.fit.graph import head_graph
from hysac_export.fit.labels.collection import labelled_vectors
from hysac_export.fit.radial import fit_heads, profile_of
from hysac_export.fit.scores import Labelled
from hysac_retrieval import Guard, SafeQdrantClient, connect
from hysac_retrieval.collection.attach import open_attached
from hysac_retrieval.collection.metadata import Vectors
from hysac_retrieval.encoder.bundle import Bundle, Manifest, VectorSpec, entry_of, write_manifest
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.ingest import StoredVectors, attached_collection_for, fill
from hysac_retrieval.stores import opening
from langchain_hysac import HySACRetriever

WHO = ("a man", "a woman", "two boys", "the old farmer", "my neighbour", "a nurse")
THINGS = ("a dog", "a cat", "the red bicycle", "some bread", "a book", *UNSAFE_WORDS)
PLACES = ("the park", "a house", "the street", "school", "my dreams")
TEXTS = [f"{who} with {thing} in {place}" for who, thing, place in product(WHO, THINGS, PLACES)]
UNSAFE = {row for row, text in enumerate(TEXTS) if set(text.split()) & set(UNSAFE_WORDS)}
SAFE = set(range(len(TEXTS))) - UNSAFE
LABELLED = 120
CONTENT = StoredVectors("own", "text")


def rows() -> list[dict[str, Any]]:
    """Payloads, half of them with a label."""
    order = np.random.default_rng(0).permutation(len(TEXTS))
    labelled = set(order[:LABELLED].tolist())
    return [{"title": text, **({"nsfw": row in UNSAFE} if row in labelled else {})} for row, text in enumerate(TEXTS)]


def fitted(folder: Path, place: dict[str, Any]) -> Bundle:
    """A bundle with a head that is fitted to the labels that the collection holds."""
    with opening(place, keep=False) as (store, _):  # type: ignore[arg-type]
        found = labelled_vectors(store, NAME, CONTENT, "nsfw")
    assert (len(found.ids), found.unlabelled) == (LABELLED, len(TEXTS) - LABELLED)
    fits = fit_heads({"text": Labelled.of(found.vectors, found.unsafe)})
    folder.mkdir()
    onnx.save(head_graph(fits["text"].head), folder / "head-text.onnx")
    manifest = Manifest(
        name="fitted",
        dim=SIZE,
        curvature=1.0,
        vectors=VectorSpec(size=SIZE, text="head-text.onnx", probes=probes()),
        files={"head-text.onnx": entry_of(folder / "head-text.onnx")},
        safety=profile_of(fits, "labels of the collection"),
    )
    return write_manifest(folder, manifest)


@pytest.mark.parametrize(
    ("where", "named", "vectors"),
    [
        ("edge", True, None),
        ("edge", False, None),
        ("memory", True, None),
        ("memory", True, "companion"),
        ("memory", False, "companion"),
        ("server", True, None),
    ],
)
def test_a_collection_of_foreign_vectors_is_made_safe_searched_and_given_back_byte_for_byte(
    where: str, named: bool, vectors: Vectors | None, tmp_path: Path
) -> None:
    def own(_: Any, payload: dict[str, Any]) -> list[float]:
        return encode([payload["title"]])[0].tolist()

    content = CONTENT if named else StoredVectors("", "text")
    with application(where, tmp_path / "data", rows(), named=True, encode=own, size=SIZE) as labelled:
        bundle = fitted(tmp_path / "fitted", labelled.place)
    with application(where, tmp_path / "again", rows(), named=named, encode=own, size=SIZE) as app:
        before = app.look()
        encoder = Encoder(bundle, threads=1)
        with attached_collection_for(encoder, NAME, content, vectors=vectors, **app.place) as index:
            report = fill(index, encoder)
            assert (report.total, report.failures) == (len(TEXTS), 0)
        assert app.own() == before

        with connect(NAME, model=bundle.path, encode=encode, **app.place) as engine:
            for query in ("a man with a gun in the park", "blood", "a dog in the street"):
                for asked in (query, encode([query])[0]):
                    found = engine.search(asked, limit=50)
                    assert len(found) == 50
                    assert {hit.id for hit in found} <= SAFE
                    assert found.query.redirected == bool(set(query.split()) & set(UNSAFE_WORDS))
            unsafe = engine.search("a man with gun in the park", safe=False)
            assert TEXTS[int(unsafe.hits[0].id)] == "a man with gun in the park"
            cosine = encode(TEXTS) @ encode(["a dog"])[0]
            expected = sorted(SAFE, key=lambda row: -cosine[row])[:20]
            assert [hit.id for hit in engine.search("a dog", limit=20)] == expected

            retriever = HySACRetriever(engine=engine, k=50, content_key="title")
            documents = retriever.invoke("a woman with a knife in a house")
            assert len(documents) == 50
            assert not any(set(document.page_content.split()) & set(UNSAFE_WORDS) for document in documents)

        if app.client is not None:
            guarded = SafeQdrantClient(app.client, guard=Guard.open(NAME, **app.place))
            query_vector = encode(["a man with a gun in the park"])[0].tolist()
            points = guarded.query_points(NAME, query_vector, using="own" if named else None, limit=50).points
            assert len(points) == 50
            assert {point.id for point in points} <= SAFE

        held = app.own()
        if app.client is None:  # the client's local mode normalises in place what is searched, by whomever
            assert held == before
        with opening(app.place, keep=False) as (store, _):  # type: ignore[arg-type]
            open_attached(store, NAME).detach()
        assert app.look() == held
