from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.indices.query.query_transform.base import IdentityQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import QueryFusionRetriever, TransformRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from PIL import Image
from qdrant_client import models
from small_collection import SAFE_IDS

from hysac_retrieval import AsyncSafeSearch, LabelRule, SafeSearch, SafetyPolicy
from hysac_retrieval.errors import SettingsError
from llama_index.retrievers.hysac import HySACPostprocessor, HySACRetriever


def ids(nodes: list[NodeWithScore]) -> set[str]:
    return {node.node.node_id for node in nodes}


def below(k: int) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="k", range=models.Range(lt=k))])


def test_the_classes_are_what_the_framework_expects() -> None:
    # What LlamaIndex has its own integrations checked for.
    assert BaseRetriever.__name__ in [base.__name__ for base in HySACRetriever.__mro__]
    assert BaseNodePostprocessor.__name__ in [base.__name__ for base in HySACPostprocessor.__mro__]
    assert HySACPostprocessor.class_name() == "HySACPostprocessor"
    assert "_aretrieve" in vars(HySACRetriever)
    assert "_apostprocess_nodes" in vars(HySACPostprocessor)


def test_texts_are_text_nodes(engine: SafeSearch) -> None:
    (found,) = HySACRetriever(engine, filter=below(1)).retrieve("a dog")
    (hit,) = engine.search("a dog", filter=below(1))
    assert isinstance(found.node, TextNode)
    assert found.node.class_name() == "TextNode"
    assert (found.node.node_id, found.text, found.score) == ("0", "a man in the park", 1 / (1 + hit.distance))
    assert found.metadata["k"] == 0
    assert found.metadata["hysac"]["unsafe"] == hit.unsafe
    assert found.metadata["hysac"]["distance"] == hit.distance
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert "unsafe" not in found.node.get_content(mode)


def test_images_are_image_nodes_whose_path_stays_in_the_folder(engine: SafeSearch, tmp_path: Path) -> None:
    files = ["green.png", "https://example.org/blue.png", "../outside.png", "/etc/hostname", 3]
    points = engine.index.points([10])[0].repeat(len(files), axis=0)
    rows = [{"file": file, "caption": "a picture"} for file in files]
    engine.index.upsert(range(20, 25), points, modality="image", payloads=rows)
    only = models.Filter(must=[models.HasIdCondition(has_id=[*range(20, 25)])])
    made = HySACRetriever(engine, filter=only, image_root=tmp_path)
    nodes = {found.node.node_id: found.node for found in made.retrieve("a dog")}
    assert all(isinstance(node, ImageNode) and node.text == "a picture" for node in nodes.values())
    assert nodes["20"].image_path == str(tmp_path.resolve() / "green.png")
    assert nodes["21"].image_url == "https://example.org/blue.png"
    assert [nodes[one].image_path for one in ("21", "22", "23", "24")] == [None] * 4
    assert all(found.node.image_path is None for found in HySACRetriever(engine, filter=only).retrieve("a dog"))


def test_pictures_without_a_caption_stay_apart_when_results_are_fused(engine: SafeSearch) -> None:
    rows: list[dict[str, Any]] = [{"file": "a.png"}, {"file": "b.png"}, {"file": "b.png"}, {}, {"caption": ""}]
    points = engine.index.points([10])[0].repeat(len(rows), axis=0)
    engine.index.upsert(range(20, 25), points, modality="image", payloads=rows)
    only = models.Filter(must=[models.HasIdCondition(has_id=[*range(20, 25)])])
    one = HySACRetriever(engine, filter=only)
    fused = QueryFusionRetriever([one, one], llm=MockLLM(), num_queries=1, similarity_top_k=9, use_async=False)
    assert ids(fused.retrieve("a dog")) == {str(point) for point in range(20, 25)}
    assert {found.text for found in one.retrieve("a dog")} == {"a.png", "21", "22", "23", "24"}


@pytest.mark.parametrize("mode", [*FUSION_MODES])
def test_fusion_knows_points_apart_and_each_by_itself_in_every_query(engine: SafeSearch, mode: FUSION_MODES) -> None:
    rows: list[dict[str, Any]] = [{"file": "b.png"}, {"file": "b.png"}, {"caption": "a dog"}, {"caption": "a dog"}, {}]
    points = engine.index.points([10])[0].repeat(len(rows), axis=0)
    engine.index.upsert(range(20, 25), points, modality="image", payloads=rows)
    engine.index.upsert(range(25, 27), points[:2], modality="text", payloads=[{"text": "a dog"}] * 2)

    def only(*ids: int) -> HySACRetriever:
        return HySACRetriever(engine, filter=models.Filter(must=[models.HasIdCondition(has_id=[*ids])]))

    every = {str(point) for point in range(20, 27)}
    for parts in ([only(*range(20, 27))], [only(20, 22, 25), only(21, 23, 24, 26)], [only(*range(20, 27)), only(21)]):
        llm = MockLLM()
        fused = QueryFusionRetriever(parts, llm=llm, mode=mode, num_queries=3, similarity_top_k=99, use_async=False)
        fused._get_queries = lambda query: [QueryBundle("a man"), QueryBundle("a street")]  # type: ignore[method-assign]
        found = [node.node_id for node in fused.retrieve("a dog")]
        assert sorted(found) == sorted(every)


def test_a_node_is_restored_as_the_framework_s_own(engine: SafeSearch) -> None:
    for found in HySACRetriever(engine).retrieve("a dog"):
        kind = ImageNode if isinstance(found.node, ImageNode) else TextNode
        assert kind.from_json(found.node.to_json()).id_ == found.node.id_


def test_a_similarity_cutoff_is_the_framework_s_own(engine: SafeSearch) -> None:
    everything = HySACRetriever(engine).retrieve("a dog")
    for cutoff in (0.0, everything[1].score, 1.0):
        expected = SimilarityPostprocessor(similarity_cutoff=cutoff).postprocess_nodes(everything)
        found = HySACRetriever(engine, similarity_cutoff=cutoff).retrieve("a dog")
        assert [node.node_id for node in found] == [node.node_id for node in expected]
    with pytest.raises(SettingsError, match="score_threshold"):
        HySACRetriever(engine, similarity_cutoff=2.0)


def test_a_picture_is_a_query(engine: SafeSearch, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "blue.png")
    (found,) = HySACRetriever(engine, similarity_top_k=1).retrieve(
        QueryBundle("", image_path=str(tmp_path / "blue.png"))
    )
    assert found.node.node_id == "12"
    assert found.score == pytest.approx(1.0, abs=1e-2)


def test_asynchronous_retrieval_finds_the_same(engine: SafeSearch, async_engine: AsyncSafeSearch) -> None:
    expected = HySACRetriever(engine).retrieve("a man with a gun")
    assert ids(expected) == SAFE_IDS
    for made in (HySACRetriever(engine), HySACRetriever(async_engine=async_engine)):
        found = asyncio.run(made.aretrieve("a man with a gun"))
        assert [(node.node_id, node.score) for node in found] == [(node.node_id, node.score) for node in expected]


def test_it_serves_inside_other_retrievers(engine: SafeSearch) -> None:
    outer = TransformRetriever(HySACRetriever(engine, similarity_top_k=2), IdentityQueryTransform())
    assert len(outer.retrieve("a dog")) == 2


def nodes_of(*identifiers: str) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(id_=one, text="safe"), score=0.5) for one in identifiers]


def test_the_postprocessor_keeps_what_a_safe_search_could_return_in_order(engine: SafeSearch) -> None:
    nodes = nodes_of("4", "1", "12", "11", "0", "99", "x", str(uuid.uuid4()), "²", "1 ")
    kept = HySACPostprocessor(engine=engine).postprocess_nodes(nodes, query_str="a man with a gun")
    assert [node.node.node_id for node in kept] == ["4", "12", "0"]
    assert HySACPostprocessor(engine=engine).postprocess_nodes([]) == []


def test_the_postprocessor_believes_no_metadata(engine: SafeSearch) -> None:
    own = engine.index.metadata.fingerprint
    node = TextNode(id_="1", text="a man with a gun", metadata={"hysac": {"unsafe": 0.0, "model": own}})
    assert not HySACPostprocessor(engine=engine).postprocess_nodes([NodeWithScore(node=node, score=1.0)])


def test_the_postprocessor_drops_points_without_a_score_of_this_model(engine: SafeSearch) -> None:
    point = engine.index.collection.lift.lift(engine.index.points([0])[0])
    records: list[Any] = [None, {"unsafe": 0.1}, {"unsafe": 0.1, "model": "another"}, {"unsafe": None, "model": "own"}]
    own = engine.index.metadata.fingerprint
    rows = [{"hysac": own if record == "own" else record} for record in records]
    engine.index.store.upsert("toy", [30, 31, 32, 33], point.repeat(4, axis=0), rows)
    assert ids(HySACPostprocessor(engine=engine).postprocess_nodes(nodes_of("30", "31", "32", "33", "0"))) == {"0"}


def test_the_postprocessor_enforces_the_rules_of_the_policy(engine: SafeSearch) -> None:
    ruled = SafeSearch(engine.index, engine.encoder, policy=SafetyPolicy(rules=(LabelRule("k", deny=(4,)),)))
    assert ids(HySACPostprocessor(engine=ruled).postprocess_nodes(nodes_of("0", "1", "2", "4"))) == {"0", "2"}


def test_the_postprocessor_may_find_the_id_in_the_metadata(engine: SafeSearch) -> None:
    nodes = [
        NodeWithScore(node=TextNode(text="x", metadata={"point": point}), score=1.0) for point in (0, 1, "2", None, [0])
    ]
    kept = HySACPostprocessor(engine=engine, id_key="point").postprocess_nodes(nodes)
    assert [node.metadata["point"] for node in kept] == [0, "2"]


def test_the_postprocessor_works_asynchronously(engine: SafeSearch, async_engine: AsyncSafeSearch) -> None:
    for made in (HySACPostprocessor(engine=engine), HySACPostprocessor(async_engine=async_engine)):
        assert ids(asyncio.run(made.apostprocess_nodes(nodes_of("0", "1", "2", "x")))) == {"0", "2"}
    with pytest.raises(SettingsError, match="only an asynchronous engine"):
        HySACPostprocessor(async_engine=async_engine).postprocess_nodes(nodes_of("0"))


def test_without_an_engine_there_is_nothing() -> None:
    with pytest.raises(SettingsError, match="there is no engine"):
        HySACRetriever()
    with pytest.raises(ValueError, match="there is no engine"):
        HySACPostprocessor()
