"""Under `allow_unsafe=False` nothing that a caller gets depends on unsafe points."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from support.hostile import modest
from support.hostile import payloads as hostile_payloads
from support.spaces import CURVATURE, DIM, STORES, index_on, match, profile, random_points

from hysac_retrieval import Examples, PointRef, SafeQdrantClient, SafeSearch, SafetyPolicy, aconnect
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import HysacError

SAFE = list(range(12))
UNSAFE = list(range(100, 106))
WORDS = ["a gun", "a knife", "a painting"]
GONE = 999
"""Id of a point that is nowhere."""


@pytest.fixture(scope="module", params=STORES)
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with index_on(request.param, tmp_path_factory.mktemp("reach")) as made:
        rows = [{"k": row % 3, "title": f"t{row}"} for row in SAFE]
        made.upsert(SAFE, random_points(len(SAFE), low=1.5, high=2.1), modality="text", payloads=rows)
        yield made


def put(index: Index, unsafe: list[tuple[int, str, dict[str, Any]]], seed: int) -> None:
    """Replace the unsafe points of a collection."""
    index.delete(UNSAFE)
    for row, (k, title, hostile) in enumerate(unsafe):
        record = hostile.get("hysac")
        own = {"hysac": record} if record is not None else {}
        point = random_points(1, seed + row, low=2.9, high=3.4)
        index.upsert([UNSAFE[row]], point, modality="text", payloads=[{"k": k, "title": title}])
        if own and row % 2:
            vector = index.collection.lift.lift(point)
            index.store.upsert(index.name, [UNSAFE[row]], vector, [{"k": k, "title": title, **_unsafe(own, index)}])


def _unsafe(own: dict[str, Any], index: Index) -> dict[str, Any]:
    """A hostile record that no payload check takes for safe, but an engine's condition may."""
    record = own["hysac"]
    if isinstance(record, dict):
        fingerprint = index.metadata.fingerprint
        record = {**record, "model": fingerprint, "unsafe": [0.1, 0.9], "safe": {fingerprint: [True, False]}}
    return {"hysac": record}


def conditions() -> list[models.Filter]:
    """What an attacker asks: whether one point is there, or has a title."""
    some: list[Any] = [models.HasIdCondition(has_id=[one]) for one in (*UNSAFE[:2], 3)]
    some += [match("title", word) for word in WORDS]
    return [models.Filter(must=[one]) for one in some]


def outcome(ask: Callable[[], Any]) -> Any:
    """The answer as values, or the error in words without the ids that were asked for."""
    try:
        found = ask()
    except HysacError as error:
        return type(error).__name__, str(error).replace(str(GONE), "N").replace(str(UNSAFE[0]), "N")
    if isinstance(found, list):
        return [one.to_dict() for one in found]
    return found.to_dict() if hasattr(found, "to_dict") else found


def observed(index: Index) -> dict[str, Any]:
    """Everything that callers of a safe engine can see."""
    seen: dict[str, Any] = {}
    query = random_points(1, seed=77, low=3.1, high=3.2)[0]
    for traversal in ("geodesic", "adaptive", "none"):
        policy = SafetyPolicy(allow_unsafe=False, traversal=traversal, steps=4, top=3)  # type: ignore[arg-type]
        engine = SafeSearch(index, None, policy=policy)
        for row, filter in enumerate([None, *conditions()]):
            options: dict[str, Any] = {"filter": filter, "query_modality": "text"}
            seen[f"{traversal} search {row}"] = outcome(lambda: engine.search(query, limit=5, **options))  # noqa: B023
            seen[f"{traversal} groups {row}"] = outcome(lambda: engine.search_groups(query, "k", **options))  # noqa: B023
            seen[f"{traversal} explain {row}"] = outcome(lambda: engine.explain(query, steps=3, **options))  # noqa: B023
        seen[f"{traversal} penalty"] = outcome(lambda: engine.search(query, penalty=0.5))  # noqa: B023
        seen[f"{traversal} exact"] = outcome(lambda: engine.search(query, rerank="exact", offset=2))  # noqa: B023
        seen[f"{traversal} similar"] = outcome(lambda: engine.similar(UNSAFE[0]))  # noqa: B023
        examples = Examples(positive=(PointRef(1), PointRef(UNSAFE[0])))
        seen[f"{traversal} examples"] = outcome(lambda: engine.search(examples))  # noqa: B023
        seen[f"{traversal} explain stored"] = outcome(lambda: engine.explain(PointRef(UNSAFE[0])))  # noqa: B023
        seen[f"{traversal} permitted"] = sorted(engine.permitted([*SAFE, *UNSAFE, GONE]))
    seen["info"] = index.info().safe
    client = getattr(index.store, "client", None)
    return seen if client is None else seen | guarded(client, index)


def guarded(client: QdrantClient, index: Index) -> dict[str, Any]:
    safe = SafeQdrantClient(client)
    point = index.collection.lift.lift_query(random_points(1, seed=77, low=3.1, high=3.2))[0].tolist()
    seen: dict[str, Any] = {"by id": outcome(lambda: safe.query_points("points", UNSAFE[0], using="hysac"))}
    for row, filter in enumerate([None, *conditions()]):
        seen[f"query {row}"] = safe.query_points("points", point, using="hysac", query_filter=filter, limit=5)
        seen[f"scroll {row}"] = safe.scroll("points", filter, limit=5)
        seen[f"matrix {row}"] = safe.search_matrix_offsets("points", filter, sample=99, using="hysac").ids
    seen["pages"] = [safe.scroll("points", limit=3, offset=offset) for offset in (0, 3, 9, 12)]
    seen["retrieve"] = safe.retrieve("points", [*SAFE, *UNSAFE])
    return seen


unsafe_points = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(WORDS), hostile_payloads().filter(bool)), max_size=len(UNSAFE)
)


@pytest.mark.slow
@modest
@given(one=unsafe_points, other=unsafe_points, seeds=st.tuples(st.integers(0, 99), st.integers(100, 199)))
def test_nothing_that_a_caller_sees_depends_on_unsafe_points(
    index: Index, one: list[Any], other: list[Any], seeds: tuple[int, int]
) -> None:
    put(index, one, seeds[0])
    before = observed(index)
    put(index, other, seeds[1])
    after = observed(index)
    assert before.keys() == after.keys()
    for label in before:
        assert before[label] == after[label], label


def test_an_unsafe_point_is_refused_in_the_words_for_one_that_is_not_there(index: Index) -> None:
    put(index, [(0, WORDS[0], {"k": 0})], 1)
    engine = SafeSearch(index, None, policy=SafetyPolicy(allow_unsafe=False))
    for ask in (engine.similar, lambda one: engine.explain(PointRef(one)), lambda one: engine.search(PointRef(one))):
        assert outcome(lambda: ask(UNSAFE[0])) == outcome(lambda: ask(GONE))  # noqa: B023
    if client := getattr(index.store, "client", None):
        safe = SafeQdrantClient(client)
        assert outcome(lambda: safe.query_points("points", UNSAFE[0], using="hysac")) == outcome(
            lambda: safe.query_points("points", GONE, using="hysac")
        )


def test_adaptive_still_moves_a_query_no_farther_than_needed(tmp_path: Path) -> None:
    """Ordinary safe points near the query keep it where it is; borderline ones have it moved."""
    policy = SafetyPolicy(allow_unsafe=False, traversal="adaptive", steps=5, top=3)
    (query,) = random_points(1, seed=5, low=3.05, high=3.05)
    with index_on("memory", tmp_path) as index:
        engine = SafeSearch(index, None, policy=policy)
        index.upsert([1, 2, 3], random_points(3, seed=5, low=1.6, high=1.7), modality="text")
        stays = engine.search(query, query_modality="text").query
        for identity, radius in ((4, 2.28), (5, 2.29), (6, 2.3)):
            index.upsert([identity], random_points(1, seed=5, low=radius, high=radius), modality="text")
        moved = engine.search(query, query_modality="text").query
    assert [step.safe_share for step in stays.path] == [1.0] * 5
    assert not stays.redirected
    assert moved.path[0].safe_share < 1.0
    assert moved.redirected


def test_an_engine_can_be_narrowed_for_callers_who_see_only_what_is_safe() -> None:
    async def check() -> None:
        client = AsyncQdrantClient(":memory:")
        local = QdrantClient(":memory:")
        with Index.create("points", dim=DIM, curvature=CURVATURE, safety=profile(), client=local) as made:
            made.upsert([1], random_points(1, low=1.5, high=1.6), modality="text")
            made.upsert([2], random_points(1, low=3.4, high=3.5), modality="text")
            engine = aconnect("points", model=None, store=made.store)
            assert (await engine.similar(2)).query.unsafe > 0.9
            narrowed = engine.only_safe()
            assert [hit.id for hit in await narrowed.search(random_points(1)[0])] == [1]
            for ask in (narrowed.similar(2), narrowed.explain(PointRef(2)), narrowed.search([0.0] * DIM, safe=False)):
                with pytest.raises(HysacError):
                    await ask
            await narrowed.close()
        await client.close()
        local.close()

    asyncio.run(check())
