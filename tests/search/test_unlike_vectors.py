"""Vectors of the right encoder, and of things that a fitted model has never met: marked wherever they come in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.applications import NAME, Application, application
from support.cli import invoke
from support.foreign import SIZE, encode, write_head_bundle

from hysac_retrieval import Examples, Index, SafetyPolicy, connect
from hysac_retrieval.encoder.called import CalledEncoder
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.inputs import Inputs, VectorStatistics
from hysac_retrieval.errors import DomainError
from hysac_retrieval.ingest import IndexReport, StoredVectors, attached_collection_for, fill, index_sources, status_of

PLACES = ("park", "house", "garden", "street", "school", "harbour", "field", "wood", "lake", "yard")
KNOWN = [f"a {what} in the {place}" for place in PLACES for what in ("dog", "cat", "gun", "knife", "red dog", "cow")]
STRANGE = "quarterly revenue forecast"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    statistics = VectorStatistics.of(encode(KNOWN))
    inputs = Inputs(text=statistics, image=statistics)
    bundle = write_head_bundle(tmp_path_factory.mktemp("head") / "bundle", inputs=inputs, domain="animals")
    return Encoder(bundle, threads=1)


def own(_: Any, payload: dict[str, Any]) -> Any:
    return encode([payload["title"]])[0].tolist()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    """An application of twenty points; every fourth is of what the model has never met."""
    titles = [f"{STRANGE} {row}" if row % 4 == 0 else KNOWN[row] for row in range(20)]
    with application("edge", tmp_path, [{"title": one} for one in titles], encode=own, size=SIZE, named=True) as app:
        yield app


def attach(app: Application, encoder: Encoder, modality: str, **run: Any) -> IndexReport:
    content = StoredVectors("own", modality)
    with attached_collection_for(encoder, NAME, content, **app.place) as index:
        return fill(index, encoder, content, **run)


def marked(app: Application) -> set[Any]:
    return {key for key, (payload, _) in app.look().items() if payload.get("hysac", {}).get("unlike")}


@pytest.mark.parametrize("modality", ["text", "image"])
def test_attached_vectors_are_marked_counted_and_said_once(modality: str, app: Application, encoder: Encoder) -> None:
    report = attach(app, encoder, modality)
    assert report.total == 20
    assert (report.unknown, report.unlike) == ((5, 0) if modality == "text" else (0, 5))
    assert marked(app) == {0, 4, 8, 12, 16}
    said = [one for one in report.remarks if "unlike anything foreign knows (animals)" in one]
    assert len(said) == (modality == "image")
    app.upsert(4, {"title": KNOWN[4]})
    assert attach(app, encoder, modality).total == 1
    assert marked(app) == {0, 8, 12, 16}


def test_strict_attaching_fails_them(app: Application, encoder: Encoder) -> None:
    report = attach(app, encoder, "text", strict_domain=True)
    assert (report.total, report.failures) == (15, 5)
    assert {failure.kind for failure in report.failed} == {"DomainError"}


def test_a_vector_query_is_marked_said_once_and_refused_where_asked(
    app: Application, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    attach(app, encoder, "text")
    strange, known = encode([STRANGE, KNOWN[0]])
    with connect(NAME, model=encoder, **app.place) as engine:
        with caplog.at_level(logging.WARNING, logger="hysac_retrieval"):
            assert engine.search(known).query.unlike is False
            assert not caplog.records
            for query in (strange, strange.tolist()):
                result = engine.search(query)
                assert result.query.unlike is True
                assert len(result) > 0
            assert engine.explain(strange).query.unlike is True
            assert engine.search(Examples([known])).query.unlike in (None, False)
        assert len(caplog.records) == 1
    strict = SafetyPolicy(unknown="refuse")
    with connect(NAME, model=encoder, policy=strict, **app.place) as engine:
        assert engine.search(known).query.unlike is False
        for ask in (engine.search, engine.explain):
            with pytest.raises(DomainError, match="unlike anything"):
                ask(strange)


def test_a_bundle_without_statistics_says_nothing_of_a_vector(app: Application, tmp_path: Path) -> None:
    silent = Encoder(write_head_bundle(tmp_path / "silent"), threads=1)
    assert attach(app, silent, "text").unknown == 0
    with connect(NAME, model=silent, **app.place) as engine:
        assert engine.search(encode([STRANGE])[0]).query.unlike is None


def test_texts_of_a_function_are_marked_by_their_vectors_and_status_counts_them(
    encoder: Encoder, tmp_path: Path
) -> None:
    called = CalledEncoder(encoder.bundle, encode, threads=1)
    assert [one.unlike for one in called.judge_text([KNOWN[0], STRANGE])[1]] == [False, True]
    (tmp_path / "texts.txt").write_text("\n".join([*KNOWN[:6], STRANGE]))
    with Index.for_model(called, "texts", location=tmp_path / "data") as index:
        report = index_sources([tmp_path / "texts.txt"], index, called, workers=0)
        assert (report.unknown, report.total) == (1, 7)
        status = status_of([tmp_path / "texts.txt"], index)
        assert (status.present, status.unlike) == (7, 1)
    place = ("--collection", "texts", "--location", tmp_path / "data")
    assert "1 are unlike anything the model knows" in invoke("status", tmp_path / "texts.txt", *place).stdout


def test_vectors_of_no_known_modality_are_unlike_all_of_either(tmp_path: Path) -> None:
    statistics = VectorStatistics.of(encode(KNOWN)), VectorStatistics.of(encode([f"{STRANGE} {i}" for i in range(60)]))
    inputs = Inputs(text=statistics[0], image=statistics[1])
    encoder = Encoder(write_head_bundle(tmp_path / "two", inputs=inputs), threads=1)
    rows = encode([KNOWN[0], f"{STRANGE} 3", "zebra violin"])
    assert encoder.map_vectors(rows, None)[2] == [False, False, True]
    assert encoder.map_vectors(rows, "text")[2] == [False, True, True]
    assert np.isfinite(encoder.map_vectors(rows, "image")[0]).all()
