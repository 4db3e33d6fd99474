"""The model bundle: a folder with a manifest, ONNX graphs and a tokenizer.

Nothing in a bundle is ever unpickled or executed: `hysac.json` is validated by pydantic, the graphs are read by
ONNX Runtime and the tokenizer by `tokenizers`. Every file is checked against the SHA-256 in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hysac_retrieval.encoder.entailment import Entailment
from hysac_retrieval.encoder.hub import fetch_bundle
from hysac_retrieval.encoder.inputs import Inputs
from hysac_retrieval.errors import BundleFormatError, BundleNotFoundError, ChecksumError
from hysac_retrieval.safety.profile import TOLD, SafetyProfile

MANIFEST_NAME = "hysac.json"
FORMAT_VERSION = 1
_AGAIN = "Download or export the bundle again"
_LARGEST = 2**24  # bytes of a manifest
_GRAPH = r"\.onnx$"
"""How the names of graphs end: under another, ONNX Runtime reads formats of its own."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOLD = (
    "name",
    "description",
    "licence",
    "training",
    "metrics",
    "verification",
    "words",
    "domain",
    "inputs",
    "entailment",
)
_FREE_TEXT: dict[str, Any] = dict.fromkeys(_TOLD, True) | {"vectors": {"encoder", "probes"}}
"""What has no effect on points and scores."""

_SCORING = dict.fromkeys(("safety", "lift"), True)  # made from the points, without effect on them


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 (lower-case hex) of one file of the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0, lt=2**63)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


Colour = Annotated[float, Field(ge=-10, le=10)]
Spread = Annotated[float, Field(gt=0, le=10)]


class ImageSpec(BaseModel):
    """How images enter the image graph: RGB uint8, (batch, size, size, 3), named ``pixels``.

    Mean and std are recorded for reference; the graph applies them itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    file: str = Field(default="image.onnx", pattern=_GRAPH)
    size: int = Field(gt=0, le=4096)
    mean: tuple[Colour, Colour, Colour]
    std: tuple[Spread, Spread, Spread]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["shortest", "squash"] = Field(
        default="shortest", description="The shorter side is resized and the centre cut out; or all of it is squashed."
    )


class TextSpec(BaseModel):
    """How texts enter the text graph: int64 token ids, (batch, context_length), named ``tokens``, right-padded.

    A dynamic graph takes (batch, n) for any n up to the context length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(default="text.onnx", pattern=_GRAPH)
    tokenizer: str = "tokenizer.json"
    context_length: int = Field(gt=2, le=32_768)
    pad_id: int = Field(ge=0, lt=2**31)
    end_id: int = Field(
        ge=0, lt=2**31, description="The end token; an over-long text is cut and keeps it as its last token."
    )
    dynamic: bool = False


class Probe(BaseModel):
    """A text, and the vector of unit length that the encoder of a head gives for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: str = Field(min_length=1, max_length=10_000)
    vector: tuple[float, ...]

    @field_validator("vector")
    @classmethod
    def _unit(cls, vector: tuple[float, ...]) -> tuple[float, ...]:
        if abs((length := math.hypot(*vector)) - 1) > 1e-3:
            raise ValueError(f"the vector of a probe has length {length:.4g}, expected 1")
        return vector


class VectorSpec(BaseModel):
    """How vectors of another encoder enter the head of their modality: float32, (batch, size), named ``vector``.

    The head gets them at unit length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(gt=0, le=65_536)
    text: str | None = Field(default=None, pattern=_GRAPH, description="File of the head of texts.")
    image: str | None = Field(default=None, pattern=_GRAPH, description="File of the head of images.")
    encoder: str = Field(default="", description="The encoder in words.")
    probes: tuple[Probe, ...] = Field(default=(), max_length=64, description="By which its vectors are recognised.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.text is None and self.image is None:
            raise ValueError("there is neither a head for texts nor one for images")
        for probe in self.probes:
            if len(probe.vector) != self.size:
                raise ValueError(f"a probe has {len(probe.vector)} numbers, expected {self.size}")
        return self


def _of_this_version(entailment: Any) -> Any:
    """Calibrated cones, but for those of the first version, whose angles nothing takes any more: none."""
    first = isinstance(entailment, dict) and entailment.get("version") == 1
    return None if first else entailment


class Manifest(BaseModel):
    """Contents of ``hysac.json``. All graphs output ``point``, (batch, dim) float32 space components."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[1] = 1
    name: str
    description: str = ""
    licence: str = ""
    dim: int = Field(gt=0, le=65_536)
    curvature: float = Field(ge=1e-6, le=1e6)
    image: ImageSpec | None = None
    text: TextSpec | None = None
    vectors: VectorSpec | None = None
    files: dict[str, FileEntry] = Field(max_length=256)
    safety: SafetyProfile
    lift: dict[str, Any] | None = Field(
        default=None, description="Lift fitted on training points, as `lift.to_dict()`."
    )
    entailment: Annotated[Entailment | None, BeforeValidator(_of_this_version)] = Field(
        default=None, description="Calibrated cones; without them, the published."
    )
    words: tuple[str, ...] | None = Field(
        default=None, description="All words that the text graph was trained with, if it was trained from scratch."
    )
    domain: str = Field(default="", description="What the model knows: 'drawn scenes', 'photographs' …")
    inputs: Inputs | None = Field(default=None, description="Statistics of the inputs that it was made with.")
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    verification: dict[str, Any] = Field(default_factory=dict)

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if not _PLAIN_NAME.fullmatch(name):
                raise ValueError(
                    f"file name {name!r} is not allowed: only letters, digits, '.', '_' and '-', the first a letter or "
                    "digit, so that no file lies outside the bundle folder"
                )
        return files

    @model_validator(mode="after")
    def _listed(self) -> Self:
        image, text, vectors = self.image, self.text, self.vectors
        names = [image.file] if image else []
        names += [text.file, text.tokenizer] if text else []
        names += [name for name in (vectors.text, vectors.image) if name] if vectors else []
        if not names:
            raise ValueError("it can encode nothing: there is no 'image', no 'text' and no 'vectors'")
        for name in names:
            if name not in self.files:
                raise ValueError(f"{name!r} is used but not listed under 'files'")
        for found in (self.inputs.text, self.inputs.image) if self.inputs else ():
            if found is not None and (vectors is None or found.size != vectors.size):
                raise ValueError(f"there are references of {found.size} numbers, and no head for such vectors")
        return self

    @property
    def fingerprint(self) -> str:
        """Identity of what the model computes: a hash of the manifest without its free text, 32 hexadecimal digits.

        Two bundles with the same fingerprint give the same points and the same scores; two whose fingerprints begin
        with the same 16 digits give the same points, see `metadata.same_points`.
        """
        points = self._digest(_FREE_TEXT | _SCORING)
        return points[:16] + self._digest(_FREE_TEXT | {"safety": {*TOLD}})[:16]

    def _digest(self, without: dict[str, Any]) -> str:
        # Without defaults, so that a field added in a later version does not change the identity of today's bundles.
        payload = self.model_dump(mode="json", exclude=without, exclude_defaults=True)
        return hashlib.sha256(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest

    @cached_property
    def fingerprint(self) -> str:
        """See `Manifest.fingerprint`."""
        return self.manifest.fingerprint

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists."""
        if name not in self.manifest.files:
            raise BundleFormatError(
                f"bundle {self.path} lists no file {name!r}; it lists {sorted(self.manifest.files)}"
            )
        return self.path / name

    @classmethod
    def load(cls, model: str | Path, *, revision: str | None = None) -> Self:
        """Find a bundle by folder, bundled name or hub repository id, and verify it.

        Args:
            model: The name of a bundled model such as ``"hysac-mini"``, a folder (``"./hysac-mini"``), or a repository
                id ``"owner/name"`` on the Hugging Face hub (downloaded once, then cached). Taken in this order, so that
                no folder that happens to be in the working directory replaces a bundled model.
            revision: Branch, tag or commit of a hub repository.

        Raises:
            BundleNotFoundError: Nothing of that name exists.
            BundleFormatError: The manifest is missing or not valid.
            ChecksumError: A file is missing, or is not the one the manifest describes.
        """
        path, root, mend = _locate(model, revision)
        manifest_path = path / MANIFEST_NAME
        if not manifest_path.is_file():
            raise BundleFormatError(
                f"{path} has no {MANIFEST_NAME}, so it is not a model bundle", hint="Write one with `hysac export`"
            )
        try:
            manifest = Manifest.model_validate_json(_document(manifest_path))
        except (ValueError, RecursionError, OSError) as error:  # ValidationError is a ValueError
            raise BundleFormatError(
                f"{manifest_path} is not a valid manifest of format {FORMAT_VERSION}: {error}",
                hint=f"{mend}, or upgrade hysac-retrieval if the bundle is newer",
            ) from error
        for name, entry in manifest.files.items():
            _verify(path / name, entry, root, mend)
        return cls(path, manifest)


def _document(path: Path) -> bytes:
    """Read a manifest of usual size in which no name is given twice, as readers differ in which one they take."""
    with path.open("rb") as stream:
        data = stream.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    json.loads(data, object_pairs_hook=_unique)
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def bundled_models() -> dict[str, Path]:
    """Return names and folders of the models that come with the package."""
    root = Path(str(resources.files("hysac_retrieval"))) / "models"
    return {entry.parent.name: entry.parent for entry in sorted(root.glob(f"*/{MANIFEST_NAME}"))}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def entry_of(path: Path) -> FileEntry:
    """Return size and checksum of a file, as the manifest lists them."""
    return FileEntry(size=path.stat().st_size, sha256=sha256_of(path))


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Write or replace the manifest of a bundle folder, in one step, and load the bundle.

    Raises:
        ChecksumError: The files in the folder are not the ones that the manifest describes.
    """
    for name, entry in manifest.files.items():
        _verify(folder / name, entry, folder.resolve())
    partial = folder / f".{MANIFEST_NAME}.partial"
    partial.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST_NAME)
    return Bundle.load(folder)


def _verify(path: Path, entry: FileEntry, root: Path | None, mend: str = _AGAIN) -> None:
    if not path.is_file():
        raise ChecksumError(f"{path} is missing although the manifest lists it", hint=mend)
    if root is not None and not path.resolve().is_relative_to(root):
        raise BundleFormatError(
            f"{path} is a link to {path.resolve()}, outside of the bundle", hint="Put a copy in its place"
        )
    size = path.stat().st_size
    if size != entry.size:
        raise ChecksumError(f"{path} has {size} bytes, the manifest says {entry.size}", hint=mend)
    found = sha256_of(path)
    if found != entry.sha256:
        raise ChecksumError(f"{path} has SHA-256 {found}, the manifest says {entry.sha256}", hint=mend)


def _locate(model: str | Path, revision: str | None) -> tuple[Path, Path | None, str]:
    """Return the folder of a bundle, what its files must not leave (None: links are trusted), what mends a bad file."""
    bundled = bundled_models()
    if isinstance(model, str) and model in bundled:
        return bundled[model], None, _AGAIN  # in this package, which some installers build out of links
    folder = Path(os.path.expanduser(model))
    if os.path.isdir(folder):  # `Path.is_dir` raises for a name that is too long
        return folder, folder.resolve(), _AGAIN
    if isinstance(model, str) and model.count("/") == 1 and not model.startswith((".", "/", "~")):
        folder = fetch_bundle(model, revision)
        # <cache>/models--owner--name/snapshots/<commit>: the files are links into the repository's own blobs.
        kept = folder.resolve().parents[1]
        return folder, kept, f"Connect and load it again; if that does not help, remove {kept} before"
    raise BundleNotFoundError(
        f"no model {str(model)!r}: it is no folder, no bundled model ({', '.join(bundled) or 'none installed'}) "
        "and no hub repository id of the form owner/name"
    )
