"""Decoding and encoding on a Ray cluster, in the place of `LocalEncoding`.

This process lists, plans and writes; a short queue takes the tasks to the cluster. Image files and the model must be
reachable from every machine by the same path; what lies in tables and shards is sent along.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hysac_retrieval.encoder.judging import finished
from hysac_retrieval.errors import HysacError, MissingExtraError, SettingsError
from hysac_retrieval.ingest.pipeline.channel import Channel, in_thread
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.pipeline.encode import after_decoding, encode, job_of
from hysac_retrieval.ingest.protocols import Groups, Outcome

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

_LEVEL = "RAY_BACKEND_LOG_LEVEL"  # of what Ray's C++ writes to this process's stderr; read when Ray starts
_ADDRESSES = "Run on a machine of the cluster, with the address auto or HOST:PORT of its head (6379 by default)"


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Resources of a cluster to use.

    Attributes:
        address: None for the cluster that this process is connected to or ``RAY_ADDRESS`` names, else this machine.
        actors: Number of encoders; None for one per GPU or, without any, one per two cores.

    Raises `SettingsError` for an address of Ray's client (``ray://``).
    """

    address: str | None = None
    actors: int | None = None

    def __post_init__(self) -> None:
        if "://" in (given := _named(self.address)):
            raise SettingsError(f"{given} is for Ray's client, which Ray Data does not work through", hint=_ADDRESSES)


@dataclass(frozen=True, slots=True)
class RayEncoding:
    """Decodes in tasks and encodes in actors, each of which loads the encoder's bundle; see `Encoding`."""

    encoder: Encoder
    batch_size: int
    decoding: Decoding
    options: RayOptions

    def __call__(self, groups: Groups) -> Generator[list[Outcome], None, None]:
        """See `Encoding`; raises `MissingExtraError` without Ray, and `HysacError` if the cluster fails."""
        with _cluster(self.options.address) as ray:
            queue = ray.util.queue.Queue(16, actor_options={"num_cpus": 0})

            def _feed() -> None:
                with suppress(ray.exceptions.RayError):  # of a queue that was shut down
                    try:
                        with closing(groups):
                            for tasks in groups:
                                queue.put(tasks)
                    finally:
                        queue.put(None)

            with in_thread(Channel[None](1), _feed), ExitStack() as last:
                last.callback(queue.shutdown, force=True)
                for table in self._points(ray, queue).iter_batches(batch_size=self.batch_size, batch_format="pyarrow"):
                    yield unpacked(table)

    def _points(self, ray: Any, queue: Any) -> Any:
        arrow, cores = {"batch_format": "pyarrow"}, ray.cluster_resources()
        gpus = int(cores.get("GPU", 0))
        actors = self.options.actors or gpus or max(int(cores.get("CPU", 1)) // 2, 1)
        # Not tried again, as what was taken is gone from the queue; cut into blocks, to be spread over the cluster.
        once = {"num_cpus": 0, "ray_remote_args_fn": lambda: {"max_retries": 0}}
        with warnings.catch_warnings():  # of Ray 2.60 on, that there will be no such argument in 2.64
            warnings.simplefilter("ignore", DeprecationWarning)
            tasks = ray.data.from_items([0]).map_batches(take, fn_args=(queue,), **once, **arrow)
        spread = tasks.repartition(target_num_rows_per_block=self.batch_size)
        decoded = spread.map_batches(decode, fn_kwargs={"decoding": self.decoding}, **arrow)
        model = (str(self.encoder.bundle.path), self.encoder.fingerprint, None if gpus else 1)
        pool, resources = ray.data.ActorPoolStrategy(size=actors), {"num_cpus": 1, "num_gpus": min(gpus, 1)}
        arguments = {"fn_constructor_args": (*model, self.batch_size), "batch_size": self.batch_size}
        return decoded.map_batches(Encode, compute=pool, **resources, **arguments, **arrow)


def take(_: Any, queue: Any) -> Iterator[Any]:
    """Take tasks from the queue until its end."""
    while (tasks := queue.get()) is not None:
        yield packed(tasks)


def decode(batch: Any, decoding: Decoding) -> Any:
    """Turn tasks into what is ready to be encoded, or done."""
    tasks = unpacked(batch)
    return packed(list(map(after_decoding, tasks, decoding([job_of(task) for task in tasks]))))


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
        ready = [row for row in rows if not isinstance(row, Outcome)]
        done = [row for row in rows if isinstance(row, Outcome)]
        return packed(done + finished(encode(self._encoder, ready, self._batch_size)))


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
        import ray.data
        import ray.util.client
        import ray.util.queue
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "indexing over many machines") from error
    made = not ray.is_initialized()
    if made:
        try:
            _reach(_named(address))
            with _silence():
                ray.init(address=address, log_to_driver=False, logging_level="critical")
        except (OSError, RuntimeError, ValueError) as error:
            where = _named(address) or "this machine"
            raise SettingsError(f"there is no Ray cluster at {where}: {error}", hint=_ADDRESSES) from error
    elif ray.util.client.ray.is_connected():
        raise SettingsError("this process has Ray's client, which Ray Data does not work through", hint=_ADDRESSES)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.target_max_block_size = False, 1 << 20
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
        yield ray
    except ray.exceptions.RayError as error:
        hint = "What was indexed is stored; the same call goes on from there"
        raise HysacError(f"the Ray cluster failed: {error}", hint=hint) from error
    finally:
        if made:
            ray.shutdown()


def _named(address: str | None) -> str:
    """Return the address of the cluster, as given or as ``RAY_ADDRESS`` has it; empty for none."""
    return address or os.environ.get("RAY_ADDRESS", "")


def _reach(address: str) -> None:
    """Raise `OSError` or `ValueError` where nobody listens at ``HOST:PORT``: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    if int(port) > 65535:
        raise ValueError(f"{port} is no port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep out of stderr what Ray writes while it starts and what its C++ does after, unless a level was chosen."""
    if _LEVEL in os.environ:
        yield
        return
    os.environ[_LEVEL] = "fatal"
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # the level itself is worth a line to Ray, which no level keeps back
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
        del os.environ[_LEVEL]
