"""Decoding beside the encoder: in worker processes, or in a thread of this one.

Each process is looked after by one thread and has pipes of its own, so that one that dies, even in the middle of
sending its results, is noticed at once and takes nothing of the others with it. Processes do not import the caller's
main module, so a script needs no ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

from hysac_retrieval.errors import ImageError, ResourceError, SettingsError
from hysac_retrieval.ingest.pipeline.channel import threads_are_short
from hysac_retrieval.ingest.pipeline.decode import PIPE_ENDED, Decoded, Job

_FEW = 64  # images that are not worth starting processes for
_MOST = 8
_SERVE = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from hysac_retrieval.ingest.pipeline.decode import serve; serve()"
)

Decode = Callable[[Sequence[Job]], list[Decoded]]
"""`Decoding`, or what takes its place: a function that worker processes can import."""

Ticket = Future[list[Decoded]]
"""Results that are not there yet."""


class Decoder:
    """Decodes images ahead of the encoder.

    A context manager. The processes end with this one, even when it is killed.

    Args:
        workers: Number of processes; 0 for a thread; None for as many as there are cores, up to 8, where the first
            images, and those that come while the processes start, are decoded in threads.
        decoding: Decodes in each of them.
    """

    def __init__(self, workers: int | None, decoding: Decode) -> None:
        self._processes = _default() if workers is None else workers
        self._at_once = workers is None
        self._few = _FEW if workers is None else 0
        self._decoding = decoding
        count = max(self._processes, 1)
        self._threads = ThreadPoolExecutor(count, "hysac-decode", initializer=_block_interrupts)
        self._starters = ThreadPoolExecutor(count, "hysac-start")
        self._own = threading.local()
        self._workers: list[_Worker] = []

    @property
    def ahead(self) -> int:
        """Number of tickets that keep every worker busy."""
        return 2 * max(self._processes, 1)

    def submit(self, jobs: Sequence[Job]) -> Ticket:
        """Start decoding. The results are those of `Decoding`, where an image that ends its process has an error too.

        The ticket raises `SettingsError` where no process can be started; `ResourceError` where no thread can.
        """
        self._few -= len(jobs)
        with threads_are_short():
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
        self._starters.shutdown()

    def _in_process(self, jobs: Sequence[Job]) -> list[Decoded]:
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = _Worker(self._decoding, self._starters)
            self._workers.append(worker)
        return worker.run(jobs) if worker.started(wait=not self._at_once) else self._decoding(jobs)


class _Worker:
    """A process that decodes for one thread, and is started again when it has died."""

    def __init__(self, decoding: Decode, starters: Executor) -> None:
        self._decoding = decoding
        self._starters = starters
        self._process: Any = None
        self._up: Future[bool]

    def started(self, *, wait: bool) -> bool:
        """Return whether the process has started; start it if need be."""
        try:
            if self._process is None:
                command = [sys.executable, "-P", "-c", _SERVE]
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                with threads_are_short():
                    self._up = self._starters.submit(self._ask, sys.path, self._decoding)
            return (wait or self._up.done()) and self._up.result()
        except ResourceError:
            self.close()
            raise
        except PIPE_ENDED as error:
            self.close()
            raise SettingsError(
                "worker processes end as soon as they are started; what they print says more",
                hint="Decode in this process (workers=0)",
            ) from error

    def run(self, jobs: Sequence[Job]) -> list[Decoded]:
        # A process may be ended by anyone, so a single image that was there when it happened has a second chance.
        for _ in range(2 if len(jobs) == 1 else 1):
            self.started(wait=True)
            try:
                results: list[Decoded] = self._ask(jobs)
                return results
            except PIPE_ENDED:
                self.close()
        if len(jobs) > 1:  # one of them may be to blame
            return [decoded for job in jobs for decoded in self.run([job])]
        return [Decoded("", error=ImageError("decoding the image ended the worker process; it is damaged or huge"))]

    def close(self) -> None:
        """Kill the process: it holds nothing that would be lost."""
        if self._process is not None:
            with suppress(OSError), self._process as process:
                process.kill()
            self._process = None

    def _ask(self, *messages: object) -> Any:
        for message in messages:
            pickle.dump(message, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


def _block_interrupts() -> None:
    """Keep Ctrl-C from the processes that this thread starts: they keep the mask that they are born with."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _default() -> int:
    if getattr(sys, "frozen", False):  # the executable is an application, which would run again
        return 0
    return min(_MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
