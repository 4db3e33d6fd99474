"""Import of published checkpoints: ``hysac_model.pth`` and ``hysac_bounds.json`` become a verified bundle.

The checkpoint is read with `torch.load(weights_only=True)` and nothing else: a pickle that would run code is refused.
The graphs are checked against the merged model as in every export.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hysac_export.bundle.onnx import export_bundle, round_weights
from hysac_export.bundle.place import check_target
from hysac_export.config import CLIP_MEAN, CLIP_STD
from hysac_export.data.batches import normalise
from hysac_export.data.split import Stages, unseen
from hysac_export.evaluation.calibrate import MAX_MISS
from hysac_export.evaluation.samples import Samples, encode_samples
from hysac_export.model.clip_tokenizer import read_tokenizer
from hysac_export.model.hysac import CURVATURE_RANGE, HySAC
from hysac_export.published.bounds import Bounds, published_profile
from hysac_export.published.clip_layout import PATCH_BIAS, Checkpoint, architecture, fill, sort_out
from hysac_retrieval.encoder.bundle import Bundle, ImageSpec, TextSpec, sha256_of
from hysac_retrieval.encoder.hub import not_fetched
from hysac_retrieval.encoder.preprocess import load_image, preprocess
from hysac_retrieval.encoder.tokenization import TextTokenizer
from hysac_retrieval.errors import BundleNotFoundError, ChecksumError, TrainingError
from hysac_retrieval.lift import PaddedLift
from hysac_retrieval.types import Modality

MODEL, BOUNDS, CONFIG, TOKENIZER = "hysac_model.pth", "hysac_bounds.json", "config.json", "tokenizer.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
LORA_ALPHA = 1.0
"""α of the published recipe; with its rank of 16 an adapter counts one sixteenth."""
_STEP = 1.1  # how far, as a factor, the last step may have led out of the range
_ROOM = 1.25  # how much farther out than the outermost known radius the lift reaches


@dataclass(frozen=True)
class Source:
    """Files of a checkpoint: weights, published bounds, the base model's ``config.json``, its own tokenizer.

    `name` is the repository id, or the name of the folder or file; `revision` the commit of a hub repository.
    """

    name: str
    checkpoint: Path
    bounds: Path | None = None
    config: Path | None = None
    tokenizer: Path | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Published:
    """An imported model in torch, in evaluation mode on the CPU, adapters merged; bounds may be empty."""

    model: HySAC
    tokenizer: Tokenizer
    text: TextSpec
    bounds: Bounds
    provenance: Mapping[str, Any]

    @property
    def curvature(self) -> float:
        """Curvature c > 0 of the space (−c)."""
        return float(self.model.curvature.detach())

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> NDArray[np.float32]:
        """Points of n texts, (n, d)."""
        words = TextTokenizer(self.tokenizer, self.text)
        points: NDArray[np.float32] = self.model.encode_text(torch.from_numpy(words(texts))).numpy()
        return points

    @torch.inference_mode()
    def encode_image(self, images: list[Path | bytes]) -> NDArray[np.float32]:
        """Points of n images, (n, d), one at a time."""
        spec = ImageSpec(size=self.model.config.image.size, mean=CLIP_MEAN, std=CLIP_STD)
        parts = []
        for image in images:
            pixels = torch.from_numpy(preprocess(load_image(image), spec).copy())
            parts.append(self.model.encode_image(normalise(pixels[None])).numpy())
        return np.concatenate(parts)


@dataclass(frozen=True)
class Imported:
    """A bundle, and the modalities whose scores are derived from published percentiles instead of calibrated."""

    bundle: Bundle
    derived: tuple[Modality, ...]


def find(source: str | Path, revision: str | None = None) -> Source:
    """Find the files of a checkpoint (`BundleNotFoundError`: there is none).

    The source is a folder, a checkpoint file with its other files beside it, or a repository id ``"owner/name"`` on the
    Hugging Face hub, of which `revision` is a branch, tag or commit.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _beside(path, path.name)
    if path.is_dir():
        if not (path / MODEL).is_file():
            raise BundleNotFoundError(f"{path} holds no {MODEL}", hint="Give the folder, or the file, of a checkpoint")
        return _beside(path / MODEL, path.resolve().name)
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise BundleNotFoundError(f"no checkpoint {name!r}: it is no folder, no file and no hub id owner/name")
    checkpoint = _fetch(name, MODEL, revision)
    if checkpoint is None:
        raise BundleNotFoundError(f"the hub repository {name!r} holds no {MODEL}, so it is no HySAC checkpoint")
    # <cache>/models--owner--name/snapshots/<commit>/<file>
    commit = checkpoint.parent.name if checkpoint.parent.parent.name == "snapshots" else revision
    bounds, config, tokenizer = (_fetch(name, file, revision) for file in (BOUNDS, CONFIG, TOKENIZER))
    return Source(name, checkpoint, bounds, config, tokenizer, commit)


def load_published(source: Source, *, lora_alpha: float = LORA_ALPHA, tokenizer: str | Path | None = None) -> Published:
    """Read a checkpoint and merge its adapters; `lora_alpha` is their α, ranks come from their shapes.

    A `tokenizer` (``tokenizer.json``) takes the place of the one beside the checkpoint, or of CLIP's (`TrainingError`:
    the checkpoint, its curvature, config, bounds or tokenizer cannot be used).
    """
    checkpoint = sort_out(_state(source.checkpoint))
    config = architecture(checkpoint, _settings(source.config))
    own = source.tokenizer if tokenizer is None else Path(tokenizer)
    words, text = read_tokenizer(own, config.text.vocab_size, config.text.context_length)
    bounds = Bounds() if source.bounds is None else Bounds.load(source.bounds)
    model = HySAC(config).eval().requires_grad_(False)
    fill(model, checkpoint, lora_alpha)
    _check_curvature(model)
    return Published(model, words, text, bounds, _provenance(source, checkpoint, lora_alpha))


def import_published(
    source: str | Path,
    out: str | Path,
    *,
    safe: Sequence[str | Path] = (),
    unsafe: Sequence[str | Path] = (),
    max_miss: float = MAX_MISS,
    name: str | None = None,
    revision: str | None = None,
    lora_alpha: float = LORA_ALPHA,
    tokenizer: str | Path | None = None,
    weights: Literal["float32", "float16"] = "float32",
    description: str = "",
    licence: str = "",
    overwrite: bool = False,
    stages: Stages = unseen,
) -> Imported:
    """Turn a published checkpoint into a bundle, in the folder `out`.

    `safe` and `unsafe` are sources of samples to calibrate on (see `encode_samples`); at most a share `max_miss` of the
    unsafe ones, in [0, 1), may count as safe. For the rest see `find`, `load_published` and `export_bundle`.

    Raises:
        BundleNotFoundError, TrainingError: There is no such checkpoint, or it gives no model or no safety profile.
        SettingsError: The samples cannot be used, or something is at `out`.
        BundleFormatError: The graphs do not reproduce the model.
    """
    check_target(Path(out), overwrite)  # before the minutes of work
    stages("Finding the checkpoint", None)
    found = find(source, revision)
    stages("Reading it and merging its adapters", None)
    published = load_published(found, lora_alpha=lora_alpha, tokenizer=tokenizer)
    if weights == "float16":
        round_weights(published.model)
    samples = encode_samples(published, safe, unsafe, stages("Calibrating", None))
    calibration = published_profile(published.bounds, samples.radii, max_miss=max_miss)
    stages("Writing and checking the bundle", None)
    bundle = export_bundle(
        published.model,
        published.tokenizer,
        safety=calibration.profile,
        out=out,
        name=name or found.name.rpartition("/")[2].removesuffix(".pth"),
        text=published.text,
        lift=_lift(published, samples),
        training=published.provenance,
        description=description,
        licence=licence or f"the terms of the authors of {found.name}",
        weights=weights,
        overwrite=overwrite,
    )
    return Imported(bundle, calibration.derived)


def _check_curvature(model: HySAC) -> None:
    """Refuse a curvature that the published code, which clamps it before every step, cannot have left."""
    low, high = CURVATURE_RANGE
    logarithm = float(model.log_curvature)
    if not math.log(low / _STEP) <= logarithm <= math.log(high * _STEP):
        expected = f"the logarithm of a curvature from {low:g} to {high:g}: training diverged, or the file is damaged"
        raise TrainingError(f"curv of the checkpoint is {logarithm:.6g}; expected {expected}")


def _beside(checkpoint: Path, name: str) -> Source:
    folder = checkpoint.parent

    def first(*files: str) -> Path | None:
        return next((folder / file for file in files if (folder / file).is_file()), None)

    return Source(name, checkpoint, first(BOUNDS), first(CONFIG, f"base/{CONFIG}"), first(TOKENIZER))


def _fetch(repository: str, file: str, revision: str | None) -> Path | None:
    """A file of a hub repository, cached; None if it has no such file."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        path = Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # the hub's, the system's, or what httpx or requests raise, by the client's version
        away = isinstance(error, LocalEntryNotFoundError)  # the hub cannot be reached and the file is not in the cache
        if isinstance(error, EntryNotFoundError) and not away:
            return None
        # The cache also remembers what a repository does not have.
        known = try_to_load_from_cache(repository, file, revision=revision) if away else None
        if known is not None and not isinstance(known, str):
            return None
        raise not_fetched(repository, error, revision, file) from error
    _expect_whole(path)
    return path


def _expect_whole(path: Path) -> None:
    """Check a file of the hub's cache, which names large files by their checksum (`ChecksumError`: it is another)."""
    blob = path.resolve()
    if _SHA256.fullmatch(blob.name) and (found := sha256_of(blob)) != blob.name:
        raise ChecksumError(
            f"{path} has SHA-256 {found}, the hub says {blob.name}",
            hint=f"Remove {blob} and import again; if that does not help, the repository is at fault",
        )


def _state(path: Path) -> Mapping[Any, Any]:
    """The state dict in a file, mapped into memory where the format allows it."""
    try:
        state = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # pickle and torch let out whatever they trip over in a damaged file
        message = f"{path} cannot be read as weights: {error}. It is damaged, or holds more than tensors"
        raise TrainingError(message, hint="Download it again, or save the state dict alone") from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]  # a checkpoint of the published training code
    if not isinstance(state, Mapping):
        raise TrainingError(f"{path} holds a {type(state).__name__}, expected a state dict")
    return state


def _settings(path: Path | None) -> Mapping[str, Any] | None:
    if path is None:
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read as JSON: {error}") from error
    return settings if isinstance(settings, Mapping) else None


def _provenance(source: Source, checkpoint: Checkpoint, lora_alpha: float) -> dict[str, Any]:
    file = {"file": source.checkpoint.name, "sha256": sha256_of(source.checkpoint)}
    return {
        "imported": {"from": source.name, "revision": source.revision} | file,
        "lora": {"alpha": lora_alpha, "ranks": list(checkpoint.ranks), "adapters": len(checkpoint.adapters)},
        "patch_bias": PATCH_BIAS in checkpoint.weights,
        "versions": {package: version(package) for package in ("torch", "open_clip_torch", "hysac-retrieval")},
    }


def _lift(published: Published, samples: Samples) -> PaddedLift | None:
    """A lift fitted to the samples; without, one with room for the published radii where the usual has none."""
    curvature, dim = published.curvature, published.model.config.dim
    if len(samples.points) == 4:
        return PaddedLift.fit(np.concatenate(list(samples.points.values())), curvature)
    outermost = _ROOM * max((bounds.up_95 or 0.0) for bounds in (published.bounds.U, published.bounds.G))
    usual = 4 / curvature**0.5
    return PaddedLift.default(dim, curvature, outermost) if outermost > usual else None
