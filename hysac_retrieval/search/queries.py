"""Queries: a text, an image, a point, a stored point, examples; and the model that encodes them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from hysac_retrieval.collection.schema import PointModel
from hysac_retrieval.encoder.entailment import Entailment
from hysac_retrieval.errors import InputError
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.types import Modality, PointId

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://|data:[a-z]+/|www\.)\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PointRef:
    """A point of the collection, by its id, as a query or as an example. What is found leaves it out.

    Raises:
        InputError: The id is neither an integer from 0 to 2⁶⁴ − 1 nor a UUID.
    """

    id: PointId

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", normal_ids([self.id])[0])


@dataclass(frozen=True, slots=True, eq=False)
class LorentzPoint:
    """Space components (d,) as a query, for models that take a plain array for a vector of another encoder."""

    x: ArrayLike


Single: TypeAlias = (
    str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Sequence[float] | PointRef | LorentzPoint
)
"""Text, a path of an image, an encoded image, a decoded one, a stored point; or an array: a vector (k,) for the head of
a model that has one, a point (d,) for others."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """A query by examples of what is sought, and of what is not.

    The query is the Lorentz centroid of the positive ones. The negative ones turn its *direction* away from theirs (see
    `examples_point`); its radius stays, so that they never change how safe a query is.

    Args:
        positive: One or more.
        negative: None or more.

    Raises:
        InputError: There is no positive example, or not a sequence of them.
    """

    positive: tuple[Single, ...]
    negative: tuple[Single, ...] = ()

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            object.__setattr__(self, name, tuple(several(getattr(self, name), f"{name} examples")))
        if not self.positive:
            raise InputError("there is no positive example", hint="Give at least one of what is sought")
        if any(isinstance(example, Examples) for example in (*self.positive, *self.negative)):
            raise InputError("examples cannot be made of examples", hint="Give all of them at once")


def expect_no_url(text: str) -> None:
    """Raise `InputError` for an address: its words say nothing of the picture there, and nothing is fetched."""
    if _ADDRESS.fullmatch(text.strip()):
        shown = text if len(text) <= 100 else f"{text[:100]}…"
        hint = "To search by the picture there, download it and search with its bytes, or with the path of the file"
        raise InputError(f"the query {shown!r} is a URL, which is not fetched", hint=hint)


def is_pixels(query: object) -> bool:
    """Whether an array is a picture: uint8, (h, w) or (h, w, channels). Any other array is a vector or a point."""
    return isinstance(query, np.ndarray) and query.dtype == np.uint8 and query.ndim in (2, 3)


Query: TypeAlias = Single | Examples
"""Everything that can be searched with."""


class QueryEncoder(PointModel, Protocol):
    """A model that encodes queries, such as an `Encoder`."""

    def encode_text(self, texts: list[str], /) -> NDArray[np.float32]:
        """Texts to points (n, d)."""

    def encode_image(self, images: list[Any], /) -> NDArray[np.float32]:
        """Images to points (n, d)."""


@runtime_checkable
class JudgingEncoder(QueryEncoder, Protocol):
    """A model that judges all of what it encodes, such as an `Encoder`: the worst of it counts, not only the point."""

    def judge_text(self, texts: list[str], /) -> tuple[NDArray[np.float32], list[Judged]]:
        """Texts to points (n, d), and what of each was judged."""

    def judge_image(self, images: list[Any], /) -> tuple[NDArray[np.float32], list[Judged]]:
        """Images to points (n, d), and what of each was judged."""


@runtime_checkable
class EntailingEncoder(QueryEncoder, Protocol):
    """A model that may have calibrated entailment cones, such as an `Encoder`."""

    @property
    def entailment(self) -> Entailment | None:
        """They, or None."""


@runtime_checkable
class MappingEncoder(QueryEncoder, Protocol):
    """A model that may have heads for vectors of another encoder, such as an `Encoder`."""

    @property
    def maps_vectors(self) -> bool:
        """Whether it has."""

    def map_vectors(
        self, vectors: NDArray[Any], modality: Modality | None, /
    ) -> tuple[NDArray[Any], list[Modality], list[bool | None]]:
        """Vectors (n, k) to points (n, d), the modality that each was taken for, and whether it is unlike all known."""


def is_encoded(query: object) -> bool:
    """Whether a query is a point already, or a stored one, so that no model is asked."""
    return isinstance(query, PointRef | LorentzPoint) or (isinstance(query, np.ndarray) and not is_pixels(query))


def several(queries: Any, what: str = "queries") -> list[Any]:
    """Several queries as a list.

    Raises:
        InputError: It is a single one: a bare string would be taken for a sequence of one-letter queries.
    """
    single = isinstance(queries, str | bytes | os.PathLike | Image.Image | PointRef | LorentzPoint | Examples)
    if single or not isinstance(queries, Iterable):
        raise InputError(f"{what} must be a sequence of queries, even of one; a single query is for search()")
    return list(queries)
