"""The radial head: its scores are honest, its radii keep the encoder's ranking, its graph computes the same."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hysac_export.evaluation.calibrate import Wanted
from hysac_export.fit.graph import head_graph
from hysac_export.fit.radial import CURVATURE, RadialHead, fit_heads, placed, profile_of
from hysac_export.fit.scores import Labelled, Scorer, fit_scores, unit
from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError, SettingsError, TrainingError

K = 24


def vectors(n: int, shift: float, seed: int = 0, gap: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """n vectors of an encoder to which unsafe things lie `shift` standard deviations in one direction, half of them."""
    rng = np.random.default_rng(seed)
    unsafe = np.arange(n) % 2 == 1
    rows = rng.normal(size=(n, K))
    rows[:, 0] += shift * unsafe
    rows[:, 1] += gap
    return rows.astype(np.float32), unsafe


def examples(n: int = 200, shift: float = 4.0, seed: int = 0, gap: float = 0.0) -> Labelled:
    return Labelled.of(*vectors(n, shift, seed, gap))


@pytest.fixture(scope="module")
def head() -> RadialHead:
    return fit_heads({"text": examples()})["text"].head


def run(head: RadialHead, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(head_graph(head).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"vector": rows})[0])


class TestScores:
    def test_the_score_holds_on_examples_that_were_not_seen(self) -> None:
        fit = fit_scores(examples())
        rows, unsafe = vectors(4000, 4.0, seed=1)
        logits = fit.scorer.logits(unit(rows))
        assert ((logits > 0) == unsafe).mean() > 0.93
        expected = 1 / (1 + np.exp(-logits))
        assert abs(expected.mean() - 0.5) < 0.05
        likely = (expected > 0.6) & (expected < 0.95)
        assert abs(expected[likely].mean() - unsafe[likely].mean()) < 0.15

    @pytest.mark.parametrize("seed", range(3))
    def test_labels_at_random_are_no_score(self, seed: int) -> None:
        rows, _ = vectors(120, 0.0, seed)
        unsafe = np.random.default_rng(seed + 9).permutation(np.arange(120) % 2 == 1)
        try:
            fit = fit_scores(Labelled.of(rows, unsafe))
        except TrainingError:  # they may well point the wrong way
            return
        assert fit.loss > 0.6  # of ln 2 = 0.693 for a coin
        assert abs(fit.logits).max() < 1.5

    def test_sentences_of_one_phrase_never_judge_each_other(self) -> None:
        # Every phrase has its own direction, and nothing tells unsafe phrases from others: leaked, all would be known.
        rng = np.random.default_rng(0)
        phrase = np.repeat(np.arange(40), 6)
        rows = np.eye(40)[phrase] + 0.01 * rng.normal(size=(240, 40))
        unsafe = (phrase % 2).astype(bool)
        leaked = fit_scores(Labelled.of(rows, unsafe))
        assert leaked.loss < 0.1
        try:
            honest = fit_scores(Labelled.of(rows, unsafe, groups=phrase))
        except TrainingError:
            return
        assert honest.loss > 0.6

    def test_a_network_is_taken_where_it_is_better_and_only_with_many_labels(self) -> None:
        rng = np.random.default_rng(0)

        def ring(n: int) -> Labelled:  # unsafe where two components differ in sign, which no plane tells
            rows = rng.normal(size=(n, 6))
            return Labelled.of(rows, rows[:, 0] * rows[:, 1] > 0)

        assert fit_scores(examples(1200)).scorer.kind == "logistic regression"
        with pytest.raises(TrainingError, match="no better than chance"):  # a plane cannot do it
            fit_scores(ring(300))
        assert fit_scores(ring(2000)).scorer.kind == "network"

    def test_a_few_labels_of_a_modality_are_helped_by_the_score_of_the_other(self) -> None:
        text, image = examples(600, 3.0), examples(24, 3.0, seed=5, gap=3.0)
        fits = fit_heads({"text": text, "image": image})
        assert fits["image"].shared
        assert not fits["text"].shared
        rows, unsafe = vectors(2000, 3.0, seed=7, gap=3.0)
        alone = fit_heads({"image": image})["image"].head.scorer.logits(unit(rows))
        helped = fits["image"].head.scorer.logits(unit(rows))
        assert ((helped > 0) == unsafe).mean() > ((alone > 0) == unsafe).mean()


class TestRadii:
    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), level=st.sampled_from(["safe", "unsafe"]), dim=st.integers(2, 40))
    def test_points_of_one_level_are_ranked_as_their_vectors_are_by_cosine(
        self, seed: int, level: str, dim: int
    ) -> None:
        rng = np.random.default_rng(seed)
        rows = unit(rng.normal(size=(30, dim))).astype(np.float64)
        logits = np.full(30, -50.0 if level == "safe" else 50.0) + rng.normal(size=30)
        head = RadialHead(Scorer(((np.zeros((dim, 1)), np.zeros(1)),), "logistic regression"), 0.0, 0.5, 1.0)
        points = placed(rows, head.radii(logits))
        cosine = rows[1:] @ rows[0]
        distance = lorentz.dist(points[1:], points[:1], np.float64(CURVATURE))
        order = np.argsort(distance)
        assert (np.diff(cosine[order]) <= 1e-9).all()

    def test_levels_are_ordered_as_the_model_of_a_hysac_space_asks(self) -> None:
        fits = fit_heads({"text": examples(), "image": examples(seed=3, gap=1.0)})
        text, image = fits["text"].head, fits["image"].head
        assert text.safe < image.safe < text.unsafe < image.unsafe
        profile = profile_of(fits, "labels")
        for modality, head in (("text", text), ("image", image)):
            radii = [head.safe, (head.safe + head.unsafe) / 2, head.unsafe]
            assert profile.unsafe(radii, modality) == pytest.approx([0.02, 0.5, 0.98])

    def test_what_counts_as_safe_is_what_the_threshold_of_the_score_says(self) -> None:
        fit = fit_heads({"text": examples(400, 2.0)}, Wanted(max_miss=0.05))["text"]
        profile = profile_of({"text": fit}, "labels")
        assert (profile.counts_safe(fit.head.radii(fit.logits), "text") == fit.counts_safe).all()
        assert fit.rates.miss <= 0.05
        assert fit.rates.lost == pytest.approx((~fit.counts_safe)[~fit.examples.unsafe].mean())

    def test_clearly_safe_points_have_clearly_safe_ones_next_to_them(self, head: RadialHead) -> None:
        rows, unsafe = vectors(600, 4.0, seed=2)
        logits = head.scorer.logits(unit(rows))
        clear = (logits < head.low) & ~unsafe | (logits > head.high) & unsafe
        points, kinds = head.points(rows)[clear], unsafe[clear]
        distance = lorentz.dist(points[:, None], points[None], np.float64(CURVATURE))
        np.fill_diagonal(distance, np.inf)
        assert kinds[distance.argmin(axis=1)][~kinds].mean() <= 0.02

    def test_stricter_limits_lose_more_and_miss_less(self) -> None:
        own = examples(400, 2.0)
        strict, loose = (fit_heads({"text": own}, Wanted(max_miss=miss))["text"].rates for miss in (0.01, 0.2))
        assert strict.miss < loose.miss
        assert strict.lost > loose.lost


class TestGraph:
    @pytest.mark.parametrize("kind", ["regression", "network"])
    def test_it_computes_what_the_head_computes_for_vectors_of_any_length(self, kind: str, head: RadialHead) -> None:
        if kind == "network":
            rng = np.random.default_rng(0)
            layers = ((rng.normal(size=(K, 8)), rng.normal(size=8)), (rng.normal(size=(8, 1)), rng.normal(size=1)))
            head = RadialHead(Scorer(layers, "network"), -0.1, 0.5, 1.0)
        rows = vectors(64, 4.0, seed=4)[0] * np.float32(7)
        assert run(head, rows) == pytest.approx(head.points(rows), abs=2e-5)
        assert run(head, rows[:1] * np.float32(1e-3)) == pytest.approx(head.points(rows[:1]), abs=2e-5)

    def test_a_vector_without_direction_is_never_a_point_at_the_origin(self, head: RadialHead) -> None:
        assert not np.isfinite(run(head, np.zeros((1, K), np.float32))).any()
        with pytest.raises(InvalidVectorError, match="zero or not finite"):
            head.points(np.zeros((1, K)))


class TestBadInput:
    def test_one_class_only(self) -> None:
        rows, _ = vectors(40, 1.0)
        with pytest.raises(TrainingError, match="0 unsafe examples, and at least 8") as error:
            Labelled.of(rows, np.zeros(40, bool))
        assert "100 of each" in str(error.value.hint)

    def test_too_few(self) -> None:
        with pytest.raises(TrainingError, match="5 unsafe"):
            Labelled.of(*vectors(11, 1.0))

    def test_contradicting_labels_of_one_vector_are_named(self) -> None:
        rows, unsafe = vectors(40, 1.0)
        rows[5] = rows[8] * 2
        with pytest.raises(TrainingError, match="1 vectors are labelled safe and unsafe, such as 'e5', 'e8'"):
            Labelled.of(rows, unsafe, names=[f"e{i}" for i in range(40)])

    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
    def test_vectors_without_a_direction(self, value: float) -> None:
        rows, unsafe = vectors(40, 1.0)
        rows[3] = value
        with pytest.raises(InvalidVectorError, match="1 of 40 vectors are zero or not finite, the first in row 3"):
            Labelled.of(rows, unsafe)

    def test_sizes_that_differ(self) -> None:
        rows, unsafe = vectors(40, 3.0)
        with pytest.raises(TrainingError, match="24 for texts and 12 for images"):
            fit_heads({"text": Labelled.of(rows, unsafe), "image": Labelled.of(rows[:, :12], unsafe)})

    def test_nothing_at_all(self) -> None:
        with pytest.raises(TrainingError, match="no labelled examples"):
            fit_heads({})

    def test_limits_that_cannot_both_be_met(self) -> None:
        with pytest.raises(SettingsError, match="of the safe ones are lost"):
            fit_heads({"text": examples(200, 1.0)}, Wanted(max_miss=0.01, max_lost=0.01))
