"""No method of a guarded client returns an unsafe point, and none that could is left unguarded."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient, QdrantClient, grpc, models
from qdrant_client.http.exceptions import UnexpectedResponse
from support.applications import NAME, SIZE, TEXTS, application, vector
from support.awaited import KINDS, guards
from support.hostile import allowed, counted, fill, modest, payloads, user_filters
from support.qdrant_server import QDRANT
from support.rest_server import rest_server
from support.spaces import CURVATURE, DIM, index_on, match, profile, random_points

from hysac_retrieval import AsyncSafeQdrantClient, Guard, SafeQdrantClient
from hysac_retrieval.collection.attachment import Attachment
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import HysacError, NotACollectionError, NotGuardedError, PointNotFoundError, SettingsError
from hysac_retrieval.guard.methods import METHODS, REFUSED, TOLD
from hysac_retrieval.ingest import Content, attached_collection_for
from hysac_retrieval.ingest import fill as fill_in
from hysac_retrieval.safety.filters import safety_filter
from hysac_retrieval.safety.policy import LabelRule, SafetyPolicy
from hysac_retrieval.types import Thresholds

CLIENTS = {QdrantClient: SafeQdrantClient, AsyncQdrantClient: AsyncSafeQdrantClient}
VECTOR, SHOWN = "hysac", {"with_payload": True, "with_vectors": False}


# What there is to guard.


def public(kind: type[Any]) -> set[str]:
    """Every public attribute of an installed client, of its class and of its instances."""
    client = kind(":memory:")
    try:
        return {name for name in {*dir(kind), *dir(client)} if not name.startswith("_")}
    finally:
        if kind is QdrantClient:
            client.close()
        else:
            asyncio.run(client.close())


@pytest.mark.parametrize("kind", CLIENTS)
def test_every_public_name_of_the_installed_client_is_guarded_passed_on_or_refused(kind: type[Any]) -> None:
    groups = [set(METHODS), set(TOLD), set(REFUSED)]
    assert sum(map(len, groups)) == len(set.union(*groups)), "a name is in two groups"
    assert public(kind) - {"cloud_inference", "local_inference_batch_size"} <= set.union(*groups)
    assert set.union(*groups) <= public(kind) | {"cloud_inference", "local_inference_batch_size"}


@pytest.mark.parametrize("kind", CLIENTS)
def test_every_argument_of_a_guarded_method_is_known(kind: type[Any]) -> None:
    for name, method in METHODS.items():
        parameters = inspect.signature(getattr(kind, name)).parameters
        assert list(parameters) == list(inspect.signature(getattr(QdrantClient, name)).parameters), name
        assert set(parameters) - {"self", "kwargs"} == method.arguments, name


@pytest.mark.parametrize("kind", CLIENTS)
def test_whatever_shows_points_is_guarded(kind: type[Any]) -> None:
    """By what the methods take: those that filter, or show payloads, and do not write."""
    for name in public(kind):
        value = inspect.getattr_static(kind, name, None)
        if not callable(value) or name in METHODS:
            continue
        parameters = set(inspect.signature(value).parameters)
        assert not parameters & {"with_payload", "with_vectors", "query_filter", "scroll_filter", "query"}, name


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_is_not_guarded_is_refused(kind: type[Any]) -> None:
    client = kind(":memory:")
    safe = CLIENTS[kind](client)
    hidden = [
        "_client",
        "_http",
        "client",
        "rest",
        "openapi_client",
        "_embed_documents",
        "query",
        "search",
        "recommend",
    ]
    for name in [*REFUSED, *hidden]:
        assert not hasattr(safe, name), name
        with pytest.raises(NotGuardedError, match=name):
            getattr(safe, name)
    assert isinstance(NotGuardedError(), HysacError)
    assert isinstance(safe, kind)  # frameworks check; it inherits nothing from it
    assert not issubclass(type(safe), kind)
    assert set(dir(safe)) == {*METHODS, *TOLD, "refresh"}
    for name in METHODS:
        assert inspect.iscoroutinefunction(getattr(safe, name)) is (kind is AsyncQdrantClient)
        assert "collection_name" in inspect.signature(getattr(safe, name)).parameters
    assert "write with the application's own client" in REFUSED["upsert"]
    if kind is QdrantClient:
        client.close()
    else:
        asyncio.run(client.close())


# What the guarded methods return.


@pytest.fixture(scope="module", params=["memory", *QDRANT])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    fields = {"k": "integer"}  # a server orders and counts by what is indexed
    with index_on(request.param, tmp_path_factory.mktemp("guard"), index_fields=fields) as made:
        yield made


def client_of(index: Index) -> QdrantClient:
    client: QdrantClient = index.store.client  # type: ignore[attr-defined]
    return client


@pytest.fixture(scope="module", params=KINDS)
def guarded(request: pytest.FixtureRequest, index: Index) -> Iterator[Callable[..., Any]]:
    """Makes guards of the index's client, blocking ones or asynchronous ones."""
    with guards(request.param, client_of(index)) as (_, made):
        yield made


def nested(point: list[float], user: models.Filter | None, some: list[int]) -> models.Prefetch:
    innermost = models.Prefetch(query=point, using=VECTOR, filter=user, limit=40)
    by_id = models.Prefetch(filter=models.Filter(must=[models.HasIdCondition(has_id=some)]), limit=40)
    return models.Prefetch(prefetch=[innermost, by_id], query=point, using=VECTOR, limit=40)


def ids(points: Iterable[Any]) -> list[Any]:
    return [point.id for point in points]


Request = Callable[[Any, list[float], models.Filter | None, list[int]], list[Any]]
REQUESTS: dict[str, Request] = {
    "nearest": lambda c, q, user, some: ids(
        c.query_points("points", q, using=VECTOR, query_filter=user, limit=40).points
    ),
    "no query": lambda c, q, user, some: ids(c.query_points("points", query_filter=user, limit=40, offset=1).points),
    "by id": lambda c, q, user, some: ids(c.query_points("points", some[0], using=VECTOR, limit=40).points),
    "recommend": lambda c, q, user, some: ids(
        c.query_points(
            "points",
            models.RecommendQuery(recommend=models.RecommendInput(positive=[q, some[0]], negative=[some[-1]])),
            using=VECTOR,
            query_filter=user,
            limit=40,
        ).points
    ),
    "discover": lambda c, q, user, some: ids(
        c.query_points(
            "points",
            models.DiscoverQuery(
                discover=models.DiscoverInput(target=q, context=models.ContextPair(positive=q, negative=some[0]))
            ),
            using=VECTOR,
            limit=40,
        ).points
    ),
    "context": lambda c, q, user, some: ids(
        c.query_points(
            "points",
            models.ContextQuery(context=[models.ContextPair(positive=some[0], negative=q)]),
            using=VECTOR,
            limit=40,
        ).points
    ),
    "sample": lambda c, q, user, some: ids(
        c.query_points("points", models.SampleQuery(sample=models.Sample.RANDOM), query_filter=user, limit=40).points
    ),
    "order": lambda c, q, user, some: ids(
        c.query_points("points", models.OrderByQuery(order_by="k"), query_filter=user, limit=40).points
    ),
    "fusion": lambda c, q, user, some: ids(
        c.query_points(
            "points",
            models.FusionQuery(fusion=models.Fusion.RRF),
            prefetch=[nested(q, user, some), models.Prefetch(query=q, using=VECTOR, limit=40)],
            limit=40,
        ).points
    ),
    "formula": lambda c, q, user, some: ids(
        c.query_points("points", models.FormulaQuery(formula="$score"), prefetch=nested(q, user, some), limit=40).points
    ),
    "rescoring": lambda c, q, user, some: ids(
        c.query_points("points", q, using=VECTOR, prefetch=nested(q, user, some), query_filter=user, limit=40).points
    ),
    "batch": lambda c, q, user, some: [
        identity
        for response in c.query_batch_points(
            "points",
            [
                models.QueryRequest(query=q, using=VECTOR, filter=user, limit=40, with_payload=True),
                models.QueryRequest(prefetch=nested(q, user, some), query=q, using=VECTOR, limit=40),
            ],
        )
        for identity in ids(response.points)
    ],
    "groups": lambda c, q, user, some: [
        identity
        for group in c.query_points_groups(
            "points", "k", q, using=VECTOR, query_filter=user, limit=9, group_size=40
        ).groups
        for identity in ids(group.hits)
    ],
    "groups of a prefetch": lambda c, q, user, some: [
        identity
        for group in c.query_points_groups(
            "points", "k", q, using=VECTOR, prefetch=[nested(q, user, some)], limit=9, group_size=40
        ).groups
        for identity in ids(group.hits)
    ],
    "scroll": lambda c, q, user, some: ids(c.scroll("points", user, 40, **SHOWN)[0]),
    "scroll in order": lambda c, q, user, some: ids(c.scroll("points", user, 40, order_by="k")[0]),
    "the next page": lambda c, q, user, some: [c.scroll("points", user, 1)[1]],
    "retrieve": lambda c, q, user, some: ids(c.retrieve("points", some, **SHOWN)),
    "matrix of pairs": lambda c, q, user, some: [
        identity
        for pair in c.search_matrix_pairs("points", user, limit=40, sample=40, using=VECTOR).pairs
        for identity in (pair.a, pair.b)
    ],
    "matrix of offsets": lambda c, q, user, some: (
        c.search_matrix_offsets("points", user, limit=40, sample=40, using=VECTOR).ids
    ),
}
"""Requests for points, one of every kind."""

hostile_rows = st.lists(payloads(), min_size=1, max_size=30)
users = st.one_of(st.none(), user_filters())
some_ids = st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True)


def test_the_requests_cover_every_guarded_method() -> None:
    source = inspect.getsource(inspect.getmodule(ids))  # type: ignore[arg-type]
    for name in METHODS.keys() - {"count", "facet"}:  # which have a test of their own
        assert f"c.{name}(" in source, name


def found_by(
    label: str, safe: Any, point: list[float], user: models.Filter | None, some: list[int]
) -> list[Any] | None:
    """Ids that come back; None where a query is refused because it is made of an unsafe point."""
    try:
        return [identity for identity in REQUESTS[label](safe, point, user, some) if identity is not None]
    except PointNotFoundError:
        return None


@pytest.mark.slow
@modest
@given(
    rows=hostile_rows,
    seed=st.integers(0, 1000),
    user=users,
    some=some_ids,
    threshold=st.one_of(st.none(), st.floats(0, 0.5)),
)
def test_no_method_returns_an_unsafe_point(
    index: Index,
    rows: list[dict[str, Any] | None],
    seed: int,
    user: models.Filter | None,
    some: list[int],
    threshold: float | None,
    guarded: Callable[..., Any],
) -> None:
    there = fill(index, rows, seed)
    own, bound = index.metadata.fingerprint, 0.5 if threshold is None else threshold
    safe = guarded(SafetyPolicy(threshold=threshold))
    stored = index.collection.lift.lift_query(random_points(1, seed + 1))[0].tolist()
    made_of = {"by id": some[:1], "discover": some[:1], "context": some[:1], "recommend": [some[0], some[-1]]}
    for label in REQUESTS:
        found = found_by(label, safe, stored, user, some)
        for identity in found or ():
            assert allowed(there[int(identity)][1], bound, own), (label, there[int(identity)][1])
        used = made_of.get(label, [])
        refused = any(row not in there or not allowed(there[row][1], bound, own) for row in used)
        assert (found is None) is refused, label


@modest
@given(rows=hostile_rows, seed=st.integers(0, 1000), user=users, threshold=st.floats(0, 0.5))
def test_counts_are_of_safe_points(
    index: Index,
    guarded: Callable[..., Any],
    rows: list[dict[str, Any] | None],
    seed: int,
    user: models.Filter | None,
    threshold: float,
) -> None:
    there = fill(index, rows, seed)
    own = index.metadata.fingerprint
    safe = guarded(SafetyPolicy(threshold=threshold))
    good = [payload for _, payload in there.values() if counted(payload, threshold, own)]
    assert safe.count("points").count == len(good)
    assert safe.count("points", user).count <= len(good)
    facets = {hit.value: hit.count for hit in safe.facet("points", "k", limit=9).hits}
    assert facets == {k: n for k in range(4) if (n := sum(payload["k"] == k for payload in good))}
    models_named = {hit.value for hit in safe.facet("points", "hysac.model", user, limit=9).hits}
    assert models_named <= {own}


def test_counts_are_exact_whatever_is_asked_for() -> None:
    """An estimate of "safe, and a weapon" is made of both apart, and so tells of weapons that are unsafe."""
    with application("server", Path()) as app:
        assert app.server is not None
        safe = SafeQdrantClient(QdrantClient(app.server.url), guard=Guard("m", 0.5))
        safe.count(NAME, exact=False)
        safe.count(NAME)
        with suppress(UnexpectedResponse):  # the stub knows no facets
            safe.facet(NAME, "price", exact=False)
        bodies = [*app.server.bodies("POST", f"/collections/{NAME}/points/count")]
        bodies += app.server.bodies("POST", f"/collections/{NAME}/facet")
        assert [body["exact"] for body in bodies] == [True, True, True]


def test_a_filter_that_was_handed_out_can_be_changed_without_changing_any_other() -> None:
    guard = Guard("m", 0.5, models.Filter(must=[match("k", 1)]))
    for made in (guard, Guard("m", 0.5)):
        before = made.filter().model_dump()
        handed_out = made.filter()
        handed_out.must = []
        handed_out.must_not.clear()  # type: ignore[union-attr]
        deeper = made.filter()
        deeper.must[1].range.lte = 1.0  # type: ignore[index, union-attr]
        assert made.filter().model_dump() == before


@modest
@given(rows=hostile_rows, seed=st.integers(0, 1000), some=some_ids)
def test_safe_points_are_returned(
    index: Index, guarded: Callable[..., Any], rows: list[dict[str, Any] | None], seed: int, some: list[int]
) -> None:
    there = fill(index, rows, seed)
    own = index.metadata.fingerprint
    good = {row for row, (_, payload) in there.items() if allowed(payload, 0.5, own)}
    safe = guarded()
    point = index.collection.lift.lift_query(random_points(1, seed + 1))[0].tolist()
    for label in ("nearest", "fusion", "rescoring", "batch", "groups", "scroll", "matrix of offsets"):
        if label != "matrix of offsets" or len(good) > 1:
            assert set(found_by(label, safe, point, None, some) or ()) == good, label
    assert found_by("retrieve", safe, point, None, some) == [row for row in some if row in good]
    page, following = safe.scroll("points", limit=1)
    assert len(page) == min(1, len(good))
    assert following is None or following in good


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Index]:
    """Point 1 is safe, point 2 is not, point 3 has no score."""
    with index_on("memory", tmp_path) as made:
        made.upsert([1], random_points(1, low=1.5, high=1.6), modality="text", payloads=[{"k": "a"}])
        made.upsert([2], random_points(1, seed=3, low=3.4), modality="text", payloads=[{"k": "b"}])
        lifted = made.collection.lift.lift(random_points(1, seed=4))
        made.store.upsert(made.name, [3], lifted, [{"k": "c"}])
        yield made


def recommend(*positive: Any) -> models.RecommendQuery:
    return models.RecommendQuery(recommend=models.RecommendInput(positive=list(positive)))


@pytest.mark.parametrize("identity", [2, 3, 99])
def test_a_query_made_of_a_point_that_is_not_safe_is_refused_wherever_it_stands(small: Index, identity: int) -> None:
    safe = SafeQdrantClient(client_of(small))
    inner = models.Prefetch(query=identity, using=VECTOR)
    for query in (identity, models.NearestQuery(nearest=identity), recommend(1, identity)):
        with pytest.raises(PointNotFoundError, match=str(identity)):
            safe.query_points("points", query, using=VECTOR)
    for prefetch in (inner, [inner], models.Prefetch(prefetch=[inner], query=[0.0] * (DIM + 2), using=VECTOR)):
        with pytest.raises(PointNotFoundError, match=str(identity)):
            safe.query_points("points", models.FusionQuery(fusion=models.Fusion.RRF), prefetch=prefetch)
        with pytest.raises(PointNotFoundError, match=str(identity)):
            safe.query_batch_points("points", [models.QueryRequest(prefetch=prefetch, query=1, using=VECTOR)])
    feedback = models.RelevanceFeedbackQuery(
        relevance_feedback=models.RelevanceFeedbackInput(
            target=1,
            feedback=[models.FeedbackItem(example=identity, score=1.0)],
            strategy=models.NaiveFeedbackStrategy(naive=models.NaiveFeedbackStrategyParams(a=1.0, b=1.0, c=1.0)),
        )
    )
    with pytest.raises(PointNotFoundError, match=str(identity)):
        safe.query_points("points", feedback, using=VECTOR)
    assert ids(safe.query_points("points", recommend(1), using=VECTOR).points) == []


def refused_calls() -> dict[str, Callable[[Any], Any]]:
    here = models.LookupLocation(collection="points")
    corpus = models.SearchParams(idf=models.IdfCorpusParams(corpus=models.Filter()))
    query = [0.0] * (DIM + 2)
    return {
        "idf": lambda c: c.query_points("points", query, search_params=corpus),
        "idf in a prefetch": lambda c: c.query_points("points", query, prefetch=models.Prefetch(params=corpus)),
        "a dict as a query": lambda c: c.query_points("points", {"nearest": 2}),
        "a dict with more in it": lambda c: c.query_points("points", query, prefetch={"query": 2, "all": True}),
        "a dict as a request": lambda c: c.query_batch_points("points", [{"query": 2}]),
        "a filter of gRPC": lambda c: c.scroll("points", grpc.Filter()),
        "an id of gRPC": lambda c: c.query_points("points", grpc.PointId(num=2)),
        "a filter that is none": lambda c: c.count("points", {"should_have": []}),
        "an unknown argument": lambda c: c.scroll("points", with_everything=True),
        "a truth as an id": lambda c: c.query_points("points", True, lookup_from=here),
    }


@pytest.mark.parametrize("case", refused_calls())
def test_what_cannot_be_judged_is_refused(small: Index, case: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:  # SettingsError and InputError are both
        refused_calls()[case](SafeQdrantClient(client_of(small)))
    assert isinstance(caught.value, HysacError)


def test_points_may_be_looked_up_in_the_collection_itself(small: Index) -> None:
    small.upsert([4], random_points(1, seed=9, low=1.5, high=1.6), modality="text")
    safe = SafeQdrantClient(client_of(small))
    here = models.LookupLocation(collection="points", vector=VECTOR)
    assert ids(safe.query_points("points", 1, using=VECTOR, lookup_from=here).points) == [4]


def test_arguments_by_position_and_by_name_mean_the_same(small: Index) -> None:
    safe = SafeQdrantClient(client_of(small))
    wanted = models.Filter(must=[match("k", "a")])
    assert safe.scroll("points", wanted, 5) == safe.scroll(limit=5, scroll_filter=wanted, collection_name="points")
    assert ids(safe.retrieve("points", [2, 1, 3, 1])) == [1, 1]
    assert safe.retrieve("points", []) == []
    assert safe.retrieve("points", [1], with_payload=["k"], with_vectors=True)[0].payload == {"k": "a"}
    with pytest.raises(TypeError):
        safe.scroll()


def test_a_filter_of_the_caller_may_be_json(small: Index) -> None:
    guard = Guard.of(small.metadata)
    safe = SafeQdrantClient(client_of(small))
    assert safe.count("points", {"must": [{"key": "k", "match": {"value": "b"}}]}).count == 0
    assert guard.filter() == safety_filter(Thresholds.both(0.5), small.metadata.fingerprint)
    user = models.Filter(should=[match("k", "b")])
    assert user in guard.filter(user).must  # type: ignore[operator]
    assert len(client_of(small).scroll("points", guard.filter(user, modality="text"))[0]) == 0


def test_a_policy_says_what_is_safe(small: Index) -> None:
    client = client_of(small)
    assert SafeQdrantClient(client).count("points").count == 1
    assert SafeQdrantClient(client, SafetyPolicy(threshold=0.0)).count("points").count == 0
    assert SafeQdrantClient(client, SafetyPolicy(rules=(LabelRule("k", deny=("a",)),))).count("points").count == 0
    own = Guard(fingerprint=small.metadata.fingerprint, threshold=1.0)
    assert SafeQdrantClient(client, guard=own).count("points").count == 1  # never looser than the calibration's verdict
    with pytest.raises(SettingsError, match="threshold"):
        SafeQdrantClient(client, SafetyPolicy(threshold=0.7)).count("points")
    with pytest.raises(SettingsError, match="one of them"):
        SafeQdrantClient(client, SafetyPolicy(), guard=own)
    for wrong in ({"policy": 0.5}, {"guard": 0.5}):
        with pytest.raises(SettingsError, match="float"):
            SafeQdrantClient(client, **wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"QdrantClient$"):
        SafeQdrantClient(AsyncSafeQdrantClient)
    for fingerprint, threshold in (("", 0.5), ("x", 1.5), ("x", None)):
        with pytest.raises(SettingsError):
            Guard(fingerprint, threshold)  # type: ignore[arg-type]


def test_a_collection_without_metadata_is_refused_and_an_attached_one_taken_up(small: Index) -> None:
    client = client_of(small)
    client.create_collection("other", {"own": models.VectorParams(size=3, distance=models.Distance.COSINE)})
    client.upsert("other", [models.PointStruct(id=1, vector={"own": [1, 2, 3]}, payload={})])
    safe = SafeQdrantClient(client)
    with pytest.raises(NotACollectionError, match="attach"):
        safe.scroll("other")
    with Index.attach("other", dim=DIM, curvature=CURVATURE, safety=profile(), client=client) as index:
        assert safe.count("other").count == 0
        index.annotate([1], random_points(1, low=1.5, high=1.6), modality="text")
        assert safe.count("other").count == 1
        Attachment.of(index.store, index.collection).erase([1])
        assert safe.count("other").count == 0
    guard = Guard.open("other", client=client)
    assert guard == Guard.of(small.metadata.model_copy(update={"fingerprint": guard.fingerprint}))


def test_a_guard_is_found_anew_when_told(small: Index) -> None:
    client = client_of(small)
    safe = SafeQdrantClient(client)
    assert safe.count("points").count == 1
    changed = small.metadata.model_copy(update={"fingerprint": "another"})
    small.store.write_metadata("points", changed.model_dump(mode="json", exclude_none=True))
    client.set_payload("points", {"model": "another"}, [1], key="hysac")
    client.set_payload("points", {"another": True}, [1], key="hysac.safe")
    safe.refresh()
    asked = []
    read = client.get_collection
    client.get_collection = lambda **kwargs: (asked.append(kwargs), read(**kwargs))[1]  # type: ignore[func-returns-value, method-assign]
    assert safe.count("points").count == 1
    assert len(asked) == 1


def test_facts_about_collections_are_passed_on(small: Index) -> None:
    safe = SafeQdrantClient(client_of(small))
    assert safe.collection_exists("points")
    assert [found.name for found in safe.get_collections().collections] == ["points"]
    assert safe.get_collection("points").config.params.vectors.keys() == {VECTOR}


def test_the_asynchronous_twin_does_the_same(small: Index) -> None:
    async def check() -> None:
        client = AsyncQdrantClient(":memory:")
        info = client_of(small).get_collection("points")
        await client.create_collection(
            "points", vectors_config=info.config.params.vectors, metadata=info.config.metadata
        )
        records, _ = client_of(small).scroll("points", with_vectors=True)
        await client.upsert(
            "points",
            [models.PointStruct(id=r.id, vector=r.vector, payload=r.payload) for r in records],  # type: ignore[arg-type]
        )
        safe = AsyncSafeQdrantClient(client)
        query = [0.0] * (DIM + 2)
        prefetch = models.Prefetch(query=query, using=VECTOR, limit=9)
        assert ids((await safe.query_points("points", query, using=VECTOR)).points) == [1]
        assert ids((await safe.query_points("points", query, using=VECTOR, prefetch=prefetch)).points) == [1]
        assert ids((await safe.scroll("points"))[0]) == [1]
        assert ids(await safe.retrieve("points", [3, 2, 1])) == [1]
        assert (await safe.count("points")).count == 1
        assert [hit.value for hit in (await safe.facet("points", "k")).hits] == ["a"]
        groups = (await safe.query_points_groups("points", "k", query, using=VECTOR)).groups
        assert [group.id for group in groups] == ["a"]
        (response,) = await safe.query_batch_points("points", [models.QueryRequest(query=query, using=VECTOR)])
        assert ids(response.points) == [1]
        assert (await safe.search_matrix_offsets("points", using=VECTOR)).ids in ([], [1])
        assert (await safe.search_matrix_pairs("points", using=VECTOR)).pairs == []
        with pytest.raises(PointNotFoundError):
            await safe.query_points("points", 2, using=VECTOR)
        with pytest.raises(SettingsError):
            await safe.scroll("points", grpc.Filter())
        with pytest.raises(NotGuardedError):
            await safe.upsert("points", [])
        with pytest.raises(SettingsError, match="AsyncQdrantClient"):
            AsyncSafeQdrantClient(client_of(small))
        assert await safe.collection_exists("points")
        await safe.close()

    asyncio.run(check())


def test_the_condition_is_on_the_wire_in_every_stage(tmp_path: Path) -> None:
    with rest_server() as server:
        with Index.create("points", dim=DIM, curvature=CURVATURE, safety=profile(), url=server.url) as made:
            made.upsert([1], random_points(1, low=1.5, high=1.6), modality="text")
            wanted: Any = Guard.of(made.metadata).filter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = QdrantClient(url=server.url, check_compatibility=False)
        safe = SafeQdrantClient(client)
        request = models.QueryRequest(
            prefetch=[nested([0.0] * (DIM + 2), None, [1]), models.Prefetch(query=1, using=VECTOR)],
            query=models.FusionQuery(fusion=models.Fusion.RRF),
        )
        (response,) = safe.query_batch_points("points", [request])
        assert ids(response.points) == [1]
        (body,) = server.bodies("POST", "/collections/points/points/query/batch")

        def stages(stage: dict[str, Any]) -> Iterator[dict[str, Any]]:
            yield stage
            inner = stage.get("prefetch") or []
            for one in inner if isinstance(inner, list) else [inner]:
                yield from stages(one)

        found = list(stages(body["searches"][0]))
        assert len(found) == 5
        for stage in found:
            sent: Any = models.Filter.model_validate(stage["filter"])
            assert all(condition in sent.must for condition in wanted.must)
            assert all(condition in sent.must_not for condition in wanted.must_not)
        looked_up = [body for body in server.bodies("POST", "/collections/points/points/scroll") if body["limit"] == 1]
        assert looked_up
        client.close()


@pytest.mark.parametrize("named", [True, False])
def test_an_application_keeps_ranking_with_its_own_vectors(named: bool, tmp_path: Path, toy_bundle: Path) -> None:
    encoder = Encoder.load(toy_bundle, threads=1)
    content = Content(text="title")
    with application("memory", tmp_path, named=named) as app:
        assert app.client is not None
        with attached_collection_for(encoder, NAME, content, **app.place) as index:
            assert index.name == NAME
            fill_in(index, encoder, content)
        using = {"using": "own"} if named else {}
        everything = app.client.query_points(NAME, vector(3), limit=9, **using).points
        safe = SafeQdrantClient(app.client).query_points(NAME, vector(3), limit=9, **using).points
        harmless = [point for point in everything if not {"gun", "knife"} & set(TEXTS[int(point.id)].split())]
        assert [(point.id, point.score) for point in safe] == [(point.id, point.score) for point in harmless]
        assert len(everything) == len(TEXTS) > len(safe)
        assert len(vector(3)) == SIZE
