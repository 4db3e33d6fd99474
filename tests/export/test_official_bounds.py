"""Published percentiles and labelled samples as safety profiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.golden import golden_path

from hysac_export.evaluation.samples import MIN_SAMPLES, Group, calibrate_radii
from hysac_export.published.bounds import Bounds, GroupBounds, published_profile
from hysac_retrieval.errors import SettingsError, TrainingError
from hysac_retrieval.types import MODALITIES

PUBLISHED = {
    "S": {"low_05": 0.9, "avg": 1.0, "up_95": 1.2},
    "V": {"low_05": 1.1, "avg": 1.3, "up_95": 1.5},
    "U": {"low_05": 1.5, "avg": 1.8, "up_95": 2.0},
    "G": {"low_05": 1.9, "avg": 2.2, "up_95": 2.6},
}
CENTRES: dict[Group, float] = {"safe_text": 1.0, "safe_image": 1.4, "unsafe_text": 2.0, "unsafe_image": 2.5}


def bounds(**groups: Any) -> Bounds:
    return Bounds.model_validate(PUBLISHED | groups)


def radii(*groups: Group, n: int = 200, spread: float = 0.2) -> dict[Group, np.ndarray]:
    rng = np.random.default_rng(0)
    return {group: rng.normal(CENTRES[group], spread, n) for group in groups or CENTRES}


def test_derived_radii_have_the_published_percentiles() -> None:
    for group in PUBLISHED.values():
        found = np.percentile(GroupBounds.model_validate(group).radii(), [5, 50, 95])
        np.testing.assert_allclose(found, [group["low_05"], group["avg"], group["up_95"]], atol=2e-3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"avg": 1.0, "up_95": 1.2}, [0.8, 1.0, 1.2]),
        ({"mean": 1.0, "low_05": 0.9}, [0.9, 1.0, 1.1]),
        ({"low_05": 0.8, "up_95": 1.4}, [0.8, 1.1, 1.4]),
        ({"avg": 0.1, "up_95": 1.0}, [0.0, 0.1, 1.0]),
    ],
)
def test_half_a_distribution_mirrors_the_other(given: dict[str, float], expected: list[float]) -> None:
    found = np.percentile(GroupBounds.model_validate(given).radii(), [5, 50, 95])
    np.testing.assert_allclose(found, expected, atol=3e-3)


def test_the_default_profile_keeps_what_is_published_and_says_that_the_rest_is_derived() -> None:
    calibration = published_profile(bounds())
    profile = calibration.profile
    assert calibration.derived == ("text", "image")
    assert profile.source.count("DEFAULT") == 2
    assert profile.text.safe.percentiles == {5: 0.9, 95: 1.2}
    assert profile.image.unsafe.percentiles == {5: 1.9, 95: 2.6}
    assert [profile.of(m).safe.mean for m in ("text", "image")] == [1.0, 1.3]
    assert profile.text.safe.count == 0
    assert profile.text.boundary == profile.image.boundary == 1.0


def test_default_scores_separate_what_the_percentiles_separate() -> None:
    profile = published_profile(bounds()).profile
    low, middle, high = profile.unsafe([1.2, 1.35, 1.5], "text")
    assert low < 0.15 < middle < 0.85 < high
    assert 1.2 < profile.text.midpoint < 1.5
    assert all(0 < profile.threshold.of(modality) <= 0.5 for modality in MODALITIES)
    assert profile.rates == {}
    # As calibrated on 1000 samples: no certainty that so few could give.
    assert profile.text.slope * 0.4 < 20


def test_percentiles_that_overlap_lower_the_threshold_until_few_unsafe_points_pass() -> None:
    overlapping = bounds(U={"low_05": 0.9, "avg": 1.3, "up_95": 1.8})
    profile = published_profile(overlapping, max_miss=0.02).profile
    unsafe = profile.unsafe(overlapping.U.radii(), "text")
    assert profile.threshold.text < 0.5
    assert np.mean(unsafe <= profile.threshold.text) <= 0.02
    assert profile.threshold.image == published_profile(bounds(), max_miss=0.02).profile.threshold.image


def test_samples_replace_the_default_but_not_the_published_percentiles() -> None:
    samples = radii("safe_text", "unsafe_text")
    calibration = published_profile(bounds(), samples)
    profile, alone = calibration.profile, calibrate_radii(samples | radii("safe_image", "unsafe_image"))
    assert calibration.derived == ("image",)
    assert (profile.text.slope, profile.text.midpoint) == (alone.text.slope, alone.text.midpoint)
    assert profile.text.safe.percentiles == {5: 0.9, 95: 1.2}
    assert profile.text.safe.count == 200
    assert profile.text.boundary == pytest.approx(samples["safe_text"].mean())
    assert "200 safe and 200 unsafe samples" in profile.source
    assert profile.source.count("DEFAULT") == 1


def test_samples_of_both_kinds_need_no_bounds() -> None:
    calibration = published_profile(Bounds(), radii())
    assert calibration.derived == ()
    assert set(calibration.profile.text.safe.percentiles) == {5, 25, 50, 75, 95}


def test_the_two_bounds_that_are_certain_are_not_enough_alone() -> None:
    certain = Bounds.model_validate({"S": {"up_95": 1.1}, "V": {"up_95": 1.3}})
    with pytest.raises(TrainingError, match=r"S\.avg, U\.avg and up_95, V\.avg, G\.avg and up_95 missing.*--safe"):
        published_profile(certain)
    with pytest.raises(TrainingError, match=r"unsafe images differ: V\.avg"):
        published_profile(certain, radii("safe_text", "unsafe_text"))
    profile = published_profile(certain, radii()).profile
    assert (profile.text.safe.percentiles, profile.image.safe.percentiles) == ({95: 1.1}, {95: 1.3})


@pytest.mark.parametrize(
    "groups",
    [{"U": PUBLISHED["S"], "S": PUBLISHED["U"]}, {"G": PUBLISHED["V"]}],
)
def test_bounds_in_which_unsafe_is_not_farther_out_are_refused(groups: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="does not grow"):
        published_profile(bounds(**groups))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"S": 1}',
        '{"S": {"up_95": -1}}',
        '{"S": {"up_95": "far"}}',
        '{"S": {"avg": 2, "up_95": 1}}',
        '{"S": {"up_95": NaN}}',
    ],
)
def test_a_file_that_holds_no_bounds_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(TrainingError, match=r"b\.json does not hold"):
        Bounds.load(tmp_path / "b.json")


def test_the_published_file_is_read() -> None:
    path = golden_path("tiny_model") / "hysac_bounds.json"
    found, written = Bounds.load(path), json.loads(path.read_text())
    assert {letter: getattr(found, letter).avg for letter in "SVUG"} == {k: v["avg"] for k, v in written.items()}
    with pytest.raises(TrainingError, match=r"none\.json"):
        Bounds.load(path.parent / "none.json")


def test_a_kind_without_samples_keeps_its_calibration() -> None:
    base = published_profile(bounds()).profile
    profile = calibrate_radii(radii("safe_image", "unsafe_image"), base)
    assert profile.text == base.text
    assert profile.image.midpoint != base.image.midpoint
    assert profile.image.boundary == base.text.boundary
    assert profile.threshold.text == base.threshold.text
    assert set(profile.rates) == {"image"}
    assert "text: as before" in profile.source
    assert base.source in profile.source


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "no samples of texts or images"),
        (radii("safe_text", "unsafe_text"), "no samples of images"),
        (radii("safe_text"), "200 safe and 0 unsafe texts"),
        (radii(n=MIN_SAMPLES - 1), "at least 20"),
    ],
)
def test_too_few_samples_are_refused(samples: dict[Group, np.ndarray], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        calibrate_radii(samples)


def test_swapped_samples_are_refused() -> None:
    found = radii()
    swapped = found | {"safe_text": found["unsafe_text"], "unsafe_text": found["safe_text"]}
    with pytest.raises(TrainingError, match="not swapped"):
        calibrate_radii(swapped)


@pytest.mark.parametrize("max_miss", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(max_miss: float) -> None:
    with pytest.raises(SettingsError, match="max_miss"):
        calibrate_radii(radii(), max_miss=max_miss)
