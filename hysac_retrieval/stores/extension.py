"""Parts added to a collection of an application, and taken away again, without touching the application's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import RequestTooLargeError, StoreError, StoreUnavailableError
from hysac_retrieval.stores.types import UPSERT_CHUNK, CollectionSpec, Quantization
from hysac_retrieval.types import PointId


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a collection that decide how it can be extended.

    Attributes:
        has_vector: Whether it has a vector named `VECTOR_NAME`, of whatever kind.
        quantization: How vectors that are added to it are compressed: as the collection's own are.
        obstacle: Why no named vector can be added to it; empty where one can.
        unnamed: Whether it has a vector without a name, of which a named one beside it would change the configuration.
        mapped: Whether that has happened: the vector is one named ``""``.
        sizes: The size of each vector by name, ``""`` for the one that has none; None for one that is no plain vector,
            but sparse or several.
        indexed: Payload fields with an index.
    """

    has_vector: bool
    quantization: Quantization | None
    obstacle: str = ""
    unnamed: bool = False
    mapped: bool = False
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    indexed: frozenset[str] = frozenset()


class Extension(Protocol):
    """The vector, payload key, payload indexes and metadata of this package in one collection of an application.

    Every method may be called again after it failed half-way, and raises `StoreError` when the engine refuses.
    """

    def facts(self) -> Facts:
        """Look at the collection."""

    def extend(self, spec: CollectionSpec, *, vector: bool = True) -> None:
        """Add payload indexes, the vector (unless told not to) and, last, the metadata beside the application's own.

        A vector of that name must hold nothing; it is made anew.
        """

    def write(
        self, ids: Sequence[PointId], vectors: NDArray[np.float32] | None, payloads: Sequence[Mapping[str, Any]]
    ) -> int:
        """Add vectors (None for no vectors) and payloads to points of the collection; durable when it returns.

        Args:
            ids: The points. Those that are no longer there are left out.
            vectors: Shape (n, size).
            payloads: Payload keys to set; all other keys of a point stay as they are.

        Returns:
            How many points were there.
        """

    def erase(self, ids: Sequence[PointId], *, vector: bool = True) -> None:
        """Take the vector and the payload key from points."""

    def retract(self, indexes: Collection[str]) -> None:
        """Take the vector, these payload indexes and, last, the metadata from the collection."""


def inherited_quantization(config: Mapping[str, Any] | None) -> Quantization | None:
    """Compression of a vector that names none itself, by a collection's configuration in its JSON form.

    A kind that is not known here counts as the coarsest.
    """
    if not config:
        return None
    if "scalar" in config:
        return "int8"
    if config.get("turbo") is None:
        return "binary"
    kinds: dict[str | None, Quantization] = {"bits8": "turbo8", "bits4": "turbo4", None: "turbo4"}
    return kinds.get(config["turbo"].get("bits"), "binary")


def write_present(
    ids: Sequence[PointId], write: Callable[[Sequence[int]], None], there: Callable[[Sequence[PointId]], set[PointId]]
) -> int:
    """Write rows, one for each id, in chunks; where that fails because some points are no longer `there`, the others.

    What is too large for one request is written in halves.

    Returns:
        How many rows were written.
    """

    def written(rows: Sequence[int]) -> int:
        if not rows:
            return 0
        try:
            write(rows)
        except StoreUnavailableError:
            raise
        except RequestTooLargeError:
            if len(rows) == 1:
                raise
            half = len(rows) // 2
            return written(rows[:half]) + written(rows[half:])
        except StoreError:
            found = there([ids[row] for row in rows])
            left = [row for row in rows if ids[row] in found]
            if len(left) == len(rows):
                raise
            return written(left)
        return len(rows)

    return sum(written(range(start, min(start + UPSERT_CHUNK, len(ids)))) for start in range(0, len(ids), UPSERT_CHUNK))
