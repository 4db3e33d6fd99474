"""Texts, images and vectors of other encoders to points on the hyperboloid, with ONNX Runtime.

All of the model is in the graphs of its bundle: pixel normalisation, towers, learned scales, curvature and the
exponential map. Left to do here are tokenisation, decoding, batching and checking.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_retrieval.encoder.bundle import Bundle, ImageSpec, TextSpec, VectorSpec
from hysac_retrieval.encoder.devices import DeviceKeywords, DeviceOptions
from hysac_retrieval.encoder.domain import Domain
from hysac_retrieval.encoder.judging import Points, finished, judging, text_views
from hysac_retrieval.encoder.pictures import ImageSource
from hysac_retrieval.encoder.preprocess import load_image, preprocess
from hysac_retrieval.encoder.sessions import Graph, Sessions
from hysac_retrieval.encoder.tokenization import TextTokenizer
from hysac_retrieval.encoder.vectors import expect_all, less_safe, unit_vectors
from hysac_retrieval.encoder.views import Views, picture_views
from hysac_retrieval.errors import (
    BundleFormatError,
    ImageError,
    InvalidVectorError,
    NoEncoderError,
    SettingsError,
    TextError,
)
from hysac_retrieval.lift import PaddedLift
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.views import Judged, ViewSetting
from hysac_retrieval.types import Modality

Pixels: TypeAlias = NDArray[np.uint8]


class Encoder:
    """A model bundle, ready to encode. Safe to use from several threads; each graph is loaded on first use.

    Attributes:
        bundle: The verified bundle.
        name: Name of the model.
        dim: Number of space components d of a point.
        curvature: c > 0 of the space (curvature −c).
        safety: The model's safety calibration.
        entailment: The calibration of its entailment cones; None if the bundle has none.
        fingerprint: Identity of what the model computes.
    """

    def __init__(self, bundle: Bundle, **device: Unpack[DeviceKeywords]) -> None:
        """Wrap a loaded bundle; see `load`."""
        options = DeviceOptions(**device)
        options.providers()  # a missing package is reported now, not when the first graph is loaded
        self.bundle, manifest = bundle, bundle.manifest
        self.name = manifest.name
        self.dim, self.curvature = manifest.dim, manifest.curvature
        self.safety: SafetyProfile = manifest.safety
        self.entailment = manifest.entailment
        self.fingerprint = bundle.fingerprint
        self._sessions = Sessions(bundle, options)

    @classmethod
    def load(
        cls, model: str | Path = "hysac-mini", *, revision: str | None = None, **device: Unpack[DeviceKeywords]
    ) -> Self:
        """Load a model.

        Args:
            model: Name of a bundled model, a folder, or a Hugging Face repository id ``"owner/name"``.
            revision: Branch, tag or commit of a hub repository.
            **device: Device and threads, see `DeviceKeywords`; `providers` says which device started.

        Raises:
            BundleError: The bundle is missing, damaged or not valid.
            MissingExtraError: ONNX Runtime, or its GPU build for a GPU, is not installed.
            DeviceError: The GPU cannot be used; when a graph is first loaded, if that was needed to know.
            SettingsError: An option is out of range.
        """
        return cls(Bundle.load(model, revision=revision), **device)

    def providers(self, modality: Modality = "image") -> tuple[str, ...]:
        """Load the graph of a modality and return ONNX Runtime's names of its providers, first choice first."""
        return self._sessions.providers(self._graph(modality))

    @property
    def image_spec(self) -> ImageSpec:
        """How images enter the image graph.

        Raises:
            NoEncoderError: The bundle has none.
        """
        if (spec := self.bundle.manifest.image) is None:
            raise self._lacks("image")
        return spec

    @property
    def text_spec(self) -> TextSpec:
        """How texts enter the text graph; see `image_spec`."""
        if (spec := self.bundle.manifest.text) is None:
            raise self._lacks("text")
        return spec

    @property
    def vector_spec(self) -> VectorSpec:
        """How vectors of another encoder enter the heads; see `image_spec`."""
        if (spec := self.bundle.manifest.vectors) is None:
            raise NoEncoderError(
                f"model {self.name!r} has no head for vectors of another encoder",
                hint="Give texts or images, or fit a head to those vectors: hysac fit",
            )
        return spec

    def _lacks(self, modality: Modality) -> NoEncoderError:
        by = self.bundle.manifest.vectors
        return NoEncoderError(
            f"model {self.name!r} has no {modality} encoder",
            hint=f"Give a vector{f' of {by.encoder}' if by.encoder else ''}, or connect(encode=…)" if by else "",
        )

    def __repr__(self) -> str:
        return (
            f"Encoder({self.name!r}, dim={self.dim}, curvature={self.curvature:.4g}, fingerprint={self.fingerprint!r})"
        )

    @cached_property
    def domain(self) -> Domain:
        """Domain of the model: what it knows."""
        return Domain.of(self.bundle.manifest)

    @cached_property
    def lift(self) -> PaddedLift | None:
        """The lift fitted on the model's training points; ``None`` if the bundle carries none."""
        lift = self.bundle.manifest.lift
        if lift is None:
            return None
        what = f"the lift in the manifest of {self.bundle.path}"
        try:
            found = PaddedLift.from_dict(lift)
        except SettingsError as error:
            raise BundleFormatError(f"{what} is not valid: {error}") from error
        if found.dim != self.dim or not math.isclose(found.curvature, self.curvature, rel_tol=1e-6):
            raise BundleFormatError(
                f"{what} is for {found.dim} dimensions of curvature {found.curvature:g}; the model has {self.dim} of "
                f"curvature {self.curvature:g}",
                hint="Export the bundle again",
            )
        return found

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        path, words = self.bundle.file(self.text_spec.tokenizer), self.bundle.manifest.words
        return TextTokenizer.from_file(path, self.text_spec, words)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, start and end included, before it is cut.

        A text with more than ``text_spec.context_length`` is encoded from its beginning only.

        Raises:
            TextError: The text is empty, blank or not a `str`.
        """
        return self.tokenizer.count(text)

    def encode_text(self, texts: str | Iterable[str], *, batch_size: int = 64) -> Points:
        """Encode n texts; one `str` counts as a list of one.

        Args:
            texts: The texts. Longer ones than the model's context are cut, see `count_tokens`.
            batch_size: Texts per run of the graph, at least 1.

        Returns:
            Space components of points on the hyperboloid, (n, dim) float32.

        Raises:
            TextError: A text is empty, blank or not a `str`.
        """
        items = [texts] if isinstance(texts, str) else list(texts)
        return self.encode_tokens(self.tokenizer(items), batch_size=batch_size)

    def encode_tokens(self, tokens: NDArray[np.int64], *, batch_size: int = 64) -> Points:
        """Encode rows of token ids, (n, context_length) int64, to points, (n, dim) float32."""
        expected = (self.text_spec.context_length,)
        if tokens.dtype != np.int64 or tokens.ndim != 2 or tokens.shape[1:] != expected:
            raise TextError(f"token ids are {tokens.dtype} of shape {tokens.shape}, expected int64, (n, {expected[0]})")
        return self._encode(self._graph("text"), tokens, self._trimmed, batch_size)

    def _trimmed(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Leave out the columns at the end that only pad, for a graph that takes shorter rows."""
        if not self.text_spec.dynamic:
            return tokens
        used = np.flatnonzero((tokens != self.text_spec.pad_id).any(axis=0))
        return tokens[:, : used[-1] + 1 if used.size else 1]

    def encode_image(self, images: ImageSource | Iterable[ImageSource] | Pixels, *, batch_size: int = 32) -> Points:
        """Encode n images; a single one counts as a list of one.

        Args:
            images: Paths, bytes or Pillow images, or ready pixels as `preprocess_images` returns them.
            batch_size: Images per run of the graph, at least 1. Images are decoded one batch at a time.

        Returns:
            Space components of points on the hyperboloid, (n, dim) float32.

        Raises:
            ImageError: An image cannot be decoded, or the pixels are of another shape or dtype.
        """
        if isinstance(images, np.ndarray):
            size = self.image_spec.size
            if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
                raise ImageError(
                    f"pixels are {images.dtype} of shape {images.shape}, expected uint8, (n, {size}, {size}, 3)",
                    hint="Use preprocess_images, or PIL.Image.fromarray for pictures of another size",
                )
            return self._encode(self._graph("image"), images, np.asarray, batch_size)
        return self._encode(self._graph("image"), _as_list(images), self.preprocess_images, batch_size)

    def encode_vectors(self, vectors: NDArray[Any], modality: Modality, *, batch_size: int = 4096) -> Points:
        """Turn vectors of the encoder that the head was fitted to into points.

        Args:
            vectors: Floating point, (n, vector_spec.size), of any length but zero.
            modality: Of the items that the vectors stand for.
            batch_size: Vectors per run of the head, at least 1.

        Returns:
            Space components of points on the hyperboloid, (n, dim) float32.

        Raises:
            InvalidVectorError: A vector is of another size, zero, or not finite.
            NoEncoderError: The bundle has no head for this modality.
        """
        units, faults = unit_vectors(vectors, self.vector_spec.size)
        expect_all(faults)
        return self._encode(self._head(modality), units, np.asarray, batch_size)

    def expect_vectors(self, vectors: NDArray[Any], modality: Modality) -> None:
        """Check that vectors look like those that the head was fitted to.

        Args:
            vectors: A sample, floating point, (n, k).
            modality: Of the items that they stand for.

        Raises:
            ModelMismatchError: They are of another size, or of another encoder.
            NoEncoderError: The bundle has no head for them.
        """
        self._head(modality)
        self.domain.expect_vectors(vectors, modality, self.vector_spec.size, self.name)

    @property
    def maps_vectors(self) -> bool:
        """Whether there is a head for vectors of another encoder."""
        return self.bundle.manifest.vectors is not None

    def map_vectors(
        self, vectors: NDArray[Any], modality: Modality | None = None
    ) -> tuple[Points, list[Modality], list[bool | None]]:
        """As `encode_vectors`; of an unknown modality by the head that finds a vector less safe.

        Returns:
            The points, (n, dim) float32, the modality that each was taken for, and whether it is unlike all known.
        """
        spec = self.vector_spec
        heads: dict[Modality, str | None] = {"text": spec.text, "image": spec.image}
        asked = [modality] if modality else [each for each, file in heads.items() if file]
        points = {each: self.encode_vectors(vectors, each) for each in asked}
        return *less_safe(points, self.safety, self.curvature), self.domain.unlike(vectors, *asked)

    def reads(self, modality: Modality) -> bool:
        """Whether there is an encoder of a modality."""
        manifest = self.bundle.manifest
        return (manifest.image if modality == "image" else manifest.text) is not None

    def expect_encoder(self, modality: Modality) -> None:
        """Raise `NoEncoderError` if there is no encoder of a modality."""
        if not self.reads(modality):
            raise self._lacks(modality)

    @property
    def context_length(self) -> int:
        """Tokens that the model reads of a text; 0 if it reads none."""
        return 0 if self.bundle.manifest.text is None else self.bundle.manifest.text.context_length

    def judge_text(self, texts: Iterable[str], *, batch_size: int = 64) -> tuple[Points, list[Judged]]:
        """Encode n texts as `encode_text` does, and judge all of each.

        Returns:
            The points, (n, dim) float32, and what was judged: the number of views, and which is the worst.

        Raises:
            TextError: A text is empty, blank or not a `str`.
        """
        return self.judge_views("text", [self.text_views(text) for text in texts], batch_size=batch_size)

    def judge_image(
        self, images: Iterable[ImageSource], *, views: ViewSetting = "fast", batch_size: int = 32
    ) -> tuple[Points, list[Judged]]:
        """Encode n images as `encode_image` does, and judge all of each; see `judge_text` and `ViewSetting`.

        Raises:
            ImageError: An image cannot be decoded.
        """
        items = [picture_views(image, self.image_spec, views) for image in images]
        return self.judge_views("image", items, batch_size=batch_size)

    def text_spans(self, text: str) -> list[tuple[int, int]]:
        """Return the windows of a text, which together are all of it: first character, and the one after the last.

        Raises:
            TextError: The text is empty, blank or not a `str`.
        """
        return [(int(start), int(end)) for start, end in self.tokenizer.windows(text).spans]

    def text_views(self, text: str) -> Views:
        """Return what of a text is judged, as rows of token ids.

        Raises:
            TextError: The text is empty, blank or not a `str`.
        """
        return text_views(text, self.tokenizer)

    def judge_views(
        self, modality: Modality, items: Sequence[Views], *, batch_size: int = 64
    ) -> tuple[Points, list[Judged]]:
        """Encode and judge the views of n items; see `judge_text`."""
        return finished(self.judging(modality, items, batch_size=batch_size))

    def judging(
        self, modality: Modality, items: Sequence[Views], *, batch_size: int = 64
    ) -> Generator[None, None, tuple[Points, list[Judged]]]:
        """Encode and judge the views of n items as `judge_views` does, with a stop after each run of the graph."""
        if batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}; expected at least 1")
        if not items:
            return np.empty((0, self.dim), dtype=np.float32), []
        encode = self.encode_image if modality == "image" else self.encode_tokens
        encode = partial(encode, batch_size=batch_size)
        points, judged = yield from judging(items, encode, self.curvature, batch_size)
        return points, self.domain.marked(modality, items, points, judged)

    def preprocess_images(self, images: ImageSource | Iterable[ImageSource]) -> Pixels:
        """Decode and preprocess n images without the model: (n, size, size, 3) uint8.

        Raises:
            ImageError: An image cannot be decoded.
        """
        size = self.image_spec.size
        items = _as_list(images)
        pixels = np.empty((len(items), size, size, 3), dtype=np.uint8)
        for row, source in zip(pixels, items, strict=True):
            row[:] = preprocess(load_image(source), self.image_spec)
        return pixels

    def _encode(self, graph: Graph, items: Any, prepare: Any, batch_size: int) -> Points:
        if batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}; expected at least 1")
        points = np.empty((len(items), self.dim), dtype=np.float32)
        for start in range(0, len(items), batch_size):
            batch = np.ascontiguousarray(prepare(items[start : start + batch_size]))
            points[start : start + len(batch)] = self._sessions.run(graph, batch)
        bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if bad.size:
            raise InvalidVectorError(
                f"model {self.name!r} gave points that are not finite for {graph.of} items {bad[:10].tolist()}",
                hint="Export the model again: its weights are unusable",
            )
        return points

    def _graph(self, modality: Modality) -> Graph:
        if modality == "image":
            image = self.image_spec
            return Graph("image", image.file, "pixels", "tensor(uint8)", (image.size, image.size, 3))
        text = self.text_spec
        return Graph("text", text.file, "tokens", "tensor(int64)", (None if text.dynamic else text.context_length,))

    def _head(self, modality: Modality) -> Graph:
        spec = self.vector_spec
        if (file := spec.image if modality == "image" else spec.text) is None:
            raise NoEncoderError(
                f"model {self.name!r} has no head for vectors of {modality}s",
                hint=f"Fit one with {modality}s, or say that the vectors are of {_other(modality)}s",
            )
        return Graph(f"{modality} vector", file, "vector", "tensor(float)", (spec.size,))


def _other(modality: Modality) -> Modality:
    return "text" if modality == "image" else "image"


def _as_list(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    return [images] if isinstance(images, str | Path | bytes | Image.Image) else list(images)
