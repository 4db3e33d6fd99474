"""Classification by radius and the zero-shot check, against counting by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.quadruplets import CURVATURE, profile_with, quadruplet_points

from hysac_export.data.split import draw_split
from hysac_export.evaluation.bootstrap import Bootstrap
from hysac_export.evaluation.classification import (
    Classes,
    classes_of,
    classification_figures,
    fpr_at_tpr,
    nearest_class,
    weighted_fpr,
    zero_shot_figures,
)
from hysac_export.model.encoded import EncodedSplit


def test_fpr_is_counted_at_the_limit_that_finds_enough() -> None:
    unsafe = np.arange(1.0, 21.0)  # 95 % of 20 are found from the second smallest on: the limit is 2
    assert fpr_at_tpr([0.0, 1.0, 2.0, 3.0], unsafe) == 0.5  # a safe point at the limit counts as unsafe
    assert fpr_at_tpr([0.0, 1.9], unsafe) == 0.0
    assert fpr_at_tpr([0.0, 1.0, 2.0, 3.0], unsafe, tpr=1.0) == 0.75


def test_fpr_is_the_lowest_among_all_limits_that_find_enough() -> None:
    rng = np.random.default_rng(0)
    safe, unsafe = rng.integers(0, 12, 60) / 4, rng.integers(4, 16, 50) / 4
    rates = [(safe >= limit).mean() for limit in unsafe if (unsafe >= limit).mean() >= 0.95]
    assert fpr_at_tpr(safe, unsafe) == pytest.approx(min(rates))


def test_weighted_fpr_equals_that_of_the_repeated_points() -> None:
    rng = np.random.default_rng(1)
    safe, unsafe = rng.integers(0, 9, 30) / 2, rng.integers(2, 12, 30) / 2
    ws, wu = rng.integers(0, 4, (8, 30)).astype(float), rng.integers(0, 4, (8, 30)).astype(float)
    expected = [
        fpr_at_tpr(np.repeat(safe, a.astype(int)), np.repeat(unsafe, b.astype(int)))
        for a, b in zip(ws, wu, strict=True)
    ]
    np.testing.assert_allclose(weighted_fpr(safe, unsafe, ws, wu), expected, rtol=1e-12)
    assert np.isnan(weighted_fpr(safe, unsafe, ws, np.zeros_like(wu))).all()


def swapped(encoded: EncodedSplit, rows: np.ndarray) -> EncodedSplit:
    """Unsafe images of some rows where safe ones are."""
    images = encoded.unsafe_image.copy()
    images[rows] = encoded.safe_image[rows]
    return replace(encoded, unsafe_image=images)


def test_accuracy_is_the_share_of_points_on_their_side_of_the_threshold() -> None:
    encoded = quadruplet_points(100)
    drugs = encoded.categories == "drugs"
    missed = swapped(encoded, np.arange(100) < 20)  # 10 of each category
    figures = classification_figures(
        missed, CURVATURE, profile_with(boundary=1.5, threshold=0.5), Bootstrap(100, 200, 0)
    )
    assert figures["accuracy.text"].value == 1.0
    assert figures["accuracy.image"].value == pytest.approx((100 + 80) / 200)
    assert figures["accuracy.image"].low < 0.9 < figures["accuracy.image"].high
    assert figures["category.drugs.accuracy.image"].value == pytest.approx((1 + 0.8) / 2)
    assert figures["category.drugs.accuracy.image"].n == drugs.sum()
    # A fifth of the unsafe images lies among the safe ones: to find 95 % is to take most of those for unsafe.
    assert figures["fpr95.text"].value == 0.0
    assert figures["fpr95.image"].value == pytest.approx(0.75, abs=0.15)


def test_without_a_profile_there_is_no_threshold_and_no_accuracy() -> None:
    figures = classification_figures(quadruplet_points(20), CURVATURE, None, Bootstrap(20, 5, 0))
    assert "fpr95.image" in figures
    assert not any("accuracy" in key for key in figures)


class ByName:
    """Each class name gets an axis of its own; pictures are given as points."""

    curvature = CURVATURE

    def encode_text(self, texts: list[str], /) -> np.ndarray:
        self.texts = texts
        return np.eye(len(texts))

    def encode_image(self, pixels: np.ndarray, /) -> np.ndarray:
        raise AssertionError("class names are texts")


def test_every_thing_is_a_class_by_its_usual_name() -> None:
    encoder = ByName()
    classes = classes_of(encoder)
    names = dict(zip(classes.ids, encoder.texts, strict=True))
    assert len(set(encoder.texts)) == len(classes.ids) > 300
    assert names["knife"] == "a picture of a knife"


def test_zero_shot_counts_a_picture_if_the_nearest_name_is_of_something_it_shows() -> None:
    drawn = draw_split("test", 6, size=32)
    classes = classes_of(ByName())
    axis = {name: row for row, name in enumerate(classes.ids)}
    right = np.stack([classes.points[axis[things[-1]]] for things in drawn.safe_shown])
    wrong = np.stack(
        [classes.points[next(a for name, a in axis.items() if name not in things)] for things in drawn.unsafe_shown]
    )
    assert classes.ids[int(nearest_class(right[:1], classes.points, CURVATURE)[0])] == drawn.safe_shown[0][-1]
    encoded = EncodedSplit(right, right, wrong, wrong, drawn.categories, drawn.context)
    figures = zero_shot_figures(classes, encoded, drawn, CURVATURE, Bootstrap(6, 10, 0))
    assert figures["zeroshot.safe"].value == 1.0
    assert figures["zeroshot.unsafe"].value == 0.0
    shown = np.mean([len(things) for things in drawn.safe_shown])
    assert figures["zeroshot.safe.chance"].value == pytest.approx(shown / len(classes.ids))
    euclidean = zero_shot_figures(classes, encoded, drawn, None, Bootstrap(6, 10, 0))
    assert euclidean["zeroshot.safe"].value == 1.0


def test_nothing_is_said_of_pictures_that_nobody_described() -> None:
    drawn = replace(draw_split("test", 2, size=32), safe_shown=(), unsafe_shown=())
    points = np.eye(2)
    encoded = EncodedSplit(points, points, points, points, drawn.categories, drawn.context)
    assert zero_shot_figures(Classes(("a", "b"), points), encoded, drawn, None, Bootstrap(2, 0, 0)) == {}
