"""The service behind its routes: an engine, who may use it, and what is counted and written down of that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.reviews import decide
from hysac_retrieval.errors import PointNotFoundError
from hysac_retrieval.payload import stored_id
from hysac_retrieval.results import SearchResult
from hysac_retrieval.safety.policy import AuditRecord
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.engine import LiveSearch, SearchEngine
from hysac_retrieval.search.figures.pictures import Pictures
from hysac_retrieval.search.permitted import permitted
from hysac_retrieval.search.queries import Query
from hysac_retrieval.service.access import Caller, Door, Rate
from hysac_retrieval.service.log import AuditError, AuditLog
from hysac_retrieval.service.metrics import Metrics, TimedStore, timed_encoder
from hysac_retrieval.service.pool import Pool
from hysac_retrieval.service.settings import ServiceSettings
from hysac_retrieval.service.traces import span
from hysac_retrieval.steps import Steps, run
from hysac_retrieval.stores.types import StoredPoint

T = TypeVar("T")


class Service:
    """Everything that the routes share.

    Args:
        engine: Searches; its policy holds for every caller. Without an audit log, nothing unsafe is answered.
        settings: Who may ask, and how much.

    Raises:
        SettingsError: A file or folder of the settings cannot be used.
    """

    def __init__(self, engine: SafeSearch, settings: ServiceSettings) -> None:
        self.engine, self.settings = engine, settings
        self.door, self.metrics = Door(settings), Metrics()
        self.rate = Rate(settings.limits.rate, settings.limits.burst)
        self.log = None if settings.audit is None else AuditLog(settings.audit)
        self.pictures = Pictures(settings.roots, settings.limits.pixels)
        self._heard = engine.policy.audit
        policy = replace(
            engine.policy, audit=self._audited, allow_unsafe=engine.policy.allow_unsafe and self.log is not None
        )
        encoder = timed_encoder(engine.encoder, self.metrics)
        self.live = LiveSearch(engine.index.current, encoder, policy)

    @cached_property
    def pool(self) -> Pool:
        """Threads that compute."""
        limits = self.settings.limits
        return Pool(limits.threads, limits.waiting, limits.seconds)

    @property
    def index(self) -> Index:
        """The collection."""
        return self.engine.index

    def close(self) -> None:
        """Let threads end. The engine is its owner's to close."""
        if "pool" in self.__dict__:
            self.pool.close()

    def answer(self, begin: Callable[[SearchEngine], Steps[T]], caller: Caller) -> T:
        """Search, blocking, with as much in reach as the caller may see."""
        sees = caller.sees_unsafe
        steps = self.live.steps(lambda engine: begin(engine if sees else engine.only_safe))
        with span("answer", of="all" if sees else "safe"):
            return run(steps, TimedStore(self.index.store, self.metrics))

    async def search(self, query: Query, options: Mapping[str, Any], caller: Caller) -> SearchResult:
        """Search with one query; safe ones by text together with others that ask for the same."""

        def several(queries: Sequence[Query], options: Mapping[str, Any] = options) -> list[SearchResult]:
            return self.answer(lambda engine: engine.search(queries, options), caller)

        if isinstance(query, str) and options.get("safe", True):
            kind = (caller.sees_unsafe, json.dumps(options, sort_keys=True, default=str))
            result: SearchResult = await self.pool.gather(kind, query, several)
        else:
            context = {"context": {"key": caller.id, "query": query_hash(query)}}
            result = (await self.pool.run(lambda: several([query], {**options, **context})))[0]
        self.metrics.query(result.query)
        return result

    def find(self, given: Any, caller: Caller) -> StoredPoint:
        """Return a stored point that a caller may see, blocking. What it may not see is not there.

        Raises:
            PointNotFoundError: There is none.
            AuditError: It is not safe, and that it was shown cannot be written down.
        """
        identity = stored_id(given)
        points = [] if identity is None else self.index.retrieve([identity])
        if not points or identity is None:
            raise _missing()
        if identity in self.answer(lambda engine: permitted(engine, [identity]), caller):
            return points[0]
        allowed = caller.sees_unsafe and self.live.engine.policy.allow_unsafe
        if not allowed or not self.admits(points[0].payload):
            raise _missing()
        self.write_down("show", caller, {"ids": [identity]})
        return points[0]

    def admits(self, payload: Mapping[str, Any]) -> bool:
        """Whether the rules that hold for everyone let a point with this payload be seen."""
        return all(rule.admits(payload) for rule in self.live.engine.policy.rules_of(False))

    def expect_unsafe(self, caller: Caller) -> None:
        """Raise `ScopeError` or `UnsafeNotAllowedError` unless a caller may see unsafe points."""
        caller.expect("search:unsafe")
        self.live.engine.policy.expect_allowed(False)

    def write_down(self, event: str, caller: Caller, facts: Mapping[str, Any]) -> None:
        """Write to the audit log.

        Raises:
            AuditError: There is none, or it cannot be written.
        """
        if self.log is None:
            raise AuditError("the service has no audit log, so this is not answered")
        self.log.write(event, {"key": caller.id, "collection": self.index.name, **facts})

    def note(self, event: str, caller: Caller, facts: Mapping[str, Any]) -> None:
        """Write to the audit log, if there is one.

        Raises:
            AuditError: It cannot be written.
        """
        if self.log is not None:
            self.write_down(event, caller, facts)

    def decide(self, point: StoredPoint, **entries: Any) -> None:
        """Write what people say of a point to it, blocking; see `decide`."""
        metadata = self.index.metadata
        attached = metadata.attached
        names = {self.index.name, *(() if attached is None else (attached.collection,))}
        decide(self.index.store, sorted(names), metadata, point, **entries)

    def _audited(self, record: AuditRecord) -> None:
        if self._heard is not None:
            self._heard(record)
        if self.log is None:
            raise AuditError("the service has no audit log, so this is not answered")
        hashes = record.context.get("query")
        facts = {
            "key": record.context.get("key"),
            "collection": record.collection,
            "operation": record.operation,
            "query": hashes,
            "options": dict(record.options),
            "ids": [identity for hits in record.hits for identity in hits],
        }
        self.log.write("unsafe", facts)


def query_hash(query: Query) -> str:
    """Return the SHA-256 of a query, which the audit log holds in its place."""
    if isinstance(query, bytes):
        return hashlib.sha256(query).hexdigest()
    text = query if isinstance(query, str) else repr(getattr(query, "id", None) or getattr(query, "tolist", list)())
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _missing() -> PointNotFoundError:
    return PointNotFoundError("there is no such point", hint="Give the id of one that a search returns")
