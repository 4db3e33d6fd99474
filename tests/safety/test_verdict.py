"""The verdict that a point carries, and what is made of one that does not say what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.spaces import STORES, index_on, profile, random_points

from hysac_retrieval.safety.redirect import boundary_of, moved_to, radius_of, redirect
from hysac_retrieval.safety.verdict import flag_key, flag_name, safe_score, valid_score, verdict
from hysac_retrieval.types import MODALITIES, Thresholds

GOOD: dict[str, Any] = verdict(0.1, 0.5, "m")
HALF = Thresholds.both(0.5)


def test_a_verdict_is_that_of_the_threshold_and_of_the_model() -> None:
    assert verdict(0.5, 0.5, "m") == {"unsafe": 0.5, "model": "m", "safe": {"m": True}}
    assert verdict(0.51, 0.5, "m")["safe"] == {"m": False}
    assert safe_score(GOOD, "m", HALF) == safe_score(GOOD, "m", Thresholds.both(0.1)) == 0.1
    assert safe_score(GOOD, "m", Thresholds.both(0.09)) is None
    assert safe_score(GOOD, "another", HALF) is None


@pytest.mark.parametrize("modality", [None, "video", "", 7, True, ["text"], ["text", "image"], {"text": 1}, [], "TEXT"])
def test_a_point_of_no_single_modality_is_held_to_the_stricter_threshold(modality: Any) -> None:
    for thresholds in (Thresholds(0.5, 0.1), Thresholds(0.1, 0.5)):
        for record in (GOOD | {"modality": modality}, GOOD):
            assert safe_score(record, "m", thresholds) == 0.1
            assert safe_score(record | {"unsafe": 0.11}, "m", thresholds) is None


def test_a_point_is_held_to_the_threshold_of_its_own_modality() -> None:
    text, image = ({**GOOD, "unsafe": 0.3, "modality": kind} for kind in MODALITIES)
    assert safe_score(text, "m", Thresholds(0.5, 0.1)) == 0.3
    assert safe_score(image, "m", Thresholds(0.5, 0.1)) is None
    assert safe_score(image, "m", Thresholds(0.1, 0.5)) == 0.3
    assert safe_score(text, "m", Thresholds(0.1, 0.5)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"unsafe": None}, {"unsafe": [0.1]}, {"unsafe": True}, {"unsafe": float("nan")}, {"unsafe": -0.1},
        {"unsafe": 2}, {"unsafe": "0.1"},
        {"model": ["m"]}, {"model": None}, {"safe": None}, {"safe": True}, {"safe": []}, {"safe": {}},
        {"safe": {"m": 1}}, {"safe": {"m": "true"}}, {"safe": {"m": [True]}}, {"safe": {"m": False}}, {"safe": ["m"]},
    ],
)  # fmt: skip
def test_whatever_is_not_plainly_safe_is_not(change: dict[str, Any]) -> None:
    assert safe_score(GOOD | {"modality": "text"} | change, "m", HALF) is None


@given(st.floats(), st.floats(0, 1))
def test_no_number_above_the_threshold_is_safe(score: float, threshold: float) -> None:
    own = GOOD | {"unsafe": score}
    assert (safe_score(own, "m", Thresholds.both(threshold)) == score) == (0 <= score <= threshold)
    assert (valid_score(own, "m") is not None) == (0 <= score <= 1)


@pytest.mark.parametrize("fingerprint", ["a.b", "a[0]", 'a"b', "a b", "ü", "x" * 65, "own model/1.0", ""])
def test_a_fingerprint_that_would_be_read_as_a_path_is_hashed(fingerprint: str) -> None:
    assert flag_name("raw-0123abcd") == "raw-0123abcd"
    name = flag_name(fingerprint)
    assert name != fingerprint
    assert name.isalnum()
    assert flag_key(fingerprint) == f"hysac.safe.{name}"


@pytest.mark.parametrize("store", STORES)
def test_a_collection_of_a_model_of_any_name_is_searched_safely(store: str, tmp_path: Path) -> None:
    with index_on(store, tmp_path, fingerprint="our model v1.0 [final]") as index:
        near, far = random_points(3, low=1.5, high=1.6), random_points(3, seed=1, low=3.4)
        index.upsert(range(6), np.concatenate([near, far]), modality="text")
        assert {hit.id for hit in index.query(near[0])} == {0, 1, 2}
        assert index.info().safe == 3


@given(st.floats(0, 10), st.sampled_from([*MODALITIES]))
def test_one_score_is_that_of_many(radius: float, modality: Any) -> None:
    assert profile().score(radius, modality) == pytest.approx(float(profile().unsafe(radius, modality)), abs=1e-15)
    assert profile().score(radius, None) == max(profile().score(radius, kind) for kind in MODALITIES)
    assert profile().score(float("nan"), modality) == profile().score(float("inf"), modality) == 1.0


@given(st.integers(0, 10_000), st.sampled_from([*MODALITIES]))
def test_one_query_is_redirected_as_many_are(seed: int, modality: Any) -> None:
    point = random_points(1, seed)[0]
    many, moved = redirect(point[None], modality, profile(), 0.26)
    target = boundary_of(radius_of(point, 0.26), modality, profile())
    assert (target is not None) == bool(moved[0])
    one = point if target is None else moved_to(point, target, 0.26)
    np.testing.assert_allclose(one, many[0], rtol=1e-12)
    if target is not None:
        assert radius_of(one, 0.26) == pytest.approx(target, rel=1e-14)
