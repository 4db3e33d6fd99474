"""Traces: what a request spends its time on, and nothing of what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient
from support.service import World

from hysac_retrieval.service import Limits, ServiceSettings, create_app

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
instrumentation = pytest.importorskip("opentelemetry.instrumentation.fastapi", reason="its instrumentation is not")

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

Spans = Callable[[], dict[str, ReadableSpan]]
SECRET = "a dog in the park"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TracerProvider, Spans]]:
    """Collect spans; gives what takes those of the last request, by name."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)

    def taken() -> dict[str, ReadableSpan]:
        found = {one.name: one for one in exporter.get_finished_spans()}
        exporter.clear()
        return found

    yield provider, taken
    provider.shutdown()


@contextmanager
def client_of(world: World, provider: TracerProvider) -> Iterator[TestClient]:
    app = create_app(world.engine, ServiceSettings(limits=Limits(rate=0)))
    instrumentation.FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def test_a_search_is_traced_through_the_threads_without_what_was_asked(world: World, traced: Any) -> None:
    provider, spans = traced
    with client_of(world, provider) as client:
        assert client.post("/v1/search", json={"text": SECRET}).status_code == 200
    found = spans()
    request, answer = found["POST /v1/search"], found["hysac.answer"]
    encode, store = found["hysac.encode"], found["hysac.store"]
    assert len({one.context.trace_id for one in (request, answer, encode, store)}) == 1
    assert answer.parent.span_id == request.context.span_id
    assert encode.parent.span_id == store.parent.span_id == answer.context.span_id
    assert (encode.attributes["hysac.of"], store.attributes["hysac.of"]) == ("text", "query")
    assert SECRET not in "".join(one.to_json() for one in found.values())


def test_what_fails_is_marked_by_its_kind_alone(world: World, traced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, spans = traced

    def wrong(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"cannot search for {SECRET}")

    monkeypatch.setattr(type(world.engine.index.store), "query", wrong)
    with client_of(world, provider) as client:
        assert client.post("/v1/search", json={"text": SECRET}).status_code == 500
    store = spans()["hysac.store"]
    assert not store.status.is_ok
    assert store.attributes["error.type"] == "RuntimeError"
    assert SECRET not in store.to_json()
