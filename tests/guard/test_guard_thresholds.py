"""The guard holds every point to the threshold of its own modality, whatever the record says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient
from support.awaited import KINDS, guards
from support.hostile import allowed, fill, held_to, modest, numbers, payloads
from support.qdrant_server import QDRANT
from support.spaces import index_on, profile, random_points

from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.guard import Guard
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.types import Thresholds

CALIBRATED = Thresholds(text=0.5, image=0.2)
policies = st.fixed_dictionaries({}, optional={"text": st.floats(0, 0.5), "image": st.floats(0, 0.2)})


@pytest.fixture(scope="module", params=["memory", *QDRANT])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with index_on(request.param, tmp_path_factory.mktemp("guard"), safety=profile(CALIBRATED)) as made:
        yield made


def client_of(index: Index) -> QdrantClient:
    client: QdrantClient = index.store.client  # type: ignore[attr-defined]
    return client


@pytest.fixture(scope="module", params=KINDS)
def guarded(request: pytest.FixtureRequest, index: Index) -> Iterator[Callable[..., Any]]:
    """Makes guards of the index's client, blocking ones or asynchronous ones."""
    with guards(request.param, client_of(index)) as (_, made):
        yield made


@modest
@given(rows=st.lists(payloads(), min_size=1, max_size=30), seed=st.integers(0, 1000), policy=policies)
def test_no_method_hands_on_a_point_above_the_threshold_of_its_modality(
    index: Index,
    guarded: Callable[..., Any],
    rows: list[dict[str, Any] | None],
    seed: int,
    policy: dict[Any, float],
) -> None:
    there, own = fill(index, rows, seed), index.metadata.fingerprint
    bound = Thresholds(policy.get("text", CALIBRATED.text), policy.get("image", CALIBRATED.image))
    safe = guarded(SafetyPolicy(threshold=policy or None))
    point = index.collection.lift.lift_query(random_points(1, seed))[0].tolist()
    good = {i for i, (_, payload) in there.items() if allowed(payload, bound, own)}
    assert {record.id for record in safe.scroll("points", limit=50)[0]} == good
    assert {record.id for record in safe.retrieve("points", list(there))} == good
    assert {hit.id for hit in safe.query_points("points", point, using="hysac", limit=50).points} == good
    # What an engine cannot tell from a plain record, such as a list of one, counts; what is unsafe in any way does not.
    low = [
        payload for _, payload in there.values() if numbers(payload) and max(numbers(payload)) <= widest(payload, bound)
    ]
    assert len(good) <= safe.count("points").count <= len(low)


def widest(payload: dict[str, Any], bound: Thresholds) -> float:
    """The threshold of a record for which a list of one modality is that modality."""
    kinds = np.atleast_1d(payload["hysac"].get("modality")).tolist()
    return held_to(kinds[0] if len(kinds) == 1 else None, bound)


def test_a_guard_of_parts_takes_a_threshold_for_each_modality() -> None:
    assert Guard("m", 0.3).threshold == Thresholds.both(0.3)
    assert Guard("m", {"text": 0.3, "image": 0.1}).threshold == Thresholds(0.3, 0.1)
    for wrong in ({"video": 0.1}, {"text": 0.3}, {"text": 1.5, "image": 0.1}, float("nan"), None):
        with pytest.raises(SettingsError, match="threshold"):
            Guard("m", wrong)  # type: ignore[arg-type]
