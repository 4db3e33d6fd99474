from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnablePassthrough
from PIL import Image
from pydantic import ValidationError
from qdrant_client import models
from small_collection import SAFE_IDS

from hysac_retrieval import AsyncSafeSearch, SafeSearch
from hysac_retrieval.errors import SettingsError
from langchain_hysac import HySACRetriever


def ids(documents: list[Any]) -> set[str]:
    return {document.id for document in documents}


def below(k: int) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="k", range=models.Range(lt=k))])


def test_documents_have_text_metadata_and_what_the_search_says(engine: SafeSearch) -> None:
    (document,) = HySACRetriever(engine=engine, filter=below(1)).invoke("a dog")
    (hit,) = engine.search("a dog", filter=below(1))
    assert (document.id, document.page_content) == ("0", "a man in the park")
    assert document.metadata == {
        "k": 0,
        "hysac": {
            "id": 0,
            "distance": hit.distance,
            "unsafe": hit.unsafe,
            "radius": hit.radius,
            "modality": "text",
            "views": 1,
            "worst": None,
            "reviewed": False,
        },
    }
    assert hit.unsafe is not None
    assert 0 < hit.unsafe < 0.5


def test_fields_of_the_payload_may_be_named(engine: SafeSearch) -> None:
    payload = {"page_content": "a dog", "metadata": {"source": "here"}, "text": "other", "k": 0}
    engine.index.upsert([0], engine.index.points([0])[0], modality="text", payloads=[payload])
    made = HySACRetriever(engine=engine, filter=below(1), content_key="page_content", metadata_key="metadata")
    (document,) = made.invoke("a dog")
    assert document.page_content == "a dog"
    assert document.metadata.keys() == {"source", "hysac"}


def test_pictures_have_their_caption_and_may_be_all_that_is_sought(engine: SafeSearch) -> None:
    found = HySACRetriever(engine=engine, modality="image").invoke("a dog")
    assert {document.page_content for document in found} == {"all green", "all blue"}
    assert {document.metadata["file"] for document in found} == {"green.png", "blue.png"}


def test_pictures_without_a_caption_stay_apart_by_their_file_or_their_id(engine: SafeSearch) -> None:
    rows: list[dict[str, Any]] = [
        {"file": "a.png"},
        {"file": "b/a.png"},
        {"file": "same.png"},
        {"file": "same.png"},
        {"caption": ""},
        {"caption": [], "file": 3},
        {},
        {"caption": "a dog", "file": "dog.png"},
    ]
    points = engine.index.points([10])[0].repeat(len(rows), axis=0)
    engine.index.upsert(range(20, 28), points, modality="image", payloads=rows)
    only = models.Filter(must=[models.HasIdCondition(has_id=[*range(20, 28)])])
    found = HySACRetriever(engine=engine, k=9, filter=only).invoke("a dog")
    texts = {document.id: document.page_content for document in found}
    expected = ["a.png", "b/a.png", "22", "23", "24", "25", "26", "a dog"]
    assert texts == dict(zip(map(str, range(20, 28)), expected, strict=True))


def test_a_score_threshold_is_that_of_a_vector_store(engine: SafeSearch) -> None:
    hits = engine.search("a dog", limit=9).hits
    scores = [1 / (1 + hit.distance) for hit in hits]
    made = HySACRetriever(engine=engine, k=9)
    for count in (1, 3, len(hits)):
        found = made.invoke("a dog", score_threshold=scores[count - 1])
        assert [document.id for document in found] == [str(hit.id) for hit in hits[:count]]
        assert HySACRetriever(engine=engine, k=9, score_threshold=scores[count - 1]).invoke("a dog") == found
    assert len(made.invoke("a dog", score_threshold=0)) == len(hits)
    assert asyncio.run(made.ainvoke("a dog", score_threshold=scores[0])) == made.invoke("a dog", k=1)
    for wrong in (-0.1, 1.1, float("nan"), True, "0.5"):
        with pytest.raises(SettingsError, match="score_threshold"):
            made.invoke("a dog", score_threshold=wrong)


@pytest.mark.parametrize("owner", [2**53, 2**53 + 1, 1234567890123456781, -(2**53) - 1, 2**63 - 1])
def test_large_integers_in_a_filter_are_exact(engine: SafeSearch, owner: int) -> None:
    points = engine.index.points([0])[0].repeat(3, axis=0)
    rows = [{"owner": owner}, {"owner": owner - 1}, {"owner": owner - 2}]
    engine.index.upsert([20, 21, 22], points, modality="text", payloads=rows)
    for match in ({"value": owner}, {"any": [owner]}):
        assert ids(
            HySACRetriever(engine=engine).invoke("a dog", filter={"must": [{"key": "owner", "match": match}]})
        ) == {"20"}


def test_the_filter_of_a_call_narrows_that_of_construction(engine: SafeSearch) -> None:
    made = HySACRetriever(engine=engine, filter=below(4))
    assert ids(made.invoke("a dog")) == {"0", "2"}
    assert ids(made.invoke("a dog", filter=below(100))) == {"0", "2"}
    assert ids(made.invoke("a dog", filter=below(2))) == {"0"}
    assert ids(made.invoke("a dog", filter={"must": [{"key": "k", "match": {"value": 2}}]})) == {"2"}


def test_asynchronous_calls_find_the_same(engine: SafeSearch, async_engine: AsyncSafeSearch) -> None:
    expected = HySACRetriever(engine=engine, k=9).invoke("a man with a gun")
    assert ids(expected) == SAFE_IDS
    for made in (HySACRetriever(engine=engine, k=9), HySACRetriever(async_engine=async_engine, k=9)):
        assert asyncio.run(made.ainvoke("a man with a gun")) == expected


def test_with_an_asynchronous_engine_alone_invoke_says_so(async_engine: AsyncSafeSearch) -> None:
    with pytest.raises(SettingsError, match="only an asynchronous engine"):
        HySACRetriever(async_engine=async_engine).invoke("a dog")


def test_who_may_see_it_gets_a_retriever_of_his_own(engine: SafeSearch) -> None:
    assert len(HySACRetriever(engine=engine, k=9, safe=False).invoke("a man with a gun")) == 9


def test_a_query_that_names_a_file_is_still_text(engine: SafeSearch, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(path)
    made = HySACRetriever(engine=engine, k=9)
    assert made.invoke(str(path)) == made.invoke(str(path.with_name("none.png")))  # words that the toy does not know


def test_it_is_a_runnable_as_any_other(engine: SafeSearch) -> None:
    made = HySACRetriever(engine=engine, k=1)
    assert [len(found) for found in made.batch(["a dog", "a cat"])] == [1, 1]
    assert len(made.invoke("a dog", {"tags": ["x"], "metadata": {"safe": False}}, verbose=False)) == 1
    chain = {"context": made, "question": RunnablePassthrough()}
    assert (RunnablePassthrough() | chain).invoke("a dog")["context"] == made.invoke("a dog")


@pytest.mark.parametrize(
    "settings", [{"k": 0}, {"filter": {"must": "x"}}, {"safe": 1}, {"modality": "sound"}, {"search_type": "mmr"}]
)
def test_settings_that_cannot_be_are_errors_at_construction(engine: SafeSearch, settings: dict[str, Any]) -> None:
    with pytest.raises((SettingsError, ValidationError)):
        HySACRetriever(engine=engine, **settings)
    with pytest.raises(ValidationError):
        HySACRetriever(engine=engine).k = 3


def test_without_an_engine_there_is_no_retriever() -> None:
    with pytest.raises((SettingsError, ValidationError), match="there is no engine"):
        HySACRetriever()
