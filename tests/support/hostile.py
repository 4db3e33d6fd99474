"""Points with every kind of missing, wrong and hostile score, and filters that try to let them through."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from qdrant_client import models

from hysac_retrieval.collection.index import Index
from hysac_retrieval.stores.versions import SLICES
from hysac_retrieval.types import Thresholds
from support.qdrant_server import known
from support.spaces import random_points

OTHER = "another-model"
modest = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ABOVE = math.nextafter(0.5, 1)
ODD_SCORES = [None, True, False, 2, -0.25, 1e300, "0.1", "", [], {}, {"unsafe": 0.1}, ABOVE, [0.1, 0.9], [0.1, ABOVE]]
ODD_MODELS = [OTHER, None, 7, ["own", OTHER], [OTHER], []]
ODD_MODALITIES: list[Any] = [None, "video", 7, True, [], {}, ["text"], ["image"], ["text", "image"], ["image", 7]]
ODD_RECORDS = [None, "x", [], [{"unsafe": 0.1, "model": "own"}], {}, {"unsafe": 0.1}, {"model": "own"}]

scores = st.one_of(
    st.floats(0, 0.5),
    st.floats(0, 1),
    st.sampled_from([0, 1, -0.0, 0.5, [0.1], [0.1, "x"], *ODD_SCORES]),
    st.lists(st.one_of(st.floats(0, 1), st.none()), max_size=3),
)
models_named = st.one_of(st.just("own"), st.just("own"), st.just("own"), st.sampled_from([["own", "own"], *ODD_MODELS]))


ODD_VERDICTS: list[Any] = [
    None,
    "own",
    True,
    [],
    {},
    {"own": False},
    {"own": [True, False]},
    {"own": "yes"},
    {OTHER: True},
]
verdicts = st.one_of(*[st.just({"own": True})] * 4, st.sampled_from([{"own": [True]}, [{"own": True}], *ODD_VERDICTS]))


modalities = st.sampled_from(["image", "text"] * 8 + ODD_MODALITIES)


@st.composite
def payloads(draw: st.DrawFn) -> dict[str, Any] | None:
    record: dict[str, Any] = {
        "unsafe": draw(scores),
        "radius": 2.0,
        "modality": draw(modalities),
    }
    record["model"] = draw(models_named)
    record["safe"] = draw(verdicts)
    shape = draw(st.integers(0, 9))
    if shape == 1:
        record.pop(draw(st.sampled_from(sorted(record))))
    ours = draw(st.sampled_from([[record], *ODD_RECORDS])) if shape == 0 else record
    rest: dict[str, Any] = {"k": draw(st.integers(0, 3)), "hysac.unsafe": 0.0, "hysac.model": "own"}
    return rest if shape == 2 else {**rest, "hysac": ours}


keys = st.sampled_from(
    [
        "hysac.safe",
        "hysac.safe.own",
        "hysac.unsafe",
        "hysac.model",
        "hysac.modality",
        "hysac",
        "k",
        "nothing",
        "hysac[].unsafe",
    ]
)


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> Any:
    key = draw(keys)
    choices: list[Any] = [
        models.FieldCondition(key=key, range=models.Range(gte=draw(st.sampled_from([0.0, 0.6, -1.0])))),
        models.FieldCondition(key=key, match=models.MatchValue(value=draw(st.sampled_from([OTHER, "image", 1, True])))),
        models.FieldCondition(key=key, match=models.MatchAny(any=[OTHER, "own", "text"])),
        models.FieldCondition(key=key, match=models.MatchExcept(**{"except": ["image"]})),
        models.FieldCondition(key=key, values_count=models.ValuesCount(gte=draw(st.integers(0, 2)))),
        models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
        models.IsNullCondition(is_null=models.PayloadField(key=key)),
        models.HasIdCondition(has_id=draw(st.lists(st.integers(0, 40), max_size=40))),
        models.HasVectorCondition(has_vector="hysac"),
        *([models.SliceCondition(slice=models.Slice(total=2, index=draw(st.integers(0, 1))))] if known(SLICES) else []),
        models.Filter(),
    ]
    if depth:
        inner = draw(user_filters(depth - 1))
        choices += [inner, models.NestedCondition(nested=models.Nested(key="hysac", filter=inner))]
    return draw(st.sampled_from(choices))


@st.composite
def user_filters(draw: st.DrawFn, depth: int = 2) -> models.Filter:
    def clause() -> Any:
        return draw(st.one_of(st.none(), st.lists(conditions(depth), max_size=3)))

    least = None
    if draw(st.booleans()):
        least = models.MinShould(
            conditions=draw(st.lists(conditions(depth), min_size=1, max_size=3)), min_count=draw(st.integers(1, 2))
        )
    return models.Filter(must=clause(), should=clause(), must_not=clause(), min_should=least)


def fill(index: Index, rows: list[dict[str, Any] | None], seed: int) -> dict[int, tuple[np.ndarray, dict[str, Any]]]:
    """Write rows behind the index's back; return what is there."""
    own = index.metadata.fingerprint
    index.delete(range(50))
    points = random_points(len(rows), seed)
    stored = [_named(row, own) or {} for row in rows]
    index.store.upsert(index.name, list(range(len(rows))), index.collection.lift.lift(points), stored)
    return {i: (points[i], stored[i]) for i in range(len(rows))}


def _named(value: Any, own: str) -> Any:
    if isinstance(value, dict):
        return {_named(key, own): _named(item, own) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, own) for item in value]
    return own if value == "own" else value


def held_to(modality: Any, threshold: float | Thresholds) -> float:
    """The threshold of a stored modality; the stricter one, unless it is plainly text or image."""
    if not isinstance(threshold, Thresholds):
        return threshold
    kinds = {"text": threshold.text, "image": threshold.image}
    return kinds[modality] if isinstance(modality, str) and modality in kinds else min(kinds.values())


def allowed(payload: dict[str, Any], threshold: float | Thresholds, own: str) -> bool:
    """The invariant, spelled out from the payload alone."""
    ours = payload.get("hysac")
    if not isinstance(ours, dict):
        return False
    score = ours.get("unsafe")
    return (
        isinstance(score, int | float)
        and not isinstance(score, bool)
        and 0 <= score <= held_to(ours.get("modality"), threshold)
        and ours.get("model") == own
        and isinstance(ours.get("safe"), dict)
        and ours["safe"].get(own) is True
    )


def counted(payload: dict[str, Any], threshold: float | Thresholds, own: str) -> bool:
    """What an engine takes for safe, and counts: a list is held to the invariant in every element."""
    ours = payload.get("hysac")
    if not isinstance(ours, dict) or not numbers(payload):
        return False
    verdicts, kind = ours.get("safe"), ours.get("modality")
    found = verdicts.get(own) if isinstance(verdicts, dict) else None
    return (
        0 <= max(numbers(payload)) <= held_to(kind[0] if isinstance(kind, list) and len(kind) == 1 else kind, threshold)
        and set(np.atleast_1d(ours.get("model", ""))) == {own}
        and found in (True, [True])
    )


def numbers(payload: dict[str, Any]) -> list[float]:
    """Every number that could pass for a score of a point."""
    ours = payload.get("hysac")
    found = ours.get("unsafe") if isinstance(ours, dict) else None
    values = found if isinstance(found, list) else [found]
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
