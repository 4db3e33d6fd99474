"""A function of the caller's own as an encoder: a service, a model on a GPU, anything that gives vectors."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_export.data.split import Progress
from hysac_export.fit.encoders.base import KINDS, EncoderGraphs, Vectors, no_modality, unit
from hysac_retrieval.encoder.pictures import ImageSource
from hysac_retrieval.encoder.preprocess import load_image
from hysac_retrieval.errors import EncoderError, InvalidVectorError, TextError
from hysac_retrieval.types import Modality

_BATCH = 64


class FunctionEncoder:
    """A `VectorEncoder` around a function from a list of texts, or of Pillow images, to their vectors, (n, k).

    What it takes is tried once, with a text and with a picture: what it raises an exception for, it does not read.

    Raises:
        EncoderError: There is no such function, it fails for both, or its vectors of texts and pictures differ in size.
    """

    def __init__(self, spec: str) -> None:
        """Import ``module:function`` and try it."""
        self.name = spec
        self._function = _imported(spec)
        sizes, failures = dict[Modality, int](), list[str]()
        trials: dict[Modality, Any] = {"text": "a photograph", "image": Image.new("RGB", (64, 64), (128, 128, 128))}
        for modality, item in trials.items():
            try:
                sizes[modality] = self._called([item]).shape[1]
            except EncoderError as error:
                failures.append(error.message)
        if not sizes:
            raise EncoderError(" and ".join(failures), hint="It is to take a list of texts, or of Pillow images")
        if len({*sizes.values()}) > 1:
            raise EncoderError(
                f"{spec} gives vectors of size {sizes['text']} for texts, of {sizes['image']} for pictures"
            )
        self.modalities = tuple(sizes)
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
            found = self._called([load_image(item) for item in part] if modality == "image" else part)
            if found.shape[1] != self.dim:
                raise InvalidVectorError(f"{self.name} gave vectors of size {found.shape[1]}, before of {self.dim}")
            vectors[start : start + len(part)] = found
            if progress:
                progress(len(part))
        return unit(vectors, self.name)

    def _called(self, items: list[Any]) -> NDArray[np.floating]:
        try:
            found = np.asarray(self._function(items), dtype=np.float32)
        except Exception as error:  # a stranger's function
            raise EncoderError(f"{self.name} failed for {len(items)} items: {error}") from error
        if found.ndim != 2 or len(found) != len(items):
            raise EncoderError(f"{self.name} gave an array of shape {found.shape} for {len(items)} items")
        return found


def _imported(spec: str) -> Callable[[list[Any]], Any]:
    module, _, name = spec.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a stranger's module does when it is imported
        hint = f"The folder of the module has to be on PYTHONPATH; all kinds of encoders: {', '.join(KINDS)}"
        raise EncoderError(f"{spec} cannot be imported: {error}", hint=hint) from error
    if not callable(found):
        raise EncoderError(f"{spec} is a {type(found).__name__}, expected a function")
    function: Callable[[list[Any]], Any] = found
    return function
