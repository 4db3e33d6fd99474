"""What the machines of a Ray cluster do: list sources, decode images, encode; see `hysac_retrieval.ingest.ray`.

Rows travel in tables of one column, pickled: they go between our own processes and nowhere else.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import SettingsError, SourceError, TextError
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.ingest.pipeline.decode import Decoding, Job
from hysac_retrieval.ingest.pipeline.plan import Planner, Task, grouped
from hysac_retrieval.ingest.sources.open import Listing
from hysac_retrieval.ingest.sources.options import SourceOptions


@dataclass(frozen=True, slots=True)
class Met:
    """An item that is not to be done: unchanged, or not asked for."""

    id: str
    unchanged: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that cannot be indexed, with its content hash; see `Writer.reject`."""

    failure: FailedItem
    hash: str


@dataclass(frozen=True, slots=True)
class Ready:
    """An item to encode: a text, or the pixels (size, size, 3) uint8 of an image."""

    item: Item
    hash: str
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A point (d,) float32; the item is without its content."""

    item: Item
    hash: str
    point: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class End:
    """Sources have been listed to their end."""

    complete: bool
    broken: frozenset[str]


def list_parts(
    batch: Any,
    options: SourceOptions,
    failed: Collection[str],
    only: Collection[str],
    known: Any,
) -> Iterator[Any]:
    """Parts of the sources to tasks.

    Args:
        batch: Parts, each the pickled names of sources that are listed together.
        options: How the sources are read.
        failed: Ids of the items that failed when last tried.
        only: States to do.
        known: What is stored, by id, or a reference to it.
    """
    import ray

    stored: Mapping[str, Mapping[str, Any]] = ray.get(known) if isinstance(known, ray.ObjectRef) else known
    planner = Planner(lambda ids: {key: stored[key] for key in ids if key in stored}, failed, only)
    for part in batch.column("part").to_pylist():
        names: list[str] = pickle.loads(part)
        try:
            listing = Listing(names, options)
        except SourceError as error:  # it was there when the run began
            yield table_of([FailedItem.of(names[0], error), End(complete=False, broken=frozenset())])
            continue
        failures: list[Any] = []
        for items in grouped(listing, failures.append):
            tasks = list(planner.tasks(items))
            chosen = {task.item.id for task in tasks}
            left = [Met(item.id, unchanged=False) for item in items if item.id not in chosen]
            yield table_of([*failures, *left, *tasks])
            failures.clear()
        yield table_of([End(listing.complete, frozenset(listing.broken))])


def decode(batch: Any, decoding: Decoding) -> Any:
    """Tasks to what can be encoded."""
    rows = []
    for row in rows_of(batch):
        if not isinstance(row, Task):
            rows.append(row)
            continue
        item = row.item
        if isinstance(item.content, str):
            found, pixels = item.text_hash(), None
        else:
            (decoded,) = decoding([Job(item.content, item.salt(), row.known)])
            found, pixels = decoded.hash, decoded.pixels
            item = replace(item, content=b"")
            if decoded.error is not None:
                rows.append(Rejected(FailedItem.of_item(item, decoded.error), found))
                continue
        if row.known is not None and found == row.known:
            rows.append(Met(item.id, unchanged=True))
        else:
            rows.append(Ready(item, found, pixels))
    return table_of(rows)


class Encode:
    """An encoder on a machine of the cluster."""

    def __init__(self, model: str, fingerprint: str, threads: int | None, batch_size: int) -> None:
        from hysac_retrieval.encoder.encoder import Encoder

        self._encoder = Encoder.load(model, threads=threads)
        if self._encoder.fingerprint != fingerprint:
            raise SettingsError(
                f"{model} is model {self._encoder.fingerprint} on this machine of the cluster and {fingerprint} on the "
                "one that asks; give all of them the same bundle"
            )
        self._batch_size = batch_size

    def __call__(self, batch: Any) -> Any:
        """Encode what is `Ready`; the other rows pass."""
        rows = rows_of(batch)
        done: list[Any] = [row for row in rows if not isinstance(row, Ready)]
        images = [row for row in rows if isinstance(row, Ready) and row.pixels is not None]
        if images:
            pixels = np.stack([row.pixels for row in images if row.pixels is not None])
            points = self._encoder.encode_image(pixels, batch_size=self._batch_size)
            done += [Encoded(row.item, row.hash, point, 0) for row, point in zip(images, points, strict=True)]
        texts = []
        for row in rows:
            if isinstance(row, Ready) and row.pixels is None:
                try:
                    texts.append((row, self._encoder.count_tokens(str(row.item.content))))
                except TextError as error:
                    done.append(Rejected(FailedItem.of_item(row.item, error), row.hash))
        if texts:
            points = self._encoder.encode_text([str(row.item.content) for row, _ in texts])
            done += [
                Encoded(replace(row.item, content=""), row.hash, point, tokens)
                for (row, tokens), point in zip(texts, points, strict=True)
            ]
        return table_of(done)


def table_of(rows: Sequence[Any]) -> Any:
    """Rows of our own classes as Ray carries them: pickled between our own processes."""
    import pyarrow

    return pyarrow.table({"row": pyarrow.array([pickle.dumps(row) for row in rows], pyarrow.large_binary())})


def rows_of(table: Any) -> list[Any]:
    """What `table_of` made a table of."""
    return [pickle.loads(row) for row in table.column("row").to_pylist()]
