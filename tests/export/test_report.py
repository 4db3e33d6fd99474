"""Tables, JSON and plots say what the figures say."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.quadruplets import CURVATURE, profile_with, quadruplet_points

from hysac_export.evaluation.bootstrap import Figure
from hysac_export.evaluation.metrics import auc
from hysac_export.evaluation.paper import classification_table, paper_table, published_table, zero_shot_table
from hysac_export.evaluation.plots import roc_curve, write_plots
from hysac_export.evaluation.report import quality_table, tables, to_dict
from hysac_export.evaluation.subjects import (
    Evaluation,
    Subject,
    encode_validation,
    evaluate_subjects,
    measured,
    with_profile,
)
from hysac_export.evaluation.table import Table, number, percent
from hysac_export.model.encoded import EncodedSplit, encode_drawn
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.errors import InvalidVectorError, SettingsError, TrainingError


class CountingEncoder:
    """Encodes by rule: the direction comes from brightness or length, the radius is 1 for texts and 2 for images."""

    curvature = 1.0

    def __init__(self) -> None:
        self.images = 0

    def encode_text(self, texts: list[str], /) -> np.ndarray:
        angle = np.array([len(text) for text in texts], dtype=float)
        return np.sinh(1.0) * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def encode_image(self, pixels: np.ndarray, /) -> np.ndarray:
        self.images += len(pixels)
        angle = pixels.reshape(len(pixels), -1).mean(axis=1)
        return np.sinh(2.0) * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def evaluation(split: str, encoded: EncodedSplit, *, name: str = "model", euclidean: bool = False) -> Evaluation:
    curvature = None if euclidean else CURVATURE
    profile = None if euclidean else profile_with(boundary=1.5, threshold=0.5)
    subject = Subject(name, CountingEncoder(), curvature, 64, profile, "made up")
    return measured(subject, split, encoded, resamples=20)


@pytest.fixture(scope="module")
def evaluations() -> list[Evaluation]:
    encoded = quadruplet_points(40, noise=0.5)
    return [
        evaluation("test", encoded),
        evaluation("test", encoded, name="clip", euclidean=True),
        evaluation("style", quadruplet_points(40, noise=2.0)),
    ]


def test_shares_are_in_per_cent_and_missing_figures_are_a_dash() -> None:
    assert percent(Figure(0.753, 0.7264, 0.78, 1000)) == "75.3 [72.6, 78.0]"
    assert number(Figure(0.994, 0.9906, 1.0, 1000)) == "0.994 [0.991, 1.000]"
    assert percent(None) == number(None) == "–"


def test_quality_table_has_a_row_for_each_split_and_model(evaluations: list[Evaluation]) -> None:
    table = quality_table(evaluations)
    assert [row[:2] for row in table.rows] == [
        ("unseen combinations", "model"),
        ("unseen combinations", "clip"),
        ("unseen art style", "model"),
    ]
    shown = dict(zip(table.header, table.rows[0], strict=True))
    figures = evaluations[0].figures
    assert shown["radii in order"] == number(figures["order"])
    assert shown["harmful@1, whole system"] == percent(figures["twin_t2i.system.harmful1"])
    assert shown["AUC image"] == number(figures["auc.image"])
    # A Euclidean model retrieves, but has no radius and no traversal.
    assert table.rows[1][3] == percent(evaluations[1].figures["safe_t2i.r1"])
    assert set(table.rows[1][4:]) == {"–"}


def test_image_queries_have_a_quality_table_of_their_own(evaluations: list[Evaluation]) -> None:
    table = quality_table(evaluations, "image")
    shown = dict(zip(table.header, table.rows[2], strict=True))
    figures = evaluations[2].figures
    assert shown["safe I→T R@1"] == percent(figures["safe_i2t.r1"])
    assert shown["unsafe→safe R@1, traversal"] == percent(figures["twin_i2t.traversal.r1"])
    assert shown["harmful@1, whole system"] == percent(figures["twin_i2t.system.harmful1"])
    assert "AUC text" not in shown


def test_details_show_every_search_of_every_model(evaluations: list[Evaluation]) -> None:
    retrieval = next(t for t in tables(evaluations) if t.title.startswith("Retrieval, unseen combinations"))
    searches = [row[0] for row in retrieval.rows if row[1] == "model"]
    assert len(searches) == len(set(searches)) == len(evaluations[0].found)
    assert len([row for row in retrieval.rows if row[1] == "clip"]) == len(evaluations[1].found)


def _row(table: Table, *first: str) -> dict[str, str]:
    """The cells of the row that begins so, by column; of columns of one name the first."""
    row = next(row for row in table.rows if row[: len(first)] == first)
    return dict(reversed(list(zip(table.header, row, strict=True))))


def test_paper_table_sets_the_published_bounds_beside_ours(evaluations: list[Evaluation]) -> None:
    table = paper_table(evaluations[:2])
    ways = ["none", "published, 95th percentile", "published, mean"]
    ways += ["calibrated boundary", "calibrated boundary and filter"]
    assert [row[:2] for row in table.rows] == [*(("model", way) for way in ways), ("clip", "none")]
    figures = evaluations[0].figures
    assert _row(table, "model", "none")["I* → T* R@1"] == percent(figures["unsafe_i2t.r1"])
    ours = _row(table, "model", "calibrated boundary")
    # Our traversal is the one of the other tables.
    assert ours["T* → I in I ∪ I* R@1"] == percent(figures["twin_t2i.traversal.r1"])
    assert ours["harmful@1"] == percent(figures["twin_t2i.traversal.harmful1"])
    assert ours["T → I R@1"] == ""
    system = _row(table, "model", "calibrated boundary and filter")
    assert system["harmful@1"] == percent(figures["twin_t2i.system.harmful1"])
    clip = _row(table, "clip", "none")
    assert clip["T* → I in I ∪ I* R@1"] == percent(evaluations[1].figures["twin_t2i.plain.r1"])
    assert clip["harmful@1"] == percent(evaluations[1].figures["twin_t2i.plain.harmful1"])


def test_published_table_has_all_five_searches_and_a_dash_for_what_does_not_apply(
    evaluations: list[Evaluation],
) -> None:
    table = published_table(evaluations[:2])
    assert len(table.rows) == 2 * 5
    outward = _row(table, "T* → I* in I ∪ I* (U2GandV)", "model")
    assert outward["R@1, percentile"] == percent(evaluations[0].figures["published.U2GandV.percentile.r1"])
    assert outward["R@1, calibrated"] == "–"
    assert _row(table, "T* → I in I ∪ I* (U2VandG)", "clip")["score, mean"] == "–"


def test_classification_table_has_all_points_and_then_the_categories(evaluations: list[Evaluation]) -> None:
    table = classification_table(evaluations[:2])
    assert [row[:3] for row in table.rows] == [
        ("all", "model", "40"),
        ("drugs", "model", "20"),
        ("weapons", "model", "20"),
    ]
    figures = evaluations[0].figures
    assert _row(table, "all")["image: accuracy"] == percent(figures["accuracy.image"])
    assert _row(table, "drugs")["text: FPR at 95 % TPR"] == percent(figures["category.drugs.fpr95.text"])


def test_details_are_the_tables_that_have_something_to_say(evaluations: list[Evaluation]) -> None:
    details = [table.title.partition(",")[0] for table in tables(evaluations[:2])][2:]
    assert details == [
        "As in the paper",
        "Published evaluation",
        "Retrieval",
        "Classification by radius",
        "Radii",
        "Categories",
        "Entailment",
    ]
    brief = [table.title.partition(",")[0] for table in tables(evaluations, details=False)]
    assert brief == ["Quality", "Quality", "As in the paper"]
    assert zero_shot_table(evaluations).rows == ()


def test_in_brief_all_models_are_shown_on_the_first_split_and_two_on_the_others(evaluations: list[Evaluation]) -> None:
    names = ("model", "clip", "other")
    every = [
        evaluation(split, quadruplet_points(40, noise=1.0), name=name) for split in ("test", "style") for name in names
    ]
    brief = [[row[:2] for row in table.rows] for table in tables(every, details=False)[:2]]
    unseen = [("unseen art style", name) for name in names[:2]]
    assert brief == [[("unseen combinations", name) for name in names] + unseen] * 2
    assert len(tables(every)[0].rows) == 6


def test_markdown_tables_are_rectangular(evaluations: list[Evaluation]) -> None:
    for table in tables(evaluations):
        lines = table.markdown().splitlines()[2:]
        assert len(lines) == 2 + len(table.rows)
        assert {line.count("|") for line in lines} == {len(table.header) + 1}


def test_json_holds_every_figure_and_the_profile(evaluations: list[Evaluation]) -> None:
    result = json.loads(json.dumps(to_dict(evaluations, seed=0), allow_nan=False))
    assert result["seed"] == 0
    assert set(result["models"]) == {"model", "clip"}
    model = result["models"]["model"]
    assert set(model["splits"]) == {"test", "style"}
    assert set(model["splits"]["test"]) == set(evaluations[0].figures)
    assert model["splits"]["test"]["order"]["value"] == evaluations[0].figures["order"].value
    assert model["profile"]["text"]["boundary"] == 1.5
    assert result["models"]["clip"]["profile"] is None


def test_the_model_card_quotes_the_figures_and_the_bundle(
    evaluations: list[Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    script = importlib.import_module("model_card")
    sys.modules.pop("model_card")
    bundle = Bundle.load("hysac-mini")
    card = script.card(bundle, evaluations)
    assert card.startswith("# hysac-mini\n")
    assert bundle.fingerprint in card
    assert percent(evaluations[0].figures["twin_t2i.traversal.r1"]) in card
    summary = script.classification_summary(evaluations)
    assert [row[:2] for row in summary.rows] == [("unseen combinations", "model"), ("unseen art style", "model")]
    assert summary.rows[1][-1] == percent(evaluations[2].figures["fpr95.image"])
    assert "unseen" not in summary.title


def test_plots_are_written(evaluations: list[Evaluation], tmp_path: Path) -> None:
    written = write_plots(evaluations, tmp_path)
    assert sorted(path.name for path in written) == ["radii.png", "recall.png", "roc.png", "traversal.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_area_under_the_curve_that_is_drawn_is_the_auc() -> None:
    rng = np.random.default_rng(0)
    safe, unsafe = rng.integers(0, 9, 50) / 3, rng.integers(3, 12, 60) / 3
    false, true = roc_curve(safe, unsafe)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(auc(safe, unsafe), abs=1e-12)


def test_all_models_see_the_same_scenes_which_are_drawn_once() -> None:
    encoders = CountingEncoder(), CountingEncoder()
    subjects = [Subject(str(i), encoder, 1.0, 32, None, "") for i, encoder in enumerate(encoders)]
    stages: list[tuple[str, int | None]] = []
    done: list[int] = []

    def stage(label: str, total: int | None) -> Callable[[int], None]:
        stages.append((label, total))
        return done.append

    first, second = evaluate_subjects(subjects, ["test"], 6, 3, resamples=5, stages=stage)
    np.testing.assert_array_equal(first.encoded.safe_image, second.encoded.safe_image)
    np.testing.assert_array_equal(first.encoded.unsafe_text, second.encoded.unsafe_text)
    assert first.figures == second.figures
    assert first.figures["zeroshot.safe.chance"].value == pytest.approx(3 / 370, abs=1 / 370)
    # Drawing once; encoding safe and unsafe images for each model.
    assert stages == [("test: drawing", 6), ("test: 0", 12), ("test: 1", 12)]
    assert sum(done) == 6 + 12 + 12
    assert [encoder.images for encoder in encoders] == [12, 12]
    again = evaluate_subjects(subjects[:1], ["test"], 3, 3, resamples=5)[0]
    np.testing.assert_array_equal(again.encoded.safe_image, first.encoded.safe_image[:3])


def test_a_model_that_yields_nan_is_refused() -> None:
    class Broken(CountingEncoder):
        def encode_text(self, texts: list[str], /) -> np.ndarray:
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(InvalidVectorError, match="not finite"):
        evaluate_subjects([Subject("broken", Broken(), 1.0, 32, None, "")], ["test"], 3)


def test_a_euclidean_model_cannot_be_calibrated() -> None:
    with pytest.raises(TrainingError, match="Euclidean"):
        encode_validation(Subject("clip", CountingEncoder(), None, 32, None, ""))


def test_a_model_whose_radii_say_nothing_is_still_compared_with_the_published_bounds() -> None:
    subject = with_profile(Subject("model", CountingEncoder(), 1.0, 32, None, ""), 6)
    assert subject.profile is None
    assert "up to rounding" in subject.uncalibrated
    assert subject.radii is not None
    assert {group: round(stats.mean, 9) for group, stats in subject.radii.items()} == {
        "safe_text": 1.0,
        "safe_image": 2.0,
        "unsafe_text": 1.0,
        "unsafe_image": 2.0,
    }
    found = evaluate_subjects([subject], ["test"], 6, resamples=5)
    assert [row[1] for row in paper_table(found).rows] == ["none", "published, 95th percentile", "published, mean"]
    assert to_dict(found)["models"]["model"]["uncalibrated"] == subject.uncalibrated


def test_unknown_splits_and_empty_samples_are_refused() -> None:
    subject = Subject("model", CountingEncoder(), 1.0, 32, None, "")
    with pytest.raises(SettingsError):
        evaluate_subjects([subject], ["holiday"], 3)
    with pytest.raises(SettingsError, match="at least 1"):
        evaluate_subjects([subject], ["test"], 0)


def test_encoding_keeps_rows_of_a_quadruplet_together() -> None:
    from hysac_export.data.split import draw_split

    drawn = draw_split("test", 5, seed=1, size=32)
    encoded = encode_drawn(CountingEncoder(), drawn)
    angle = drawn.unsafe_image.reshape(5, -1).mean(axis=1)
    np.testing.assert_allclose(encoded.unsafe_image[:, 0], np.sinh(2.0) * np.cos(angle))
    assert lorentz.dist0(encoded.safe_text, 1.0) == pytest.approx(np.ones(5))
    assert encoded.categories.tolist() == drawn.categories.tolist()
