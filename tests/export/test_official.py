"""Published checkpoints: both key layouts give the published points, and bundles that can be searched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.golden import golden_path

from hysac_export.data.batches import normalise
from hysac_export.published.checkpoint import Published, Source, find, import_published, load_published
from hysac_retrieval import SafeSearch, lorentz
from hysac_retrieval.cli import main
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import BundleNotFoundError, SettingsError, TrainingError

pytestmark = pytest.mark.slow

TOLERANCE = 2e-6
FILES = {"hysac_model.pth": "", "hysac_model_peft04.pth": "@peft04"}


def tiny() -> Path:
    return golden_path("tiny_model")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(tiny() / "golden_outputs.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module", params=FILES)
def published(request: pytest.FixtureRequest) -> tuple[str, Published]:
    """A model of each layout, with the suffix of its golden image outputs."""
    return FILES[request.param], load_published(find(tiny() / request.param))


def ragged(golden: dict[str, np.ndarray]) -> torch.Tensor:
    """Texts of several lengths, zeros behind them; one too long keeps its last token."""
    rows = np.zeros((int(golden["n_ragged"]), 77), dtype=np.int64)
    for i, row in enumerate(rows):
        ids = golden[f"ragged_{i}"]
        row[: min(77, len(ids))] = ids[:77]
        row[min(77, len(ids)) - 1] = ids[-1]
    return torch.from_numpy(rows)


def test_both_layouts_give_the_published_features_and_points(
    published: tuple[str, Published], golden: dict[str, np.ndarray]
) -> None:
    suffix, found = published
    model = found.model
    with torch.no_grad():
        for key, tokens in (("text", torch.from_numpy(golden["input_ids"])), ("text_ragged", ragged(golden))):
            features, points = model.text_features(tokens).numpy(), model.encode_text(tokens).numpy()
            np.testing.assert_allclose(features, golden[f"{key}_euclid"], rtol=0, atol=TOLERANCE)
            np.testing.assert_allclose(points, golden[f"{key}_hyper"], rtol=0, atol=TOLERANCE)
        pixels = torch.from_numpy(golden["pixel_values"])
        features, points = model.image_features(pixels)[0].numpy(), model.encode_image(pixels).numpy()
    np.testing.assert_allclose(features, golden[f"image_euclid{suffix}"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(points, golden[f"image_hyper{suffix}"], rtol=0, atol=TOLERANCE)


def test_the_stray_bias_of_old_peft_is_felt(golden: dict[str, np.ndarray]) -> None:
    assert np.abs(golden["image_euclid@peft04"] / golden["image_euclid"] - 1).max() > 0.01
    new, old = (load_published(find(tiny() / file)) for file in FILES)
    assert (new.provenance["patch_bias"], old.provenance["patch_bias"]) == (False, True)


def test_the_scalars_are_the_published_ones(published: tuple[str, Published], golden: dict[str, np.ndarray]) -> None:
    model = published[1].model
    names = {"log_curvature": "curv_log", "log_logit_scale": "logit_scale"}
    names |= {"log_alpha_image": "visual_alpha", "log_alpha_text": "textual_alpha"}
    for name, key in names.items():
        assert model.scalars()[name].item() == golden[key].item()


def test_another_alpha_of_the_adapters_gives_other_points(golden: dict[str, np.ndarray]) -> None:
    model = load_published(find(tiny()), lora_alpha=16.0).model
    with torch.no_grad():
        points = model.encode_image(torch.from_numpy(golden["pixel_values"])).numpy()
    assert np.abs(points - golden["image_hyper"]).max() > 1e-3


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The bundle that ``hysac import`` makes of the published layout, what it printed, and its warnings."""
    out = tmp_path_factory.mktemp("import") / "bundle"
    result = CliRunner().invoke(main, ["import", str(tiny()), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout), result.stderr


def test_the_bundle_gives_the_published_points(
    imported: tuple[Path, dict[str, Any], str], golden: dict[str, np.ndarray]
) -> None:
    encoder = Encoder.load(imported[0], device="cpu", threads=1)
    points = encoder.encode_tokens(golden["input_ids"])
    np.testing.assert_allclose(points, golden["text_hyper"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(
        encoder.encode_tokens(ragged(golden).numpy()), golden["text_ragged_hyper"], rtol=0, atol=TOLERANCE
    )
    # The image graph takes bytes, which no golden input is: compare with the model that gave the golden points.
    model = load_published(find(tiny())).model
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model.encode_image(normalise(torch.from_numpy(pixels))).numpy()
    np.testing.assert_allclose(encoder.encode_image(pixels), expected, rtol=0, atol=TOLERANCE)


def test_the_manifest_says_where_the_model_came_from(imported: tuple[Path, dict[str, Any], str]) -> None:
    out, printed, _ = imported
    manifest = Bundle.load(out).manifest
    assert (manifest.name, manifest.dim, manifest.image.size) == ("tiny_model", 24, 32)
    assert manifest.curvature == pytest.approx(0.62)
    assert manifest.training["imported"]["file"] == "hysac_model.pth"
    assert manifest.training["lora"] == {"alpha": 1.0, "ranks": [16], "adapters": 21}
    assert "authors" in manifest.licence
    assert printed["verification"]["text"]["point_absolute"] < TOLERANCE
    assert str(tiny().parent) not in (out / "hysac.json").read_text()


def test_a_calibration_that_is_none_is_said_to_be_none(imported: tuple[Path, dict[str, Any], str]) -> None:
    out, printed, warnings = imported
    safety = Bundle.load(out).manifest.safety
    assert printed["derived"] == ["text", "image"]
    assert "not calibrated" in warnings
    assert "authors' terms" in warnings
    assert safety.source.count("DEFAULT") == 2
    published = json.loads((tiny() / "hysac_bounds.json").read_text())
    assert safety.text.safe.percentiles == {5: published["S"]["low_05"], 95: published["S"]["up_95"]}
    assert safety.image.safe.percentiles[95] == published["V"]["up_95"]
    assert safety.text.boundary == safety.image.boundary == published["S"]["avg"]


def test_the_bundle_can_be_searched_safely(imported: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    encoder = Encoder.load(imported[0], device="cpu", threads=1)
    texts = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("dog", "cat", "house", "tree")]
    points = encoder.encode_text(texts)
    scores = encoder.safety.unsafe(lorentz.dist0(points, encoder.curvature), "text")
    with Index.for_model(encoder, "c", exist_ok=True, location=tmp_path / "data") as index:
        index.upsert(range(len(texts)), points, modality="text", payloads=[{"text": text} for text in texts])
        engine = SafeSearch(index, encoder)
        everything = engine.search("a green cat", safe=False, limit=20)
        assert everything.hits[0].payload["text"] == "a green cat"
        found = engine.search("a green cat", safe=True, limit=20)
    safe = {i for i, score in enumerate(scores) if score <= encoder.safety.threshold.text}
    assert {hit.id for hit in found.hits} == safe


def test_a_hub_repository_is_fetched_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    snapshot = tmp_path / "models--owner--name" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for file in ("hysac_model.pth", "hysac_bounds.json"):
        (snapshot / file).write_bytes((tiny() / file).read_bytes())
    asked = []

    def download(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((repository, file, revision))
        if not (snapshot / file).is_file():
            raise EntryNotFoundError(f"no {file}")
        return str(snapshot / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = find("owner/name", "main")
    assert found == Source(
        "owner/name", snapshot / "hysac_model.pth", snapshot / "hysac_bounds.json", revision="c0ffee"
    )
    assert {revision for *_, revision in asked} == {"main"}
    with pytest.raises(TrainingError, match=r"config\.json"):  # 32 does not divide into heads of 64
        load_published(found)
    (snapshot / "hysac_model.pth").unlink()
    with pytest.raises(BundleNotFoundError, match=r"holds no hysac_model\.pth"):
        find("owner/name")


def test_a_hub_that_cannot_be_reached_is_not_taken_for_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(BundleNotFoundError, match="no connection"):
        find("owner/name")


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "a/b/c", "~/no"])
def test_what_is_no_checkpoint_is_not_found(source: str) -> None:
    with pytest.raises(BundleNotFoundError, match="no checkpoint"):
        find(source)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"hysac_model\.pth"):
        find(tmp_path)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"curv": Evil(tmp_path / "harm")}, tmp_path / "hysac_model.pth")
    with pytest.raises(TrainingError, match="more than tensors"):
        load_published(find(tmp_path))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x02]q\x00."])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "hysac_model.pth").write_bytes(content)
    with pytest.raises(TrainingError, match=r"hysac_model\.pth"):
        load_published(find(tmp_path))


def test_a_training_checkpoint_of_the_published_code_is_unwrapped(tmp_path: Path) -> None:
    state = torch.load(tiny() / "hysac_model.pth", weights_only=True)
    torch.save({"model": state, "iteration": 3}, tmp_path / "hysac_model.pth", _use_new_zipfile_serialization=False)
    source = find(tmp_path)
    beside = Source("x", source.checkpoint, config=tiny() / "base" / "config.json", tokenizer=tiny() / "tokenizer.json")
    model, expected = load_published(beside).model, load_published(find(tiny())).model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_a_folder_that_is_taken_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SettingsError, match="no bundle"):
        import_published("no/such-repository", tmp_path)


@pytest.mark.parametrize("logarithm", [float("nan"), float("inf"), 12.0, -3.0])
def test_a_curvature_that_no_training_leaves_is_refused(logarithm: float, tmp_path: Path) -> None:
    state = torch.load(tiny() / "hysac_model.pth", weights_only=True)
    state["curv"] = torch.full_like(state["curv"], logarithm)
    torch.save(state, tmp_path / "hysac_model.pth")
    spoilt = Source(
        "x", tmp_path / "hysac_model.pth", config=tiny() / "base" / "config.json", tokenizer=tiny() / "tokenizer.json"
    )
    with pytest.raises(TrainingError, match=r"curv of the checkpoint.*0\.1 to 10"):
        load_published(spoilt)


def test_a_bundle_is_not_written_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(SettingsError, match="is a file"):
        import_published("no/such-repository", tmp_path / "taken" / "bundle")
