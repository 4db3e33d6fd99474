"""What one can search with: a text, an image or a point; and what is needed to encode it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_retrieval.errors import InputError, InvalidVectorError
from hysac_retrieval.lift import Lift
from hysac_retrieval.results import Modality
from hysac_retrieval.safety import SafetyProfile

Query: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Sequence[float]
"""Text, a path of an image, an encoded image, a decoded one, or a point (d,)."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".j2k", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".qoi", ".tga", ".tif"}
    | {".tiff", ".webp"}
)


class QueryEncoder(Protocol):
    """What a search needs of an `Encoder`."""

    @property
    def dim(self) -> int:
        """Number of space components of a point."""

    @property
    def curvature(self) -> float:
        """Curvature c > 0 of the space (−c)."""

    @property
    def safety(self) -> SafetyProfile:
        """The model's calibration."""

    @property
    def fingerprint(self) -> str:
        """Identity of what the model computes."""

    @property
    def lift(self) -> Lift | None:
        """How the model's points are best stored; None if it does not say."""

    def encode_text(self, texts: list[str], /) -> NDArray[np.float32]:
        """Texts to points (n, d)."""

    def encode_image(self, images: list[Any], /) -> NDArray[np.float32]:
        """Images to points (n, d)."""


def kind_of(query: Any) -> Modality | None:
    """What a query is: text, image, or None for a point.

    A string is a text, unless it ends as an image's name does and names a file.

    Raises:
        InputError: It is none of them.
    """
    if isinstance(query, str):
        is_image = Path(query).suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(query)
        return "image" if is_image else "text"
    if isinstance(query, os.PathLike | bytes | Image.Image):
        return "image"
    if isinstance(query, np.ndarray | list | tuple):
        return None
    raise InputError(f"a query is text, a path, bytes, a PIL image or a point, not {type(query).__name__}")


def point_of(query: Any, dim: int) -> NDArray[Any]:
    """A query as a point, (d,).

    Raises:
        InvalidVectorError: It is not an array of that shape.
    """
    try:
        point = np.asarray(query)
    except (ValueError, TypeError) as error:
        raise InvalidVectorError(f"the query cannot be read as a point: {error}") from error
    if point.shape != (dim,):
        raise InvalidVectorError(
            f"the query is an array of shape {point.shape}; a point of this collection has shape ({dim},). "
            "Give a picture as a PIL image"
        )
    return point
