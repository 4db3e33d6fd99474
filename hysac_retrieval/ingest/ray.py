"""Decoding and encoding on a Ray cluster, in the place of `pipeline.local.LocalEncoding`.

This process lists, plans and writes; a short queue takes the tasks to the cluster. Image files and the model must be
reachable from every machine by the same path; what lies in tables and shards is sent along.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hysac_retrieval.errors import HysacError, MissingExtraError, SettingsError
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.pipeline.encode import Ready, after_decoding, encode, job_of
from hysac_retrieval.ingest.protocols import Groups, Outcome

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

_AHEAD = 16  # groups of tasks in the queue
_BLOCK = 1 << 20  # bytes that are gathered before they go on


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Resources of a cluster to use.

    Attributes:
        address: Of the cluster; None for the one that ``RAY_ADDRESS`` names or this process is connected to, else one
            on this machine alone.
        actors: Number of encoders; None for one per GPU or, without any, one per two cores.
        gpus: GPUs of each; None for one if the cluster has any.
        cpus: Cores of each.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float | None = None
    cpus: float = 1.0


@dataclass(frozen=True, slots=True)
class RayEncoding:
    """Decodes in tasks and encodes in actors, each of which loads the encoder's bundle; see `Encoding`."""

    encoder: Encoder
    batch_size: int
    decoding: Decoding
    options: RayOptions

    def __call__(self, groups: Groups) -> Generator[list[Outcome], None, None]:
        """See `Encoding`.

        Raises:
            MissingExtraError: Ray is not installed.
            HysacError: The cluster failed.
        """
        with _cluster(self.options.address) as ray:
            queue = ray.util.queue.Queue(_AHEAD, actor_options={"num_cpus": 0})
            errors: list[BaseException] = []

            def feed() -> None:
                try:
                    with closing(groups):
                        for tasks in groups:
                            queue.put(tasks)
                except BaseException as error:
                    errors.append(error)
                with suppress(ray.exceptions.RayError):
                    queue.put(None)

            feeder = threading.Thread(target=feed, name="hysac_feed_ray")
            feeder.start()
            try:
                for table in self._points(ray, queue).iter_batches(batch_size=self.batch_size, batch_format="pyarrow"):
                    yield unpacked(table)
            finally:
                queue.shutdown(force=True)
                feeder.join()
            if errors:
                raise errors[0]

    def _points(self, ray: Any, queue: Any) -> Any:
        options, available, arrow = self.options, ray.cluster_resources(), {"batch_format": "pyarrow"}
        gpus = options.gpus if options.gpus is not None else float(available.get("GPU", 0) >= 1)
        most = available.get("GPU", 0) / gpus if gpus else available.get("CPU", 1) / 2
        actors = ray.data.ActorPoolStrategy(size=options.actors or max(int(most), 1))
        tasks = ray.data.from_items([{"queue": 0}]).map_batches(take, fn_kwargs={"queue": queue}, num_cpus=0, **arrow)
        # Cut into blocks, so that what one task takes from the queue is spread over the cluster.
        spread = tasks.repartition(target_num_rows_per_block=self.batch_size)
        decoded = spread.map_batches(decode, fn_kwargs={"decoding": self.decoding}, **arrow)
        model = (str(self.encoder.bundle.path), self.encoder.fingerprint)
        return decoded.map_batches(
            Encode,
            batch_size=self.batch_size,
            compute=actors,
            num_cpus=options.cpus,
            num_gpus=gpus,
            fn_constructor_args=(*model, None if gpus else max(int(options.cpus), 1), self.batch_size),
            **arrow,
        )


def take(_: Any, queue: Any) -> Iterator[Any]:
    """Take tasks from the queue until its end."""
    while (tasks := queue.get()) is not None:
        if tasks:
            yield packed(tasks)


def decode(batch: Any, decoding: Decoding) -> Any:
    """Turn tasks into what is ready to be encoded, or done; images leave their encoded contents behind."""
    tasks = unpacked(batch)
    rows = map(after_decoding, tasks, decoding([job_of(task) for task in tasks]))
    return packed(
        [row if row.item.modality == "text" else replace(row, item=replace(row.item, content=b"")) for row in rows]
    )


class Encode:
    """An encoder on a machine of the cluster."""

    def __init__(self, model: str, fingerprint: str, threads: int | None, batch_size: int) -> None:
        from hysac_retrieval.encoder.encoder import Encoder

        self._encoder, self._batch_size = Encoder.load(model, threads=threads), batch_size
        if self._encoder.fingerprint != fingerprint:
            raise SettingsError(f"{model} is another model on a machine of the cluster", hint="Copy the bundle there")

    def __call__(self, batch: Any) -> Any:
        """Encode what is ready; outcomes pass."""
        rows = unpacked(batch)
        ready = [row for row in rows if isinstance(row, Ready)]
        done = [row for row in rows if isinstance(row, Outcome)]
        return packed([*done, *encode(self._encoder, ready, self._batch_size)])


def packed(rows: Sequence[Any]) -> Any:
    """Return rows as Ray carries them between processes of this program: pickled, in a table of one column."""
    import pyarrow

    return pyarrow.table({"row": pyarrow.array([pickle.dumps(row) for row in rows], pyarrow.large_binary())})


def unpacked(table: Any) -> list[Any]:
    """Return the rows that `packed` was given."""
    return [pickle.loads(row) for row in table.column("row").to_pylist()]


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, the one there is or one made for this run."""
    try:
        import ray
        import ray.data
        import ray.util.queue
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "indexing over many machines") from error
    made = not ray.is_initialized()
    if made:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SettingsError(f"there is no Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.target_max_block_size = False, _BLOCK
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield ray
    except ray.exceptions.RayError as error:
        hint = "What was indexed is stored; the same call goes on from there"
        raise HysacError(f"the Ray cluster failed: {error}", hint=hint) from error
    finally:
        if made:
            ray.shutdown()
