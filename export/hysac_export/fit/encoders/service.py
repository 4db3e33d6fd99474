"""A function of the caller's own as an encoder: a service, a model on a GPU, anything that gives vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_export.data.split import Progress
from hysac_export.fit.encoders.base import KINDS, EncoderGraphs, Vectors, no_modality, unit
from hysac_retrieval.encoder.called import imported
from hysac_retrieval.encoder.pictures import ImageSource
from hysac_retrieval.encoder.preprocess import load_image, preprocess
from hysac_retrieval.encoder.views import PIXELS
from hysac_retrieval.errors import EncoderError, SettingsError, TextError
from hysac_retrieval.types import Modality

_BATCH = 64


class FunctionEncoder:
    """A `VectorEncoder` around what `called.Encode` describes: a function of texts, or ``text`` and ``image``.

    Each is tried once, so that the size of its vectors is known. Pictures are handed over as a fitted bundle does it.

    Raises:
        EncoderError: There is no such function, it fails, or its vectors of texts and pictures differ in size.
    """

    def __init__(self, spec: str) -> None:
        """Import ``module:function`` and try it."""
        self.name = spec
        try:
            given: Any = imported(spec)
        except SettingsError as error:
            hint = f"{error.hint}; all kinds of encoders: {', '.join(KINDS)}"
            raise EncoderError(error.message, hint=hint) from error
        text = getattr(given, "text", None) or (given if callable(given) else None)
        found: dict[Modality, Any] = {"text": text, "image": getattr(given, "image", None)}
        self._functions = {modality: function for modality, function in found.items() if callable(function)}
        if not self._functions:
            raise EncoderError(f"{spec} is a {type(given).__name__}, expected a function from texts to vectors")
        trials: dict[Modality, Any] = {"text": "a photograph", "image": Image.new("RGB", (PIXELS.size,) * 2, "gray")}
        sizes = {modality: self._called(modality, [trials[modality]]).shape[1] for modality in self._functions}
        if len({*sizes.values()}) > 1:
            raise EncoderError(
                f"{spec} gives vectors of size {sizes['text']} for texts, of {sizes['image']} for pictures"
            )
        self.modalities = tuple(sizes)
        self.pixels = PIXELS if "image" in sizes else None
        self.dim = next(iter(sizes.values()))

    def text(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """See `VectorEncoder.text`."""
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise TextError(f"text {i} is {text!r}, expected at least one word")
        return self._encoded("text", texts, progress)

    def image(self, pictures: Sequence[ImageSource], progress: Progress | None = None) -> Vectors:
        """See `VectorEncoder.image`."""
        return self._encoded("image", pictures, progress)

    def graphs(self) -> EncoderGraphs:
        """See `VectorEncoder.graphs`."""
        message = f"{self.name} is a function and has no graph, so that the fitted bundle holds the head only"
        raise EncoderError(message, hint="Give it again where the bundle is used")

    def _encoded(self, modality: Modality, items: Sequence[Any], progress: Progress | None) -> Vectors:
        if modality not in self.modalities:
            raise no_modality(self.name, modality)
        vectors = np.empty((len(items), self.dim), np.float32)
        for start in range(0, len(items), _BATCH):
            part = list(items[start : start + _BATCH])
            if modality == "image":
                part = [Image.fromarray(preprocess(load_image(item), PIXELS)) for item in part]
            found = self._called(modality, part)
            if found.shape[1] != self.dim:
                raise EncoderError(f"{self.name} gave vectors of size {found.shape[1]}, before of {self.dim}")
            vectors[start : start + len(part)] = found
            if progress:
                progress(len(part))
        return unit(vectors, self.name)

    def _called(self, modality: Modality, items: list[Any]) -> NDArray[np.floating]:
        try:
            found = np.asarray(self._functions[modality](items), dtype=np.float32)
        except Exception as error:  # a stranger's function
            raise EncoderError(f"{self.name} failed for {len(items)} {modality}s: {error!r}") from error
        if found.ndim != 2 or len(found) != len(items):
            raise EncoderError(f"{self.name} gave an array of shape {found.shape} for {len(items)} {modality}s")
        return found
