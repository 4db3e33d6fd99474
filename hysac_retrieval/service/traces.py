"""Spans for OpenTelemetry, where its API is installed and somebody collects them; otherwise nothing.

A span has a name and what was asked of, never a query, a caption or a message that may hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

try:
    from opentelemetry import trace
except ImportError:  # the extra otel
    trace = None  # type: ignore[assignment]


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """Trace what is done within it, as a part of what is traced around it."""
    if trace is None:
        yield
        return
    named = {f"hysac.{key}": value for key, value in attributes.items()}
    tracer = trace.get_tracer("hysac_retrieval")
    with tracer.start_as_current_span(
        f"hysac.{name}", attributes=named, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except BaseException as error:
            current.set_status(trace.StatusCode.ERROR)
            current.set_attribute("error.type", type(error).__name__)
            raise
