"""Metrics against the published code's numbers and against answers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.golden import load_golden
from support.quadruplets import CURVATURE, profile_with, quadruplet_points

from hysac_export.data.split import draw_split
from hysac_export.evaluation.bootstrap import Bootstrap
from hysac_export.evaluation.metrics import (
    auc,
    metrics,
    retrievals,
    traversal_sweep,
    weighted_auc,
)
from hysac_export.model.encoded import EncodedSplit, radii_of
from hysac_export.model.retrieval import MISS, retrieve
from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError, SettingsError
from hysac_retrieval.safety.redirect import traverse_reference


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize(("x", "y"), [("S", "V"), ("S", "G"), ("U", "V"), ("U", "G")])
@pytest.mark.parametrize("geometry", ["hyp", "euc"])
def test_recall_equals_the_published_code(case: int, x: str, y: str, geometry: str) -> None:
    golden = load_golden("recall")
    names = {"S": "text_safe", "U": "text_nsfw", "V": "vision_safe", "G": "vision_nsfw"}
    text, image = (golden[f"k{case}_{names[key]}"] for key in (x, y))
    curvature = float(golden[f"k{case}_curv"]) if geometry == "hyp" else None
    for direction, queries, pool in (("t2i", text, image), ("i2t", image, text)):
        found = retrieve(queries, pool, np.arange(len(queries)), curvature, block=7)
        key = f"k{case}_{x}_{y}_{geometry}_{direction}"
        np.testing.assert_array_equal([found.hits(k).mean() for k in golden["K"]], golden[key])
        curve = [found.hits(k).mean() for k in range(1, len(pool) + 1)]
        np.testing.assert_array_equal(curve, golden[f"{key}_curve"])


@pytest.mark.parametrize(("bounds", "out"), [("bound_V", "image"), ("bound_S", "text")])
def test_reference_traversal_equals_the_published_code(bounds: str, out: str) -> None:
    golden = load_golden("traversal")
    for row in range(len(golden["emb"])):
        points, moved = traverse_reference(
            golden["emb"][row : row + 1],
            float(golden[bounds][row]),
            float(np.exp(golden["log_curv"][row])),
            float(golden["alpha"][row]),
        )
        assert moved[0] == golden[f"moved_{out}"][row]
        np.testing.assert_allclose(points[0], golden[f"out_{out}"][row], rtol=1e-12, atol=1e-12)


def test_auc_of_known_radii() -> None:
    assert auc([0.1, 0.4], [0.35, 0.8]) == 0.75
    assert auc(np.ones(3), np.ones(3)) == 0.5


def test_rank_counts_what_is_strictly_nearer_and_equals_that_come_first() -> None:
    pool = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    found = retrieve(np.array([[1.0, 0.0]] * 3), pool, np.array([1, 2, 3]), 1.0)
    assert found.rank.tolist() == [0, 1, 2]
    assert found.first.tolist() == [1, 1, 1]


def test_a_target_outside_of_the_pool_is_a_miss_at_every_k() -> None:
    pool = np.eye(3)
    allowed = np.array([True, False, True])
    found = retrieve(pool, pool, np.arange(3), 1.0, unsafe=np.array([False, False, True]), allowed=allowed)
    assert found.rank.tolist() == [0, MISS, 0]
    assert not found.hits(10**9)[1]
    assert found.harmful.tolist() == [False, False, True]


def test_an_empty_pool_is_a_miss_and_harms_nobody() -> None:
    none = np.zeros(2, dtype=bool)
    found = retrieve(np.eye(2), np.eye(2), np.arange(2), 1.0, unsafe=~none, allowed=none)
    assert found.first.tolist() == [-1, -1]
    assert not found.hits(10**9).any()
    assert not found.harmful.any()


def test_auc_equals_the_count_over_all_pairs_with_ties_half() -> None:
    rng = np.random.default_rng(0)
    safe, unsafe = rng.integers(0, 12, 40) / 4, rng.integers(4, 16, 30) / 4
    difference = unsafe[:, None] - safe[None, :]
    assert auc(safe, unsafe) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean(), abs=1e-15)


def test_weighted_auc_equals_the_auc_of_the_repeated_points() -> None:
    rng = np.random.default_rng(1)
    safe, unsafe = rng.integers(0, 6, 9) / 2, rng.integers(2, 9, 9) / 2
    ws, wu = rng.integers(0, 4, (5, 9)).astype(float), rng.integers(0, 4, (5, 9)).astype(float)
    expected = [
        auc(np.repeat(safe, a.astype(int)), np.repeat(unsafe, b.astype(int))) for a, b in zip(ws, wu, strict=True)
    ]
    np.testing.assert_allclose(weighted_auc(safe, unsafe, ws, wu), expected, rtol=1e-14)


def test_bootstrap_interval_of_a_mean_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(3).random(2000) < 0.3
    figure = Bootstrap(2000, 2000, 1).mean(values)
    half = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 2000)
    assert figure.value == values.mean()
    assert figure.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_bootstrap_std_equals_the_std_of_each_resample() -> None:
    values = 1e6 + np.random.default_rng(4).normal(size=50)
    boot = Bootstrap(50, 20, 0)
    resampled = [np.repeat(values, w.astype(int)).std() for w in boot.weights]
    figure = boot.std(values)
    assert (figure.low, figure.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])), rel=1e-6)


def test_bootstrap_of_a_subset_uses_its_rows_only() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0])
    figure = Bootstrap(4, 200, 0).mean(values, values > 0)
    assert (figure.value, figure.low, figure.high, figure.n) == (1.0, 1.0, 1.0, 2)


def test_modes_act_on_the_query_and_on_the_pool_as_they_say() -> None:
    encoded = quadruplet_points(200)
    found = metrics(encoded, CURVATURE, profile_with(boundary=1.0, threshold=0.5), resamples=50)
    # Twins share a direction. Image radii are 2 (safe) and 4 (unsafe): from an unsafe text at 3 both are as near, from
    # the boundary at 1 the safe one is nearer.
    assert found["twin_t2i.traversal.r1"].value == 1.0
    assert found["twin_t2i.traversal.harmful1"].value == 0.0
    assert found["twin_i2t.plain.harmful1"].value == 1.0
    # An image query at 4 finds its unsafe text at 3 before the safe one at 1; without the unsafe ones, the safe one.
    assert found["twin_i2t.plain.r1"].value == 0.0
    assert found["twin_i2t.plain.r10"].value == 1.0
    assert found["twin_i2t.filter.r1"].value == 1.0
    assert found["twin_i2t.system.r1"].value == 1.0
    assert found["moved.unsafe_text"].value == 1.0
    assert found["above.safe_image"].value == 0.0
    assert found["above.unsafe_image"].value == 1.0


def test_a_threshold_that_nothing_passes_empties_every_safe_search() -> None:
    found = metrics(quadruplet_points(50), CURVATURE, profile_with(boundary=1.0, threshold=0.0), resamples=0)
    assert found["safe_t2i.union.r1"].value == 1.0
    assert found["safe_t2i.system.r20"].value == 0.0
    assert found["safe_t2i.system.lost"].value == 1.0
    assert found["twin_t2i.system.harmful1"].value == 0.0


def test_order_and_auc_see_radii_that_are_swapped() -> None:
    encoded = quadruplet_points(100)
    swapped = encoded.safe_image.copy()
    swapped[:25] = encoded.unsafe_image[:25]
    found = metrics(replace(encoded, safe_image=swapped), CURVATURE, resamples=0)
    assert found["order"].value == 0.75
    assert found["auc.text"].value == 1.0
    # Only the quarter that was moved out reaches the unsafe images; about half of its pairs are in the wrong order.
    assert found["auc.image"].value == pytest.approx(0.75 + 0.25 * 0.5, abs=0.05)


def test_radius_figures_are_those_of_the_points() -> None:
    encoded = quadruplet_points(100)
    found = metrics(encoded, CURVATURE, resamples=0)
    radii = radii_of(encoded, CURVATURE)["unsafe_text"]
    assert found["radius.unsafe_text.mean"].value == pytest.approx(radii.mean(), rel=1e-12)
    assert found["radius.unsafe_text.mean"].value == pytest.approx(3.0, abs=0.02)
    assert found["radius.unsafe_text.std"].value == pytest.approx(radii.std(), rel=1e-12)


def test_a_category_is_its_own_quadruplets() -> None:
    encoded = quadruplet_points(100)
    unsafe_text = encoded.unsafe_text.copy()
    drugs = encoded.categories == "drugs"
    unsafe_text[drugs] = encoded.safe_text[drugs]  # no unsafe caption of this category stands out
    found = metrics(replace(encoded, unsafe_text=unsafe_text), CURVATURE, resamples=100)
    assert found["category.weapons.auc.text"].value == 1.0
    assert found["category.drugs.auc.text"].value == pytest.approx(0.5, abs=0.1)
    assert found["category.drugs.auc.text"].n == drugs.sum()


def test_a_euclidean_model_has_neither_radius_nor_traversal() -> None:
    encoded = quadruplet_points(40)
    unit = {
        group: getattr(encoded, group) / np.linalg.norm(getattr(encoded, group), axis=1, keepdims=True)
        for group in ("safe_text", "safe_image", "unsafe_text", "unsafe_image")
    }
    found = metrics(replace(encoded, **unit), None, profile_with(boundary=1.0, threshold=0.5), resamples=10)
    assert found["safe_t2i.r1"].value == 1.0
    assert "twin_t2i.plain.harmful1" in found
    assert not any(key.startswith(("auc", "radius", "order", "twin_t2i.traversal")) for key in found)


def test_the_same_seed_gives_the_same_figures() -> None:
    encoded = quadruplet_points(30, noise=2.0)
    profile = profile_with(boundary=1.5, threshold=0.5)
    assert metrics(encoded, CURVATURE, profile, seed=5) == metrics(encoded, CURVATURE, profile, seed=5)
    assert metrics(encoded, CURVATURE, profile, seed=5) != metrics(encoded, CURVATURE, profile, seed=6)


def test_the_sweep_at_the_boundary_is_the_traversal_of_the_profile() -> None:
    encoded = quadruplet_points(80, noise=1.0)
    profile = profile_with(boundary=2.5, threshold=0.5)
    found = retrievals(encoded, CURVATURE, profile)
    for modality, direction in (("text", "t2i"), ("image", "i2t")):
        recall, harmful = traversal_sweep(encoded, CURVATURE, modality, [1.0, 2.5])
        assert recall[1] == found[f"twin_{direction}.traversal"].hits(1).mean()
        assert harmful[1] == found[f"twin_{direction}.traversal"].harmful.mean()


def test_points_that_are_not_finite_are_refused() -> None:
    encoded = quadruplet_points(10)
    broken = encoded.unsafe_image.copy()
    broken[3, 0] = np.nan
    with pytest.raises(InvalidVectorError, match="1 of 10 unsafe_image points are not finite"):
        replace(encoded, unsafe_image=broken)
    with pytest.raises(InvalidVectorError, match="unsafe_text has shape"):
        replace(encoded, unsafe_text=encoded.unsafe_text[:5])


def test_the_synthetic_quadruplets_are_what_the_tests_assume() -> None:
    encoded: EncodedSplit = quadruplet_points(20)
    radii = [lorentz.dist0(getattr(encoded, g), CURVATURE).mean() for g in ("safe_text", "safe_image")]
    assert radii == pytest.approx([1.0, 2.0], abs=0.05)


def test_a_seed_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="seed is -1"):
        draw_split("validation", 2, -1)
