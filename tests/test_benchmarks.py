"""Every benchmark runs, measures what it says, and writes its report. How fast this machine is, is not judged."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hysac_retrieval import lorentz

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "benchmarks"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import scripts of the folder, as they import each other, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "").parent == FOLDER:
            del sys.modules[name]


def run(module: ModuleType, out: Path, *options: str) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(module.main, [*options, "--out", str(out / "report.json")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    assert report["machine"]["cores"] >= 1
    return report, result.output


def test_recall_reports_every_kind_of_query(load: Load, tmp_path: Path) -> None:
    report, shown = run(load("recall"), tmp_path, "--synthetic", "--quick")
    assert set(report["recall_at_10"]) == {"safe text", "unsafe text", "unsafe text, traversed", "unsafe image"}
    assert report["recall_at_10"]["safe text"]["ef=default"]["recall"] == 1.0
    assert report["recall_at_10_safe_true"]["unsafe text, traversed"]["recall"] == 1.0
    assert report["traversed"] == 8
    assert "unsafe text, traversed" in shown


def test_recall_grid_covers_lifts_quantizations_and_candidates(load: Load, tmp_path: Path) -> None:
    options = ["--quantization", "float32", "--quantization", "turbo4"]
    report, shown = run(load("recall"), tmp_path, "--grid", "--synthetic", "--quick", *options)
    (found,) = report["runs"].values()
    assert list(found["collections"]) == [
        f"{lift}, {kind}" for lift in ("padded", "poincare") for kind in ("float32", "turbo4")
    ]
    assert found["collections"]["padded, float32"]["recall_at_1_10_100"]["safe text"] == {
        "L=10": [1.0, 1.0, None],
        "L=100": [1.0, 1.0, 1.0],
    }
    # Ten candidates by Euclidean distance are not the ten nearest, a hundred hold them.
    poincare = found["collections"]["poincare, float32"]["recall_at_1_10_100"]["unsafe image"]
    assert poincare["L=10"][1] < poincare["L=100"][1]
    assert "poincare, turbo4" in shown


def test_latency_compares_with_the_plain_query(load: Load, tmp_path: Path) -> None:
    report, shown = run(load("latency"), tmp_path, "--quick")
    (found,) = report["runs"]
    assert found["safe"] == 0.95
    assert found["latency"]["plain cosine"]["ratio"]["p50"] == 1.0
    met = found["latency"]["safe search"]["ratio"]["p50"] <= found["goals"]["median"]["at_most"]
    assert found["goals"]["median"]["met"] == met
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in found["latency"].values())
    assert set(found["queries_per_second_by_threads"]["safe search"]["per_second"]) == {"1", "2", "8"}
    assert shown.index("p50 ratio") < shown.index("p50 ms")


def test_scale_builds_every_size(load: Load, tmp_path: Path) -> None:
    report, _ = run(load("scale"), tmp_path, "--quick", "--quantization", "turbo8")
    (found,) = report["runs"]
    assert [(row["points"], row["safe_search"]["recall_at_10"]) for row in found["sizes"]] == [(200, 1.0), (400, 1.0)]
    assert [(step["from"], step["to"]) for step in found["growth"]] == [(200, 400)]
    assert all(row["bytes_per_point"] > 0 for row in found["sizes"])


def test_filters_finds_all_and_only_safe_points(load: Load, tmp_path: Path) -> None:
    report, _ = run(load("filters"), tmp_path, "--quick")
    assert list(report["runs"]) == ["1 % safe", "10 % safe", "50 % safe", "99 % safe"]
    assert report["goal"]["met"]
    rare = report["runs"]["1 % safe"]["padded, float32"]
    assert {row["unsafe_returned"] for row in rare.values()} == {0}
    # What the benchmark is about: four safe points among four hundred are not all among the hundred nearest.
    assert rare["safe text"]["filtered_afterwards"] < rare["safe text"]["recall"] == 1.0


def test_upload_compares_with_engines_and_encoder(load: Load, tmp_path: Path, toy_bundle: Path) -> None:
    report, shown = run(load("upload"), tmp_path, "--quick", "--model", str(toy_bundle), "--threads", "1")
    (points,) = report["points"]
    assert points["points"] == 300
    for ours, raw, ratio in zip(
        *[iter(points["points_per_second"].values())] * 2, points["ratio"].values(), strict=True
    ):
        assert ratio == pytest.approx(ours / raw, rel=0.01)
    images = report["images"]
    assert list(images["images_per_second"]) == ["encoder, pixels", "encoder, files", "hysac-index, workers=auto"]
    assert images["ratio_to_encoder_on_pixels"]["encoder, pixels"] == 1.0
    assert shown.index("ratio, embedded") < shown.index("ratio to pixels")


def test_train_step_compares_with_the_published_code(load: Load, tmp_path: Path) -> None:
    report, shown = run(load("train_step"), tmp_path, "--quick", "--kind", "tiny", "--kind", "mini, stem")
    assert list(report["steps"]) == ["tiny", "mini, stem"]
    for step in report["steps"].values():
        assert step["p95_ms"] >= step["p50_ms"] > 0
        assert step["memory_mb"]["peak"] > step["memory_mb"]["added"] >= 0
    tiny, found = report["steps"]["tiny"], report["tiny_against_published"]
    assert found["times_faster"]["as published"] == pytest.approx(166 / tiny["p50_ms"], abs=0.01)
    assert found["goal"]["met"] == all(
        found["times_faster"][name] >= found["goal"][name] for name in ("as published", "without anomaly detection")
    )
    assert "published ms" in shown


def test_encode_compares_onnx_runtime_with_eager_open_clip(load: Load, tmp_path: Path) -> None:
    report, shown = run(load("encode"), tmp_path, "--quick", "--threads", "1")
    for speeds in report["models"].values():
        for batches in speeds.values():
            assert list(batches) == ["1", "2"]
            for sides in batches.values():
                assert list(sides) == ["eager", "onnx fp32", "onnx int8"]
                eager = sides["eager"]["per_second"]
                for row in sides.values():
                    assert row["ratio"] == pytest.approx(row["per_second"] / eager, rel=0.01)
    assert shown.index("ViT-B-32, 1 threads") < shown.index("image, batch 2, onnx int8")


@pytest.mark.parametrize("spread", ["narrow", "medium", "wide"])
def test_exact_search_of_the_benchmarks_is_exact(load: Load, spread: str) -> None:
    """In blocks and through float32, against all float64 distances; near neighbours and far-out points included."""
    common, points = load("common"), load("points")
    source = points.Synthetic(12, spread, clusters=5)
    gallery = source.images(500)
    gallery[100:200] = gallery[:100] * (1 + 1e-5)
    queries = np.concatenate([source.draw("unsafe_text", 10, block=1), gallery[:10]])
    common.ExactSearch._BLOCK, before = 64, common.ExactSearch._BLOCK
    try:
        found = common.exact(gallery, queries, 7, points.CURVATURE, np.arange(50, 500))
    finally:
        common.ExactSearch._BLOCK = before
    distances = lorentz.dist(gallery[None, 50:], queries[:, None], points.CURVATURE)
    np.testing.assert_array_equal(found.rows, 50 + np.argsort(distances, axis=1, kind="stable")[:, :7])


def test_recall_counts_points_at_the_distance_of_the_last(load: Load) -> None:
    common = load("common")
    points = np.array([[0.1], [0.2], [-0.2], [0.3]])
    truth = common.exact(points, np.zeros((1, 1)), 2, 1.0)
    assert common.recall([[0, 2]], truth, 2, points) == [1.0]  # row 1 and row 2 are equally near
    assert common.recall([[0, 2]], truth, 2) == [0.5]
    assert common.recall([[0, 3]], truth, 2, points) == [0.5]
    assert common.recall([[]], truth, 2, points) == [0.0]


def test_synthetic_blocks_are_the_same_every_time_and_differ_from_each_other(load: Load) -> None:
    points = load("points")
    one, other = (points.Synthetic(16, "narrow", clusters=3) for _ in range(2))
    np.testing.assert_array_equal(one.images(20, block=4), other.images(20, block=4))
    assert not np.isin(one.images(20, block=4), one.images(20, block=5)).any()
    safety = one.safety()
    safe = safety.counts_safe(lorentz.dist0(one.images(100, safe=0.25), points.CURVATURE), "image")
    assert safe.sum() == 25


def test_judged_texts_report_what_is_missed_before_and_after(load: Load, tmp_path: Path) -> None:
    report, shown = run(load("judged"), tmp_path, "--only", "texts", "--count", "6")
    texts = report["texts"]
    disguised = texts["disguised"].values()
    assert any(row["missed before"] > 0 for row in disguised)
    assert all(row["missed"] <= row["missed before"] for row in disguised)
    assert texts["disguised"]["leet"]["missed"] == 0.0
    assert texts["long"]["5 captions, unsafe end"]["judged"] == 1.0
    ordinary = texts["ordinary safe queries"]["gallery"]
    assert ordinary["own"] <= ordinary["judged"] <= 0.5
    assert all(row["judged"] > 0 for row in texts["milliseconds a query"].values())
    assert "ordinary" in shown


def test_plain_english_is_measured_on_the_pairs_of_a_policy(load: Load, tmp_path: Path) -> None:
    report, shown = run(load("english"), tmp_path, "hysac-mini")
    found = report["models"]["hysac-mini"]
    assert (report["split"], report["pairs"]) == ("validation", 215)
    assert found["auc"][0] > 0.9
    assert found["auc"][1] < found["auc"][0] < found["auc"][2]
    assert "harmful@1, system" in shown
    near, plain = (found[f"lost.{kind}"][0] for kind in ("near misses", "plain pairs"))
    assert plain < found["lost"][0] < near
    assert found["lost"][0] == pytest.approx((119 * near + 96 * plain) / 215, abs=1e-3)


def test_the_service_is_measured_beside_the_engine(load: Load, tmp_path: Path) -> None:
    report, printed = run(load("serve"), tmp_path, "--points", "300", "--requests", "64", "--seconds", "1")
    assert report["errors"] == report["steady"]["errors"] == 0
    assert report["steady"]["sent"] > 0
    assert set(report["service"]) == set(report["in_process"]) == {"1", "8", "64"}
    assert "median at one client" in printed


def test_what_is_checked_on_a_card_runs_on_a_cpu(load: Load, tmp_path: Path) -> None:
    report, shown = run(load("gpu_check"), tmp_path, "--device", "cpu", "--quick")
    models = [f"{what}, {model}, cpu" for model in ("hysac-mini", "ViT-L-14") for what in ("points", "speed")]
    assert list(report["found"]) == [*models, "training, mini-scenes", "training, vit-b-16-24gb", "two processes"]
    assert report["left_out"] == {}
    for name, found in report["found"].items():
        assert f"{name}: " in shown
        if name.startswith("speed"):
            assert found["2"]["per_second"] == pytest.approx(2e3 / found["2"]["p50_ms"], rel=0.05)
        if name.startswith("training"):
            assert 0 < found["loss_difference"] < 0.02  # of bf16: there is one
            assert 0.98 < found["gradient_cosine"] < 1
            assert found["memory_mb"] > 0
    assert len(report["found"]["two processes"]["both"]) == 2


def test_the_check_of_a_card_says_what_failed_and_what_it_left_out(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = load("gpu_check")
    subject, right = check.bundled(), check.runner
    shift = iter([0.002, 0.0, 0.0, 0.0])  # texts on the device
    monkeypatch.setattr(check, "runner", lambda session: lambda rows: right(session)(rows) + next(shift))
    wrong = check.points(subject, "cpu", 2)
    assert not wrong["met"]
    assert wrong["text"]["difference"] == pytest.approx(0.002, rel=1e-3)
    assert wrong["image"] == {"difference": 0.0, "distance": 0.0}

    def no_engine() -> dict[str, Any]:
        return check.points(subject, "tensorrt", 2)

    monkeypatch.setattr(check, "sections", lambda *_: [("points", lambda: wrong), ("points, tensorrt", no_engine)])
    options = ["--device", "cpu", "--out", str(tmp_path / "report.json")]
    result = CliRunner().invoke(check.main, options)
    assert result.exit_code == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["failed"] == ["points"]
    assert "onnxruntime-gpu" in report["left_out"]["points, tensorrt"]


def test_without_a_card_the_check_says_that_it_checked_nothing(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = load("gpu_check")
    monkeypatch.setattr(check.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(check, "RESULTS", tmp_path)
    result = CliRunner().invoke(check.main, [], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stderr.startswith("SKIPPED: ")
    assert list(tmp_path.iterdir()) == []
