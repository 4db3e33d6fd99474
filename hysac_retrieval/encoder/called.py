"""A head whose vectors come from a function of the caller: a service, or a model that runs elsewhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, Unpack, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from hysac_retrieval.encoder.bundle import Bundle, ImageSpec
from hysac_retrieval.encoder.devices import DeviceKeywords
from hysac_retrieval.encoder.encoder import Encoder, Pixels
from hysac_retrieval.encoder.judging import Points, judging
from hysac_retrieval.encoder.lexicon import Lexicon
from hysac_retrieval.encoder.pictures import ImageSource
from hysac_retrieval.encoder.readings import readings
from hysac_retrieval.encoder.vectors import unit_vectors
from hysac_retrieval.encoder.views import PIXELS, Views
from hysac_retrieval.errors import EncoderError, HysacError, ModelMismatchError, SettingsError, TextError
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.types import Modality

LEAST_COSINE = 0.99
"""Cosine that the vector of a probe has at least with the one that the head was fitted with."""

_NO_WORDS = Lexicon(frozenset(), complete=False)


@runtime_checkable
class VectorSource(Protocol):
    """An encoder with a method for each modality that it reads; one of the two may be missing."""

    def text(self, texts: Sequence[str], /) -> ArrayLike:
        """Vectors of n texts, (n, k)."""


Encode: TypeAlias = Callable[[list[str]], ArrayLike] | VectorSource
"""Texts to vectors; or an object with a method ``text``, and perhaps ``image``, which gets PIL images."""


class CalledEncoder(Encoder):
    """A model that has its vectors made by a function, and maps them by its head.

    A text is judged in its readings as plain letters, too; how much of a long one counts is up to the function. Of an
    image the function gets squares of 384 pixels: the views that are judged.

    Args:
        bundle: A bundle with a head.
        encode: See `Encode`. Nothing that a bundle says is ever imported: the function is the caller's own.
        **device: Of the head; see `DeviceKeywords`.

    Raises:
        ModelMismatchError: What it gives for the probes of the bundle is not what the head was fitted to.
        NoEncoderError: The bundle has no head for vectors.
        SettingsError: `encode` is no function.
    """

    def __init__(self, bundle: Bundle, encode: Encode, **device: Unpack[DeviceKeywords]) -> None:
        super().__init__(bundle, **device)
        text = getattr(encode, "text", None) or (encode if callable(encode) else None)
        found: dict[Modality, Any] = {"text": text, "image": getattr(encode, "image", None)}
        self._functions = {modality: function for modality, function in found.items() if callable(function)}
        if not self._functions:
            raise SettingsError(
                f"encode is {type(encode).__name__}; expected a function that turns a list of texts into vectors"
            )
        self._expect_probes()

    @property
    def image_spec(self) -> ImageSpec:
        """See `Encoder`."""
        return PIXELS if "image" in self._functions else super().image_spec

    def reads(self, modality: Modality) -> bool:
        """See `Encoder`."""
        return modality in self._functions

    @property
    def context_length(self) -> int:
        """See `Encoder`."""
        return 0

    def count_tokens(self, text: str) -> int:
        """Return 0: only the function knows."""
        return 0

    def text_spans(self, text: str) -> list[tuple[int, int]]:
        """Return the whole of a text."""
        return [(0, len(text))]

    def text_views(self, text: str) -> Views:
        """Return a text, and how it reads in plain letters; as rows of one text each."""
        _expect_texts([text])
        found = readings(text, _NO_WORDS)
        return Views(tuple(found), np.array(list(found.values()), dtype=object))

    def encode_text(self, texts: str | Iterable[str], *, batch_size: int = 64) -> Points:
        """See `Encoder.encode_text`; so many texts are given to the function at once."""
        items = [texts] if isinstance(texts, str) else list(texts)
        _expect_texts(items)
        return self._called("text", items, batch_size)

    def encode_image(self, images: ImageSource | Iterable[ImageSource] | Pixels, *, batch_size: int = 32) -> Points:
        """See `Encoder.encode_image`; the function gets what of them the model would see."""
        self.expect_encoder("image")
        pixels = images if isinstance(images, np.ndarray) else self.preprocess_images(images)
        return self._called("image", [Image.fromarray(row) for row in pixels], batch_size)

    def judging(
        self, modality: Modality, items: Sequence[Views], *, batch_size: int = 64
    ) -> Generator[None, None, tuple[Points, list[Judged]]]:
        """See `Encoder.judging`."""
        if items:
            self.expect_encoder(modality)
        if modality == "image" or not items:
            return (yield from super().judging(modality, items, batch_size=batch_size))
        encode = partial(self.encode_text, batch_size=batch_size)
        points, judged = yield from judging(items, encode, self.curvature, batch_size)
        return points, self.domain.marked(modality, items, points, judged)

    def _called(self, modality: Modality, items: list[Any], batch_size: int) -> Points:
        self.expect_encoder(modality)
        parts = [
            self.encode_vectors(self._vectors(modality, items[start : start + batch_size]), modality)
            for start in range(0, len(items), batch_size)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), dtype=np.float32)

    def _vectors(self, modality: Modality, items: list[Any]) -> NDArray[Any]:
        try:
            vectors = np.asarray(self._functions[modality](items))
        except HysacError:
            raise
        except Exception as error:  # whatever the caller's function raises
            raise EncoderError(f"the function that encodes {modality}s fails: {error!r}") from error
        if vectors.dtype.kind not in "fiu" or vectors.ndim != 2 or len(vectors) != len(items):
            raise EncoderError(
                f"the function that encodes {modality}s gave {vectors.dtype} of shape {vectors.shape} for {len(items)}",
                hint=f"It is to return floats of shape ({len(items)}, {self.vector_spec.size})",
            )
        if vectors.shape[1] != (size := self.vector_spec.size):
            raise ModelMismatchError(
                f"the function gives vectors of {vectors.shape[1]} numbers, and the head of model {self.name!r} takes "
                f"{size}",
                hint=self._fitted_to(),
            )
        return vectors.astype(np.result_type(vectors.dtype, np.float32), copy=False)

    def _expect_probes(self) -> None:
        """Check that the function is of the encoder that the head was fitted to."""
        spec = self.vector_spec
        if not spec.probes or "text" not in self._functions:
            return
        vectors = self._vectors("text", [probe.text for probe in spec.probes])
        found, faults = unit_vectors(vectors, spec.size)
        expected, _ = unit_vectors(np.array([probe.vector for probe in spec.probes]), spec.size)
        cosines = (found * expected).sum(axis=1)
        if faults or cosines.min() < LEAST_COSINE:
            worst = int(cosines.argmin())
            raise ModelMismatchError(
                f"the function is of another encoder than the head of model {self.name!r}: for "
                f"{spec.probes[worst].text!r} it gives a vector of cosine {cosines[worst]:.3f} with the one that the "
                f"head was fitted with, expected {LEAST_COSINE} or more",
                hint=self._fitted_to(),
            )

    def _fitted_to(self) -> str:
        by = self.vector_spec.encoder
        return f"Give one of {by}, or fit a head to this one: hysac fit" if by else "Fit a head to this one: hysac fit"


def imported(spec: str) -> Encode:
    """Return the function, or the object, that ``module:name`` names; the working directory is looked into as well.

    Raises:
        SettingsError: There is none.
    """
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise SettingsError(f"{spec!r} names no function", hint="Write module:function, such as embeddings:embed")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"{spec!r} cannot be imported: {error}", hint="Write module:function") from error
    return found  # type: ignore[no-any-return]


def _expect_texts(texts: Sequence[Any]) -> None:
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextError(f"text {row} is of type {type(text).__name__}, expected str")
        if not text.strip():
            raise TextError(f"text {row} is empty", hint="Give at least one word, or leave the item out")
