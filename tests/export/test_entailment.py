"""Calibration and measurement of cones, on points whose right answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.quadruplets import CURVATURE, quadruplet_points

from hysac_export.evaluation.bootstrap import Bootstrap
from hysac_export.evaluation.entailment import (
    POWERS,
    RELATIONS,
    calibrate_entailment,
    entailment_figures,
    groups_of,
    pairwise_angles,
    radial_angles,
)
from hysac_export.evaluation.metrics import auc
from hysac_export.model.encoded import EncodedSplit
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.entailment import Cone, Entailment
from hysac_retrieval.errors import TrainingError

BOOT = Bootstrap(60, 50)


@given(st.floats(0.1, 10), st.floats(0.01, 4), st.integers(0, 100))
def test_angles_of_all_pairs_are_those_of_the_geometry(curvature: float, radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(5, 6)) * radius, rng.normal(size=(7, 6)) * radius
    expected = lorentz.exterior_angle(x[:, None], y[None], curvature)
    np.testing.assert_allclose(pairwise_angles(x, y, curvature), expected, atol=1e-6)


@given(st.floats(0.1, 10), st.floats(0.01, 4), st.floats(1, 12), st.integers(0, 100))
def test_radial_angles_of_all_pairs_are_those_of_the_geometry(
    curvature: float, radius: float, power: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(5, 6)) * radius, rng.normal(size=(7, 6)) * radius
    expected = lorentz.radial_angle(x[:, None], y[None], curvature, power)
    np.testing.assert_allclose(radial_angles(x, y, curvature, power), expected, atol=1e-6)


def test_radii_in_order_decide_where_pictures_lie_a_little_farther_out_than_their_texts() -> None:
    # Each picture at 45° of its text and a fifth farther out: at more than a right angle in every space as it is.
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(80, 80)))[0]
    texts, others = turned[:40], turned[40:]
    rays = [texts, texts + others, 2 * texts + others, 3 * texts + others]
    directions = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in rays]
    text, image, unsafe_text, unsafe_image = (
        lorentz.exp_map0(each * radius, CURVATURE) for each, radius in zip(directions, (2, 2.4, 3, 3.5), strict=True)
    )
    encoded = EncodedSplit(text, image, unsafe_text, unsafe_image, np.array(["a"] * 40), np.zeros(40, bool))
    assert np.diagonal(pairwise_angles(text, image, CURVATURE)).min() > math.pi / 2
    entailment = calibrate_entailment(encoded, CURVATURE)
    assert entailment.power > 1
    assert (entailment.cones["T<I"].matched, entailment.cones["T<I"].unmatched) == (1, 0)


def test_quadruplets_that_share_a_direction_are_told_from_all_others() -> None:
    entailment = calibrate_entailment(quadruplet_points(60), CURVATURE)
    assert set(entailment.cones) == set(RELATIONS)
    assert entailment.power in POWERS
    assert "60 quadruplets of the split validation" in entailment.source
    figures = entailment_figures(quadruplet_points(60, seed=1), CURVATURE, entailment, BOOT)
    for relation in RELATIONS:
        assert figures[f"entailment.calibrated.{relation}.matched"].value > 0.9
        assert figures[f"entailment.calibrated.{relation}.unmatched"].value == 0
        assert figures[f"entailment.calibrated.{relation}.auc"].value == 1
    assert figures["entailment.calibrated.chain.matched"].value > 0.9


def test_points_on_one_ray_have_a_cone_of_some_width() -> None:
    rays = np.array([[1.0, 0.0], [0.0, 1.0]])
    texts, images, unsafe_texts, unsafe_images = (lorentz.exp_map0(rays * radius, CURVATURE) for radius in (1, 2, 3, 4))
    encoded = EncodedSplit(texts, images, unsafe_texts, unsafe_images, np.array(["a", "a"]), np.zeros(2, bool))
    for cone in calibrate_entailment(encoded, CURVATURE).cones.values():
        assert 0 < cone.half_aperture < 1e-5
        assert (cone.matched, cone.unmatched) == (1, 0)


def test_points_without_any_relation_are_told_from_nothing() -> None:
    noise = quadruplet_points(200, noise=1e6)
    entailment = calibrate_entailment(noise, CURVATURE)
    figures = entailment_figures(quadruplet_points(200, noise=1e6, seed=1), CURVATURE, entailment, Bootstrap(200, 50))
    for relation in RELATIONS:
        shares = [figures[f"entailment.calibrated.{relation}.{name}"].value for name in ("matched", "unmatched")]
        assert abs(shares[0] - shares[1]) < 0.15
        assert figures[f"entailment.calibrated.{relation}.auc"].value == pytest.approx(0.5, abs=0.1)


def test_the_half_aperture_tells_best_of_all_up_to_a_right_angle() -> None:
    encoded = quadruplet_points(60, noise=1.5)
    entailment = calibrate_entailment(encoded, CURVATURE)
    for relation, cone in entailment.cones.items():
        assert 0 < cone.half_aperture <= math.pi / 2
        x, y = (getattr(encoded, g) for g in groups_of(relation))
        angles = lorentz.radial_angle(x[:, None], y[None], CURVATURE, entailment.power)
        own = np.eye(60, dtype=bool)

        def difference(width: float, angles=angles, own=own) -> float:
            return float((angles[own] <= width).mean() - (angles[~own] <= width).mean())

        assert cone.matched - cone.unmatched == pytest.approx(difference(cone.half_aperture))
        assert difference(cone.half_aperture) >= max(map(difference, np.linspace(0.01, math.pi / 2, 200))) - 1e-12


def test_published_cones_are_those_of_the_formula_and_reported_beside() -> None:
    encoded = quadruplet_points(60, noise=0.3)
    figures = entailment_figures(encoded, CURVATURE, None, BOOT)
    assert not [name for name in figures if ".calibrated." in name]
    for relation in RELATIONS:
        x, y = (getattr(encoded, group) for group in groups_of(relation))
        inside = lorentz.exterior_angle(x, y, CURVATURE) <= lorentz.half_aperture(x, CURVATURE)
        assert figures[f"entailment.published.{relation}.matched"].value == pytest.approx(inside.mean())
        angles = pairwise_angles(x, y, CURVATURE)
        area = auc(np.diagonal(angles), angles[~np.eye(60, dtype=bool)])
        assert figures[f"entailment.published.{relation}.auc"].value == pytest.approx(area)


def test_chains_are_counted_as_by_hand() -> None:
    # Two quadruplets on two opposite rays, but the second picture lies on the first ray.
    def on(rays: list[float], radius: float) -> np.ndarray:
        return lorentz.exp_map0(np.array([[ray * radius, 0.001 * radius] for ray in rays]), CURVATURE)

    encoded = EncodedSplit(
        on([1, -1], 1.0), on([1, 1], 2.0), on([1, -1], 3.0), on([1, -1], 4.0), np.array(["a", "a"]), np.zeros(2, bool)
    )
    cone = Cone(half_aperture=0.5, matched=1, unmatched=0)
    cones = Entailment(power=1, cones=dict.fromkeys(RELATIONS, cone))
    figures = entailment_figures(encoded, CURVATURE, cones, Bootstrap(2, 50))

    def value(name: str) -> float:
        return figures[f"entailment.calibrated.{name}"].value

    assert value("T<I.matched") == 0.5
    assert value("T<I.unmatched") == 0.5
    assert value("T<T*.matched") == 1
    # T1 → I1 → I*1 and T1 → I2 → I*1, both closed by T1 → I*1; the second quadruplet has no chain of its own.
    assert value("chain.matched") == 1
    assert value("chain.unmatched") == 1


def test_a_single_quadruplet_has_nothing_to_be_told_from() -> None:
    with pytest.raises(TrainingError, match="one quadruplet"):
        calibrate_entailment(quadruplet_points(1), CURVATURE)
    assert entailment_figures(quadruplet_points(1), CURVATURE, None, Bootstrap(1, 10)) == {}
