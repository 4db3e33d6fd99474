"""The encoder that a head is fitted to: its vectors, and its graphs if it has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from tokenizers import Tokenizer

from hysac_export.data.split import Progress
from hysac_retrieval.encoder.bundle import ImageSpec, TextSpec
from hysac_retrieval.encoder.pictures import ImageSource
from hysac_retrieval.encoder.vectors import unit_vectors
from hysac_retrieval.errors import EncoderError, InvalidVectorError
from hysac_retrieval.types import Modality

Vectors: TypeAlias = NDArray[np.float32]

KINDS = {
    "open_clip:MODEL/PRETRAINED|FOLDER": "text and images, by a model of open_clip (needs torch)",
    "fastembed:NAME|FOLDER": "text, images or both, by a model of fastembed",
    "sentence-transformers:NAME|FOLDER": "text, by a model of sentence-transformers",
    "hysac:NAME|FOLDER": "by another bundle; hysac: may be left out",
    "module:function": "by a function of your own from texts to vectors, or an object with functions text and image",
}
"""Specs of encoders, and what each does."""


@dataclass(frozen=True)
class TextGraph:
    """How an encoder reads texts.

    Attributes:
        proto: A graph from ``tokens``, (batch, length) int64, to ``vector``, (batch, k) float32 of any norm; which
            tokens count, and all else that its library would hand it, is made in the graph.
        spec: Length and ids of the tokens.
        tokenizer: Adds start and end tokens, and neither cuts nor pads.
    """

    proto: ModelProto
    spec: TextSpec
    tokenizer: Tokenizer


@dataclass(frozen=True)
class ImageGraph:
    """How an encoder reads pictures.

    Attributes:
        proto: A graph from ``pixels``, (batch, size, size, 3) uint8, to ``vector``, (batch, k) float32 of any norm.
        spec: Size, and how pictures are brought to it.
    """

    proto: ModelProto
    spec: ImageSpec


@dataclass(frozen=True)
class EncoderGraphs:
    """The graphs of an encoder, at least one, with all their weights; of the operators' version 13 or later."""

    text: TextGraph | None = None
    image: ImageGraph | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that there is a graph for."""
        found: dict[Modality, TextGraph | ImageGraph | None] = {"text": self.text, "image": self.image}
        return tuple(modality for modality, graph in found.items() if graph is not None)


class VectorEncoder(Protocol):
    """An encoder.

    Attributes:
        name: The spec that it was opened by.
        dim: Numbers k of a vector, in all its modalities.
        modalities: What it can encode.
        pixels: How it gets pictures; None if it reads none.
    """

    name: str
    dim: int
    modalities: tuple[Modality, ...]
    pixels: ImageSpec | None

    def text(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Return the vectors of n texts, (n, k), of unit length.

        Raises:
            TextError: A text is empty, blank or not a `str`.
            EncoderError: It reads no texts, or fails.
            InvalidVectorError: It gives vectors that are zero, not finite, or of another shape.
        """

    def image(self, pictures: Sequence[ImageSource], progress: Progress | None = None) -> Vectors:
        """Return the vectors of n pictures, (n, k), of unit length.

        Raises:
            ImageError: A picture cannot be decoded.
            EncoderError: It reads no pictures, or fails.
            InvalidVectorError: See `text`.
        """

    def graphs(self) -> EncoderGraphs:
        """Return its graphs.

        Raises:
            EncoderError: It has none, so that a fitted bundle holds the head alone.
        """


def unit(vectors: NDArray[np.floating], name: str) -> Vectors:
    """Bring the vectors of an encoder, (n, k), to unit length.

    Raises:
        InvalidVectorError: Some are zero or not finite.
    """
    rows, faults = unit_vectors(np.asarray(vectors, dtype=np.float64), vectors.shape[1])
    if faults:
        raise InvalidVectorError(f"{name} gave vectors that are zero or not finite for items {[*faults][:10]}")
    return rows


def no_modality(name: str, modality: Modality) -> EncoderError:
    """Return the error for an encoder that does not read texts, or pictures."""
    other = {"text": "pictures", "image": "texts"}[modality]
    return EncoderError(f"{name} reads {other} only", hint=f"Give an encoder of {modality}s")
