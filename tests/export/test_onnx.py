from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.toy_bundle import profile
from support.toy_bundle import tokenizer as toy_tokenizer

from hysac_export.bundle import onnx as export
from hysac_export.bundle.onnx import export_bundle, round_weights
from hysac_export.bundle.verify import BATCHES, verify_bundle
from hysac_export.config import CLIP_MEAN, CLIP_STD, ImageTower, ModelConfig, TextTower
from hysac_export.data.batches import normalise
from hysac_export.model.hysac import HySAC
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import BundleFormatError, SettingsError, TrainingError
from hysac_retrieval.lift import PaddedLift

pytestmark = pytest.mark.slow

TOKENIZER = toy_tokenizer()


def model(geometry: Any = "hyperbolic", vocab_size: int = TOKENIZER.get_vocab_size()) -> HySAC:
    """A small model with a convolutional stem; its batch norms have seen data, its scalars are not at their start."""
    torch.manual_seed(0)
    made = HySAC(
        ModelConfig(
            geometry=geometry,
            dim=16,
            image=ImageTower(size=32, width=64, layers=1, stem="conv", head_mlp=True),
            text=TextTower(width=64, heads=2, layers=1, context_length=12, vocab_size=vocab_size),
        )
    )
    with torch.no_grad():
        made.log_curvature.fill_(-0.7)
        made.log_alpha_text.fill_(-1.0)
        made.train()
        made.encode_image(torch.randn(16, 3, 32, 32))
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[HySAC, Bundle]:
    made = model()
    bundle = export_bundle(
        made,
        TOKENIZER,
        safety=profile(),
        out=tmp_path_factory.mktemp("export") / "new" / "bundle",
        name="small",
        licence="Apache-2.0",
        lift=PaddedLift.default(16, made.curvature.item()),
        metrics={"recall": 0.5},
    )
    return made, bundle


@pytest.fixture
def quick(exported: tuple[HySAC, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of `model()` come from the bundle that is there already: exporting takes seconds."""

    def copy(_module: torch.nn.Module, _source: str, _example: torch.Tensor, path: Path) -> None:
        shutil.copy(exported[1].path / path.name, path)

    monkeypatch.setattr(export, "write_graph", copy)


def test_the_bundle_gives_the_points_of_the_model(exported: tuple[HySAC, Bundle]) -> None:
    made, bundle = exported
    encoder = Encoder(bundle, device="cpu", threads=1)
    texts = ["a dog", "a man with a gun in the park", "the house " * 40]
    pixels = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    made.eval()
    with torch.no_grad():
        text_points = made.encode_text(torch.from_numpy(encoder.tokenizer(texts))).numpy()
        image_points = made.encode_image(normalise(torch.from_numpy(pixels))).numpy()
    made.train()
    np.testing.assert_allclose(encoder.encode_text(texts), text_points, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_image(pixels), image_points, atol=1e-5)
    assert np.ptp(lorentz.dist0(text_points, encoder.curvature)) > 1e-3  # the points are not all the same
    assert encoder.curvature == pytest.approx(float(np.exp(-0.7)))


def test_the_numbers_of_the_verification_are_in_the_manifest(exported: tuple[HySAC, Bundle]) -> None:
    found = json.loads((exported[1].path / "hysac.json").read_text())["verification"]
    assert found["batches"] == [1, 7, 32]
    assert found["weights"] == "float32"
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    for modality in ("image", "text"):
        assert 0 < found[modality]["point_absolute"] < 1e-5
        assert 0 < found[modality]["radius_relative"] < 1e-5


def test_what_is_passed_in_is_in_the_manifest(exported: tuple[HySAC, Bundle]) -> None:
    manifest = exported[1].manifest
    assert (manifest.name, manifest.licence, manifest.metrics) == ("small", "Apache-2.0", {"recall": 0.5})
    assert (manifest.dim, manifest.image.size, manifest.text.context_length) == (16, 32, 12)
    assert manifest.safety == profile()
    assert Encoder(exported[1]).lift == PaddedLift.default(16, exported[1].manifest.curvature)


def test_the_model_is_left_as_it_was(exported: tuple[HySAC, Bundle]) -> None:
    made, fresh = exported[0], model()
    assert made.training
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), fresh.parameters(), strict=True))
    assert all(p.requires_grad for p in made.parameters())


def test_sinh_stays_sinh_and_the_batch_axis_is_dynamic(exported: tuple[HySAC, Bundle]) -> None:
    for name, source in (("image.onnx", "pixels"), ("text.onnx", "tokens")):
        graph = onnx.load(exported[1].file(name)).graph
        assert "Sinh" in {node.op_type for node in graph.node}
        assert [i.name for i in graph.input] == [source]
        assert [o.name for o in graph.output] == ["point"]
        assert graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_the_files_say_nothing_about_the_machine_that_made_them(exported: tuple[HySAC, Bundle]) -> None:
    for path in exported[1].path.iterdir():
        data = path.read_bytes()
        assert str(Path(export.__file__).parent).encode() not in data, path.name
        assert b"stack_trace" not in data, path.name
        assert b"site-packages" not in data, path.name


def test_nothing_is_left_beside_the_bundle(exported: tuple[HySAC, Bundle]) -> None:
    assert [path.name for path in exported[1].path.parent.iterdir()] == ["bundle"]
    assert sorted(path.name for path in exported[1].path.iterdir()) == [
        "hysac.json",
        "image.onnx",
        "text.onnx",
        "tokenizer.json",
    ]


def test_half_precision_weights_are_smaller_and_exact_for_the_rounded_model(
    exported: tuple[HySAC, Bundle], tmp_path: Path
) -> None:
    rounded = model()
    round_weights(rounded)
    bundle = export_bundle(rounded, TOKENIZER, safety=profile(), out=tmp_path / "half", name="half", weights="float16")
    assert bundle.manifest.files["text.onnx"].size < 0.6 * exported[1].manifest.files["text.onnx"].size
    assert bundle.manifest.verification["weights"] == "float16"
    texts = ["a dog", "a man with a gun"]
    half, full = Encoder(bundle), Encoder(exported[1])
    with torch.no_grad():
        expected = rounded.eval().encode_text(torch.from_numpy(half.tokenizer(texts))).numpy()
    np.testing.assert_allclose(half.encode_text(texts), expected, atol=1e-5)
    radii = [lorentz.dist0(encoder.encode_text(texts), encoder.curvature) for encoder in (half, full)]
    assert 1e-7 < np.abs(radii[0] / radii[1] - 1).max() < 2e-3


def test_weights_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    made = model()
    with torch.no_grad():
        made.clip.token_embedding.weight[0, 0] = 1e5
    with pytest.raises(TrainingError, match="token_embedding"):
        export_bundle(made, TOKENIZER, safety=profile(), out=tmp_path / "b", name="b", weights="float16")
    assert not list(tmp_path.iterdir())


def test_graphs_that_differ_from_the_model_are_found(exported: tuple[HySAC, Bundle]) -> None:
    made, bundle = exported
    other = model().eval()
    image, text = export.ImageGraph(other, CLIP_MEAN, CLIP_STD).eval(), export.TextGraph(other).eval()
    assert verify_bundle(bundle, image, text)["batches"] == list(BATCHES)
    with torch.no_grad():
        other.log_alpha_text.add_(3e-4)
    with pytest.raises(BundleFormatError, match="text graph differs"):
        verify_bundle(bundle, image, text)
    assert made is not other


@pytest.mark.usefixtures("quick")
def test_a_bundle_that_does_not_verify_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = export.write_graph

    def spoil(module: torch.nn.Module, source: str, example: torch.Tensor, path: Path) -> None:
        real(module, source, example, path)
        proto = onnx.load(path)
        proto.graph.node[-1].output[0] = "true_point"
        proto.graph.node.append(onnx.helper.make_node("Add", ["true_point", "true_point"], ["point"]))
        onnx.save(proto, path)

    monkeypatch.setattr(export, "write_graph", spoil)
    with pytest.raises(BundleFormatError, match="differs from the model"):
        export_bundle(model(), TOKENIZER, safety=profile(), out=tmp_path / "bundle", name="b")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_what_is_at_the_target_is_replaced_only_when_it_is_a_bundle_and_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def write(**options: Any) -> Bundle:
        return export_bundle(model(), TOKENIZER, safety=profile(), out=out, **options)

    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    with pytest.raises(SettingsError, match="no bundle"):
        write(name="first", overwrite=True)
    assert (out / "notes.txt").read_text() == "keep me"
    (out / "notes.txt").unlink()
    write(name="first")
    with pytest.raises(SettingsError, match="already"):
        write(name="second")
    assert write(name="second", overwrite=True).manifest.name == "second"

    def fail(*_: Any) -> None:
        raise BundleFormatError("no")

    monkeypatch.setattr(export, "write_graph", fail)
    with pytest.raises(BundleFormatError):
        write(name="third", overwrite=True)
    assert Bundle.load(out).manifest.name == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_euclidean_baseline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="euclidean"):
        export_bundle(model("euclidean"), TOKENIZER, safety=profile(), out=tmp_path / "b", name="b")


def test_a_tokenizer_larger_than_the_model_s_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="tokenizer of the training run"):
        export_bundle(model(vocab_size=100), TOKENIZER, safety=profile(), out=tmp_path / "b", name="b")


@pytest.mark.usefixtures("quick")
def test_a_tokenizer_that_cuts_and_pads_is_stored_without_it(tmp_path: Path) -> None:
    words = toy_tokenizer()
    words.enable_truncation(4)
    words.enable_padding(length=4)
    bundle = export_bundle(model(), words, safety=profile(), out=tmp_path / "b", name="b")
    assert Encoder(bundle).count_tokens("a dog with a cat in the park") == 10
    stored = json.loads(bundle.file("tokenizer.json").read_text())
    assert stored["truncation"] is None
    assert stored["padding"] is None
