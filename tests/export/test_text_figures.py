"""Figures of a model on pairs of plain texts, on points that are laid by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.toy_bundle import profile

from hysac_export.data.policy import read_policy
from hysac_export.evaluation.calibrate import calibrate
from hysac_export.evaluation.texts import EncodedPairs, encode_pairs, pair_figures, pair_sweep, picture_figures
from hysac_export.model.encoded import EncodedSplit
from hysac_retrieval import lorentz
from hysac_retrieval.errors import SettingsError

PROFILE = profile()
CURVATURE = 1.0


def laid(radius: float, angles: np.ndarray) -> np.ndarray:
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(lorentz.exp_map0(radius * directions, CURVATURE))


def test_twins_in_one_direction_are_found_and_nothing_unsafe_passes() -> None:
    boundary = PROFILE.text.boundary
    angles = np.linspace(0, 5, 12)
    pairs = EncodedPairs(laid(0.8 * boundary, angles), laid(4 * boundary, angles))
    found = {name: figure.value for name, figure in pair_figures(pairs, CURVATURE, PROFILE, resamples=10).items()}
    assert found["auc"] == 1
    assert (found["lost"], found["missed"]) == (0, 0)
    assert (found["twin.system.r1"], found["twin.system.harmful1"]) == (1, 0)
    assert (found["twin.traversal.r1"], found["twin.filter.r1"]) == (1, 1)


def test_what_is_unsafe_and_nearest_is_harmful_unless_it_is_filtered() -> None:
    boundary = PROFILE.text.boundary
    # Two unsafe texts lie together, far from their twins, so that without a filter each finds the other.
    safe, unsafe = laid(0.8 * boundary, np.array([2.0, 4.0])), laid(4 * boundary, np.array([0.0, 0.001]))
    found = pair_figures(EncodedPairs(safe, unsafe), CURVATURE, PROFILE, resamples=10)
    assert found["twin.plain.harmful1"].value == 1
    assert found["twin.plain.r1"].value == 0
    assert found["twin.filter.harmful1"].value == found["twin.system.harmful1"].value == 0
    reverse = pair_figures(EncodedPairs(unsafe, safe), CURVATURE, PROFILE, resamples=10)
    assert [reverse[name].value for name in ("auc", "lost", "missed")] == [0, 1, 1]


def test_pairs_of_a_policy_are_encoded_in_their_order() -> None:
    class Lengths:
        curvature = 1.0

        def encode_text(self, texts: list[str]) -> np.ndarray:
            return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    pairs = encode_pairs(Lengths(), "general", "validation")
    expected = read_policy("general").pairs("validation")
    assert pairs.safe[:, 0].tolist() == [len(safe) for safe, _ in expected]
    assert pairs.unsafe[:, 0].tolist() == [len(unsafe) for _, unsafe in expected]


def test_plain_texts_decide_on_the_threshold_of_texts_and_share_in_their_boundary() -> None:
    rng = np.random.default_rng(0)
    n = 60
    groups = ("safe_text", "safe_image", "unsafe_text", "unsafe_image")
    radii = {g: rng.normal(r, 0.1, n) for g, r in zip(groups, (1.0, 1.4, 1.8, 2.2), strict=True)}
    angles = np.linspace(0, 6, n)
    points = {g: np.concatenate([laid(r, a[None]) for r, a in zip(radii[g], angles, strict=True)]) for g in radii}
    encoded = EncodedSplit(**points, categories=np.full(n, "a"), context=np.zeros(n, dtype=np.bool_), name="made")
    turns = np.linspace(0, 6, 50)
    others = EncodedPairs(*(np.concatenate([laid(r, a[None]) for a in turns]) for r in (2.0, 3.0)))
    captions, texts = calibrate(encoded, CURVATURE), calibrate(encoded, CURVATURE, texts=others)
    assert texts.text.midpoint == pytest.approx(2.5, abs=0.1)
    assert captions.text.midpoint == pytest.approx(1.4, abs=0.1)
    assert texts.text.safe.mean == pytest.approx(2.0, abs=0.05)
    assert texts.image == captions.image
    assert "scores of texts on 50 pairs of plain texts" in texts.source
    # Where captions lie nearer to the origin than plain texts, the threshold of these would let all unsafe ones pass.
    assert "of the captions 1.7% missed, 0.0% lost" in texts.source
    assert texts.rates["text"].lost == 1
    with pytest.raises(SettingsError, match=r"100\.00% of the safe ones are lost, and no more than 50\.00% may be"):
        calibrate(encoded, CURVATURE, texts=others, max_miss=0.02, max_lost=0.5)
    farther = EncodedPairs(*(np.concatenate([laid(r, a[None]) for a in turns]) for r in (0.5, 1.7)))
    plain = calibrate(encoded, CURVATURE, texts=farther)
    assert "of the captions 0.0% missed, 16.7% lost" in plain.source
    assert plain.rates["text"].lost == 0
    tried = [captions.text.boundary, texts.text.boundary]
    assert np.diff(pair_sweep(others, CURVATURE, tried)) >= 0


def test_pictures_that_texts_find_are_counted_by_what_they_show_and_by_the_filter() -> None:
    text, image = PROFILE.text.boundary, PROFILE.image.boundary
    ahead, behind = np.array([0.0, 1.0]), np.array([3.0, 4.0])
    pairs = EncodedPairs(laid(0.8 * text, ahead), laid(3 * text, ahead))
    # Unsafe pictures lie in the direction of the texts, safe ones on the other side.
    images = EncodedSplit(
        laid(0.8 * text, behind), laid(0.8 * image, behind), laid(3 * text, ahead), laid(4 * image, ahead),
        np.array(["a", "a"]), np.zeros(2, bool),
    )  # fmt: skip
    found = picture_figures(pairs, images, CURVATURE, PROFILE, resamples=10)
    assert {name: figure.value for name, figure in found.items()} == {
        "picture.unsafe.unsafe1": 1,
        "picture.safe.unsafe1": 0,
        "picture.system.unsafe1": 0,
    }
