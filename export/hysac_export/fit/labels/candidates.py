"""Items to label: of sources of every kind that can be indexed, or points of a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.split import Progress
from hysac_export.fit.encoders.base import VectorEncoder
from hysac_export.fit.encoders.open import open_encoder
from hysac_retrieval import lorentz
from hysac_retrieval.collection.collection import top_field
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.vectors import unit_vectors
from hysac_retrieval.errors import EncoderError, InputError, InvalidVectorError, SourceError
from hysac_retrieval.ingest import Content, FailedItem, Item, Listing, SourceOptions
from hysac_retrieval.ingest.sources.fields import stored_field, value_of
from hysac_retrieval.ingest.sources.vectors import plain_size
from hysac_retrieval.payload import PAYLOAD_KEY, own_payload
from hysac_retrieval.stores.base import Store, pages
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import MODALITIES, Modality, PointId

T = TypeVar("T")
_BATCH = 32
_PAGE = 500

Encode = Callable[[Modality, list[Any]], tuple[NDArray[Any], list[bool | None]]]
"""Items of a modality to vectors, (n, k), and to what a head says of them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item to label.

    Attributes:
        content: Path or bytes of a picture, or a text.
        modality: Text or image.
        origin: Where it came from, for people.
        point: Its id in a collection.
        label: The label that its collection has, unsafe or not; None for none.
        held: Whether the head that there is holds it unsafe; None without one.
        vector: Of unit length, (k,); None without an encoder.
    """

    content: Path | bytes | str
    modality: Modality
    origin: str
    point: PointId | None = None
    label: bool | None = None
    held: bool | None = None
    vector: NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Candidates:
    """Items to label, and those that cannot be."""

    items: list[Candidate]
    failed: list[FailedItem]


def of_sources(sources: Sequence[str | Path], *, limit: int | None = None, seed: int = 0) -> Candidates:
    """List the items of sources; of more than `limit` so many, chosen at random.

    Raises:
        SourceError: A source is missing, or cannot be read from its beginning.
    """
    failed: list[FailedItem] = []

    def items(listing: Listing) -> Iterator[Candidate]:
        for found in listing:
            if isinstance(found, Item):
                yield Candidate(found.content, found.modality, found.origin)
            else:
                failed.append(found)

    with Listing([str(source) for source in sources], SourceOptions()) as listing:
        return Candidates(_some(items(listing), limit, seed), failed)


def of_collection(
    store: Store,
    name: str,
    content: Content,
    *,
    vector: str | None = None,
    label_field: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Candidates:
    """Read points of a collection; those that have a label do not count among `limit`.

    Args:
        store: Store of the collection.
        name: The collection.
        content: Payload fields with what a person is shown.
        vector: Vector to choose by; None for none.
        label_field: Payload field with labels, true or false.
        limit: Points to take at most, chosen at random.
        seed: Of that choice.

    Raises:
        SettingsError: There are no such vectors.
        InputError: A label is neither true nor false.
    """
    size = None if vector is None else plain_size(store, name, vector)
    named = [*content.fields, *([label_field] if label_field else [])]
    fields = [PAYLOAD_KEY, *(top_field(stored_field(path)) for path in named)]
    failed, labelled = list[FailedItem](), list[Candidate]()

    def items() -> Iterator[Candidate]:
        for page in pages(store, name, limit=_PAGE, with_vectors=vector if size else False, fields=fields):
            for point in page:
                try:
                    item = _of_point(point, content, label_field, size)
                except (InvalidVectorError, SourceError) as error:
                    failed.append(FailedItem.of(f"point {point.id}", error))
                    continue
                if item is not None and item.label is not None:
                    labelled.append(item)
                elif item is not None:
                    yield item

    unlabelled = _some(items(), limit, seed)
    return Candidates([*labelled, *unlabelled], failed)


def _of_point(point: StoredPoint, content: Content, label_field: str | None, size: int | None) -> Candidate | None:
    found = content.of(point.payload)
    if found is None:
        return None
    label = None if label_field is None else value_of(point.payload, label_field)
    if label is not None and label not in (True, False):
        what = f"field {label_field!r} of point {point.id} is {label!r}, expected true or false"
        raise InputError(what, hint="Name another field for the labels")
    vector = None
    if size is not None and point.vector is not None:
        rows, faults = unit_vectors(np.asarray([point.vector], dtype=np.float32), size)
        if faults:
            raise InvalidVectorError(f"its vector {faults[0]}", hint="Encode it again")
        vector = rows[0]
    verdicts = own_payload(point.payload).get("safe")
    held = not all(verdicts.values()) if isinstance(verdicts, dict) and verdicts else None
    modality, what_it_holds = found
    known = None if label is None else bool(label)
    return Candidate(what_it_holds, modality, f"point {point.id}", point.id, known, held, vector)


def encoded(found: Candidates, encoder: str | VectorEncoder, progress: Progress | None = None) -> Candidates:
    """Give items the vectors of an encoder, and where that is a bundle what its head says; see `open_encoder`.

    An item that cannot be encoded fails, the rest goes on; one that the encoder does not read keeps no vector.
    """
    modalities, encode = _opened(encoder)
    items, failed = list[Candidate](), list(found.failed)
    for modality in MODALITIES:
        some = [item for item in found.items if item.modality == modality]
        if modality not in modalities:
            items += some
            continue
        for start in range(0, len(some), _BATCH):
            done = list(_batch(some[start : start + _BATCH], encode))
            items += [item for item in done if isinstance(item, Candidate)]
            failed += [item for item in done if isinstance(item, FailedItem)]
            if progress is not None:
                progress(len(some[start : start + _BATCH]))
    return Candidates(items, failed)


def _batch(some: list[Candidate], encode: Encode) -> Iterator[Candidate | FailedItem]:
    try:
        vectors, held = encode(some[0].modality, [item.content for item in some])
    except InputError as error:
        if len(some) == 1:
            yield FailedItem.of(some[0].origin, error)
            return
        for item in some:
            yield from _batch([item], encode)
        return
    for item, vector, one in zip(some, vectors, held, strict=True):
        yield replace(item, vector=vector, held=one)


def _opened(encoder: str | VectorEncoder) -> tuple[tuple[Modality, ...], Encode]:
    """Open an encoder; a bundle by itself, since its head has an opinion."""
    spec = encoder if isinstance(encoder, str) else ""
    if not isinstance(encoder, str) or (":" in spec and not spec.startswith("hysac:") and not Path(spec).is_dir()):
        other = open_encoder(encoder) if isinstance(encoder, str) else encoder

        def plain(modality: Modality, items: list[Any]) -> tuple[NDArray[Any], list[bool | None]]:
            vectors = other.text(items) if modality == "text" else other.image(items)
            return vectors, [None] * len(items)

        return other.modalities, plain

    model = Encoder.load(spec.removeprefix("hysac:"))

    def by_bundle(modality: Modality, items: list[Any]) -> tuple[NDArray[Any], list[bool | None]]:
        points = (model.encode_text if modality == "text" else model.encode_image)(items)
        radii = lorentz.dist0(points.astype(np.float64), model.curvature)
        unsafe = model.safety.unsafe(radii, modality) > model.safety.threshold.of(modality)
        return unit_vectors(points, points.shape[1])[0], [bool(one) for one in unsafe]

    modalities = tuple(modality for modality in MODALITIES if model.reads(modality))
    if not modalities:
        raise EncoderError(f"the bundle {spec} has no encoder", hint="Give the one that its heads were fitted to")
    return modalities, by_bundle


def _some(items: Iterable[T], limit: int | None, seed: int) -> list[T]:
    """Return at most so many, each with the same chance, without holding the others."""
    kept, rng = list[T](), np.random.default_rng(seed)
    for number, item in enumerate(items):
        if limit is None or number < limit:
            kept.append(item)
        elif (place := int(rng.integers(number + 1))) < limit:
            kept[place] = item
    return kept
