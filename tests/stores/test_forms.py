"""What travels to a server says what qdrant-client's own models would say, and no reply is believed that is none."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import RestToGrpc
from support.rest_server import narrowed
from support.spaces import match

from hysac_retrieval.errors import StoreError
from hysac_retrieval.safety.filters import safety_filter, without
from hysac_retrieval.steps import run
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.stores.qdrant.bodies import Bodies
from hysac_retrieval.stores.qdrant.messages import Messages
from hysac_retrieval.stores.qdrant.operations import Operations
from hysac_retrieval.stores.remembered import Remembered
from hysac_retrieval.stores.requests import query_requests
from hysac_retrieval.stores.types import StoredPoint, VectorQuery
from hysac_retrieval.types import Thresholds

VECTORS = np.random.default_rng(4).normal(size=(3, 5)).astype(np.float32)
SAFE = safety_filter(Thresholds(0.2, 0.4), "f1")
FORMULA = models.FormulaQuery(formula=models.MultExpression(mult=[2.0, "$score"]), defaults={"hysac.scale": 9.0})
PLAIN = VectorQuery(VECTORS, limit=7)
QUERIES = {
    "plain": PLAIN,
    "without vectors": replace(PLAIN, with_vectors=False),
    "filtered": replace(PLAIN, filter=SAFE),
    "a filter each": replace(PLAIN, filters=[SAFE, None, without(SAFE, [1, str(uuid.UUID(int=5))])]),
    "parameters": replace(PLAIN, filter=models.Filter(must=[match("a", "b")]), ef=64, oversampling=2.5),
    "second stage": replace(PLAIN, filter=SAFE, ef=64, formulas=[FORMULA] * 3, candidates=40),
}
PAYLOADS: list[dict[str, Any]] = [
    {"hysac": {"unsafe": 9.0030671e-05, "safe": {"f1": True}, "model": "f1"}, "title": "ein Bär", "n": 2**53 + 1},
    {},
    {"deep": [[{"a": None, "b": [1, 2.5, "x", False]}]], "-0": -0.0, "small": 5e-324},
]
IDS: list[Any] = [7, str(uuid.UUID(int=9)), 2**64 - 1]


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_searches_are_those_of_the_models(query: VectorQuery) -> None:
    expected = query_requests(query)
    bodies = [json.loads(orjson.dumps(one, option=orjson.OPT_SERIALIZE_NUMPY)) for one in Bodies().searches("c", query)]
    plain = [json.loads(one.model_dump_json(exclude_none=True, exclude_unset=True, by_alias=True)) for one in expected]
    assert narrowed(bodies) == narrowed(plain)
    messages = Messages(None).searches("c", query)
    assert messages == [RestToGrpc.convert_query_request(one, "c") for one in expected]


def test_points_are_those_of_the_models() -> None:
    expected = [
        models.PointStruct(id=i, vector={"hysac": v}, payload=p)
        for i, v, p in zip(IDS, VECTORS.tolist(), PAYLOADS, strict=True)
    ]
    bodies = json.loads(orjson.dumps(Bodies().points(IDS, VECTORS, PAYLOADS), option=orjson.OPT_SERIALIZE_NUMPY))
    assert narrowed(bodies) == [json.loads(one.model_dump_json()) for one in expected]
    messages = Messages(None).points(IDS, VECTORS, PAYLOADS)
    assert messages == [RestToGrpc.convert_point_struct(one) for one in expected]


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1.0, 1e30])
def test_every_float32_arrives_as_it_is(scale: float) -> None:
    rows = (np.random.default_rng(5).normal(size=(200, 50)) * scale).astype(np.float32)
    sent = orjson.dumps([one["vector"]["hysac"] for one in Bodies().points([*range(200)], rows, [{}] * 200)],
                        option=orjson.OPT_SERIALIZE_NUMPY)  # fmt: skip
    np.testing.assert_array_equal(np.array(json.loads(sent)).astype(np.float32), rows)


def test_a_transposed_array_is_read_by_its_rows() -> None:
    turned = np.asfortranarray(VECTORS)
    assert [one["vector"]["hysac"].tolist() for one in Bodies().points(IDS, turned, PAYLOADS)] == VECTORS.tolist()
    first, *_ = Bodies().searches("c", replace(PLAIN, vectors=turned))
    assert first["query"].tolist() == VECTORS[0].tolist()


def test_replies_of_one_search_and_of_several() -> None:
    points = [{"id": 3, "version": 1, "score": 1.5, "payload": {"a": 1}, "vector": {"hysac": [1.0, 2.0]}}]
    found = StoredPoint(3, {"a": 1}, 1.5, [1.0, 2.0])
    bodies = Bodies()
    assert bodies.found({"result": {"points": points}}) == [[found]]
    assert bodies.found({"result": [{"points": points}, {"points": []}]}) == [[found], []]
    bare = {"id": "a", "score": 2, "payload": None}
    assert bodies.found({"result": {"points": [bare]}}) == [[StoredPoint("a", {}, 2.0, None)]]
    message = grpc.ScoredPoint(id=grpc.PointId(num=0), payload=RestToGrpc.convert_payload(PAYLOADS[0]), score=1.5)
    named = grpc.ScoredPoint(id=grpc.PointId(uuid=IDS[1]), score=-2.0)
    expected = [StoredPoint(0, PAYLOADS[0], 1.5, None), StoredPoint(str(IDS[1]), {}, -2.0, None)]
    messages = Messages(None)
    assert messages.found(grpc.QueryResponse(result=[message, named])) == [expected]
    batch = grpc.QueryBatchResponse(result=[grpc.BatchResult(result=[message, named]), grpc.BatchResult()])
    assert messages.found(batch) == [expected, []]


GOOD = {"id": 1, "score": 1.0, "payload": {}}
WRONG: list[dict[str, Any]] = [
    *({"id": None}, {"id": True}, {"id": 1.5}, {"score": None}, {"score": "1"}, {"score": True}),
    *({"payload": []}, {"payload": "x"}, {"vector": [1.0]}, {"vector": "x"}),
]
REPLIES: list[Any] = [
    *(None, [], {}, 5, "text", {"result": None}, {"result": 5}, {"result": {}}, {"result": [5]}),
    *({"result": {"points": None}}, {"result": {"points": [None]}}, {"result": {"points": [{}]}}),
    *({"result": {"points": [GOOD | wrong]}} for wrong in WRONG),
]


@pytest.mark.parametrize("reply", REPLIES)
def test_what_is_no_reply_is_refused(reply: Any) -> None:
    with pytest.raises(StoreError, match="not a Qdrant server"):
        Bodies().found(reply)


def test_a_filter_that_comes_again_is_translated_once() -> None:
    made: list[models.Filter] = []

    def number(one: models.Filter) -> int:
        made.append(one)
        return len(made)

    translate = Remembered(number)
    first, equal = match("a", "b"), match("a", "b")
    filters = [models.Filter(must=[first]), models.Filter(must=[equal])]
    assert [translate(one) for one in (*filters, *filters)] == [1, 2, 1, 2]
    # Neither an id that is given again, nor more filters than are kept, confuse it.
    numbers = [translate(models.Filter(must=[match("a", str(n))])) for n in range(500)]
    assert numbers == [*range(3, 503)]
    assert translate(filters[0]) == len(made)


@pytest.mark.parametrize(("asked", "seconds"), [(None, 5), (0.5, 1), (30, 30), (2.2, 3)])
def test_a_call_over_grpc_takes_no_longer_than_the_client_allows(asked: float | None, seconds: int) -> None:
    found: list[float] = []

    class Client:
        class grpc_points:  # noqa: N801
            @staticmethod
            def Query(message: Any, timeout: float) -> None:  # noqa: N802
                found.append(timeout)

    form = Messages(asked)
    ask = form.search("c", form.searches("c", replace(PLAIN, vectors=VECTORS[:1])), {})
    ask.arguments[1](Client)
    assert found == [seconds]


@pytest.mark.parametrize("copies", [2, models.ReadConsistencyType.ALL])
@pytest.mark.parametrize("many", [1, 3])
def test_the_copies_to_ask_are_named(copies: Any, many: int) -> None:
    sent: list[Any] = []

    class Points:
        def __getattr__(self, method: str) -> Any:
            return lambda message, timeout: sent.append(message)

    class Client:
        grpc_points = Points()

    form = Messages(None)
    ask = form.search("c", form.searches("c", replace(PLAIN, vectors=VECTORS[:many])), {"consistency": copies})
    ask.arguments[1](Client)
    assert sent[0].read_consistency == RestToGrpc.convert_read_consistency(copies)


@pytest.mark.parametrize(
    ("looked_after", "sent"),
    [
        (False, [(500, True), (500, True), (1, True)]),
        (True, [(499, False), (1, True), (499, False), (1, True), (1, True)]),
    ],
)
def test_only_changes_that_are_looked_after_go_unconfirmed_and_never_the_last(
    looked_after: bool, sent: list[tuple[int, bool]]
) -> None:
    found: list[tuple[int, bool]] = []
    order: list[Any] = []

    class Calls:
        def get_collection(self, name: str) -> Any:
            return SimpleNamespace(config=SimpleNamespace(strict_mode_config=None), payload_schema={})

        def batch_update_points(self, name: str, few: list[models.SetPayloadOperation], wait: bool) -> None:
            found.append((len(few), wait))
            order.extend(one.set_payload.filter.must[0].has_id[0] for one in few)  # type: ignore[union-attr,index]

    amendments = [Amendment(i, {"unsafe": 1.0}, "f1", 1.5) for i in range(1001)]
    run(Operations(local=False, form=Bodies()).amend("c", amendments, looked_after=looked_after), Calls())
    assert found == sent
    assert order == [*range(1001)]
