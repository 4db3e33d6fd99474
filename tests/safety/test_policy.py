from __future__ import annotations

import asyncio
import json
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models
from support.hostile import modest, user_filters
from support.spaces import STORES, index_on, match, random_points

from hysac_retrieval import aconnect
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import PointNotFoundError, SettingsError, UnsafeNotAllowedError
from hysac_retrieval.safety.policy import AuditRecord, LabelRule, SafetyPolicy
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.queries import Examples, PointRef
from hysac_retrieval.types import MODALITIES, Thresholds

# Labels as points may carry them: values, lists, mixtures, and what is no label at all.
LABELS = ["violence", "weapons", "pets", "", 1, 2, 1.0, True, False, None, {"x": 1}, "Violence"]
label_values = st.one_of(st.sampled_from(LABELS), st.lists(st.sampled_from(LABELS), max_size=3))
labelled = st.lists(st.one_of(st.just({}), st.fixed_dictionaries({"label": label_values})), min_size=1, max_size=20)
words, numbers = st.sampled_from(["violence", "weapons", "pets"]), st.sampled_from([1, 2])
rules = st.builds(
    LabelRule,
    key=st.just("label"),
    deny=st.lists(st.one_of(words, numbers, st.booleans()), min_size=1, max_size=3),
    always=st.booleans(),
) | st.builds(
    LabelRule,
    key=st.just("label"),
    allow=st.one_of(
        st.lists(words, min_size=1, max_size=2), st.lists(numbers, min_size=1, max_size=2), st.tuples(st.booleans())
    ),
    always=st.booleans(),
)


both = st.builds(Thresholds, st.floats(0, 0.99), st.floats(0, 0.99))
named = st.none() | st.floats(0, 1) | st.dictionaries(st.sampled_from(MODALITIES), st.floats(0, 1), min_size=1)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Index]]:
    folder = tmp_path_factory.mktemp("policy")
    with index_on("edge", folder) as edge, index_on("memory", folder) as memory:
        yield {"edge": edge, "memory": memory}


def fill(index: Index, payloads: list[dict[str, Any]]) -> None:
    index.delete(range(50))
    index.upsert(range(len(payloads)), random_points(len(payloads), high=2.0), modality="image", payloads=payloads)


def carried(payload: dict[str, Any]) -> list[Any]:
    """The labels of a point: null is none."""
    value = payload.get("label")
    return [label for label in (value if isinstance(value, list) else [value]) if label is not None]


def same(label: Any, other: Any) -> bool:
    return label == other and isinstance(label, bool) == isinstance(other, bool)


def denied(rule: LabelRule, payload: dict[str, Any]) -> bool:
    """Whether a rule keeps a point out, spelled out from the payload alone."""
    labels = carried(payload)
    if any(same(label, wrong) for label in labels for wrong in rule.deny):
        return True
    if rule.allow is None:
        return False
    return not labels or not all(any(same(label, right) for right in rule.allow) for label in labels)


@pytest.mark.parametrize("store", STORES)
@modest
@given(
    payloads=labelled,
    chosen=st.lists(rules, min_size=1, max_size=2),
    user=st.one_of(st.none(), user_filters()),
    safe=st.booleans(),
)
def test_no_point_with_a_denied_label_is_found(
    store: str,
    indexes: dict[str, Index],
    payloads: list[dict[str, Any]],
    chosen: list[LabelRule],
    user: models.Filter | None,
    safe: bool,
) -> None:
    fill(indexes[store], payloads)
    engine = SafeSearch(indexes[store], None, policy=SafetyPolicy(rules=tuple(chosen)))
    for hit in engine.search(random_points(1, 9)[0], limit=40, filter=user, safe=safe):
        payload = payloads[int(hit.id)]
        assert not any(denied(rule, payload) for rule in chosen if safe or rule.always), payload


@pytest.mark.parametrize("store", STORES)
def test_what_a_policy_excludes_is_no_query(store: str, indexes: dict[str, Index]) -> None:
    """What is near a point tells what it is, so such a point is as good as absent."""
    index, count = indexes[store], 12
    index.delete(range(50))
    labels = [{"label": "pets" if row % 2 else "weapons"} for row in range(count)]
    index.upsert(range(count), random_points(count), modality="image", payloads=labels)
    safe = SafeSearch(index, None).permitted(range(count))
    one = min(row for row in safe if row % 2)

    def refused(policy: SafetyPolicy, ask: Callable[[SafeSearch, int], Any]) -> set[int]:
        engine, found = SafeSearch(index, None, policy=policy), set()
        for row in range(count):
            try:
                ask(engine, row)
            except PointNotFoundError as error:
                assert str(error) == f"collection 'points' has no point {row}. Give the id of one it has"  # noqa: PT017
                found.add(row)
        return found

    asks: list[Callable[[SafeSearch, int], Any]] = [
        lambda engine, row: engine.similar(row),
        lambda engine, row: engine.search(Examples([PointRef(one)], [PointRef(row)])),
        lambda engine, row: engine.search_groups(PointRef(row), "label"),
        lambda engine, row: engine.explain(PointRef(row)),
    ]
    for ask in asks:
        assert refused(SafetyPolicy(), ask) == set()
        assert refused(SafetyPolicy(allow_unsafe=False), ask) == set(range(count)) - safe
        weapons = LabelRule("label", deny=("weapons",))
        assert refused(SafetyPolicy(rules=(weapons,)), ask) == set(range(0, count, 2))


@given(payloads=labelled, rule=rules)
def test_what_is_found_is_held_to_the_rules_once_more(payloads: list[dict[str, Any]], rule: LabelRule) -> None:
    assert [rule.admits(payload) for payload in payloads] == [not denied(rule, payload) for payload in payloads]


@pytest.mark.parametrize("store", STORES)
@modest
@given(payloads=labelled, words=st.lists(words, min_size=1, max_size=2), denies=st.booleans())
def test_a_rule_keeps_out_no_other_point(
    store: str, indexes: dict[str, Index], payloads: list[dict[str, Any]], words: list[str], denies: bool
) -> None:
    rule = LabelRule("label", deny=words) if denies else LabelRule("label", allow=words)  # type: ignore[arg-type]
    fill(indexes[store], payloads)
    engine = SafeSearch(indexes[store], None, policy=SafetyPolicy(rules=(rule,)))
    found = {hit.id for hit in engine.search(random_points(1, 9)[0], limit=40)}
    assert found == {row for row, payload in enumerate(payloads) if not denied(rule, payload)}


@pytest.mark.parametrize("store", STORES)
def test_rules_hold_in_groups_and_explanations_and_pages(store: str, indexes: dict[str, Index]) -> None:
    payloads: list[dict[str, Any]] = [{"label": ["pets", "weapons"]}, {"label": "weapons"}, {"label": "pets"}, {}] * 3
    fill(indexes[store], payloads)
    rule = LabelRule("label", deny={"weapons"}, always=True)  # type: ignore[arg-type]
    engine = SafeSearch(indexes[store], None, policy=SafetyPolicy(rules=(rule,), traversal="adaptive"))
    point = random_points(1, 9, low=3.4)[0]
    allowed = {2, 3, 6, 7, 10, 11}
    for safe in (True, False):
        groups = engine.search_groups(point, "label", safe=safe)
        assert {group.value for group in groups} == {"pets"}
        shown = {hit.id for step in engine.explain(point, near=20, safe=safe).steps for hit in step.nearest}
        assert shown == allowed
        pages = [hit.id for offset in (0, 4) for hit in engine.search(point, safe=safe, limit=4, offset=offset)]
        assert set(pages) == allowed


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": "", "deny": ("a",)},
        {"key": "k"},
        {"key": "k", "deny": "violence"},
        {"key": "k", "deny": (1.5,)},
        {"key": "k", "deny": 3},
        {"key": "k", "allow": ()},
        {"key": "k", "allow": ("a", 1)},
        {"key": "k", "allow": (True, False)},
        {"key": "k", "allow": ("a", "b"), "deny": ("b",)},
    ],
)
def test_a_rule_that_means_nothing_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        LabelRule(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"max_threshold": 2}, "threshold"),
        ({"threshold": 0.4, "max_threshold": 0.3}, "max_threshold"),
        ({"allow_unsafe": "no"}, "allow_unsafe"),
        ({"traversal": "sideways"}, "sideways"),
        ({"steps": 1}, "steps"),
        ({"steps": 65}, "steps"),
        ({"top": 0}, "top"),
        ({"rules": ("violence",)}, "LabelRule"),
        ({"audit": "log"}, "audit"),
    ],
)
def test_a_policy_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SafetyPolicy(**arguments)


def test_an_audit_that_would_never_run_is_refused() -> None:
    async def audit(record: AuditRecord) -> None:
        pass

    with pytest.raises(SettingsError, match="coroutine"):
        SafetyPolicy(audit=audit)  # type: ignore[arg-type]


def test_a_policy_cannot_be_changed() -> None:
    policy = SafetyPolicy(rules=[LabelRule("label", deny=["b", "a"])])  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        policy.allow_unsafe = False  # type: ignore[misc]
    assert policy.rules[0].deny == ("a", "b")
    assert hash(policy) == hash(SafetyPolicy(rules=(LabelRule("label", deny=("a", "b")),)))


def test_a_call_is_only_stricter_unless_the_policy_lets_it_be_looser() -> None:
    strict, lenient = SafetyPolicy(threshold=0.1), SafetyPolicy(threshold=0.1, max_threshold=0.3)
    half = Thresholds.both(0.5)
    assert strict.threshold_for(None, half) == lenient.threshold_for(None, half) == Thresholds.both(0.1)
    assert strict.threshold_for(0.05, half) == Thresholds.both(0.05)
    with pytest.raises(SettingsError, match="threshold"):
        strict.threshold_for(0.2, half)
    assert lenient.threshold_for(0.2, half) == Thresholds.both(0.2)
    with pytest.raises(SettingsError, match="threshold"):
        lenient.threshold_for(0.4, half)
    assert SafetyPolicy().threshold_for(None, half) == half


@given(
    calibrated=both,
    policy=named,
    most=named,
    call=named,
)
def test_no_policy_and_no_call_is_looser_than_the_calibration_of_a_modality(
    calibrated: Thresholds, policy: Any, most: Any, call: Any
) -> None:
    try:
        limits = SafetyPolicy(threshold=policy, max_threshold=most)
        usual, found = limits.threshold_for(None, calibrated), limits.threshold_for(call, calibrated)
    except SettingsError:
        return
    for kind in MODALITIES:
        assert 0 <= found.of(kind) <= calibrated.of(kind)
        assert most is not None or found.of(kind) <= usual.of(kind)
        for asked, thresholds in ((policy, usual), (call, found)):
            each = asked.get(kind) if isinstance(asked, dict) else asked
            assert each is None or thresholds.of(kind) == each or (thresholds.of(kind) <= each and asked is each)


def test_each_modality_has_a_threshold_of_its_own() -> None:
    calibrated = Thresholds(text=0.5, image=0.1)
    policy = SafetyPolicy(threshold={"text": 0.3})
    assert policy.threshold_for(None, calibrated) == Thresholds(0.3, 0.1)
    assert policy.threshold_for({"image": 0.05}, calibrated) == Thresholds(0.3, 0.05)
    assert SafetyPolicy(threshold=0.3).threshold_for(None, calibrated) == Thresholds(0.3, 0.1)
    with pytest.raises(SettingsError, match=r"0\.2 for images; .* 0\.1"):
        policy.threshold_for({"image": 0.2}, calibrated)
    with pytest.raises(SettingsError, match=r"0\.6"):
        SafetyPolicy(threshold=0.6).threshold_for(None, calibrated)
    with pytest.raises(SettingsError, match="below the threshold"):
        SafetyPolicy(threshold={"image": 0.3}, max_threshold={"image": 0.2})


@pytest.mark.parametrize(
    "value", [{}, {"video": 0.1}, {"text": None}, {"text": "0.1"}, {"text": True}, {"image": -0.1}, {"image": math.nan},
              {"image": math.inf}, {"image": 1.5}, [0.1, 0.2], "0.1", b"1", True, math.nan, 1.5],
)  # fmt: skip
def test_what_is_no_threshold_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="threshold"):
        SafetyPolicy(threshold=value)


class Lying(float):
    """A number that says of itself that it is smaller than any other."""

    def __le__(self, other: Any) -> bool:
        return True

    __lt__ = __le__
    __gt__ = __ge__ = lambda self, other: False  # type: ignore[assignment]


def test_a_policy_keeps_values_and_no_objects_of_a_caller() -> None:
    mutable = {"text": 0.1}
    policy = SafetyPolicy(threshold=mutable)
    mutable["text"] = 0.4
    assert policy.threshold_for(None, Thresholds.both(0.5)) == Thresholds(0.1, 0.5)
    assert pickle.loads(pickle.dumps(policy)) == policy
    for lie in (Lying(0.9), {"text": Lying(0.9)}, Thresholds(Lying(0.9), 0.1)):
        with pytest.raises(SettingsError, match="threshold"):
            SafetyPolicy().threshold_for(lie, Thresholds.both(0.5))


def test_no_policy_is_looser_than_the_calibration(tmp_path: Path) -> None:
    with index_on("memory", tmp_path) as index:
        for policy in (SafetyPolicy(threshold=0.6), SafetyPolicy(max_threshold=0.6)):
            with pytest.raises(SettingsError, match=r"0\.6"):
                SafeSearch(index, None, policy=policy)
        with pytest.raises(SettingsError, match="SafetyPolicy"):
            SafeSearch(index, None, policy={"allow_unsafe": False})  # type: ignore[arg-type]


ASKS: dict[str, Callable[[SafeSearch, Any, Any], Any]] = {
    "search": lambda engine, point, options: engine.search(point, **options),
    "search_groups": lambda engine, point, options: engine.search_groups(point, "album", size=8, **options),
    "explain": lambda engine, point, options: engine.explain(point, near=8, **options),
}


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[tuple[SafeSearch, list[AuditRecord]]]:
    records: list[AuditRecord] = []
    with index_on("memory", tmp_path) as index:
        index.upsert(range(8), random_points(8), modality="image", payloads=[{"album": "a"}] * 8)
        yield SafeSearch(index, None, policy=SafetyPolicy(audit=records.append)), records


@pytest.mark.parametrize("operation", ASKS)
def test_every_search_that_may_return_unsafe_points_is_audited(
    audited: tuple[SafeSearch, list[AuditRecord]], operation: str
) -> None:
    engine, records = audited
    point = random_points(1, 3)[0]
    ASKS[operation](engine, point, {"context": {"user": "ada"}})
    assert records == []
    only = {"filter": models.Filter(must=[match("album", "a")]), "safe": False}
    result = ASKS[operation](engine, point, {**only, "context": {"user": "ada"}})
    assert len(records) == 1
    record = records[0]
    assert (record.operation, record.collection, record.context) == (operation, "points", {"user": "ada"})
    assert record.asked == ("point",)
    assert record.queries == (result.query,)
    assert record.options["filter"]["must"][0]["key"] == "album"
    more = {"search": set(), "search_groups": {"by", "groups", "size"}, "explain": {"steps", "near"}}
    assert record.options.keys() == {"filter", *more[operation]}
    assert len(record.hits) == 1
    assert set(record.hits[0]) == set(range(8))
    assert json.loads(json.dumps(record.to_dict()))["context"] == {"user": "ada"}


def test_what_an_audit_does_to_a_record_is_not_in_the_next_one(audited: tuple[SafeSearch, list[AuditRecord]]) -> None:
    engine, records = audited
    point = random_points(1, 3)[0]
    engine.search(point, safe=False)
    records[0].context["user"] = "eve"  # type: ignore[index]
    engine.search(point, safe=False)
    assert records[1].context == {}


def test_a_batch_is_one_record_that_says_what_was_asked(audited: tuple[SafeSearch, list[AuditRecord]]) -> None:
    engine, records = audited
    point = random_points(1, 3)[0]
    results = engine.search_batch([PointRef(3), Examples([point, PointRef(1)], [PointRef(2)])], safe=False, limit=2)
    assert records[0].asked == ("point 3", "+point  +point 1  −point 2")
    assert records[0].hits == tuple(tuple(hit.id for hit in result) for result in results)
    assert records[0].options == {"limit": 2}
    assert engine.search_batch([], safe=False) == []
    assert len(records) == 1


@pytest.mark.parametrize("operation", ASKS)
def test_an_audit_that_fails_stops_the_search(tmp_path: Path, operation: str) -> None:
    def fail(record: AuditRecord) -> None:
        raise RuntimeError("the log is full")

    with index_on("memory", tmp_path) as index:
        index.upsert([1], random_points(1), modality="image")
        engine = SafeSearch(index, None, policy=SafetyPolicy(audit=fail))
        with pytest.raises(RuntimeError, match="the log is full"):
            ASKS[operation](engine, random_points(1)[0], {"safe": False})
        ASKS[operation](engine, random_points(1)[0], {})


@pytest.mark.parametrize("operation", ASKS)
def test_what_the_policy_forbids_is_an_error_and_no_silent_downgrade(tmp_path: Path, operation: str) -> None:
    records: list[AuditRecord] = []
    with index_on("memory", tmp_path) as index:
        engine = SafeSearch(index, None, policy=SafetyPolicy(allow_unsafe=False, audit=records.append))
        with pytest.raises(UnsafeNotAllowedError):
            ASKS[operation](engine, random_points(1)[0], {"safe": False})
        for wrong in ({"safe": 0}, {"context": "ada"}, {"nothing": 1}, {"threshold": 0.9}):
            with pytest.raises(SettingsError):
                ASKS[operation](engine, random_points(1)[0], wrong)
    assert records == []


def test_an_asynchronous_search_is_audited_and_stopped_as_well(tmp_path: Path) -> None:
    records: list[AuditRecord] = []

    def audit(record: AuditRecord) -> None:
        records.append(record)
        if record.context.get("user") == "eve":
            raise PermissionError("not eve")

    async def search() -> None:
        async with aconnect("points", model=None, store=index.store, policy=SafetyPolicy(audit=audit)) as engine:
            await engine.search(np.zeros(6), safe=False, context={"user": "ada"})
            with pytest.raises(PermissionError, match="not eve"):
                await engine.search(np.zeros(6), safe=False, context={"user": "eve"})

    with index_on("memory", tmp_path) as index:
        index.upsert([1], random_points(1), modality="image")
        asyncio.run(search())
    assert [record.context["user"] for record in records] == ["ada", "eve"]


@pytest.mark.parametrize("kind", ["keyword", "integer"])
@pytest.mark.parametrize("indexed", [False, True])
def test_an_index_of_the_application_does_not_widen_a_rule(kind: str, indexed: bool, tmp_path: Path) -> None:
    """An engine looks a condition up in an index on the field, which holds labels of one type only."""
    allow: tuple[Any, ...] = ("pets",) if kind == "keyword" else (1,)
    good, others = allow[0], ["weapons", "", 2, -3, 2.5, True, False]
    labels = [good, [good], [good, good], *([good, other] for other in others), *others, None, []]
    with index_on("edge", tmp_path) as index:
        payloads = [{"c": label} for label in labels]
        index.upsert(range(len(labels)), random_points(len(labels), high=2.0), modality="image", payloads=payloads)
        if indexed:  # as the application would
            shard = index.store._shard(index.name)  # type: ignore[attr-defined]
            shard.update(edge.UpdateOperation.create_field_index("c", getattr(edge.PayloadSchemaType, kind.title())))
        engine = SafeSearch(index, None, policy=SafetyPolicy(rules=(LabelRule("c", allow=allow, always=True),)))
        assert {hit.id for hit in engine.search(random_points(1)[0], limit=50, safe=False)} == {0, 1, 2}
