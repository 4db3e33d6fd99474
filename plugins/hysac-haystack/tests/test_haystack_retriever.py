from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from haystack import Pipeline
from haystack.core.errors import SerializationError
from haystack.core.serialization_security import allow_deserialization_module
from haystack.dataclasses import ByteStream
from haystack.document_stores.types import FilterPolicy
from haystack.utils import Secret
from PIL import Image
from small_collection import SAFE_IDS, fill
from support.rest_server import rest_server

from haystack_integrations.components.retrievers.hysac import HySACRetriever, UntranslatableFilterError
from hysac_retrieval import AuditRecord, Encoder, LabelRule, SafeSearch, SafetyPolicy, connect
from hysac_retrieval.errors import CollectionNotFoundError, SettingsError, UnsafeNotAllowedError

heard: list[AuditRecord] = []


def audit(record: AuditRecord) -> None:
    heard.append(record)


def ids(answer: dict[str, Any]) -> set[str]:
    return {document.id for document in answer["documents"]}


def below(k: int) -> dict[str, Any]:
    return {"field": "meta.k", "operator": "<", "value": k}


@pytest.fixture
def folder(toy_bundle: Path, encoder: Encoder, tmp_path: Path) -> Path:
    """A folder of the embedded engine with the collection ``toy``."""
    with connect("toy", location=tmp_path / "data", model=encoder, create=True) as engine:
        fill(engine, encoder)
    return tmp_path / "data"


def test_documents_have_content_meta_and_score(engine: SafeSearch) -> None:
    (document,) = HySACRetriever(engine=engine, filters=below(1)).run("a dog")["documents"]
    (hit,) = engine.search("a dog", filter={"must": [{"key": "k", "range": {"lt": 1}}]})
    assert (document.id, document.content, document.score) == ("0", "a man in the park", 1 / (1 + hit.distance))
    assert document.meta.keys() == {"k", "hysac"}
    assert document.meta["hysac"]["unsafe"] == hit.unsafe


def test_filters_of_a_run_hold_beside_those_of_construction_or_replace_them(engine: SafeSearch) -> None:
    merged = HySACRetriever(engine=engine, filters=below(4))
    replaced = HySACRetriever(engine=engine, filters=below(4), filter_policy=FilterPolicy.REPLACE)
    for made in (merged, replaced):
        assert ids(made.run("a dog")) == {"0", "2"}
        assert ids(made.run("a dog", filters={})) == {"0", "2"}
        assert ids(made.run("a dog", filters=below(2))) == {"0"}
    assert ids(merged.run("a dog", filters=below(100))) == {"0", "2"}
    assert ids(replaced.run("a dog", filters=below(100))) == SAFE_IDS
    with pytest.raises(UntranslatableFilterError):
        merged.run("a dog", filters={"field": "meta.k", "operator": "near", "value": 1})


def test_a_picture_is_a_query(engine: SafeSearch, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "blue").save(stream, "PNG")
    (tmp_path / "blue.png").write_bytes(stream.getvalue())
    for query in (ByteStream(stream.getvalue()), tmp_path / "blue.png"):
        assert ids(HySACRetriever(engine=engine).run(query, top_k=1)) == {"12"}


def test_nothing_is_opened_before_warm_up(toy_bundle: Path, tmp_path: Path) -> None:
    made = HySACRetriever("none", location=str(tmp_path / "none"), model=str(toy_bundle))
    assert not (tmp_path / "none").exists()
    with pytest.raises(CollectionNotFoundError):
        made.warm_up()


def test_a_saved_pipeline_has_its_policy(folder: Path, toy_bundle: Path) -> None:
    rules = (LabelRule("k", deny=(4,)), LabelRule("k", allow=(0, 2, 4, 10), always=True))
    policy = SafetyPolicy(threshold=0.4, allow_unsafe=False, traversal="adaptive", steps=4, rules=rules, audit=audit)
    made = HySACRetriever(
        "toy",
        location=str(folder),
        model=str(toy_bundle),
        policy=policy,
        top_k=7,
        filters=below(100),
        filter_policy="replace",
        modality="text",
        content_key=("text",),
    )
    pipeline = Pipeline()
    pipeline.add_component("retriever", made)
    allow_deserialization_module(__name__)
    loaded = Pipeline.loads(pipeline.dumps())
    again = loaded.get_component("retriever")
    assert isinstance(again, HySACRetriever)
    assert again.policy == policy
    assert again.to_dict() == made.to_dict()
    answer = loaded.run({"retriever": {"query": "a man with a gun"}})["retriever"]
    assert ids(answer) == {"0", "2"}
    loaded.close()
    assert ids(again.run("a man with a gun")) == {"0", "2"}  # opened again
    again.close()


def test_without_a_policy_nobody_can_ask_for_unsafe_results(folder: Path, toy_bundle: Path) -> None:
    place: dict[str, Any] = {"location": str(folder), "model": str(toy_bundle)}
    assert not HySACRetriever("toy", **place).policy.allow_unsafe
    with pytest.raises(UnsafeNotAllowedError):
        HySACRetriever("toy", safe=False, **place)
    heard.clear()
    open_to_all = HySACRetriever("toy", safe=False, policy=SafetyPolicy(audit=audit), **place)
    assert len(open_to_all.run("a man with a gun")["documents"]) == 9
    assert len(heard) == 1
    open_to_all.close()


def test_runs_of_a_pipeline_find_the_same_blocking_and_not(folder: Path, toy_bundle: Path) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", HySACRetriever("toy", location=str(folder), model=str(toy_bundle)))
    run = {"retriever": {"query": "a man with a gun", "filters": below(5), "top_k": 2}}

    async def asynchronously() -> dict[str, Any]:
        return await pipeline.run_async(run)

    expected = pipeline.run(run)
    assert ids(expected["retriever"]) < {"0", "2", "4"}
    assert asyncio.run(asynchronously()) == expected
    pipeline.close()


def test_runs_at_the_same_time_open_the_collection_once(folder: Path, toy_bundle: Path) -> None:
    made = HySACRetriever("toy", location=str(folder), model=str(toy_bundle))

    async def several() -> list[dict[str, Any]]:
        return await asyncio.gather(*[made.run_async("a dog") for _ in range(4)])

    assert [ids(answer) for answer in asyncio.run(several())] == [SAFE_IDS] * 4
    made.close()


def test_a_server_is_asked_without_blocking(encoder: Encoder, toy_bundle: Path) -> None:
    with rest_server() as server:
        with connect("toy", url=server.url, model=encoder, create=True) as engine:
            fill(engine, encoder)
        made = HySACRetriever("toy", url=server.url, model=str(toy_bundle))

        async def both() -> list[set[str]]:
            try:
                return [ids(await made.run_async("a man with a gun")), ids(await made.run_async("a dog", below(3)))]
            finally:
                await made.close_async()

        assert asyncio.run(both()) == [SAFE_IDS, {"0", "2"}]
        assert ids(made.run("a man with a gun")) == SAFE_IDS
        made.close()


def test_secrets_are_saved_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "hidden")
    made = HySACRetriever("toy", url="http://localhost:1", api_key=Secret.from_env_var("SOME_KEY"))
    assert "hidden" not in str(made.to_dict())
    assert HySACRetriever.from_dict(made.to_dict()).api_key == made.api_key
    with pytest.raises(ValueError, match="token"):
        HySACRetriever("toy", url="http://localhost:1", api_key=Secret.from_token("hidden")).to_dict()


def test_an_open_engine_cannot_be_saved(engine: SafeSearch) -> None:
    with pytest.raises(SerializationError, match="open engine"):
        HySACRetriever(engine=engine).to_dict()
    made = HySACRetriever(engine=engine)
    made.close()
    assert ids(made.run("a dog")) == SAFE_IDS  # it is the caller's, and stays open


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either a collection"),
        ({"collection": "toy"}, "exactly one of url and location"),
        ({"collection": "toy", "url": "http://x", "location": "y"}, "exactly one of url and location"),
        ({"engine": ..., "collection": "toy"}, "either a collection"),
        ({"engine": ..., "policy": SafetyPolicy()}, "brings its own"),
        ({"engine": ..., "filters": {"field": "meta.k"}}, "lacks operator"),
        ({"engine": ..., "top_k": 0}, "limit is 0"),
    ],
)
def test_settings_that_cannot_be_are_errors_at_construction(
    engine: SafeSearch, settings: dict[str, Any], message: str
) -> None:
    given = settings | ({"engine": engine} if "engine" in settings else {})
    with pytest.raises(SettingsError, match=message):
        HySACRetriever(**given)


def test_a_policy_with_settings_that_are_none_is_not_loaded() -> None:
    saved = HySACRetriever("toy", location="x").to_dict()
    saved["init_parameters"]["policy"]["lenient"] = True
    with pytest.raises(SettingsError, match="unknown setting lenient"):
        HySACRetriever.from_dict(saved)


def test_a_score_threshold_cuts_by_the_score_of_documents(engine: SafeSearch) -> None:
    everything = HySACRetriever(engine=engine).run("a dog")["documents"]
    for count in (1, 3, len(everything)):
        least = everything[count - 1].score
        for found in (
            HySACRetriever(engine=engine).run("a dog", score_threshold=least),
            HySACRetriever(engine=engine, score_threshold=least).run("a dog"),
            asyncio.run(HySACRetriever(engine=engine).run_async("a dog", score_threshold=least)),
        ):
            assert found["documents"] == everything[:count]
    saved = HySACRetriever("toy", location="./data", score_threshold=0.5)
    assert HySACRetriever.from_dict(saved.to_dict()).score_threshold == 0.5
    with pytest.raises(SettingsError, match="score_threshold"):
        HySACRetriever("toy", location="./data", score_threshold=3)
