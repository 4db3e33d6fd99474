"""Decisions of people hold whatever the scores say: in searches, behind guards, over rescores and new versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.spaces import DIM, STORES, index_on, profile, random_points

from hysac_retrieval import Guard, Index, SafeSearch
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.collection.reviews import decide
from hysac_retrieval.payload import own_payload
from hysac_retrieval.safety.verdict import flag_name, kept_out, safe_score
from hysac_retrieval.types import Thresholds

POINTS = random_points(40, seed=3, low=1.5, high=2.2)  # all of them safe by their score
ORIGIN = np.zeros(DIM)


@pytest.fixture(params=STORES)
def index(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Index]:
    with index_on(request.param, tmp_path) as made:
        made.upsert(range(40), POINTS, modality="image", payloads=[{"row": row} for row in range(40)])
        yield made


def review(index: Index, identity: int, unsafe: bool | None) -> None:
    (point,) = index.retrieve([identity])
    entry = None if unsafe is None else {"unsafe": unsafe, "by": "ann"}
    decide(index.store, [index.name], index.metadata, point, review=entry)


def found(index: Index) -> set[Any]:
    return {hit.id for hit in SafeSearch(index, None).search(ORIGIN, limit=100)}


def flag(index: Index, identity: int) -> Any:
    (point,) = index.retrieve([identity])
    return own_payload(point.payload)["safe"][flag_name(index.metadata.fingerprint)]


def test_a_decision_holds_in_searches_counts_and_guards_until_it_is_taken_back(index: Index) -> None:
    assert found(index) == set(range(40))
    review(index, 5, True)
    assert found(index) == set(range(40)) - {5}
    assert index.info().safe == 39
    (point,), guard = index.retrieve([5]), Guard.of(index.metadata)
    assert not guard.admits(point.payload)
    assert index.count(guard.filter()) == 39
    review(index, 5, None)
    assert found(index) == set(range(40))
    review(index, 6, False)
    assert found(index) == set(range(40))


def test_a_decision_outlives_a_new_version_of_the_point(index: Index) -> None:
    review(index, 5, True)
    review(index, 6, False)
    index.upsert([4, 5, 6], POINTS[:3], modality="image", payloads=[{"new": True}] * 3)
    assert found(index) == set(range(40)) - {5}
    stored = {point.id: point.payload for point in index.retrieve([4, 5, 6])}
    assert own_payload(stored[5])["review"]["unsafe"] is True
    assert stored[5]["new"] is True
    assert "review" not in own_payload(stored[6])  # what was found safe was another content


def test_a_decision_outlives_a_new_calibration(index: Index) -> None:
    review(index, 5, True)
    report = rescore(index, profile(0.4), fingerprint=None)
    assert (report.rescored, report.left, report.safe) == (40, 0, 39)
    assert found(index) == set(range(40)) - {5}
    assert (flag(index, 5), flag(index, 4)) == (False, True)
    review(index, 5, None)
    assert found(index) == set(range(40))


def test_the_last_look_holds_a_point_back_whose_verdict_was_written_over(index: Index) -> None:
    review(index, 5, True)
    (point,) = index.retrieve([5])
    decide(index.store, [index.name], index.metadata, point, safe={flag_name(index.metadata.fingerprint): True})
    assert flag(index, 5) is True
    assert found(index) == set(range(40)) - {5}


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda x: st.lists(x, max_size=2) | st.dictionaries(st.sampled_from(["unsafe", "by"]), x, max_size=2),
        max_leaves=4,
    )
)
def test_anything_but_a_plain_decision_that_it_is_safe_keeps_a_point_out(entry: Any) -> None:
    own = {"unsafe": 0.1, "model": "m", "modality": "image", "safe": {"m": True}, "review": entry}
    plain = entry is None or (isinstance(entry, dict) and entry.get("unsafe") is False)
    assert kept_out(own) is not plain
    assert (safe_score(own, "m", Thresholds.both(0.5)) is not None) is plain
