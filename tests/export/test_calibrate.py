"""Calibration on synthetic radii with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.quadruplets import CURVATURE, quadruplet_points

from hysac_export.evaluation.calibrate import Wanted, calibrate, candidates, choose_threshold, fit_logistic
from hysac_export.evaluation.metrics import traversal_sweep
from hysac_export.model.encoded import radii_of
from hysac_retrieval import lorentz
from hysac_retrieval.errors import SettingsError, TrainingError
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import MODALITIES, Modality, Thresholds


def test_logistic_recovers_the_law_the_labels_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    radius = rng.uniform(0, 6, 40_000)
    unsafe = rng.random(radius.size) < 1 / (1 + np.exp(-2.5 * (radius - 3.2)))
    slope, midpoint = fit_logistic(radius[~unsafe], radius[unsafe])
    assert slope == pytest.approx(2.5, rel=0.03)
    assert midpoint == pytest.approx(3.2, abs=0.02)


def test_logistic_is_the_minimum_of_its_objective() -> None:
    rng = np.random.default_rng(1)
    safe, unsafe = rng.normal(2, 0.5, 60), rng.normal(3, 0.5, 40)
    slope, midpoint = fit_logistic(safe, unsafe, ridge=1e-9)
    residual = np.concatenate(
        [1 / (1 + np.exp(-slope * (safe - midpoint))), 1 / (1 + np.exp(-slope * (unsafe - midpoint))) - 1]
    )
    # The likelihood equations: residuals sum to 0 and are uncorrelated with the radius.
    assert residual.sum() == pytest.approx(0, abs=1e-5)
    assert residual @ np.concatenate([safe, unsafe]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("n", [3, 1000])
def test_separable_radii_give_a_finite_slope_and_a_midpoint_in_the_gap(n: int) -> None:
    slope, midpoint = fit_logistic(np.linspace(1.0, 1.1, n), np.linspace(3.0, 3.1, n))
    assert 0 < slope < 100
    assert 1.1 < midpoint < 3.0


def test_the_boundary_is_the_best_candidate_that_meets_the_limit() -> None:
    encoded = quadruplet_points(150, noise=0.8, spread=0.3)
    profile = calibrate(encoded, CURVATURE, max_harmful=0.05)
    for modality in ("text", "image"):
        tried = candidates(radii_of(encoded, CURVATURE), modality)
        recall, harmful = traversal_sweep(encoded, CURVATURE, modality, tried)
        allowed = harmful <= 0.05
        assert allowed.any()
        chosen = int(np.flatnonzero(tried == profile.of(modality).boundary)[0])
        assert allowed[chosen]
        assert recall[chosen] == recall[allowed].max()
        assert not (recall[allowed & (tried > tried[chosen])] == recall[chosen]).any()


def test_a_boundary_that_misses_the_limit_is_said_to_in_the_source() -> None:
    # Safe images lie nearly as far out as unsafe ones and say nothing of their captions: whatever the boundary, some
    # first hit is unsafe.
    encoded = quadruplet_points(300, noise=6.0, spread=0.5, radii={"safe_image": 3.95})
    profile = calibrate(encoded, CURVATURE, max_harmful=0.0)
    _, harmful = traversal_sweep(encoded, CURVATURE, "text", candidates(radii_of(encoded, CURVATURE), "text"))
    assert harmful.min() > 0
    assert "least harmful" in profile.source
    assert "split validation" in profile.source


OVERLAPPING = quadruplet_points(400, spread=1.4)
"""Safe and unsafe radii overlap."""
SHARES = st.sampled_from([0.0, 0.005, 0.02, 0.05, 0.2, 0.5])


def shares(profile: SafetyProfile, modality: Modality) -> tuple[float, float]:
    """Unsafe points that count as safe, and safe ones that count as unsafe."""
    radii, threshold = radii_of(OVERLAPPING, CURVATURE), profile.threshold.of(modality)
    safe, unsafe = (profile.unsafe(radii[f"{side}_{modality}"], modality) for side in ("safe", "unsafe"))
    return float((unsafe <= threshold).mean()), float((safe > threshold).mean())


@pytest.mark.parametrize("max_miss", [0.0, 0.005, 0.05])
def test_in_each_modality_as_many_unsafe_points_pass_as_allowed_and_no_more(max_miss: float) -> None:
    profile = calibrate(OVERLAPPING, CURVATURE, max_miss=max_miss)
    for modality in MODALITIES:
        assert shares(profile, modality)[0] == max_miss  # 400 points: each share is a whole number of them
        assert profile.rates[modality].model_dump() == dict(
            zip(("miss", "lost"), map(pytest.approx, shares(profile, modality)), strict=True)
        )


@pytest.mark.parametrize("max_lost", [0.0, 0.005, 0.05])
def test_in_each_modality_as_many_safe_points_are_lost_as_allowed_and_no_more(max_lost: float) -> None:
    profile = calibrate(OVERLAPPING, CURVATURE, max_lost=max_lost)
    for modality in MODALITIES:
        assert shares(profile, modality)[1] == max_lost
        assert profile.threshold.of(modality) < 1


@settings(max_examples=30, deadline=None)
@given(max_miss=SHARES, max_lost=SHARES)
def test_both_limits_hold_in_each_modality_or_the_error_says_what_can_be_had(max_miss: float, max_lost: float) -> None:
    alone = calibrate(OVERLAPPING, CURVATURE, max_miss=max_miss)
    if worse := [kind for kind in MODALITIES if shares(alone, kind)[1] > max_lost]:
        with pytest.raises(SettingsError, match=f"{shares(alone, worse[0])[1]:.2%} of the safe ones are lost"):
            calibrate(OVERLAPPING, CURVATURE, max_miss=max_miss, max_lost=max_lost)
        return
    profile = calibrate(OVERLAPPING, CURVATURE, max_miss=max_miss, max_lost=max_lost)
    for modality in MODALITIES:
        assert shares(profile, modality)[0] <= max_miss
        assert shares(profile, modality)[1] <= max_lost


def test_a_harder_modality_costs_the_other_nothing() -> None:
    hard = quadruplet_points(400, spread=1.4)
    easy = quadruplet_points(400)
    mixed = replace(easy, safe_image=hard.safe_image, unsafe_image=hard.unsafe_image)
    assert calibrate(mixed, CURVATURE).threshold.text == 0.5 > calibrate(mixed, CURVATURE).threshold.image


def test_what_needs_everything_to_count_as_safe_is_refused() -> None:
    with pytest.raises(SettingsError, match="everything would count as safe"):
        # Scores beyond the last bit of float64 below 1.
        choose_threshold(np.array([0.1, 1.0]), np.array([0.5, 1.0]), Wanted(max_lost=0.0), "image")


def test_separable_groups_are_split_at_one_half() -> None:
    profile = calibrate(quadruplet_points(50), CURVATURE)
    assert profile.threshold == Thresholds.both(0.5)
    assert 1.0 < profile.text.midpoint < 3.0
    assert profile.image.safe.mean == pytest.approx(2.0, abs=0.01)


def test_radii_that_say_nothing_are_refused_with_a_mend() -> None:
    encoded = quadruplet_points(50)
    swapped = replace(encoded, safe_text=encoded.unsafe_text, unsafe_text=encoded.safe_text)
    with pytest.raises(TrainingError, match=r"radius of text does not grow .* Train longer"):
        calibrate(swapped, CURVATURE)


def test_a_collapsed_model_is_refused() -> None:
    origin = np.zeros((20, 4))
    encoded = quadruplet_points(20, dim=4)
    with pytest.raises(TrainingError, match="collapsed"):
        calibrate(
            replace(encoded, safe_text=origin, safe_image=origin, unsafe_text=origin, unsafe_image=origin), CURVATURE
        )


def test_radii_that_differ_by_rounding_alone_are_refused() -> None:
    encoded = quadruplet_points(200, spread=0.0, radii={"unsafe_text": 1.0 + 1e-7})
    with pytest.raises(TrainingError, match=r"all text radii are 1 up to rounding"):
        calibrate(encoded, CURVATURE)


@pytest.mark.parametrize(
    "limits",
    [{"max_harmful": 1.5}, {"max_miss": 1.0}, {"max_miss": -0.1}, {"max_lost": 1.0}, {"max_lost": float("nan")}],
)
def test_limits_out_of_range_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        calibrate(quadruplet_points(5), CURVATURE, **limits)


def test_candidates_ascend_from_within_the_innermost_safe_text() -> None:
    radii = radii_of(quadruplet_points(50), CURVATURE)
    tried = candidates(radii, "image")
    assert (np.diff(tried) > 0).all()
    assert tried[0] == pytest.approx(radii["safe_text"].min() / 3)
    assert tried[-1] == pytest.approx(lorentz.dist0(quadruplet_points(50).unsafe_image, CURVATURE).max())


def test_context_dependent_quadruplets_have_no_say_in_the_boundaries() -> None:
    clear, other = quadruplet_points(60, seed=1), quadruplet_points(60, noise=3.0, spread=1.0, seed=2)
    parts = {
        group: np.concatenate([getattr(clear, group), getattr(other, group)])
        for group in ("safe_text", "safe_image", "unsafe_text", "unsafe_image", "categories")
    }
    both = replace(clear, **parts, context=np.arange(120) >= 60)
    for modality in ("text", "image"):
        assert calibrate(both, CURVATURE).of(modality).boundary == calibrate(clear, CURVATURE).of(modality).boundary
