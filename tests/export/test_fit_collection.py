"""Vectors and labels read from a collection's own points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from support.foreign import SIZE, encode

from hysac_export.fit.labels.collection import Labelled, labelled_vectors
from hysac_retrieval.errors import InputError, InvalidVectorError, SettingsError
from hysac_retrieval.ingest import StoredVectors
from hysac_retrieval.stores.qdrant.store import QdrantStore

TEXTS = ["a dog", "a gun", "a cat", "a knife", "the park"]
UNSAFE = [False, True, False, True, False]


def store_of(points: list[tuple[Any, dict[str, Any]]]) -> QdrantStore:
    client = QdrantClient(":memory:")
    params = models.VectorParams(size=SIZE, distance=models.Distance.COSINE)
    client.create_collection("photos", {"clip": params})
    client.upsert(
        "photos",
        [
            models.PointStruct(id=row, vector={} if vector is None else {"clip": vector}, payload=payload)
            for row, (vector, payload) in enumerate(points)
        ],
    )
    return QdrantStore(client)


def labelled(labels: list[Any], vectors: Any = None, **options: Any) -> Labelled:
    rows = encode(TEXTS).tolist() if vectors is None else vectors
    payloads = [{} if label is None else {"meta": {"nsfw": label}} for label in labels]
    store = store_of(list(zip(rows, payloads, strict=True)))
    return labelled_vectors(store, "photos", StoredVectors("clip", "text"), "meta.nsfw", **options)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (UNSAFE, {}),
        ([0, 1, 0, 1, 0], {}),
        ([0.0, 1.0, 0, True, False], {}),
        (["ok", "porn", "fine", "gore", "ok"], {"unsafe": ["porn", "gore"], "safe": ["ok", "fine"]}),
        (["1", "0", "1", "0", "1"], {"unsafe": ["0"], "safe": ["1"]}),
    ],
)
def test_labels_are_truth_values_numbers_or_strings_that_were_named(labels: list[Any], options: dict[str, Any]) -> None:
    read: list[int] = []
    found = labelled(labels, progress=read.append, **options)
    assert dict(zip(found.ids, found.unsafe.tolist(), strict=True)) == dict(enumerate(UNSAFE))
    assert (found.vectors.dtype, found.vectors.shape, found.modalities) == (np.float32, (5, SIZE), ("text",) * 5)
    units = encode(TEXTS)[list(map(int, found.ids))] / 3
    np.testing.assert_allclose(found.vectors, units, atol=1e-6)
    assert sum(read) == 5


def test_points_without_a_label_or_a_vector_are_counted() -> None:
    rows = encode(TEXTS).tolist()
    found = labelled([False, True, None, "", True], [rows[0], rows[1], rows[2], rows[3], None])
    assert (found.ids, found.unlabelled, found.lacking) == ((0, 1), 2, 1)


@pytest.mark.parametrize("label", ["maybe", 2, -1, 0.5, [True], {"a": 1}, "true"])
def test_a_label_that_is_none_is_an_error_that_counts_and_shows(label: Any) -> None:
    with pytest.raises(InputError, match=r"2 labels in field 'meta.nsfw' of 'photos' are none: .*\(2×\)"):
        labelled([False, True, label, label, None])


def test_one_vector_with_both_labels_is_an_error_that_names_the_points() -> None:
    rows = encode(TEXTS).tolist()
    rows[3] = [2 * number for number in rows[0]]  # of the same direction
    with pytest.raises(InputError, match=r"1 points are labelled otherwise.*: 0 and 3"):
        labelled(UNSAFE, rows)
    found = labelled([False, True, False, False, False], rows)
    assert (found.ids, found.repeated) == ((0, 2, 4, 1), 1)


def test_vectors_without_a_direction_are_an_error() -> None:
    with pytest.raises(InvalidVectorError, match="2 labelled points have a vector without a direction: 3 is zero, 4"):
        labelled(UNSAFE, [*encode(TEXTS[:3]).tolist(), [0.0] * SIZE, [0.0] * SIZE])


def test_vectors_that_are_not_there_are_an_error() -> None:
    store = store_of([([1.0] * SIZE, {"nsfw": True})])
    with pytest.raises(SettingsError, match="has no vectors 'other'; it has 'clip'"):
        labelled_vectors(store, "photos", StoredVectors("other", "text"), "nsfw")
    with pytest.raises(SettingsError, match="0 have no such vector, 1 no label"):
        labelled_vectors(store, "photos", StoredVectors("clip", "text"), "label")


@pytest.mark.parametrize(
    ("limit", "safe", "unsafe"), [(None, 90, 10), (100, 90, 10), (40, 30, 10), (10, 5, 5), (5, 2, 3), (2, 1, 1)]
)
def test_of_many_points_as_many_of_each_label_are_chosen(limit: int | None, safe: int, unsafe: int) -> None:
    rng = np.random.default_rng(0)
    points = [(rng.normal(size=SIZE).tolist(), {"nsfw": row % 10 == 0}) for row in range(100)]
    store, content = store_of(points), StoredVectors("clip", "image")
    found = labelled_vectors(store, "photos", content, "nsfw", limit=limit)
    assert ((~found.unsafe).sum(), found.unsafe.sum()) == (safe, unsafe)
    assert {int(identity) % 10 == 0 for identity, label in zip(found.ids, found.unsafe, strict=True) if label} == {True}
    again = labelled_vectors(store, "photos", content, "nsfw", limit=limit)
    assert again.ids == found.ids
    assert set(found.modalities) == {"image"}


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="cannot mean both"):
        labelled(UNSAFE, unsafe=["a"], safe=["a"])
    with pytest.raises(SettingsError, match="limit is 1"):
        labelled(UNSAFE, limit=1)


def test_decisions_of_people_are_labels() -> None:
    reviews = [{"unsafe": True, "by": "ann"}, {"unsafe": False, "by": "bob"}, None]
    rows = encode(TEXTS[:3]).tolist()
    store = store_of([(row, {"hysac": {"review": review}}) for row, review in zip(rows, reviews, strict=True)])
    found = labelled_vectors(store, "photos", StoredVectors("clip", "text"), "hysac.review.unsafe")
    assert (found.ids, found.unsafe.tolist(), found.unlabelled) == ((1, 0), [False, True], 1)
