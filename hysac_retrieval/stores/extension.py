"""What is added to a collection of an application, and taken away again, without touching what is the application's."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import StoreError, StoreUnavailableError
from hysac_retrieval.stores.types import UPSERT_CHUNK, CollectionSpec, Quantization
from hysac_retrieval.types import PointId

VECTOR_VERSION = (1, 18)
"""First version of a Qdrant server that can add a named vector to a collection that exists."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What must be known of a collection before anything is added to it.

    Attributes:
        has_vector: Whether it has a vector of our name, of whatever kind.
        quantization: How vectors that are added to it are compressed: as the collection's own are.
        obstacle: Why no named vector can be added to it; empty where one can.
    """

    has_vector: bool
    quantization: Quantization | None
    obstacle: str = ""


class Extension(Protocol):
    """Our vector, payload key, payload indexes and metadata in one collection of an application.

    Every method may be called again after it failed half-way, and raises `StoreError` when the engine refuses.
    """

    def facts(self) -> Facts:
        """Look at the collection."""

    def extend(self, spec: CollectionSpec, *, vector: bool = True) -> None:
        """Add payload indexes, the vector (unless told not to) and, last, our metadata beside the application's own.

        A vector of our name must hold nothing; it is made anew.
        """

    def write(
        self, ids: Sequence[PointId], vectors: NDArray[np.float32] | None, payloads: Sequence[Mapping[str, Any]]
    ) -> int:
        """Give points of the collection our vectors (None for no vectors) and payloads; durable when it returns.

        Args:
            ids: The points. Those that are no longer there are left out.
            vectors: Shape (n, size).
            payloads: Mappings of payload keys of ours; all other keys of a point stay as they are.

        Returns:
            How many points were there.
        """

    def erase(self, ids: Sequence[PointId], *, vector: bool = True) -> None:
        """Take our vector and our payload key from points."""

    def retract(self, indexes: Collection[str]) -> None:
        """Take the vector, these payload indexes and, last, our metadata from the collection."""


def adds_vectors(version: str) -> bool:
    """Whether a Qdrant server of this version can add vectors; False if the version cannot be read."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= VECTOR_VERSION


def write_present(
    ids: Sequence[PointId], write: Callable[[Sequence[int]], None], there: Callable[[Sequence[PointId]], set[PointId]]
) -> int:
    """Write rows in chunks; where that fails because the application has removed some of their points, the others.

    Args:
        ids: Point of each row.
        write: Writes some of the rows.
        there: Says which of some points still exist.

    Returns:
        How many rows were written.
    """
    done = 0
    for start in range(0, len(ids), UPSERT_CHUNK):
        rows: Sequence[int] = range(start, min(start + UPSERT_CHUNK, len(ids)))
        while rows:
            try:
                write(rows)
            except StoreUnavailableError:
                raise
            except StoreError:
                found = there([ids[row] for row in rows])
                left = [row for row in rows if ids[row] in found]
                if len(left) == len(rows):
                    raise
                rows = left
            else:
                done += len(rows)
                break
    return done
