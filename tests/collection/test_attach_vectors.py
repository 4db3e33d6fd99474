"""Vectors of another encoder that an application has stored, mapped by a head: nothing is encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient, models
from support.applications import NAME, TEXTS, UNSAFE, Application, application
from support.foreign import SIZE, encode, write_head_bundle

from hysac_retrieval import Guard, SafeQdrantClient, connect, lorentz
from hysac_retrieval.collection.attach import open_attached
from hysac_retrieval.collection.metadata import Vectors
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import ModelMismatchError, NoEncoderError, SettingsError
from hysac_retrieval.ingest import IndexReport, StoredVectors, attached_collection_for, fill
from hysac_retrieval.stores import open_store

SAFE = {row for row, text in enumerate(TEXTS) if not any(word in text for word in UNSAFE)}
OWN = StoredVectors("own", "text")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(write_head_bundle(tmp_path_factory.mktemp("head") / "bundle"), threads=1)


def rows(texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    return [{"title": text, "kind": "text"} for text in texts]


@contextmanager
def foreign(where: str, folder: Path, **options: Any) -> Iterator[Application]:
    """An application whose vectors are those of the encoder that the head was fitted to."""

    def own(_: Any, payload: dict[str, Any]) -> Any:
        if "vector" in payload:
            return payload["vector"]
        return encode([payload["title"]])[0].tolist()

    given: dict[str, Any] = {"rows": rows(), "encode": own, "size": SIZE, "named": True} | options
    with application(where, folder, **given) as app:
        yield app


def attach(
    app: Application,
    encoder: Encoder,
    content: StoredVectors = OWN,
    *,
    vectors: Vectors | None = None,
    **options: Any,
) -> IndexReport:
    with attached_collection_for(encoder, NAME, content, vectors=vectors, **app.place) as index:
        return fill(index, encoder, content, **options)


def detach(app: Application) -> None:
    store, owned = open_store(app.place)  # type: ignore[arg-type]
    try:
        open_attached(store, NAME).detach()
    finally:
        if owned:
            store.close()


def verdicts(app: Application) -> dict[Any, bool]:
    return {key: payload["hysac"]["unsafe"] <= 0.5 for key, (payload, _) in app.look().items() if payload.get("hysac")}


@pytest.mark.parametrize(("where", "named"), [("edge", True), ("memory", True), ("server", True), ("edge", False)])
def test_stored_vectors_are_mapped_searched_and_given_back_byte_for_byte(
    where: str, named: bool, tmp_path: Path, encoder: Encoder
) -> None:
    content = OWN if named else StoredVectors("", "text")
    with foreign(where, tmp_path, named=named) as app:
        before = app.look()
        report = attach(app, encoder, content)
        assert (report.indexed, report.failures, report.skipped) == ({"image": 0, "text": len(TEXTS)}, 0, 0)
        assert app.own() == before
        assert {key for key, safe in verdicts(app).items() if safe} == SAFE
        with connect(NAME, model=encoder, **app.place) as engine:
            (point,) = encoder.encode_vectors(encode([TEXTS[1]]), "text")
            hits = engine.search(point.astype(np.float64)).hits
            assert {hit.id for hit in hits} == SAFE
        detach(app)
        assert app.look() == before


def test_points_keep_the_ranking_of_the_cosine_among_what_is_safe(tmp_path: Path, encoder: Encoder) -> None:
    with foreign("edge", tmp_path) as app:
        attach(app, encoder)
        with connect(NAME, model=encoder, **app.place) as engine:
            (point,) = encoder.encode_vectors(encode(["a cat"]), "text")
            found = [hit.id for hit in engine.search(point.astype(np.float64))]
        cosine = encode(TEXTS) @ encode(["a cat"])[0]
        assert found == sorted(SAFE, key=lambda row: -cosine[row])


@pytest.mark.parametrize("vectors", ["in-place", "companion", "none"])
@pytest.mark.parametrize("where", ["edge", "server"])
def test_vectors_go_where_any_attached_ones_go(where: str, vectors: Vectors, tmp_path: Path, encoder: Encoder) -> None:
    with foreign(where, tmp_path) as app:
        before = app.look()
        assert attach(app, encoder, vectors=vectors).indexed["text"] == len(TEXTS)
        assert {key for key, safe in verdicts(app).items() if safe} == SAFE
        assert all(("hysac" in held) == (vectors == "in-place") for _, held in app.look().values())
        detach(app)
        assert app.look() == before


def test_later_runs_take_up_what_is_new_or_changed_and_nothing_else(tmp_path: Path, encoder: Encoder) -> None:
    with foreign("edge", tmp_path) as app:
        attach(app, encoder)
        report = attach(app, encoder)
        assert (report.total, report.skipped) == (0, len(TEXTS))
        app.upsert(0, {"title": "a man with blood and a gun"})
        app.upsert(99, {"title": "the green park"})
        # What the application writes whole loses the score; what it changes by the vector alone keeps it.
        with edge_shard(tmp_path) as shard:
            moved = [edge.PointVectors(2, {"own": encode(["a knife"])[0].tolist()})]
            shard.update(edge.UpdateOperation.update_vectors(moved))
        with attached_collection_for(encoder, NAME, None, **app.place) as index:
            report = fill(index, encoder)
        assert (report.total, report.skipped) == (3, len(TEXTS) - 2)
        assert {key for key, safe in verdicts(app).items() if safe} == SAFE - {0, 2} | {99}


@contextmanager
def edge_shard(folder: Path) -> Iterator[Any]:
    shard = edge.EdgeShard.load(str(folder / NAME))
    yield shard
    shard.flush()
    shard.close()


def test_a_run_that_is_stopped_goes_on(tmp_path: Path, encoder: Encoder) -> None:
    many = rows([f"a dog number {n}" for n in range(3000)])
    with foreign("edge", tmp_path, rows=many) as app:
        assert attach(app, encoder, should_stop=lambda: True).interrupted
        done = len(verdicts(app))
        assert done < 3000
        report = attach(app, encoder)
        assert (report.skipped, report.total) == (done, 3000 - done)
        assert len(verdicts(app)) == 3000


@pytest.mark.parametrize("where", ["edge", "server"])
def test_a_point_without_a_usable_vector_is_reported_and_the_rest_goes_on(
    where: str, tmp_path: Path, encoder: Encoder
) -> None:
    some = rows()
    some[0]["vector"] = [0.0] * SIZE
    some[1]["vector"] = None
    some[2]["kind"] = "sound"
    del some[3]["kind"]
    with foreign(where, tmp_path, rows=some) as app:
        report = attach(app, encoder, StoredVectors("own", "kind"))
        assert (report.total, report.failures, report.lacking) == (1, 3, 1)
        errors = {failure.id: failure.error for failure in report.failed}
        assert "its vector is zero" in errors["0"]
        assert "field 'kind' is 'sound', expected text or image" in errors["2"]
        assert "field 'kind' is None" in errors["3"]
        assert set(verdicts(app)) == {4}


def test_a_point_whose_vector_has_gone_bad_loses_its_score(tmp_path: Path, encoder: Encoder) -> None:
    with foreign("edge", tmp_path) as app:
        attach(app, encoder)
        with edge_shard(tmp_path) as shard:
            shard.update(edge.UpdateOperation.update_vectors([edge.PointVectors(0, {"own": [0.0] * SIZE})]))
            shard.update(edge.UpdateOperation.delete_vectors([2], ["own"]))
        report = attach(app, encoder)
        assert (report.failures, report.lacking) == (1, 1)
        assert {key for key, safe in verdicts(app).items() if safe} == SAFE - {0, 2}


def test_the_payload_may_say_what_a_vector_stands_for(tmp_path: Path, encoder: Encoder) -> None:
    some = rows()
    some[0]["kind"] = "image"
    with foreign("edge", tmp_path, rows=some) as app:
        assert attach(app, encoder, StoredVectors("own", "kind")).indexed == {"image": 1, "text": len(TEXTS) - 1}
        own = {key: payload["hysac"] for key, (payload, _) in app.look().items()}
        assert own[0]["modality"] == "image"
        assert own[0]["radius"] == pytest.approx(1.5, abs=1e-3)
        assert own[4]["radius"] == pytest.approx(1.0, abs=1e-3)


def client_with(config: Any, sparse: Any = None) -> QdrantClient:
    client = QdrantClient(":memory:")
    client.create_collection(NAME, config, sparse_vectors_config=sparse)
    return client


PLAIN = models.VectorParams(size=SIZE, distance=models.Distance.COSINE)
SEVERAL = PLAIN.model_copy(
    update={"multivector_config": models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)}
)


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({"other": PLAIN, "more": PLAIN}, SettingsError, "has no vectors 'own'; it has 'other', 'more'"),
        ({"own": SEVERAL}, SettingsError, "sparse, or several of each point"),
        ({"own": PLAIN.model_copy(update={"size": 7})}, ModelMismatchError, f"have 7 numbers.* takes {SIZE}"),
    ],
)
def test_vectors_that_no_head_takes_are_refused_before_anything_is_changed(
    config: Any, error: type[Exception], said: str, encoder: Encoder
) -> None:
    client = client_with(config)
    before = client.get_collection(NAME)
    with pytest.raises(error, match=said):
        attached_collection_for(encoder, NAME, OWN, client=client)
    assert client.get_collection(NAME) == before


def test_sparse_vectors_and_points_without_any_are_refused(encoder: Encoder) -> None:
    client = client_with({"own": PLAIN}, {"words": models.SparseVectorParams()})
    with pytest.raises(SettingsError, match="sparse"):
        attached_collection_for(encoder, NAME, StoredVectors("words", "text"), client=client)
    client.upsert(NAME, [models.PointStruct(id=1, vector={}, payload={"kind": "sound"})])
    with pytest.raises(SettingsError, match="no point of 'app' has a vector 'own'"):
        attached_collection_for(encoder, NAME, OWN, client=client)
    client.upsert(NAME, [models.PointStruct(id=1, vector={"own": [1.0] * SIZE}, payload={"kind": "sound"})])
    with pytest.raises(SettingsError, match="field 'kind' is 'sound'"):
        attached_collection_for(encoder, NAME, StoredVectors("own", "kind"), client=client)


def test_a_model_without_a_head_for_them_says_so(tmp_path: Path, encoder: Encoder, toy_bundle: Path) -> None:
    with foreign("memory", tmp_path) as app:
        with pytest.raises(NoEncoderError, match="no head for vectors of another encoder"):
            attach(app, Encoder.load(toy_bundle))
        texts = Encoder(write_head_bundle(tmp_path / "texts", heads=["text"]))
        with pytest.raises(NoEncoderError, match="no head for vectors of images"):
            attach(app, texts, StoredVectors("own", "image"))
        with pytest.raises(SettingsError, match="what the vectors stand for"):
            StoredVectors("own", "")


def test_the_guard_scores_what_has_just_been_written(tmp_path: Path, encoder: Encoder) -> None:
    with foreign("memory", tmp_path) as app:
        assert app.client is not None
        attach(app, encoder)
        guard = Guard.open(NAME, model=encoder, **app.place)
        client = SafeQdrantClient(app.client, guard=guard)
        app.upsert(7, {"title": "the red park"})
        app.upsert(8, {"title": "a gun in the park"})
        assert {record.id for record in client.scroll(NAME, limit=100)[0]} == SAFE
        assert guard.score([7, 8]).total == 2
        shown = {record.id for record in client.scroll(NAME, limit=100)[0]}
        assert shown == SAFE | {7}


def test_the_radius_that_is_stored_is_that_of_the_head(tmp_path: Path, encoder: Encoder) -> None:
    with foreign("edge", tmp_path) as app:
        attach(app, encoder)
        radii = lorentz.dist0(encoder.encode_vectors(encode(TEXTS), "text"), 1.0)
        stored = [payload["hysac"]["radius"] for _, (payload, _) in sorted(app.look().items())]
        np.testing.assert_allclose(stored, radii, rtol=1e-5)
