"""What one can search with: a text, an image, a point, a stored point, examples; and what is needed to encode it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_retrieval import lorentz
from hysac_retrieval.collection.schema import PointModel
from hysac_retrieval.errors import InputError
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.types import Modality, PointId

NEGATIVE_WEIGHT = 0.5
"""How far negative examples turn a query: their direction counts half as much as that of the positive ones."""


@dataclass(frozen=True, slots=True)
class PointRef:
    """A point of the collection, by its id, as a query or as an example. What is found leaves it out.

    Raises:
        InputError: The id is neither an integer from 0 to 2⁶⁴ − 1 nor a UUID.
    """

    id: PointId

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", normal_ids([self.id])[0])


Single: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Sequence[float] | PointRef
"""Text, a path of an image, an encoded image, a decoded one, a point (d,), or a stored point."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What is sought, and what is not, by examples.

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
            raise InputError("there is no positive example; give at least one of what is sought")
        if any(isinstance(example, Examples) for example in (*self.positive, *self.negative)):
            raise InputError("examples cannot be made of examples; give all of them at once")


Query: TypeAlias = Single | Examples
"""What can be searched with."""


class QueryEncoder(PointModel, Protocol):
    """A model that encodes queries, such as an `Encoder`."""

    def encode_text(self, texts: list[str], /) -> NDArray[np.float32]:
        """Texts to points (n, d)."""

    def encode_image(self, images: list[Any], /) -> NDArray[np.float32]:
        """Images to points (n, d)."""


def kind_of(query: Any) -> Modality | None:
    """Return what a query is: text, image, or None for a point. A string is always a text.

    Raises:
        InputError: It is none of them.
    """
    if isinstance(query, np.ndarray | list | tuple):
        return None
    if isinstance(query, str):
        return "text"
    if isinstance(query, os.PathLike | bytes | Image.Image):
        return "image"
    raise InputError(f"a query is text, a path, bytes, a PIL image or a point, not {type(query).__name__}")


def several(queries: Any, what: str = "queries") -> list[Any]:
    """Several queries as a list.

    Raises:
        InputError: It is a single one: a bare string would be taken for a sequence of one-letter queries.
    """
    single = isinstance(queries, str | bytes | os.PathLike | Image.Image | PointRef | Examples)
    if single or not isinstance(queries, Iterable):
        raise InputError(f"{what} must be a sequence of queries, even of one; a single query is for search()")
    return list(queries)


def examples_point(
    positive: NDArray[np.float64], negative: NDArray[np.float64], curvature: float
) -> NDArray[np.float64]:
    """One point for examples.

    With u the direction of the positive centroid as seen from the origin, and w that of the negative one, the result
    lies in the direction of u + λ(u − w), λ = `NEGATIVE_WEIGHT`: on the great circle from w through u, beyond u by at
    most asin(λ / (1 + λ)), 19.5°. Its radius is that of the positive centroid. Only directions enter, because what
    something is about is its direction, and how unsafe it is its radius.

    Args:
        positive: Points (n, d), n ≥ 1.
        negative: Points (m, d), m ≥ 0.
        curvature: Curvature c > 0 of the space (−c).

    Returns:
        The point, (d,).
    """
    centre: NDArray[np.float64] = lorentz.centroid(positive, curvature)
    if not len(negative):
        return centre
    sought, shunned = _direction(centre), _direction(lorentz.centroid(negative, curvature))
    # Never zero where u is a direction: |u + λ(u − w)| ≥ (1 + λ) − λ.
    turned = _direction(sought + NEGATIVE_WEIGHT * (sought - shunned))
    return turned * float(np.linalg.norm(centre)) if sought.any() else centre


def describe(query: Any) -> str:
    """A query in words, for a record of who asked what: a text itself, a path, an id, or only what kind it is."""
    if isinstance(query, Examples):
        parts = (
            f"{sign}{describe(one)}" for sign, all in (("+", query.positive), ("−", query.negative)) for one in all
        )
        return "  ".join(parts)
    if isinstance(query, PointRef):
        return f"point {query.id}"
    if isinstance(query, str | os.PathLike):
        return os.fspath(query)
    return "image" if isinstance(query, bytes | Image.Image) else "point"


def _direction(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vector along v; zero for zero."""
    length = float(np.linalg.norm(v))
    return v / length if length > 0 else np.zeros_like(v)
