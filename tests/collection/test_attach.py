from __future__ import annotations

import base64
import io
import logging
import os
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from qdrant_client import QdrantClient, models
from support.applications import NAME, PLACES, SIZE, TEXTS, UNSAFE, Application, application, payloads, vector
from support.pictures import COLOURS, write_pictures
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval.collection.attach import open_attached
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.metadata import Vectors
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import (
    CollectionExistsError,
    ModelMismatchError,
    NotACollectionError,
    SettingsError,
    SourceError,
)
from hysac_retrieval.guard import Guard, SafeQdrantClient
from hysac_retrieval.ingest import Content, IndexReport, attached_collection_for, fill
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.safety.policy import LabelRule, SafetyPolicy
from hysac_retrieval.search.connecting import connect
from hysac_retrieval.stores import open_store
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.types import HnswOptions
from hysac_retrieval.stores.versions import NEW_VECTOR
from hysac_retrieval.types import Thresholds

TITLES = Content(text="title")
SAFE = [row for row, text in enumerate(TEXTS) if not any(word in text for word in UNSAFE)]


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, threads=1)


def attach(
    app: Application,
    encoder: Encoder,
    content: Content = TITLES,
    *,
    vectors: Vectors | None = None,
    labels: list[str] | None = None,
    **options: Any,
) -> IndexReport:
    with attached_collection_for(encoder, NAME, content, vectors=vectors, labels=labels, **app.place) as index:
        return fill(index, encoder, content, **options)


def detach(app: Application) -> int:
    store, owned = open_store(app.place)  # type: ignore[arg-type]
    try:
        return open_attached(store, NAME).detach()
    finally:
        if owned:
            store.close()


# Unnamed vectors behind a client: see test_beside_a_vector_without_a_name_there_are_scores_only.
@pytest.mark.parametrize("ids", ["int", "uuid"])
@pytest.mark.parametrize(("where", "named"), [("edge", False), ("edge", True), ("memory", True), ("server", True)])
def test_attach_leaves_what_is_the_applications_and_detach_leaves_nothing_else(
    where: str, named: bool, ids: str, tmp_path: Path, encoder: Encoder
) -> None:
    with application(where, tmp_path, named=named, ids=ids) as app:
        before = app.look()
        report = attach(app, encoder)
        assert (report.indexed, report.failures, report.skipped) == ({"image": 0, "text": len(TEXTS)}, 0, 0)
        assert app.own() == before
        ours = {key: payload["hysac"] for key, (payload, _) in app.look().items()}
        assert {key for key, record in ours.items() if record["unsafe"] <= 0.5} == {app.ids[row] for row in SAFE}
        with connect(NAME, model=encoder, **app.place) as engine:
            info = engine.index.info()
            assert (info.points, info.safe) == (len(TEXTS), len(SAFE))
            hits = engine.search(TEXTS[0]).hits
            assert {hit.id for hit in hits} == {app.ids[row] for row in SAFE}
            assert hits[0].id == app.ids[0]
            assert hits[0].payload == before[app.ids[0]][0]
            assert hits[0].distance == pytest.approx(0, abs=1e-3)
            assert {hit.id for hit in engine.search("a gun", safe=False)} == set(app.ids)
            priced = models.Filter(must=[models.FieldCondition(key="price", range=models.Range(lt=1.0))])
            assert [hit.id for hit in engine.search("a gun", filter=priced)] == [app.ids[0]]
        assert detach(app) == len(TEXTS)
        assert app.look() == before
        with pytest.raises(NotACollectionError, match="attach"):
            Index.open(NAME, **app.place)


@pytest.mark.parametrize("where", ["memory", "server"])
def test_metadata_of_the_application_survives(where: str, tmp_path: Path, encoder: Encoder) -> None:
    with application(where, tmp_path) as app:
        assert app.client is not None
        attach(app, encoder)
        kept = app.client.get_collection(NAME).config.metadata or {}
        assert set(kept) == {"owner", "hysac"}
        detach(app)
        assert app.client.get_collection(NAME).config.metadata == {"owner": "shop"}


def test_detach_leaves_no_file_beside_a_shard(tmp_path: Path, encoder: Encoder) -> None:
    with application("edge", tmp_path) as app:
        before = sorted(path.name for path in (tmp_path / NAME).iterdir())
        attach(app, encoder)
        detach(app)
        assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == before


def test_a_server_gets_index_graph_options_and_vectors_before_scores(tmp_path: Path, encoder: Encoder) -> None:
    with application("server", tmp_path) as app:
        assert app.server is not None
        attach(app, encoder)
        created = app.server.bodies("PUT", f"/collections/{NAME}/vectors/hysac")
        assert created == [{"dense": {"size": encoder.dim + 2, "distance": "Dot"}}]
        changes = app.server.bodies("PATCH", f"/collections/{NAME}")
        assert [set(change) for change in changes] == [{"metadata", "vectors"}]
        assert changes[0]["vectors"]["hysac"]["hnsw_config"]["ef_construct"] == HnswOptions().ef_construct
        indexes = app.server.bodies("PUT", f"/collections/{NAME}/index")
        assert {index["field_name"] for index in indexes} >= {"hysac.unsafe", "hysac.model", "hysac.modality"}
        (batch,) = app.server.bodies("POST", f"/collections/{NAME}/points/batch")
        kinds = [next(iter(operation)) for operation in batch["operations"]]
        assert kinds == ["update_vectors", *["set_payload"] * len(TEXTS)]
        assert all(set(one["set_payload"]["payload"]) == {"hysac"} for one in batch["operations"][1:])
        assert not app.server.bodies("PUT", f"/collections/{NAME}/points")
        detach(app)
        gone = [path for method, path, _ in app.server.requests if method == "DELETE"]
        assert f"/collections/{NAME}/index/hysac.unsafe" in gone
        assert f"/collections/{NAME}/vectors/hysac" in gone


@pytest.mark.parametrize("where", PLACES)
def test_a_second_run_does_only_what_the_application_has_changed(where: str, tmp_path: Path, encoder: Encoder) -> None:
    with application(where, tmp_path) as app:
        attach(app, encoder)
        again = attach(app, encoder)
        assert (again.total, again.skipped) == (0, len(TEXTS))
        app.upsert(0, {"title": "a gun"})  # replaced whole, so that score and vector are gone
        app.upsert(77, {"title": "the house"})
        with connect(NAME, model=encoder, **app.place) as engine:
            assert {hit.id for hit in engine.search("a dog")} == {*SAFE} - {0}
        third = attach(app, encoder)
        assert (third.total, third.skipped) == (2, len(TEXTS) - 1)
        with connect(NAME, model=encoder, **app.place) as engine:
            assert {hit.id for hit in engine.search("a dog")} == {*SAFE, 77} - {0}


@pytest.mark.parametrize("where", PLACES)
def test_a_score_written_back_by_the_application_without_its_vector_is_made_again(
    where: str, tmp_path: Path, encoder: Encoder
) -> None:
    with application(where, tmp_path) as app:
        attach(app, encoder)
        app.upsert(0, app.look()[0][0])
        assert PAYLOAD_KEY in app.look()[0][0]
        assert "hysac" not in app.look()[0][1]
        assert attach(app, encoder).total == 1
        assert "hysac" in app.look()[0][1]


@pytest.mark.parametrize("where", PLACES)
def test_a_point_that_can_no_longer_be_indexed_loses_its_score(where: str, tmp_path: Path, encoder: Encoder) -> None:
    with application(where, tmp_path) as app:
        attach(app, encoder)
        score = app.look()[0][0]["hysac"]
        app.upsert(0, {"title": 7, "hysac": score})
        app.upsert(2, {"name": "no title", "hysac": score})
        journal = tmp_path / "journal.jsonl"
        report = attach(app, encoder, journal=journal)
        assert (report.failures, report.lacking, report.total) == (1, 1, 0)
        assert report.failed[0].item == "point 0"
        assert "int" in report.failed[0].error
        assert "point 0" in journal.read_text()
        found = app.look()
        assert PAYLOAD_KEY not in found[0][0]
        assert PAYLOAD_KEY not in found[2][0]
        with connect(NAME, model=encoder, **app.place) as engine:
            assert {hit.id for hit in engine.search("a dog")} == {4}
            assert {hit.id for hit in engine.search("a dog", safe=False)} == {1, 3, 4}
        app.upsert(0, {"title": "a dog"})
        assert attach(app, encoder, journal=journal).failures == 0
        assert journal.read_text() == ""


class Killed(Exception):  # noqa: N818  it stands for a kill
    pass


@pytest.mark.parametrize("where", PLACES)
def test_a_run_that_breaks_anywhere_is_continued_by_the_next(
    where: str, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = payloads([f"a dog the {word} house" for word in ("red", "green", "blue", "man", "woman", "cat", "park")])
    with application(where, tmp_path, rows) as app:
        before = app.look()
        calls = 0

        def breaking(store: Store, last: int) -> None:
            """Break each store operation that writes once, before or after it has been carried out."""
            made = store.extension

            def extension(name: str) -> Any:
                whole = made(name)

                class Breaking:
                    def __getattr__(self, attribute: str) -> Any:
                        method = getattr(whole, attribute)
                        if attribute == "facts":
                            return method

                        def call(*arguments: Any, **options: Any) -> Any:
                            nonlocal calls
                            calls += 1
                            if calls == last:
                                raise Killed
                            result = method(*arguments, **options)
                            if calls == -last:
                                raise Killed
                            return result

                        return call

                return Breaking()

            monkeypatch.setattr(store, "extension", extension)

        for last in (1, -1, 2, -2, 3, -3):
            calls = 0
            store, owned = open_store(app.place)  # type: ignore[arg-type]
            breaking(store, last)
            with suppress(Killed):
                fill(attached_collection_for(encoder, NAME, TITLES, store=store), encoder, TITLES, batch_size=2)
            monkeypatch.undo()
            if owned:
                store.close()
            assert app.own() == before
        final = attach(app, encoder)
        assert final.total + final.skipped == len(rows)
        assert final.skipped > 0
        assert app.own() == before
        assert attach(app, encoder).skipped == len(rows)


def test_points_that_the_application_removes_meanwhile_are_left_out(tmp_path: Path) -> None:
    for where in ("edge", "memory", "server"):
        with application(where, tmp_path / where) as app:
            space: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile()}
            with Index.attach(NAME, **space, **app.place) as index:
                ids = [0, 1, 4711, 2]
                assert index.annotate(ids, random_points(4), modality="text") == 3
                hits = index.query(np.zeros(DIM), safe=False)
                assert {hit.id for hit in hits} == {0, 1, 2}
            assert 4711 not in app.look()


def config_of(app: Application) -> Any:
    assert app.client is not None
    return app.client.get_collection(NAME).config.model_dump()


@pytest.mark.parametrize("where", ["memory", "server"])
def test_beside_a_vector_without_a_name_there_are_scores_only(
    where: str, tmp_path: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    with application(where, tmp_path, named=False) as app:
        assert app.client is not None
        before, config = app.look(), config_of(app)
        with caplog.at_level(logging.WARNING):
            assert attach(app, encoder).total == len(TEXTS)
        assert "scores only" in caplog.text
        assert app.own() == before
        assert config_of(app)["params"] == config["params"]  # size and distance are where they were
        assert {name for _, vectors in app.look().values() for name in vectors} == {""}
        assert attach(app, encoder).skipped == len(TEXTS)

        found = SafeQdrantClient(app.client).query_points(NAME, vector(3), limit=9).points
        assert {point.id for point in found} == set(SAFE)
        before = app.own()  # a cosine query makes local mode divide the stored vectors by their norms once more
        for use in (
            lambda: connect(NAME, model=encoder, **app.place),
            lambda: Index.open(NAME, **app.place).query(np.zeros(encoder.dim)),
            lambda: Index.open(NAME, **app.place).query_groups(np.zeros(encoder.dim), "price"),
        ):
            with pytest.raises(NotACollectionError, match="scores only"):
                use()
        with Index.open(NAME, **app.place) as index:  # what needs no vectors works
            assert (index.info().points, index.info().safe) == (len(TEXTS), len(SAFE))
            strict = encoder.safety.model_copy(update={"threshold": 0.001})
            rescore(index, strict, fingerprint=encoder.fingerprint[:16] + "0" * 16)
            assert index.info().safe == 0
        assert detach(app) == len(TEXTS)
        assert app.look() == before
        assert config_of(app) == config


@pytest.mark.parametrize("where", PLACES)
def test_scores_only_can_be_asked_for_and_be_given_a_companion_later(
    where: str, tmp_path: Path, encoder: Encoder
) -> None:
    with application(where, tmp_path) as app:
        before = app.look()
        assert attach(app, encoder, vectors="none").total == len(TEXTS)
        assert app.own() == before
        assert all("hysac" not in vectors for _, vectors in app.look().values())
        with pytest.raises(SettingsError, match="Detach"):
            attach(app, encoder, vectors="in-place")
        assert attach(app, encoder, vectors="companion").total == len(TEXTS)  # scores are there, vectors are not
        assert attach(app, encoder).skipped == len(TEXTS)
        with connect(NAME, model=encoder, **app.place) as engine:
            assert engine.index.name == "app-hysac"
            assert {hit.id for hit in engine.search("a dog")} == set(SAFE)
        detach(app)
        assert app.look() == before


def test_vectors_are_added_in_place_beside_one_without_a_name_only_when_asked_for_and_said(
    tmp_path: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    with application("server", tmp_path, named=False) as app:
        before, store = app.look(), open_store(app.place)[0]  # type: ignore[arg-type]
        with caplog.at_level(logging.WARNING):
            attach(app, encoder, vectors="in-place")
        assert "never turns it back" in caplog.text
        assert app.own() == before
        with connect(NAME, model=encoder, **app.place) as engine:
            assert {hit.id for hit in engine.search("a dog")} == set(SAFE)
        assert "never turns it back" in open_attached(store, NAME).stays()
        detach(app)
        assert app.look() == before
        assert set(config_of(app)["params"]["vectors"]) == {""}
    with application("server", tmp_path) as app:
        attach(app, encoder)
        assert not open_attached(open_store(app.place)[0], NAME).stays()  # type: ignore[arg-type]
    with application("memory", tmp_path, named=False) as app, pytest.raises(SettingsError, match="local mode"):
        attach(app, encoder, vectors="in-place")


@pytest.mark.parametrize("where", PLACES)
def test_labels_of_a_companion_are_kept_in_step(where: str, tmp_path: Path, encoder: Encoder) -> None:
    rows = [
        {"title": text, "kind": "b" if row == 2 else "a", "meta": {"tags": ["x", "y"][: row + 1]}}
        for row, text in enumerate(TEXTS)
    ]
    with application(where, tmp_path, rows) as app:
        attach(app, encoder, vectors="companion", labels=["kind", "meta.tags[]"])

        def found(rule: LabelRule) -> set[Any]:
            with connect("app-hysac", model=encoder, policy=SafetyPolicy(rules=(rule,)), **app.place) as engine:
                return {hit.id for hit in engine.search("a dog")}

        assert found(LabelRule("kind", deny=("b",))) == {0, 4}
        assert found(LabelRule("meta.tags", deny=("y",))) == {0}
        app.upsert(4, {**rows[4], "kind": "b", **{"hysac": app.look()[4][0]["hysac"]}})  # the content is the same
        app.upsert(2, {**rows[2], "kind": ["a"]})
        assert attach(app, encoder).total == 1
        assert found(LabelRule("kind", deny=("b",))) == {0, 2}
        for refused in (
            lambda: found(LabelRule("price", deny=("x",))),
            lambda: Guard.open("app-hysac", policy=SafetyPolicy(rules=(LabelRule("price", deny=("x",)),)), **app.place),
        ):
            with pytest.raises(SettingsError, match="no copy"):
                refused()
        Guard.open(NAME, policy=SafetyPolicy(rules=(LabelRule("price", deny=("x",)),)), **app.place)
        attach(app, encoder, labels=["price"])
        with Index.open(NAME, **app.place) as index:
            assert index.metadata.attached is not None
            assert index.metadata.attached.labels == ("price",)


def test_an_interrupted_erasure_leaves_nothing_after_detach(tmp_path: Path, encoder: Encoder) -> None:
    with application("memory", tmp_path) as app:
        assert app.client is not None
        before = app.look()
        attach(app, encoder)
        app.client.set_payload(NAME, {"hysac": None}, [0])
        detach(app)
        assert app.look() == before


@pytest.mark.parametrize("where", ["memory", "server"])
def test_an_engine_that_cannot_add_a_vector_gets_a_companion(
    where: str, tmp_path: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    with application(where, tmp_path, named=where == "server", ids="uuid") as app:
        if app.server is not None:
            app.server.version = "1.17.2"
        before = app.look()
        with caplog.at_level(logging.WARNING):
            report = attach(app, encoder, vectors=None if app.server else "companion")
        assert not app.server or "'app-hysac'" in caplog.text
        assert not app.server or "1.17.2" in caplog.text
        assert report.total == len(TEXTS)
        assert app.own() == before
        assert all("hysac" not in vectors for _, vectors in app.look().values())
        assert attach(app, encoder).skipped == len(TEXTS)
        with connect(NAME, model=encoder, **app.place) as engine:
            assert engine.index.name == "app-hysac"
        with connect("app-hysac", model=encoder, **app.place) as engine:
            assert {hit.id for hit in engine.search("a dog")} == {app.ids[row] for row in SAFE}
            assert engine.search("a dog").hits[0].payload == {}
            with pytest.raises(SettingsError, match="application"):
                engine.index.upsert([1], random_points(1, dim=encoder.dim), modality="text")
            strict = encoder.safety.model_copy(update={"threshold": 0.001})
            rescore(engine.index, strict, fingerprint=encoder.fingerprint[:16] + "0" * 16)
            assert engine.index.info().safe == 0
        guard = Guard.open(NAME, **app.place)
        assert (guard.threshold, guard.fingerprint) == (Thresholds.both(0.001), encoder.fingerprint[:16] + "0" * 16)
        assert detach(app) == len(TEXTS)
        assert app.look() == before
        assert app.client is not None
        assert not app.client.collection_exists("app-hysac")


@pytest.mark.parametrize("where", ["memory", "server"])
def test_a_companion_follows_what_the_application_removes_and_replaces(
    where: str, tmp_path: Path, encoder: Encoder
) -> None:
    with application(where, tmp_path, named=False) as app:
        assert app.client is not None
        attach(app, encoder, vectors="companion")
        app.client.delete(NAME, [0])
        app.upsert(2, {"name": "no title"})
        attach(app, encoder)
        with connect("app-hysac", model=encoder, **app.place) as engine:
            assert {hit.id for hit in engine.search("a dog", safe=False)} == {1, 3, 4}


@pytest.mark.parametrize("where", ["memory", "server"])
def test_a_collection_that_only_has_the_name_of_a_companion_is_left_alone(
    where: str, tmp_path: Path, encoder: Encoder
) -> None:
    with application(where, tmp_path, named=False) as app:
        with connect("app-hysac", model=encoder, create=True, **app.place) as theirs:
            theirs.index.upsert([1], encoder.encode_text(["a dog"]), modality="text")
        before = app.look()
        with pytest.raises(CollectionExistsError, match="'app-hysac'"):
            attach(app, encoder, vectors="companion")
        assert app.look() == before
        with pytest.raises(NotACollectionError):
            detach(app)
        # The one that was attached is gone, and another has taken its name.
        assert app.client is not None
        with connect("app-hysac", model=encoder, **app.place) as theirs:
            theirs.index.store.drop("app-hysac")
        attach(app, encoder, vectors="companion")
        app.client.delete_collection("app-hysac")
        connect("app-hysac", model=encoder, create=True, **app.place).close()
        detach(app)
        assert app.look() == before
        assert app.client.collection_exists("app-hysac")


@pytest.mark.parametrize("where", PLACES)
def test_a_vector_that_a_killed_attach_left_does_not_stand_in_the_way(
    where: str, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with application(where, tmp_path) as app:
        space: dict[str, Any] = {"dim": DIM + 1, "curvature": CURVATURE, "safety": profile()}

        def killed(*_: Any, **__: Any) -> None:
            raise Killed

        monkeypatch.setattr(QdrantClient, "update_collection", killed)  # these write the metadata, which comes last
        monkeypatch.setattr("hysac_retrieval.stores.edge.store.write_json", killed)
        with pytest.raises(Killed):
            Index.attach(NAME, **space, **app.place)
        monkeypatch.undo()
        with attached_collection_for(encoder, NAME, TITLES, **app.place) as index:
            assert index.metadata.dim == encoder.dim
            assert fill(index, encoder, TITLES).total == len(TEXTS)


def test_indexes_are_there_before_the_metadata_says_so(tmp_path: Path, encoder: Encoder) -> None:
    with application("server", tmp_path) as app:
        assert app.server is not None
        attach(app, encoder)
        wrote = [(method, path) for method, path, _ in app.server.requests if method in ("PUT", "PATCH")]
        indexes = [at for at, (_, path) in enumerate(wrote) if path.endswith("/index")]
        assert indexes
        assert max(indexes) < wrote.index(("PATCH", f"/collections/{NAME}"))


@pytest.mark.parametrize(("version", "can"), [("1.18.0", True), ("v1.20.1-dev", True), ("1.17.9", False), ("?", False)])
def test_which_servers_can_add_vectors(version: str, can: bool) -> None:
    assert NEW_VECTOR.known(version) is can


@pytest.mark.parametrize("where", PLACES)
def test_names_that_the_application_uses_are_not_taken(where: str, tmp_path: Path, encoder: Encoder) -> None:
    rows = [*payloads(TEXTS), {"title": "a dog", "hysac": {"mine": 1}}]
    with application(where, tmp_path, rows) as app:
        before = app.look()
        with pytest.raises(CollectionExistsError, match="payload field 'hysac'"):
            attach(app, encoder)
        assert app.look() == before


def test_a_vector_of_our_name_with_points_is_not_taken(encoder: Encoder) -> None:
    client = QdrantClient(":memory:")
    client.create_collection(NAME, {"hysac": models.VectorParams(size=4, distance=models.Distance.COSINE)})
    client.upsert(NAME, [models.PointStruct(id=1, vector={"hysac": [1, 2, 3, 4]}, payload={"title": "a dog"})])
    with pytest.raises(CollectionExistsError, match="vectors named 'hysac'"):
        attached_collection_for(encoder, NAME, TITLES, client=client)


@pytest.mark.parametrize("where", PLACES)
def test_fields_that_no_point_has_are_an_error_before_anything_is_changed(
    where: str, tmp_path: Path, encoder: Encoder
) -> None:
    with application(where, tmp_path) as app:
        before = app.look()
        with pytest.raises(SettingsError, match=r"'titel'.*meta, price, title"):
            attach(app, encoder, Content(text="titel"))
        assert app.look() == before
        with pytest.raises(NotACollectionError):
            open_attached(open_store({"client": app.client})[0], NAME) if app.client else Index.open(NAME, **app.place)


def test_a_collection_of_ours_is_neither_attached_nor_detached(tmp_path: Path, encoder: Encoder) -> None:
    space: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile()}
    with Index.create(NAME, **space, location=tmp_path) as index:
        with pytest.raises(CollectionExistsError, match="hysac-index"):
            Index.attach(NAME, **space, store=index.store)
        with pytest.raises(SettingsError, match="attached to none"):
            index.detach()
        with pytest.raises(SettingsError, match="attached to none"):
            index.annotate([1], random_points(1), modality="text")


@pytest.mark.parametrize("where", PLACES)
def test_an_attached_collection_is_not_written_whole_and_keeps_its_model(
    where: str, tmp_path: Path, encoder: Encoder
) -> None:
    with application(where, tmp_path) as app:
        attach(app, encoder)
        before = app.look()
        with (
            Index.open(NAME, **app.place) as index,
            pytest.raises(SettingsError, match="replace whole"),
        ):
            index.upsert([0], random_points(1, dim=encoder.dim), modality="text")
        with pytest.raises(ModelMismatchError):
            Index.attach(NAME, dim=DIM, curvature=CURVATURE, safety=profile(), **app.place)
        assert app.look() == before


def test_quantization_of_the_collection_becomes_that_of_our_vector(tmp_path: Path, encoder: Encoder) -> None:
    with application("edge", tmp_path, quantized=True) as app:
        attach(app, encoder)
        with connect(NAME, model=encoder, **app.place) as engine:
            assert engine.index.metadata.quantization == "int8"
            assert engine.index.metadata.lift["rotate_seed"] is not None
            engine.index.optimize()
            hits = engine.search(TEXTS[0]).hits
            assert hits[0].id == 0
            assert len(hits) == len(SAFE)


@pytest.mark.parametrize("where", PLACES)
def test_images_are_found_by_path_and_by_url(where: str, tmp_path: Path, encoder: Encoder) -> None:
    root = write_pictures(tmp_path / "pictures")
    rows = [
        {"image": "grass.png"},
        {"image": "https://cdn.example.org/img/sea.jpg?width=80"},
        {"image": f"file://{root}/deep/snow.webp"},
        {"image": "deep/blood.png", "title": "a dog"},
        {"image": "", "title": "the house"},
        {"image": "../secret.png"},
        {"image": "gone.png"},
        {"image": "notes.txt"},
        {"price": 3},
    ]
    with application(where, tmp_path / "data", rows) as app:
        before = app.look()
        content = Content("title", "image", root, "https://cdn.example.org/img/")
        report = attach(app, encoder, content)
        assert app.own() == before
        assert (report.indexed, report.failures, report.lacking) == ({"image": 4, "text": 1}, 3, 1)
        assert {failure.id for failure in report.failed} == {"5", "6", "7"}
        assert any("outside" in failure.error for failure in report.failed)
        kinds = {key: payload["hysac"]["modality"] for key, (payload, _) in app.look().items() if "hysac" in payload}
        assert kinds == {0: "image", 1: "image", 2: "image", 3: "image", 4: "text"}
        with connect(NAME, model=encoder, **app.place) as engine:
            assert {hit.id for hit in engine.search("a dog", safe=True)} == {0, 1, 2, 4}
        assert len(COLOURS) == 4


def test_values_that_applications_have_written_in_other_ways_name_the_same_file(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    (root / "2020").mkdir(parents=True)
    zoe = unicodedata.normalize("NFD", "Zoë.png")
    for name in ("a b.png", "c+d.png", "100%.png", "e%20f.png", zoe):
        Image.new("RGB", (8, 8), "blue").save(root / "2020" / name)
    content = Content(image="img", root=root, prefix="https://cdn.example.org/img/")
    for value, name in {  # type: ignore[assignment]
        "2020/a b.png": "a b.png",
        "2020\\a b.png": "a b.png",
        "2020/a%20b.png": "a b.png",
        "2020/a+b.png": None,  # only in a URL is a plus perhaps a space
        "https://cdn.example.org/img/2020/a%20b.png?w=8#x": "a b.png",
        "https://cdn.example.org/img/2020/a+b.png": "a b.png",
        "https://cdn.example.org/img/2020/c+d.png": "c+d.png",
        "https://cdn.example.org/img/2020/c%2Bd.png": "c+d.png",
        "https://cdn.example.org/img/2020/100%25.png": "100%.png",
        "2020/100%.png": "100%.png",
        "2020/e%20f.png": "e%20f.png",
        "https://cdn.example.org/img/2020/e%20f.png": "e%20f.png",
        "2020/" + unicodedata.normalize("NFC", zoe): zoe,
        "https://cdn.example.org/img/2020/Zo%C3%AB.png": zoe,
        "2020/A B.PNG": "a b.png",
        "x" * 300 + ".png": None,
    }.items():
        found = content.of({"img": value})
        assert found is not None
        path = found[1]
        assert isinstance(path, Path)
        assert (path.name if os.path.lexists(path) else None) == name, value
    for outside in (
        "../secret.png",
        "%2e%2e/secret.png",
        "https://cdn.example.org/img/..%2fsecret.png",
        "..\\secret.png",
    ):
        with pytest.raises(SourceError, match="outside"):
            content.of({"img": outside})


@pytest.mark.parametrize("form", ["base64", "urlsafe", "percent"])
def test_a_picture_may_be_in_the_payload_itself(form: str, tmp_path: Path, encoder: Encoder) -> None:
    def written(colour: str) -> str:
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(stream, "PNG")
        if form == "percent":
            return f"data:image/png,{quote(stream.getvalue())}"
        encode = base64.urlsafe_b64encode if form == "urlsafe" else base64.b64encode
        return f"data:image/png;base64,{encode(stream.getvalue()).decode()}"

    rows = [{"image": written("blue")}, {"image": written("red")}, {"image": "data:image/png;base64,iVBOR"}]
    with application("memory", tmp_path, rows) as app:
        report = attach(app, encoder, Content(image="image"))
        assert (report.indexed["image"], report.failures) == (2, 1)
        scores = {key: payload["hysac"]["unsafe"] for key, (payload, _) in app.look().items() if "hysac" in payload}
        assert scores[0] < 0.5 < scores[1]
        assert attach(app, encoder, Content(image="image")).skipped == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "what the points are about"),
        ({"text": "a", "root": Path(".")}, "no payload field of images"),
        ({"image": "a", "root": Path("no such folder")}, "not a folder"),
    ],
)
def test_content_must_make_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Content(**arguments)


def test_texts_are_found_in_objects_and_a_relative_path_needs_a_root() -> None:
    assert Content(text="meta.title").of({"meta": {"title": "a"}}) == ("text", "a")
    assert Content(text="meta.title").of({"meta.title": "b"}) == ("text", "b")
    assert Content(text="meta.title").of({"meta": "c"}) is None
    with pytest.raises(ValueError, match="--root"):
        Content(image="file").of({"file": "a.png"})


@pytest.mark.parametrize("where", PLACES)
def test_a_new_calibration_is_applied_to_attached_points_in_place(where: str, tmp_path: Path, encoder: Encoder) -> None:
    with application(where, tmp_path) as app:
        before = app.look()
        attach(app, encoder)
        with Index.open(NAME, **app.place) as index:
            strict = index.metadata.safety.model_copy(update={"threshold": 0.001})
            # What makes the points is the first half of a fingerprint.
            rescore(index, strict, fingerprint=index.metadata.fingerprint[:16] + "0" * 16)
            assert (index.info().safe, index.info().points) == (0, len(TEXTS))
        assert app.own() == before
        detach(app)
        assert app.look() == before


def test_a_run_can_be_stopped(tmp_path: Path, encoder: Encoder) -> None:
    with application("memory", tmp_path) as app:
        report = attach(app, encoder, should_stop=lambda: True)
        assert report.interrupted
        assert report.total + attach(app, encoder).total == len(TEXTS)


def test_the_vectors_of_the_application_are_searched_as_before(tmp_path: Path, encoder: Encoder) -> None:
    with application("memory", tmp_path) as app:
        assert app.client is not None
        found = app.client.query_points(NAME, vector(3), using="own", limit=5).points
        attach(app, encoder)
        after = app.client.query_points(NAME, vector(3), using="own", limit=5).points
        assert [(point.id, point.score) for point in after] == [(point.id, point.score) for point in found]
        assert len(vector(3)) == SIZE


def test_detach_also_removes_the_indexes_of_a_rescore_that_was_stopped(tmp_path: Path, encoder: Encoder) -> None:
    with application("server", tmp_path) as app:
        assert app.server is not None
        attach(app, encoder)
        with Index.open(NAME, **app.place) as index:
            strict = index.metadata.safety.model_copy(update={"threshold": 0.001})
            later = encoder.fingerprint[:16] + "0" * 16
            rescore(index, strict, fingerprint=later, page=1, should_stop=lambda: True)
        detach(app)
        gone = [path for method, path, _ in app.server.requests if method == "DELETE"]
        for fingerprint in (encoder.fingerprint, later):
            assert f"/collections/{NAME}/index/hysac.safe.{fingerprint}" in gone
