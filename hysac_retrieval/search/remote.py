"""Safe search by a service: what `connect` returns for ``service=``, without a model and a store in this process.

It asks `hysac serve` over HTTP, so plugins and programs use it as any other engine. What a key may ask for is the
service's to say; safe results are held to their thresholds here once more.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self, TypeVar, Unpack

import httpx
import numpy as np
from PIL import Image

from hysac_retrieval import errors
from hysac_retrieval.encoder.pictures import read_picture
from hysac_retrieval.errors import SettingsError, StoreError, StoreUnavailableError, UnsafeNotAllowedError
from hysac_retrieval.results import GroupedResult, Hit, PathStep, QueryInfo, ResultGroup, SearchResult
from hysac_retrieval.safety.filters import as_filter, checked_safe
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.asynchronous import AsyncSafeSearch
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.explain import ExplainedStep, Explanation, Selectivity
from hysac_retrieval.search.loops import Once
from hysac_retrieval.search.queries import PointRef, Query, is_pixels, several
from hysac_retrieval.search.request import ExplainOptions, GroupOptions, SearchOptions
from hysac_retrieval.types import PointId, Thresholds

T = TypeVar("T")

ONLY_SAFE = "x-hysac-only-safe"
"""Header of a request that gives the scope ``search:unsafe`` up."""

_SENT = (
    "safe",
    "limit",
    "offset",
    "modality",
    "filter",
    "threshold",
    "max_distance",
    "query_modality",
    "steps",
    "near",
)
_KINDS = (errors.InputError, errors.SettingsError, errors.PointNotFoundError)
_SECONDS = 60.0


class Client(Protocol):
    """An HTTP client, such as `httpx.Client`, with the address and the key of a service."""

    def request(self, method: str, url: str, /, *, json: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Send a request."""

    def close(self) -> None:
        """Let go of connections."""


def connect_service(
    address: str, key: str | None = None, *, ca_file: str | os.PathLike[str] | None = None
) -> RemoteSearch:
    """Open a service for safe search; see `connect`.

    Raises:
        SettingsError: The address is none.
        StoreUnavailableError: The service is away.
        StoreError: The key does not count.
    """
    if not address.startswith(("http://", "https://")):
        raise SettingsError(f"{address!r} is no address of a service", hint="Give one such as http://localhost:8080")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    verify = True if ca_file is None else ssl.create_default_context(cafile=os.fspath(ca_file))
    client = httpx.Client(base_url=address.rstrip("/"), headers=headers, timeout=_SECONDS, verify=verify)
    try:
        return RemoteSearch(client)
    except BaseException:
        client.close()
        raise


class RemoteSearch(SafeSearch):
    """`SafeSearch` by a service.

    Args:
        client: Reaches the service.
        only_safe: Whether unsafe points are out of reach, whatever the key may see.
    """

    def __init__(self, client: Client, *, only_safe: bool = False, policy: SafetyPolicy | None = None) -> None:
        self._client, self._headers = client, {ONLY_SAFE: "1"} if only_safe else {}
        if policy is None:
            scopes = self._ask("GET", "/v1/session")["scopes"]
            policy = SafetyPolicy(allow_unsafe="search:unsafe" in scopes)
        self._policy = policy

    @property
    def policy(self) -> SafetyPolicy:
        """Policy of this side: whether ``safe=False`` may be asked for. The service has its own."""
        return self._policy

    @property
    def encoder(self) -> None:
        """None: the service encodes."""
        return None

    def __getattribute__(self, name: str) -> Any:
        if name in ("index", "core", "live"):
            _elsewhere(f"the engine's {name}")
        return super().__getattribute__(name)

    def search(self, query: Query, **options: Unpack[SearchOptions]) -> SearchResult:
        """See `SafeSearch.search`."""
        found = self._ask("POST", "/v1/search", self._body(query, options))
        return SearchResult(_query(found["query"]), self._hits(found["query"], found["hits"], options))

    def search_batch(self, queries: Iterable[Query], **options: Unpack[SearchOptions]) -> list[SearchResult]:
        """See `SafeSearch.search_batch`; one request for each."""
        return [self.search(query, **options) for query in several(queries)]

    def search_groups(
        self, query: Query, by: str, *, groups: int = 10, size: int = 3, **options: Unpack[GroupOptions]
    ) -> GroupedResult:
        """See `SafeSearch.search_groups`."""
        body = {**self._body(query, options), "by": by, "groups": groups, "size": size}
        found = self._ask("POST", "/v1/groups", body)
        info = found["query"]
        parts = (ResultGroup(one["value"], self._hits(info, one["hits"], options)) for one in found["groups"])
        return GroupedResult(_query(info), tuple(parts))

    def explain(self, query: Query, **options: Unpack[ExplainOptions]) -> Explanation:
        """See `SafeSearch.explain`."""
        found = self._ask("POST", "/v1/explain", self._body(query, options))
        info = found["query"]
        steps = []
        for step in found["steps"]:
            shown = {name: self._hits(info, step[name], options) for name in ("entailing", "nearest")}
            steps.append(ExplainedStep(**{**step, **shown, "relations": tuple(step["relations"])}))
        shares = {relation: Selectivity(**share) for relation, share in found["selectivity"].items()}
        return Explanation(found["asked"], _query(info), found["boundary"], found["cones"], shares, tuple(steps))

    def permitted(self, ids: Iterable[PointId]) -> frozenset[PointId]:
        """See `SafeSearch.permitted`."""
        asked = list(ids)
        found: set[PointId] = set()
        for start in range(0, len(asked), 1000):
            found.update(self._ask("POST", "/v1/permitted", {"ids": asked[start : start + 1000]})["ids"])
        return frozenset(found) & frozenset(asked)

    def refresh(self) -> bool:
        """Do nothing: the service follows its collection by itself."""
        return False

    def only_safe(self) -> RemoteSearch:
        """See `SafeSearch.only_safe`."""
        return RemoteSearch(self._client, only_safe=True, policy=SafetyPolicy(allow_unsafe=False))

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def _body(self, query: Query, options: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := [name for name in options if name not in (*_SENT, "context")]:
            raise SettingsError(
                f"a service takes no option {unknown[0]!r}", hint=f"Expected some of {', '.join(_SENT)}"
            )
        self._policy.expect_allowed(options.get("safe", True))
        given = {name: options[name] for name in _SENT if options.get(name) is not None}
        if "filter" in given:
            given["filter"] = as_filter(given["filter"]).model_dump(mode="json", exclude_none=True, by_alias=True)
        return {**given, **_asked(query)}

    def _hits(
        self, info: Mapping[str, Any], hits: Iterable[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> tuple[Hit, ...]:
        """Read hits; safe ones must be safe by the service's own thresholds."""
        found = tuple(Hit(**{**hit, "distance": _number(hit["distance"])}) for hit in hits)
        if checked_safe(options.get("safe", True)):
            bounds = info["thresholds"] and Thresholds(**info["thresholds"])
            if (
                info["safe"] is not True
                or not bounds
                or not all(one.reviewed or bounds.passes(one.unsafe, one.modality) for one in found)
            ):
                raise StoreError("the service answered a safe search with points that are not", hint="Tell who runs it")
        return found

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._client.request(method, path, json=body, headers=self._headers)
        except httpx.HTTPError as error:
            raise StoreUnavailableError(f"the service does not answer: {error}", hint="See whether it is up") from error
        try:
            found = answer.json()
        except ValueError:
            found = {}
        if answer.status_code == 200 and isinstance(found, dict):
            return found
        raise _error(answer.status_code, found if isinstance(found, dict) else {}, answer.headers.get("retry-after"))


class AsyncRemoteSearch(AsyncSafeSearch):
    """`AsyncSafeSearch` by a service, which is asked from worker threads."""

    def __init__(self, opened: Once[RemoteSearch], *, only_safe: bool = False) -> None:
        self._remote, self._only_safe = opened, only_safe

    async def search_batch(self, queries: Iterable[Query], **options: Unpack[SearchOptions]) -> list[SearchResult]:
        """See `SafeSearch.search_batch`."""
        asked = several(queries)
        engine = await self._engine()
        return list(await asyncio.gather(*(asyncio.to_thread(engine.search, one, **options) for one in asked)))

    async def search_groups(
        self, query: Query, by: str, *, groups: int = 10, size: int = 3, **options: Unpack[GroupOptions]
    ) -> GroupedResult:
        """See `SafeSearch.search_groups`."""
        return await self._call(lambda engine: engine.search_groups(query, by, groups=groups, size=size, **options))

    async def explain(self, query: Query, **options: Unpack[ExplainOptions]) -> Explanation:
        """See `SafeSearch.explain`."""
        return await self._call(lambda engine: engine.explain(query, **options))

    async def permitted(self, ids: Iterable[PointId]) -> frozenset[PointId]:
        """See `SafeSearch.permitted`."""
        known = list(ids)
        return await self._call(lambda engine: engine.permitted(known))

    async def refresh(self) -> bool:
        """Do nothing: the service follows its collection by itself."""
        return False

    def only_safe(self) -> AsyncRemoteSearch:
        """See `SafeSearch.only_safe`."""
        return AsyncRemoteSearch(self._remote, only_safe=True)

    async def close(self) -> None:
        """Let go of connections."""
        if self._remote.begun:
            (await self._remote.get()).close()

    async def _opened(self) -> Any:
        return await self._engine()

    async def _engine(self) -> RemoteSearch:
        engine = await self._remote.get()
        return engine.only_safe() if self._only_safe else engine

    async def _call(self, call: Callable[[RemoteSearch], T]) -> T:
        engine = await self._engine()
        return await asyncio.to_thread(call, engine)


def _asked(query: Query) -> dict[str, Any]:
    """Return a query as the service takes it."""
    if isinstance(query, str):
        return {"text": query}
    if isinstance(query, PointRef):
        return {"id": query.id}
    if isinstance(query, os.PathLike):
        query = read_picture(Path(query))
    if is_pixels(query):
        query = Image.fromarray(np.asarray(query))
    if isinstance(query, Image.Image):
        out = BytesIO()
        query.save(out, "PNG")
        query = out.getvalue()
    if isinstance(query, bytes):
        return {"image": base64.b64encode(query).decode()}
    if isinstance(query, np.ndarray | list | tuple):
        return {"vector": np.asarray(query, dtype=np.float64).tolist()}
    _elsewhere(f"a query of {type(query).__name__}")


def _query(found: Mapping[str, Any]) -> QueryInfo:
    path = tuple(PathStep(**step) for step in found["path"])
    bounds = found["thresholds"]
    return QueryInfo(**{**found, "path": path, "thresholds": None if bounds is None else Thresholds(**bounds)})


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _error(status: int, problem: Mapping[str, Any], after: str | None) -> errors.HysacError:
    """Return the error that a problem stands for."""
    kind, hint = str(problem.get("error", "")), str(problem.get("hint", ""))
    detail = str(problem.get("detail", f"the service answered with {status}"))
    if status in (429, 503, 504):
        seconds = float(after) if after is not None and after.isdecimal() else None
        return StoreUnavailableError(detail, hint=hint, retry_after=seconds)
    if status == 403:
        return UnsafeNotAllowedError(detail, hint=hint)
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, _KINDS):
        return known(detail, hint=hint)
    return (errors.InputError if status in (413, 422) else StoreError)(detail, hint=hint)


def _elsewhere(what: str) -> NoReturn:
    raise SettingsError(f"{what} is not for a search by a service", hint="Connect with location= or url= for it")
