"""Whether a process may use the memory that a run of indexing takes."""

from __future__ import annotations

import sys

from hysac_retrieval.errors import ResourceError

LEAST = 1_900_000_000
"""Bytes of address space below which no run comes to its end: threads, model and engine reserve more than they use."""


def expect_memory() -> None:
    """Raise `ResourceError` if the limit of this process's address space (``ulimit -v``) is below `LEAST`.

    Native code that gets no memory in the middle of a run ends the process, or leaves its threads waiting for ever.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < LEAST:
        raise ResourceError(
            f"this process may use {soft / 1e9:.2f} GB of address space, and indexing takes {LEAST / 1e9:.1f} GB",
            hint="Raise the limit (ulimit -v), or limit the memory of its container instead",
        )
