"""Decoding beside the encoder: in worker processes, or in a thread of this one.

Each process is looked after by one thread and has a pipe of its own, so that one that dies, even in the middle of
sending its results, is noticed at once and takes nothing of the others with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Self

from hysac_retrieval.errors import ImageError, SettingsError
from hysac_retrieval.ingest.pipeline.decode import Decoded, Decoding, Job

_FEW = 64  # images that are not worth starting processes for
_MOST = 8
_PATIENCE = 5.0  # seconds for a process to end on its own

Ticket = Future[list[Decoded]]
"""Results that are not there yet."""


class Decoder:
    """Decodes images ahead of the encoder.

    A context manager. Processes are spawned, so a script that uses them needs ``if __name__ == "__main__":``. They end
    with this process, even when it is killed.

    Args:
        workers: Number of processes; 0 for a thread; None for as many as there are cores, up to 8, where the first
            images, and those that come while the processes start, are decoded in threads.
        decoding: Decodes in each of them.
    """

    def __init__(self, workers: int | None, decoding: Decoding) -> None:
        self._processes = min(_MOST, _cores()) if workers is None else workers
        self._at_once = workers is None
        self._few = _FEW if workers is None else 0
        self._decoding = decoding
        self._threads = ThreadPoolExecutor(max(self._processes, 1), thread_name_prefix="hysac-decode")
        self._own = threading.local()
        self._workers: list[_Worker] = []
        self._starting = threading.Lock()

    @property
    def ahead(self) -> int:
        """Number of tickets that keep every worker busy."""
        return 2 * max(self._processes, 1)

    def submit(self, jobs: Sequence[Job]) -> Ticket:
        """Start decoding. The results are those of `Decoding`, where an image that ends its process has an error too.

        The ticket raises `SettingsError` where no process can be started.
        """
        self._few -= len(jobs)
        if not self._processes or self._few >= 0:
            return self._threads.submit(self._decoding, jobs)
        return self._threads.submit(self._in_process, jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes; what has not begun is not done."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _in_process(self, jobs: Sequence[Job]) -> list[Decoded]:
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = _Worker(self._decoding, self._starting)
            self._workers.append(worker)
        return self._decoding(jobs) if self._at_once and not worker.ready() else worker.run(jobs)


class _Worker:
    """A process that decodes for one thread, and is started again when it has died."""

    def __init__(self, decoding: Decoding, starting: threading.Lock) -> None:
        self._decoding = decoding
        self._starting = starting
        self._process: Any = None
        self._pipe: Any = None
        self._up = False

    def ready(self) -> bool:
        """Whether the process has started; starts it if need be, and does not wait."""
        if self._process is None:
            self._launch()
        return self._up or bool(self._pipe.poll())

    def run(self, jobs: Sequence[Job]) -> list[Decoded]:
        # A process may be ended by anyone, so a single image that was there when it happened has a second chance.
        for _ in range(2 if len(jobs) == 1 else 1):
            if self._process is None:
                self._launch()
            if not self._up:
                self._wait()
            try:
                self._pipe.send(jobs)
                results: list[Decoded] = self._pipe.recv()
                return results
            except (EOFError, OSError):
                self.close()
        if len(jobs) > 1:  # one of them may be to blame
            return [decoded for job in jobs for decoded in self.run([job])]
        return [Decoded("", error=ImageError("decoding the image ended the worker process; it is damaged or huge"))]

    def close(self) -> None:
        if self._process is not None:
            self._pipe.close()
            self._process.join(_PATIENCE)
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process, self._up = None, False

    def _launch(self) -> None:
        # Spawned, not forked: this process has threads and locks that a fork would copy in the middle of their work.
        context = multiprocessing.get_context("spawn")
        pipe, other_end = context.Pipe()
        process = context.Process(target=_serve, args=(other_end, self._decoding), daemon=True)
        with ExitStack() as unstarted, closing(other_end):
            unstarted.enter_context(closing(pipe))
            with self._starting, _interrupts_blocked():
                process.start()
            unstarted.pop_all()
        self._pipe, self._process = pipe, process

    def _wait(self) -> None:
        try:
            self._up = bool(self._pipe.recv())
        except (EOFError, OSError) as error:
            self.close()
            raise SettingsError(
                "worker processes end as soon as they are started; what they print says more",
                hint='Decode in this process (workers=0), or put what a script does under `if __name__ == "__main__":`',
            ) from error


def _serve(pipe: Connection, decoding: Decoding) -> None:
    """Decode, in a worker process, until the other end of its pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where blocking it is not known
    try:
        pipe.send("ready")
        while True:
            pipe.send(decoding(pipe.recv()))
    except (EOFError, OSError):
        pass


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C from a child that is started meanwhile: it keeps the mask that it is born with."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first child would start it, and unblock the signal by that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
