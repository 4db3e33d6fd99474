"""Forks: what one process has opened is of no use in a process that is forked from it.

A fork copies memory, but no threads: a lock that one of them held stays locked for ever, a pool waits for workers that
are not there, and two processes write to one connection or one file. So that nothing hangs and nothing is lost, what is
opened remembers after how many forks it was, and refuses to work after a further one.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from typing import Any, Protocol

from hysac_retrieval.errors import ForkedError

_forks = 0


class Abandoned(Protocol):
    """Something that must let go, in a process that was forked, of what the parent goes on using."""

    def abandon(self) -> None:
        """Let go; called in the new process before anything else runs there."""


_opened: weakref.WeakSet[Abandoned] = weakref.WeakSet()


class Origin:
    """The process in which something was opened, or first used.

    Args:
        what: The thing, in words.
        hint: What to do instead of using it after a fork.
    """

    __slots__ = ("_forks", "_hint", "_what")

    def __init__(self, what: str, hint: str) -> None:
        self._forks, self._what, self._hint = _forks, what, hint

    @property
    def left(self) -> bool:
        """Whether this is another process, forked from it."""
        return self._forks != _forks

    def expect(self) -> None:
        """Raise `ForkedError` in a process that was forked from it."""
        if self._forks != _forks:
            raise ForkedError(
                f"{self._what} was opened before this process was forked (process {os.getpid()}); its threads and "
                "connections stayed behind in the parent",
                hint=self._hint,
            )


def abandon_after_fork(thing: Abandoned) -> None:
    """Have `abandon` called in every process that is forked from this one, as long as the object lives."""
    _opened.add(thing)


def keep(thing: Any) -> None:
    """Keep an object from ever being freed in this process: freeing would act on what the parent still uses."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def end_without_handlers() -> None:
    """Have this process end, whenever it does, without the exit handlers that C libraries registered so far.

    Python's own are run as ever. Those of a library with threads wait for them for ever in a process that was forked.
    """
    system = ctypes.CDLL(None)
    if hasattr(system, "on_exit"):  # of glibc; the last one registered is called first, with the exit code
        system.on_exit(system._exit, None)


def _forked() -> None:
    global _forks
    _forks += 1
    things = list(_opened)
    if things and "onnxruntime" in sys.modules:  # whoever has loaded it: qdrant-client does, where fastembed is there
        end_without_handlers()
    for thing in things:
        thing.abandon()


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(after_in_child=_forked)
