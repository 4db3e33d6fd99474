"""Indexing over many machines with Ray Data.

    list      tasks: the items of a source each, and which of them are to be done
    decode    tasks: images to pixels
    encode    actors: each holds the encoder
    write     this process: points, journal, report

Sources are read by the workers, so they must be reachable from every machine by the same path, and so must the model.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hysac_retrieval.errors import HysacError, MissingExtraError, SettingsError
from hysac_retrieval.ingest.items import FailedItem
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.pipeline.stages import OnProgress, Progress
from hysac_retrieval.ingest.pipeline.write import Writer
from hysac_retrieval.ingest.ray_tasks import Encode, Encoded, End, Met, Rejected, decode, list_parts, rows_of
from hysac_retrieval.ingest.sources.datasets import PREFIX
from hysac_retrieval.ingest.sources.open import Listing, expand_braces
from hysac_retrieval.ingest.sources.options import SourceOptions
from hysac_retrieval.types import Modality

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

_LISTED = 512  # rows of a block of paths or texts


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How a cluster is used.

    Attributes:
        address: Of the cluster; None for the one that ``RAY_ADDRESS`` names or this process is connected to, else one
            on this machine alone.
        actors: Number of encoders; None for one per GPU or, without any, one per two cores.
        gpus: GPUs of each; None for one where the cluster has any.
        cpus: Cores of each.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float | None = None
    cpus: float = 1.0


class RayStages:
    """A run on a cluster, in the place of `Stages`.

    Args:
        sources: What is indexed; `options` say how.
        encoder: Its bundle is loaded by every actor.
        writer: Writes points.
        notes: Keeps failures.
        known: What is stored, by id.
        only: States to do.
        decoding: What to do with images.
        batch_size: Items encoded at once.
        options: How the sources are read.
        ray: How the cluster is used.

    Attributes:
        skipped: Items that were there already.
        left_out: Items that were not asked for.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self,
        sources: Sequence[str | os.PathLike[str]],
        encoder: Encoder,
        writer: Writer,
        notes: Journal,
        known: Mapping[str, Mapping[str, Any]],
        only: Collection[str],
        decoding: Decoding,
        batch_size: int,
        options: SourceOptions,
        ray: RayOptions,
    ) -> None:
        self.skipped = 0
        self.left_out = 0
        self._parts = _parts(sources, options)
        self._listing = {"options": _absolute_captions(options), "failed": notes.earlier, "only": tuple(only)}
        self._encoder = encoder
        self._writer = writer
        self._notes = notes
        self._known = dict(known)
        self._decoding = decoding
        self._batch_size = batch_size
        self._ray = ray

    def run(
        self, listing: Listing, on_progress: OnProgress | None = None, should_stop: Callable[[], bool] | None = None
    ) -> bool:
        """As `Stages.run`; what the workers have listed is noted in `listing`."""
        total = listing.count() if on_progress else None
        with _cluster(self._ray.address) as ray:
            for rows in self._rows(ray):
                if should_stop is not None and should_stop():
                    return True
                self._take(rows, listing)
                if on_progress:
                    done = sum(self._writer.indexed.values()) + self.skipped + self.left_out + self._notes.failures
                    on_progress(Progress(done, None if total is None else max(total, done), self._notes.failures))
        return False

    def _rows(self, ray: Any) -> Iterator[list[Any]]:
        """What the cluster makes of the sources, some rows at a time."""
        gpus = self._ray.gpus
        available = ray.cluster_resources()
        if gpus is None:
            gpus = 1.0 if available.get("GPU", 0) >= 1 else 0.0
        workers = available.get("GPU", 0) / gpus if gpus else available.get("CPU", 1) / 2
        actors = self._ray.actors or max(int(workers), 1)
        parts = ray.data.from_items([{"part": pickle.dumps(part)} for part in self._parts])
        listed = parts.map_batches(
            list_parts, batch_size=1, batch_format="pyarrow", fn_kwargs={**self._listing, "known": ray.put(self._known)}
        )
        # Cut into blocks, so that the rows of one source are spread over the cluster.
        spread = listed.repartition(target_num_rows_per_block=_LISTED)
        decoded = spread.map_batches(
            decode, batch_size=self._batch_size, batch_format="pyarrow", fn_kwargs={"decoding": self._decoding}
        )
        points = decoded.map_batches(
            Encode,
            batch_size=self._batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=self._ray.cpus,
            num_gpus=gpus,
            fn_constructor_kwargs={
                "model": str(self._encoder.bundle.path),
                "fingerprint": self._encoder.fingerprint,
                "threads": None if gpus else max(int(self._ray.cpus), 1),
                "batch_size": self._batch_size,
            },
        )
        for table in points.iter_batches(batch_size=self._batch_size, batch_format="pyarrow", prefetch_batches=4):
            yield rows_of(table)

    def _take(self, rows: list[Any], listing: Listing) -> None:
        """Note and write what has come."""
        points: dict[Modality, list[Encoded]] = {"text": [], "image": []}
        unchanged = []
        for row in rows:
            if isinstance(row, End):
                listing.complete = listing.complete and row.complete
                listing.broken |= row.broken
            elif isinstance(row, FailedItem):
                listing.seen.add(row.id, row.id)
                self._notes.fail(row)
            elif isinstance(row, Rejected):
                listing.seen.add(row.failure.id, row.failure.id)
                self._writer.reject(row.failure, row.hash)
            elif isinstance(row, Met):
                listing.seen.add(row.id, row.id)
                self.left_out += not row.unchanged
                unchanged += [row.id] if row.unchanged else []
            elif not listing.seen.add(row.item.id, row.item.id)[0]:  # two sources may hold the same file
                points[row.item.modality].append(row)
        self.skipped += len(unchanged)
        self._notes.unchanged(unchanged)
        limit = self._encoder.text_spec.context_length
        for modality, encoded in points.items():
            for one in encoded:
                if one.tokens > limit:
                    self._notes.truncate(one.item, one.tokens, limit)
            if encoded:
                self._writer.write(
                    modality,
                    [one.item for one in encoded],
                    [one.hash for one in encoded],
                    np.stack([one.point for one in encoded]),
                )


def _parts(sources: Sequence[str | os.PathLike[str]], options: SourceOptions) -> list[list[str]]:
    """Sources that are listed together: each on its own, but for captions, which describe the images of all."""
    names = [name for source in sources for name in expand_braces(os.fspath(source))]
    absolute = [name if name.startswith(PREFIX) else os.path.abspath(os.path.expanduser(name)) for name in names]
    return [absolute] if options.captions is not None else [[name] for name in dict.fromkeys(absolute)]


def _absolute_captions(options: SourceOptions) -> SourceOptions:
    if options.captions is None:
        return options
    return replace(options, captions=os.path.abspath(os.path.expanduser(os.fspath(options.captions))))


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """A connection to a cluster, the one there is or one made for this run."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "indexing over many machines") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SettingsError(f"there is no Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield ray
    except ray.exceptions.RayError as error:
        raise HysacError(
            f"the Ray cluster failed: {error}. What was indexed is stored; the same call goes on from there"
        ) from error
    finally:
        if ours:
            ray.shutdown()
