from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.toy_bundle import SIZE, write_toy_bundle

from hysac_retrieval.collection.metadata import same_points
from hysac_retrieval.encoder import bundle as bundle_module
from hysac_retrieval.encoder.bundle import MANIFEST_NAME, Bundle, Manifest, entry_of, write_manifest
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.entailment import Cone, Entailment
from hysac_retrieval.errors import BundleError, BundleFormatError, BundleNotFoundError, ChecksumError


@pytest.fixture
def folder(toy_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the toy bundle that a test may spoil."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as a JSON document."""
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def encode(encoder: Encoder, modality: str) -> NDArray[np.float32]:
    if modality == "text":
        return encoder.encode_text(["a dog"])
    return encoder.encode_image(np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_a_bundle_is_read_back_as_it_was_written(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.manifest.name == "toy"
    assert bundle.file("image.onnx") == folder / "image.onnx"
    assert Manifest.model_validate_json(bundle.manifest.model_dump_json()) == bundle.manifest


def test_a_file_that_is_not_listed_is_refused(folder: Path) -> None:
    with pytest.raises(BundleFormatError, match="lists no file"):
        Bundle.load(folder).file("other.onnx")


@pytest.mark.parametrize(
    "name",
    ["../evil.onnx", "/etc/passwd", "a/b.onnx", "..", ".", "", "..\\evil.onnx", "C:evil.onnx", ".hidden", "nul\0.onnx"],
)
def test_a_file_name_that_could_leave_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "evil.onnx").write_bytes((folder / "image.onnx").read_bytes())

    def change(document: dict[str, Any]) -> None:
        document["files"][name] = document["files"]["image.onnx"]
        document["image"]["file"] = name

    edit(folder, change)
    with pytest.raises(BundleFormatError, match="is not allowed"):
        Bundle.load(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    (folder / "image.onnx").rename(outside)
    (folder / "image.onnx").symlink_to(outside)
    with pytest.raises(BundleFormatError, match="outside of the bundle"):
        Bundle.load(folder)


def test_a_link_within_the_folder_and_to_the_folder_is_fine(folder: Path) -> None:
    (folder / "image.onnx").rename(folder / "v1.onnx")
    (folder / "image.onnx").symlink_to("v1.onnx")
    (folder.parent / "link").symlink_to(folder)
    assert Bundle.load(folder.parent / "link").manifest.name == "toy"


def test_a_hub_snapshot_may_link_to_the_blobs_of_its_repository(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--owner--toy"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    shutil.move(folder, repository / "blobs")
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_args, **_options: str(snapshot))
    assert Bundle.load("owner/toy").manifest.name == "toy"

    (snapshot / "image.onnx").unlink()
    (tmp_path / "image.onnx").write_bytes((repository / "blobs" / "image.onnx").read_bytes())
    (snapshot / "image.onnx").symlink_to(tmp_path / "image.onnx")
    with pytest.raises(BundleFormatError, match="outside of the bundle"):
        Bundle.load("owner/toy")


def test_a_changed_byte_is_found(folder: Path) -> None:
    data = bytearray((folder / "text.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "text.onnx").write_bytes(data)
    with pytest.raises(ChecksumError, match=r"text\.onnx has SHA-256 .* the manifest says"):
        Bundle.load(folder)


def test_a_changed_size_is_found(folder: Path) -> None:
    with (folder / "tokenizer.json").open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(ChecksumError, match=r"tokenizer\.json has \d+ bytes, the manifest says"):
        Bundle.load(folder)


def test_a_missing_file_is_found(folder: Path) -> None:
    (folder / "image.onnx").unlink()
    with pytest.raises(ChecksumError, match=r"image\.onnx is missing"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"name": "toy"}', pickle.dumps({"name": 1})]
)
def test_a_manifest_that_is_no_manifest_is_refused(folder: Path, text: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(BundleFormatError, match="is not a valid manifest"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format_version", 2), ("dim", 0), ("curvature", -1.0), ("curvature", "NaN"), ("surprise", 1), ("files", {})],
)
def test_a_field_out_of_range_is_refused_by_name(folder: Path, key: str, value: Any) -> None:
    edit(folder, lambda document: document.update({key: value}))
    with pytest.raises(BundleFormatError, match=key):
        Bundle.load(folder)


def test_a_profile_that_does_not_order_safe_and_unsafe_is_refused(folder: Path) -> None:
    def swap(document: dict[str, Any]) -> None:
        text = document["safety"]["text"]
        text["safe"], text["unsafe"] = text["unsafe"], text["safe"]

    edit(folder, swap)
    with pytest.raises(BundleFormatError, match="says nothing about safety"):
        Bundle.load(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match=r"has no hysac\.json"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("model", ["no-such-model", "./no/such/folder", Path("nowhere")])
def test_a_model_that_does_not_exist_is_not_found(model: str | Path) -> None:
    with pytest.raises(BundleNotFoundError, match="no model") as caught:
        Bundle.load(model)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("model", ["owner/not cached", "owner/not-cached"])
def test_a_hub_repository_that_cannot_be_fetched_is_not_found(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BundleNotFoundError, match="could not be fetched"):
        Bundle.load(model)


def test_a_bundled_name_is_not_replaced_by_a_folder_in_the_working_directory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "bundled_models", lambda: {"hysac-toy": folder})
    (tmp_path / "hysac-toy").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Bundle.load("hysac-toy").path == folder
    with pytest.raises(BundleFormatError):
        Bundle.load("./hysac-toy")


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_pickle_in_place_of_a_graph_is_refused_and_never_executed(folder: Path, modality: str) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "executed",)

    path = folder / f"{modality}.onnx"
    path.write_bytes(pickle.dumps(Attack()))
    edit(folder, lambda document: document["files"].update({path.name: entry_of(path).model_dump()}))
    encoder = Encoder.load(folder)
    with pytest.raises(BundleFormatError, match=f"cannot load .*{modality}.onnx"):
        encode(encoder, modality)
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("location", ["../secret.bin", "{parent}/secret.bin", "secret-link.bin"])
def test_a_graph_cannot_read_weights_from_outside_the_folder(folder: Path, location: str) -> None:
    path = folder / "text.onnx"
    graph = onnx.load(path)
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name == "embedding")
    (folder.parent / "secret.bin").write_bytes(weights.raw_data)
    (folder / "secret-link.bin").symlink_to(folder.parent / "secret.bin")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location.format(parent=folder.parent))
    path.write_bytes(graph.SerializeToString())
    edit(folder, lambda document: document["files"].update({path.name: entry_of(path).model_dump()}))
    with pytest.raises(BundleFormatError, match=r"text\.onnx"):
        Encoder.load(folder).encode_text(["a dog"])


def test_the_fingerprint_ignores_free_text_and_nothing_else(folder: Path) -> None:
    original = Bundle.load(folder).fingerprint

    def changed(**fields: Any) -> str:
        return write_manifest(folder, Bundle.load(folder).manifest.model_copy(update=fields)).fingerprint

    assert changed(name="other", description="x", licence="MIT", metrics={"a": 1}, training={"b": 2}) == original
    assert changed(verification={"image": 0.0}) == original
    cone = Cone(half_aperture=1, matched=1, unmatched=0)
    assert changed(entailment=Entailment(power=1, cones={"T<I": cone})) == original
    assert changed(curvature=1.5) != original
    assert changed(curvature=1.0) == original
    assert changed(lift={"kind": "padded"}) != original
    safety = Bundle.load(folder).manifest.safety
    assert changed(lift=None, safety=safety.model_copy(update={"threshold": 0.4})) != original


def test_the_fingerprint_says_whether_only_the_calibration_differs(folder: Path) -> None:
    manifest = Bundle.load(folder).manifest
    safety = manifest.safety.model_copy(update={"threshold": 0.4})
    calibrated = manifest.model_copy(update={"safety": safety, "lift": {"kind": "padded"}})
    assert calibrated.fingerprint != manifest.fingerprint
    assert same_points(calibrated.fingerprint, manifest.fingerprint)
    assert not same_points(manifest.model_copy(update={"curvature": 2.0}).fingerprint, manifest.fingerprint)
    worded = manifest.model_copy(update={"safety": manifest.safety.model_copy(update={"source": "elsewhere"})})
    assert worded.fingerprint == manifest.fingerprint


def test_the_fingerprint_depends_on_the_weights(folder: Path, tmp_path: Path) -> None:
    other = write_toy_bundle(tmp_path / "other")
    assert other.fingerprint == Bundle.load(folder).fingerprint
    graph = tmp_path / "other" / "image.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x00")
    files = other.manifest.files | {"image.onnx": entry_of(graph)}
    changed = write_manifest(other.path, other.manifest.model_copy(update={"files": files}))
    assert changed.fingerprint != other.fingerprint


def test_a_manifest_is_not_written_over_files_it_does_not_describe(folder: Path) -> None:
    manifest = Bundle.load(folder).manifest
    before = (folder / MANIFEST_NAME).read_bytes()
    (folder / "text.onnx").write_bytes(b"other")
    with pytest.raises(ChecksumError):
        write_manifest(folder, manifest.model_copy(update={"name": "changed"}))
    assert (folder / MANIFEST_NAME).read_bytes() == before
    assert not list(folder.glob("*.partial"))


def test_every_error_of_a_bundle_is_a_bundle_error() -> None:
    for error in (BundleNotFoundError, BundleFormatError, ChecksumError):
        assert issubclass(error, BundleError)
