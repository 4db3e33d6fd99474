"""A policy may go by decisions that points are safe; nothing that people hold unsafe comes with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient
from support.hostile import modest, payloads
from support.spaces import DIM, STORES, index_on, profile, random_points

from hysac_retrieval import Guard, Index, SafeQdrantClient, SafeSearch, SafetyPolicy
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.collection.reviews import decide
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.payload import own_payload
from hysac_retrieval.safety.verdict import flag_name
from hysac_retrieval.search.overview import overview
from hysac_retrieval.search.queries import PointRef
from hysac_retrieval.steps import run

COUNT = 24
POINTS = random_points(COUNT, seed=5, low=1.5, high=4.0)
ORIGIN = np.zeros(DIM)
TRUSTING, WARY = SafetyPolicy(trust_reviews=True), SafetyPolicy()

decisions = st.dictionaries(st.integers(0, COUNT - 1), st.booleans(), max_size=COUNT)
entries = st.sampled_from(
    [
        {"unsafe": False},
        {"unsafe": False, "by": "ann"},
        {"unsafe": True},
        {"unsafe": [False]},
        {"unsafe": [False, True]},
        {"unsafe": 0},
        {"unsafe": "false"},
        {"unsafe": None},
        {},
        [{"unsafe": False}],
        [{"unsafe": False}, {"unsafe": True}],
        False,
        "safe",
        None,
    ]
)


@contextmanager
def filled(store: str, folder: Any) -> Iterator[Index]:
    with index_on(store, folder) as index:
        index.upsert(range(COUNT), POINTS, modality="image", payloads=[{"row": row} for row in range(COUNT)])
        yield index


def review(index: Index, decided: Mapping[int, bool | None]) -> None:
    for point in index.retrieve([*decided]):
        unsafe = decided[int(point.id)]
        entry = None if unsafe is None else {"unsafe": unsafe, "by": "ann"}
        decide(index.store, [index.name], index.metadata, point, review=entry)


def found(index: Index, policy: SafetyPolicy, **options: Any) -> dict[int, Any]:
    search = SafeSearch(index, None, policy=policy)
    hits = {int(hit.id): hit for hit in search.search(ORIGIN, limit=100, **options)}
    if not options:
        guard = Guard.of(index.metadata, policy)
        assert hits.keys() == {one for one in range(COUNT) if guard.admits(index.retrieve([one])[0].payload)}
        assert index.count(guard.filter()) == len(hits)
        assert search.only_safe().search(ORIGIN, limit=100).hits == tuple(hits.values())
        assert search.permitted(range(COUNT)) == hits.keys()
    return hits


def by_score(index: Index, bound: float = 0.5) -> set[int]:
    return {int(p.id) for p in index.retrieve(range(COUNT)) if own_payload(p.payload)["unsafe"] <= bound}


@pytest.mark.parametrize("store", STORES)
def test_a_point_reviewed_unsafe_never_comes_and_one_reviewed_safe_where_the_policy_says_so(
    store: str, tmp_path: Path
) -> None:
    with filled(store, tmp_path) as index:
        scored = by_score(index)
        assert 0 < len(scored) < COUNT

        @settings(max_examples=15, deadline=None)
        @given(decisions, st.floats(0, 0.5))
        def law(decided: dict[int, bool], threshold: float) -> None:
            review(index, {**dict.fromkeys(range(COUNT)), **decided})
            unsafe = {one for one, verdict in decided.items() if verdict}
            safe = decided.keys() - unsafe
            assert found(index, WARY).keys() == scored - unsafe
            trusted = found(index, TRUSTING)
            assert trusted.keys() == scored - unsafe | safe
            assert {one for one, hit in trusted.items() if hit.reviewed} == safe - scored
            assert found(index, TRUSTING, penalty=0.5).keys() == trusted.keys()
            # A call that names a threshold asks for scores; a policy that names one says both.
            stricter = by_score(index, threshold) - unsafe
            assert found(index, TRUSTING, threshold=threshold).keys() == stricter
            assert found(index, SafetyPolicy(threshold=threshold, trust_reviews=True)).keys() == stricter | safe

        law()


def test_payloads_that_say_anything_of_a_decision_are_only_trusted_where_it_is_plain() -> None:
    client = QdrantClient(":memory:")

    @modest
    @given(st.lists(st.tuples(payloads(), entries), min_size=8, max_size=8))
    def law(rows: list[tuple[Any, Any]]) -> None:
        settings = {"dim": DIM, "curvature": 0.26, "safety": profile(), "fingerprint": "own"}
        with Index.create("points", client=client, recreate=True, **settings) as index:
            written = []
            for payload, entry in rows:
                row = dict(payload or {})
                if isinstance(row.get("hysac"), dict):
                    row["hysac"] = {**row["hysac"], "review": entry}
                written.append(row)
            lift = index.collection.lift
            for payload, extra in zip(written, lift.extras(POINTS[:8]), strict=True):
                if isinstance(payload.get("hysac"), dict):
                    payload["hysac"].update(extra)
            index.store.upsert("points", list(range(8)), lift.lift(POINTS[:8]), written)
            wary = {hit.id for hit in SafeSearch(index, None).search(ORIGIN, limit=100)}
            search = SafeSearch(index, None, policy=TRUSTING)
            trusted = {hit.id for hit in search.search(ORIGIN, limit=100)}
            decided = {row for row, payload in enumerate(written) if _plain(payload)}
            assert trusted == wary | decided
            guard = Guard.of(index.metadata, TRUSTING)
            guarded = SafeQdrantClient(client, policy=TRUSTING)
            seen = {record.id for record in guarded.scroll("points", limit=100)[0]}
            assert seen == {row for row, payload in enumerate(written) if guard.admits(payload)}
            assert seen <= trusted
            assert not [row for row in trusted if _kept_out(written[int(row)])]

    law()
    client.close()


def _kept_out(payload: Any) -> bool:
    review = own_payload(payload).get("review")
    return review is not None and not (isinstance(review, dict) and review.get("unsafe") is False)


def _plain(payload: Any) -> bool:
    """Whether a payload has a decision that it is safe, beside a score and a verdict of the model that are plain."""
    own = own_payload(payload or {})
    review, score, verdicts = own.get("review"), own.get("unsafe"), own.get("safe")
    return (
        isinstance(review, dict)
        and review.get("unsafe") is False
        and own.get("model") == "own"
        and isinstance(score, int | float)
        and not isinstance(score, bool)
        and 0 <= score <= 1
        and isinstance(verdicts, dict)
        and verdicts.get("own") in (True, False)
        and isinstance(verdicts.get("own"), bool)
    )


@pytest.mark.parametrize("store", STORES)
def test_a_decision_is_trusted_over_a_new_calibration_and_goes_with_the_content(store: str, tmp_path: Any) -> None:
    with filled(store, tmp_path) as index:
        (far,) = {max(range(COUNT), key=lambda row: float(np.linalg.norm(POINTS[row])))}
        review(index, {far: False})
        assert far in found(index, TRUSTING)
        rescore(index, profile(0.1), fingerprint=None)
        assert far in found(index, TRUSTING)
        assert far not in found(index, WARY)
        index.upsert([far], POINTS[[far]], modality="image", payloads=[{"new": True}])
        assert far not in found(index, TRUSTING)
        review(index, {far: False})
        review(index, {far: None})
        assert far not in found(index, TRUSTING)


def test_what_another_model_has_judged_is_not_trusted() -> None:
    with filled("memory", None) as index:
        (point,) = index.retrieve([3])
        name = flag_name(index.metadata.fingerprint)
        for changed in ({"model": "another"}, {"safe": {"another": False}}, {"safe": {name: None}}, {"unsafe": 1.5}):
            entries: dict[str, Any] = {**own_payload(point.payload), "review": {"unsafe": False}, **changed}
            index.store.upsert("points", [3], index.collection.lift.lift(POINTS[[3]]), [{"hysac": entries}])
            assert 3 not in found(index, TRUSTING)


def test_a_trusted_point_is_a_query_and_on_the_map_and_another_unsafe_one_is_not() -> None:
    with filled("memory", None) as index:
        one, other = sorted(set(range(COUNT)) - by_score(index))[:2]
        review(index, {one: False})
        search = SafeSearch(index, None, policy=SafetyPolicy(trust_reviews=True, allow_unsafe=False))
        assert len(search.search(PointRef(one), limit=3).hits) == 3
        with pytest.raises(Exception, match="no point"):
            search.search(PointRef(other))
        engine = search.live.engine
        shown = run(overview(engine), index.store)
        assert set(shown.ids) == by_score(index) | {one}
        assert shown.safe.all()


def test_the_setting_is_true_or_false() -> None:
    with pytest.raises(SettingsError, match="trust_reviews"):
        SafetyPolicy(trust_reviews=1)  # type: ignore[arg-type]
