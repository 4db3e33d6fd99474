"""A guarded client that stays while its collection is rescored, replaced, or its alias moved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from support.awaited import KINDS, guards
from support.qdrant_server import QDRANT, own_or_local
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval import Guard, Index, SafeQdrantClient
from hysac_retrieval.collection import watch
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.safety.policy import SafetyPolicy

N = 30
POINTS = random_points(N, low=1.5, high=3.5)
MODEL = "a" * 32


def make(client: QdrantClient, name: str, fingerprint: str = MODEL, threshold: float = 0.5) -> Index:
    space: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile(threshold)}
    made = Index.create(name, **space, fingerprint=fingerprint, index_fields={"g": "keyword"}, client=client)
    made.upsert(range(N), POINTS, modality="image", payloads=[{"g": f"g{i % 3}"} for i in range(N)])
    return made


def vector(index: Index) -> list[float]:
    found: list[float] = np.asarray(index.collection.lift.lift_query(POINTS[:1]))[0].tolist()
    return found


Ask = Callable[[Any, list[float]], Any]
METHODS: dict[str, Ask] = {
    "query_points": lambda c, v: [p.id for p in c.query_points("points", query=v, using="hysac", limit=N).points],
    "by example": lambda c, v: len(c.query_points("points", query=min(safe_ids), using="hysac", limit=N).points),
    "groups": lambda c, v: [g.id for g in c.query_points_groups("points", "g", query=v, using="hysac").groups],
    "batch": lambda c, v: [
        len(answer.points)
        for answer in c.query_batch_points("points", [models.QueryRequest(query=v, using="hysac", limit=N)] * 2)
    ],
    "scroll": lambda c, v: [p.id for p in c.scroll("points", limit=N)[0]],
    "retrieve": lambda c, v: [p.id for p in c.retrieve("points", list(range(N)))],
    "count": lambda c, v: c.count("points").count,
    "facet": lambda c, v: sorted((hit.value, hit.count) for hit in c.facet("points", "g").hits),
    "matrix": lambda c, v: sorted(c.search_matrix_offsets("points", sample=N, limit=3, using="hysac").ids),
}
safe_ids: list[int] = []


@pytest.fixture(params=["memory", *QDRANT])
def client(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    with own_or_local(request.param) as made:
        yield made


@pytest.fixture(params=KINDS)
def guarded(request: pytest.FixtureRequest, client: QdrantClient) -> Iterator[Callable[..., Any]]:
    """Makes guards of the client, blocking ones or asynchronous ones."""
    with guards(request.param, client) as (_, made):
        yield made


def truth(client: QdrantClient) -> list[int]:
    return sorted(hit.id for hit in Index.open("points", client=client).query(POINTS[0], limit=N))  # type: ignore[misc]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_every_method_goes_on_after_a_rescore(
    client: QdrantClient,
    guarded: Callable[..., Any],
    method: str,
    threshold: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    index, ask = make(client, "points"), METHODS[method]
    safe_ids[:] = truth(client)[:1]
    safe = guarded()
    ask(safe, vector(index))
    rescore(Index.open("points", client=client), profile(threshold), fingerprint=MODEL[:16] + "c" * 16)
    safe_ids[:] = truth(client)[:1]
    assert safe_ids
    caplog.set_level(logging.WARNING, "hysac_retrieval.guard")
    answer = ask(safe, vector(index))
    assert answer
    assert answer == ask(guarded(), vector(index))
    assert [record.message for record in caplog.records if "goes on with" in record.message]
    assert sorted(point.id for point in safe.scroll("points", limit=N)[0]) == truth(client)


def test_a_moved_alias_is_followed_to_another_model(client: QdrantClient, guarded: Callable[..., Any]) -> None:
    make(client, "blue")
    make(client, "green", "b" * 32, threshold=0.2)
    new = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name="blue", alias_name="points"))
    client.update_collection_aliases([new])
    safe = guarded()
    before = safe.count("points").count
    gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="points"))
    new = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name="green", alias_name="points"))
    client.update_collection_aliases([gone, new])
    assert 0 < safe.count("points").count < before
    assert safe.count("points").count == len(truth(client))


def test_a_calibration_that_the_policy_is_too_loose_for_is_an_error_and_shows_nothing(
    client: QdrantClient, guarded: Callable[..., Any]
) -> None:
    make(client, "points", threshold=0.8)
    safe = guarded(SafetyPolicy(threshold=0.7))
    assert safe.count("points").count
    rescore(Index.open("points", client=client), profile(0.2), fingerprint=MODEL[:16] + "c" * 16)
    for _ in range(2):
        with pytest.raises(SettingsError):
            safe.count("points")


def test_a_guard_that_was_given_is_kept_and_empty_replies_do_not_ask_again_and_again(client: QdrantClient) -> None:
    index = make(client, "points")
    fixed = SafeQdrantClient(client, guard=Guard.of(index.metadata))
    safe = SafeQdrantClient(client)
    safe.count("points")
    asked: list[Any] = []
    read = client.get_collection
    client.get_collection = lambda **kwargs: (asked.append(kwargs), read(**kwargs))[1]  # type: ignore[func-returns-value, method-assign]
    nothing = models.Filter(must=[models.FieldCondition(key="g", match=models.MatchValue(value="none"))])
    for _ in range(20):
        assert safe.count("points", nothing).count == 0
    assert 1 <= len(asked) <= 2
    asked.clear()
    assert fixed.count("points", nothing).count == 0
    assert asked == []


def test_metadata_is_read_now_and_then_also_where_something_is_found(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make(client, "points")
    safe = SafeQdrantClient(client)
    before = safe.count("points").count
    stricter = index.metadata.model_copy(update={"safety": profile(0.2)})
    index.store.write_metadata("points", stricter.model_dump(mode="json", exclude_none=True))
    assert safe.count("points").count == before
    monkeypatch.setattr(watch, "EVERY", 0.0)
    assert safe.count("points").count < before
