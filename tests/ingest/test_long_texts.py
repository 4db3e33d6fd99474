"""Long and disguised texts in a collection: judged to their end, and stored whole or a point a window."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from qdrant_client import QdrantClient, models
from support.toy_bundle import WORDS, write_toy_bundle

from hysac_retrieval.cli import main
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest import (
    Content,
    Fields,
    SourceOptions,
    attached_collection_for,
    fill,
    index_sources,
    status_of,
)

SAFE = "a dog in the park with a cat in the red house"
HIDING = {
    "end": f"{SAFE} and a man with a gun",
    "middle": f"{SAFE} blood {SAFE}",
    "spelled": "a g-u-n",
    "look-alikes": "a dog with a knіfe",
    "backwards": "doolb a htiw god a",
}
CHUNKED = SourceOptions(fields=Fields(id="id"), chunk=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("listed") / "bundle", words=WORDS).path


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Encoder:
    return Encoder.load(bundle, device="cpu", threads=1)


@pytest.fixture
def index(encoder: Encoder) -> Iterator[Index]:
    with Index.for_model(encoder, "texts", location=":memory:") as made:
        yield made


def rows(path: Path, **texts: str) -> Path:
    """A table of texts with their ids."""
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()), "utf-8")
    return path


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def payloads(index: Index, *, safe: bool) -> list[dict[str, Any]]:
    return [dict(hit.payload) for hit in index.query([0.0] * index.metadata.dim, limit=500, safe=safe)]


def test_a_text_that_hides_something_is_not_safe(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    table = rows(tmp_path / "t.jsonl", safe=SAFE, **HIDING)
    report = index_sources([table], index, encoder, options=SourceOptions(fields=Fields(id="id")))
    assert report.indexed == {"image": 0, "text": 1 + len(HIDING)}
    assert report.unknown == 0
    assert [payload["id"] for payload in payloads(index, safe=True)] == ["safe"]
    hits = {hit.payload["id"]: hit for hit in index.query([0.0] * encoder.dim, safe=False)}
    assert hits["end"].worst is not None
    assert "window" in hits["end"].worst
    assert hits["end"].radius == pytest.approx(1.0, abs=1e-5)  # the vector is that of its beginning
    assert hits["spelled"].worst == "spelled out"


def test_a_text_of_an_application_that_hides_something_is_not_safe(encoder: Encoder) -> None:
    client = QdrantClient(":memory:")
    client.create_collection("docs", vectors_config={"own": models.VectorParams(size=2, distance=models.Distance.DOT)})
    texts = [SAFE, *HIDING.values()]
    client.upsert(
        "docs",
        [models.PointStruct(id=n, vector={"own": [1.0, n]}, payload={"page": text}) for n, text in enumerate(texts)],
    )
    content = Content("page")
    with attached_collection_for(encoder, "docs", content, client=client) as index:
        report = fill(index, encoder, content)
        assert report.total == len(texts)
        assert [hit.id for hit in index.query([0.0] * encoder.dim, limit=50)] == [0]
    client.close()


def test_texts_that_the_model_does_not_know_are_counted(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    table = rows(tmp_path / "t.jsonl", a="ein Hund", b="a dog and zebras", c="a dog", d="xyzzy")
    report = index_sources([table], index, encoder)
    assert (report.unknown, report.total) == (3, 4)
    assert len(payloads(index, safe=True)) == 4


def test_each_window_of_a_long_text_is_a_point(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    text = HIDING["middle"]
    table = rows(tmp_path / "t.jsonl", long=text, short="a dog")
    index_sources([table], index, encoder, options=CHUNKED)
    stored = payloads(index, safe=False)
    windows = sorted((p["window"] for p in stored if "window" in p), key=lambda window: window["number"])
    assert [window["number"] for window in windows] == list(range(1, windows[0]["of"] + 1))
    assert len(stored) == len(windows) + 1
    assert {p["text"] for p in stored if p["id"] == "long"} == {text[w["start"] : w["end"]] for w in windows}
    assert set(range(len(text))) - {place for w in windows for place in range(w["start"], w["end"])} <= {
        place for place, character in enumerate(text) if character == " "
    }
    safe = payloads(index, safe=True)
    assert 1 < len(safe) < len(stored)
    assert not any("blood" in payload["text"] for payload in safe)
    again = index_sources([table], index, encoder, options=CHUNKED)
    assert (again.total, again.skipped) == (0, len(stored))
    assert status_of([table], index, options=CHUNKED, encoder=encoder).present == len(stored)
    with pytest.raises(SettingsError, match="without the model"):
        status_of([table], index, options=CHUNKED)


def test_windows_that_a_shorter_text_no_longer_has_are_pruned(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    table = tmp_path / "t.jsonl"
    for text in (f"{SAFE} {SAFE} {SAFE}", f"{SAFE} the dog", "a dog", f"{SAFE} a cat"):
        rows(table, long=text)
        index_sources([table], index, encoder, options=CHUNKED, prune=True, prune_limit=None)
        stored = payloads(index, safe=False)
        assert len(stored) == len(encoder.text_spans(text))
        assert all(payload["text"] in text for payload in stored)


def test_the_same_words_are_the_same_points_with_and_without_chunks(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    table = rows(tmp_path / "t.jsonl", a=SAFE, b="a dog")
    index_sources([table], index, encoder, options=SourceOptions(fields=Fields(id="id")))
    index_sources([table], index, encoder, options=CHUNKED)
    assert index.count() == len(encoder.text_spans(SAFE)) + 1


def test_a_megabyte_is_stored_once_or_in_all_its_windows(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    table = rows(tmp_path / "t.jsonl", long="a dog in the park " * 12_000 + "gun")
    report = index_sources([table], index, encoder)
    assert (report.total, report.cut) == (1, 1)
    assert payloads(index, safe=True) == []


def test_a_text_that_is_not_unicode_fails_alone_in_chunks(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    table = rows(tmp_path / "t.jsonl", bad="a dog \ud800", good=SAFE)
    report = index_sources([table], index, encoder, options=CHUNKED)
    assert (report.failures, report.total) == (1, len(encoder.text_spans(SAFE)))


def test_the_commands_take_chunks_and_say_what_is_long_or_unknown(tmp_path: Path, bundle: Path) -> None:
    table = rows(tmp_path / "t.jsonl", long=HIDING["end"], unknown="ein Hund")
    place = ("--collection", "c", "--location", str(tmp_path / "db"), "--model", str(bundle))
    whole = run_cli("index", str(table), *place)
    assert "1 texts are unlike what the model knows" in whole.output
    assert "all of them is judged" in whole.output
    chunked = run_cli("index", str(table), "--chunk", "--json", *place)
    assert json.loads(chunked.stdout)["report"]["indexed"]["text"] > 2
    status = run_cli("status", str(table), "--chunk", "--json", *place)
    assert json.loads(status.stdout)["missing"] == 0
    explained = run_cli("explain", "a g-u-n", *place)
    assert "spelled out" in explained.output


def test_a_text_of_many_windows_can_be_followed_and_stopped(
    tmp_path: Path, index: Index, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = random.Random(0).choices(SAFE.split(), k=2_000)
    path = rows(tmp_path / "texts.jsonl", short="a dog", long=" ".join(words))
    runs: list[int] = []
    encode = Encoder.encode_tokens

    def counting(self: Encoder, tokens: Any, **options: Any) -> Any:
        runs.append(len(tokens))
        return encode(self, tokens, **options)

    monkeypatch.setattr(Encoder, "encode_tokens", counting)
    seen: list[int] = []
    report = index_sources([path], index, encoder, batch_size=8, on_progress=lambda _: seen.append(len(runs)))
    assert report.indexed["text"] == 2
    assert max(runs) <= 8 < len(runs)
    assert {*range(1, len(runs))} <= {*seen}  # there was a look at the run after each
    runs.clear()
    stopped = index_sources([path], index, encoder, batch_size=8, resume=False, should_stop=lambda: len(runs) >= 3)
    assert stopped.interrupted
    assert len(runs) == 3
