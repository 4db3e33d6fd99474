"""Vectors and labels that a collection has: a vector of each point, and a payload field that says what it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.collection.collection import top_field
from hysac_retrieval.encoder.vectors import unit_vectors
from hysac_retrieval.errors import InputError, InvalidVectorError, SettingsError
from hysac_retrieval.ingest.sources.fields import stored_field, value_of
from hysac_retrieval.ingest.sources.vectors import StoredVectors, plain_size
from hysac_retrieval.stores.base import Store, pages
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import Modality, PointId

_PAGE = 500
_SHOWN = 8  # values or ids that an error names


@dataclass(frozen=True)
class Labelled:
    """Labelled vectors of n points; of points with one and the same vector the first.

    Attributes:
        vectors: Shape (n, k), float32, of unit length.
        unsafe: Labels, (n,).
        ids: The points.
        modalities: What each vector stands for.
        unlabelled: Points of the collection with a vector and no label.
        lacking: Points of the collection without such a vector.
        repeated: Points left out because another one has the same vector and label.
    """

    vectors: NDArray[np.float32]
    unsafe: NDArray[np.bool_]
    ids: tuple[PointId, ...]
    modalities: tuple[Modality, ...]
    unlabelled: int = 0
    lacking: int = 0
    repeated: int = 0


_Row = tuple[PointId, Modality, NDArray[np.float32]]


@dataclass
class _Reservoir:
    """At most `most` of the rows that come by, each with the same chance."""

    most: int | None
    rng: np.random.Generator
    rows: list[_Row] = field(default_factory=list)
    seen: int = 0

    def add(self, row: _Row) -> None:
        self.seen += 1
        if self.most is None or len(self.rows) < self.most:
            self.rows.append(row)
        elif (place := int(self.rng.integers(self.seen))) < self.most:
            self.rows[place] = row

    def some(self, count: int) -> list[_Row]:
        """Return so many of them, in the order in which they are stored."""
        places = self.rng.permutation(len(self.rows))[:count]
        return [self.rows[place] for place in sorted(places)]


def labelled_vectors(
    store: Store,
    name: str,
    content: StoredVectors,
    label_field: str,
    *,
    unsafe: Collection[str] = (),
    safe: Collection[str] = (),
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Labelled:
    """Read the vectors of a collection, and labels from its payload.

    Args:
        store: Store of the collection.
        name: The collection.
        content: Its vectors, and what they stand for.
        label_field: Payload field with true or false, 1 or 0, or one of the strings below; dots lead into objects.
        unsafe: Strings that mean unsafe.
        safe: Strings that mean safe.
        limit: Points to return at most, chosen at random, as many of each label as there are up to half of them.
        seed: Of that choice.
        progress: Called with the number of points read.

    Raises:
        SettingsError: There are no such vectors, no point has a label, or the limit is below 2.
        InputError: A label is none of these, or one vector has both labels; the message counts and names them.
        InvalidVectorError: A vector has no direction; likewise.
    """
    if limit is not None and limit < 2:
        raise SettingsError(f"limit is {limit}; expected at least 2, one of each label")
    if both := sorted({*unsafe} & {*safe}):
        raise SettingsError(f"{both[0]!r} cannot mean both unsafe and safe")
    reader = _Reader(store, name, content, label_field, {**dict.fromkeys(safe, False), **dict.fromkeys(unsafe, True)})
    rng = np.random.default_rng(seed)
    chosen = {label: _Reservoir(limit, rng) for label in (False, True)}
    for label, row in reader.rows(progress or (lambda _: None)):
        chosen[label].add(row)
    reader.check()
    counts = _balanced(len(chosen[False].rows), len(chosen[True].rows), limit)
    rows = [row for label, most in zip((False, True), counts, strict=True) for row in chosen[label].some(most)]
    return Labelled(
        np.stack([vector for *_, vector in rows]),
        np.repeat([False, True], counts),
        tuple(identity for identity, *_ in rows),
        tuple(modality for _, modality, _ in rows),
        reader.unlabelled,
        reader.lacking,
        reader.repeated,
    )


def _balanced(safe: int, unsafe: int, limit: int | None) -> tuple[int, int]:
    """Return how many of each to take: half of the limit, more of one where there are fewer of the other."""
    if limit is None or safe + unsafe <= limit:
        return safe, unsafe
    few = min(safe, unsafe, limit // 2)
    return (few, limit - few) if safe <= unsafe else (limit - few, few)


class _Reader:
    """Reads points once, and counts what is wrong with them."""

    def __init__(
        self, store: Store, name: str, content: StoredVectors, label_field: str, meaning: dict[str, bool]
    ) -> None:
        self._store, self._name, self._content, self._field = store, name, content, label_field
        self._size = plain_size(store, name, content.vector)
        self._meaning = meaning
        self._labels: dict[bytes, tuple[bool, PointId]] = {}  # of each vector, by its hash
        self._unknown: Counter[str] = Counter()
        self._faulty: list[tuple[PointId, str]] = []
        self._contradicting: list[tuple[PointId, PointId]] = []
        self.unlabelled = self.lacking = self.repeated = 0

    def rows(self, progress: Callable[[int], None]) -> Iterator[tuple[bool, _Row]]:
        """Yield labels and points that can be used."""
        wanted = [top_field(stored_field(path)) for path in (self._field, *self._content.fields)]
        for page in pages(self._store, self._name, limit=_PAGE, with_vectors=self._content.vector, fields=wanted):
            yield from self._usable([(label, point) for point in page if (label := self._label(point)) is not None])
            progress(len(page))

    def _label(self, point: StoredPoint) -> bool | None:
        if point.vector is None:
            self.lacking += 1
            return None
        value = value_of(point.payload, self._field)
        if value is None or value == "":
            self.unlabelled += 1
        elif isinstance(value, bool | int | float) and value in (0, 1):
            return bool(value)
        elif isinstance(value, str) and value in self._meaning:
            return self._meaning[value]
        else:
            self._unknown[repr(value)[:80]] += 1
        return None

    def _usable(self, some: Sequence[tuple[bool, StoredPoint]]) -> Iterator[tuple[bool, _Row]]:
        if not some:
            return
        vectors = np.asarray([point.vector for _, point in some], dtype=np.float32)
        units, faults = unit_vectors(vectors, self._size)
        self._faulty += [(some[row][1].id, fault) for row, fault in faults.items()]
        for row, (label, point) in enumerate(some):
            if row in faults:
                continue
            digest = hashlib.blake2b(units[row].tobytes(), digest_size=12).digest()
            before, first = self._labels.setdefault(digest, (label, point.id))
            if first == point.id:
                yield label, (point.id, self._content.modality_of(point.payload), units[row])
            elif before == label:
                self.repeated += 1
            else:
                self._contradicting.append((first, point.id))

    def check(self) -> None:
        """Raise what was wrong, if anything was."""
        where = f"field {self._field!r} of {self._name!r}"
        if self._unknown:
            values = ", ".join(f"{value} ({count:,}×)" for value, count in self._unknown.most_common(_SHOWN))
            raise InputError(
                f"{self._unknown.total():,} labels in {where} are none: {values}",
                hint="Say which strings mean unsafe and which mean safe; true, false, 1 and 0 speak for themselves",
            )
        if self._contradicting:
            pairs = ", ".join(f"{one} and {other}" for one, other in self._contradicting[:_SHOWN])
            raise InputError(
                f"{len(self._contradicting):,} points are labelled otherwise than another one with the same vector: "
                f"{pairs}",
                hint="Correct the labels, or remove one of each",
            )
        if self._faulty:
            some = ", ".join(f"{identity} {fault}" for identity, fault in self._faulty[:_SHOWN])
            raise InvalidVectorError(
                f"{len(self._faulty):,} labelled points have a vector without a direction: {some}",
                hint="Encode them again, or take their labels away",
            )
        if not self._labels:
            raise SettingsError(
                f"no point of {self._name!r} has a vector {self._content.vector!r} and a label in {self._field!r}: "
                f"{self.lacking:,} have no such vector, {self.unlabelled:,} no label"
            )
