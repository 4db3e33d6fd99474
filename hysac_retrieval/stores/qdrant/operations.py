"""Operations of a store on a client of Qdrant, each written once for the blocking and the asynchronous store."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    SettingsError,
    StoreError,
)
from hysac_retrieval.payload import RADIUS, WORST_RADIUS
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.stores import requests, versions
from hysac_retrieval.stores.amend import Amendment, fitting
from hysac_retrieval.stores.faults import INDEX_HINT, unfinished
from hysac_retrieval.stores.qdrant.conditions import needed_features
from hysac_retrieval.stores.qdrant.forms import Form, Models
from hysac_retrieval.stores.qdrant.halves import halved
from hysac_retrieval.stores.qdrant.layout import (
    Layout,
    by_key,
    from_copies,
    known_keys,
    layout_of,
    of_copies,
    removed,
    shard_key_of,
    shard_keys,
    until_shown,
    with_shards,
    written,
)
from hysac_retrieval.stores.qdrant.strict import Limits, limits_of, meets
from hysac_retrieval.stores.retry import counted
from hysac_retrieval.stores.types import (
    METADATA_KEY,
    UPSERT_CHUNK,
    VECTOR_NAME,
    CollectionSpec,
    Consistency,
    Group,
    GroupQuery,
    IndexKind,
    Opened,
    ShardKey,
    StoredPoint,
    VectorQuery,
)
from hysac_retrieval.types import PointId

OPTIMIZE_TIMEOUT = 3600.0
"""Seconds that a server may take to finish its graph."""

_POLL = 0.5
_PAGE = 1000
_TELEMETRY_OF_SHARDS = 3  # the least level of detail at which a server describes the shards of its collections


class Operations:
    """Operations as computations that ask a client; `Store` documents them, under the same names.

    Args:
        local: Whether the client keeps its collections in this process.
        form: How searches and points are handed to the client.
        consistency: Copies on a cluster that a read asks; None for the server's own choice. `scroll` says which points
            differ among these.
    """

    def __init__(self, *, local: bool, form: Form, consistency: Consistency | None = None) -> None:
        self.local = local
        self._form = form
        self._consistency = consistency
        self._reads: dict[str, Any] = {} if consistency is None else {"consistency": of_copies(consistency)}
        self._version = "" if local else None
        self._limits: dict[str, Limits] = {}
        self._layouts: defaultdict[str, Layout] = defaultdict(Layout)
        self._keys: defaultdict[str, set[ShardKey]] = defaultdict(set)  # that are known to have shards

    def names(self) -> Steps[list[str]]:
        found: models.CollectionsResponse = yield Ask("get_collections")
        return sorted(collection.name for collection in found.collections)

    def version(self) -> Steps[str]:
        self._version = self._version if self._version is not None else str((yield Ask("info")).version)
        return self._version

    def exists(self, name: str) -> Steps[bool]:
        return bool((yield Ask("collection_exists", name)))

    def create(self, name: str, spec: CollectionSpec) -> Steps[None]:
        if self.local and (given := spec.storage.of_clusters):
            what = f"{' and '.join(given)} are for a Qdrant server, not for local mode"
            raise SettingsError(what, hint="Leave them out, or use url=")
        if not self.local:
            version = yield from self.version()
            for feature in (versions.METADATA, *requests.needed(spec)):
                feature.require(version)
        if (yield from self.exists(name)):
            raise _exists(name)
        try:
            yield Ask("create_collection", name, **requests.collection_request(spec))
        except StoreError as error:
            # An attempt whose answer was lost may have made the collection, or another process may have.
            if not (yield from self.exists(name)):
                raise
            if (yield from self._described(name)).metadata != json.loads(json.dumps(dict(spec.metadata))):
                raise _exists(name) from error
        self._keys.pop(name, None)
        try:
            for key, kind in spec.indexes.items():
                yield from self.add_index(name, key, kind)
        except StoreError:
            with suppress(StoreError):  # the first error says what happened
                yield from self.drop(name)
            raise

    def open(self, name: str) -> Steps[Opened]:
        if not (yield from self.exists(name)):
            found = ", ".join((yield from self.names())) or "none"
            hint = "Index something first, or create it"
            if self.local:
                hint += "; what is in ':memory:' is private to one client of one process, and is empty at first"
            raise CollectionNotFoundError(f"no collection {name!r}; there are: {found}", hint=hint)
        return (yield from self._described(name))

    def drop(self, name: str) -> Steps[None]:
        yield Ask("delete_collection", name)
        self._limits.pop(name, None)

    def aliases(self) -> Steps[dict[str, str]]:
        found: models.CollectionsAliasesResponse = yield Ask("get_aliases")
        return {alias.alias_name: alias.collection_name for alias in found.aliases}

    def point_alias(self, alias: str, name: str) -> Steps[None]:
        before = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))]
        made = models.CreateAlias(collection_name=name, alias_name=alias)
        known = alias in (yield from self.aliases())
        changes = [*(before if known else ()), models.CreateAliasOperation(create_alias=made)]
        yield Ask("update_collection_aliases", changes)

    def write_metadata(self, name: str, metadata: Mapping[str, Any]) -> Steps[None]:
        yield Ask("update_collection", name, metadata={METADATA_KEY: dict(metadata)})
        yield from () if self.local else until_shown(name, metadata)

    def add_index(self, name: str, key: str, kind: IndexKind) -> Steps[None]:
        if not self.local:  # payload indexes have no effect in local mode, which warns about them
            yield Ask("create_payload_index", name, key, requests.INDEX_TYPES[kind])
            self._limits.pop(name, None)

    def drop_index(self, name: str, key: str) -> Steps[None]:
        if not self.local:
            yield Ask("delete_payload_index", name, key)
            self._limits.pop(name, None)

    def admit(self, name: str, fields: Mapping[str, IndexKind]) -> Steps[None]:
        limits = yield from self._limits_of(name)
        for key, kind in fields.items():
            if not limits.reads and key not in limits.indexed:
                try:
                    yield from self.add_index(name, key, kind)
                except StoreError as error:
                    what = f"a condition on {key!r} needs an index, which cannot be made: {error.message}"
                    raise StoreError(what, hint=INDEX_HINT.format(key)) from error

    def upsert(
        self, name: str, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> Steps[None]:
        layout = self._layouts[name]
        if layout.keyed:
            keys = [shard_key_of(i, p, layout.shard_by) for i, p in zip(ids, payloads, strict=True)]
            yield from self._make_way(name, ids, keys)
            for key, rows in by_key(range(len(ids)), keys).items():
                write = partial(written, name, key)
                points = Models().points([ids[row] for row in rows], vectors[rows], [payloads[row] for row in rows])
                for start in range(0, len(points), UPSERT_CHUNK):
                    yield from halved(points[start : start + UPSERT_CHUNK], write)
            return
        for start in range(0, len(ids), UPSERT_CHUNK):
            chunk = slice(start, start + UPSERT_CHUNK)
            points = self._form.points(ids[chunk], vectors[chunk], payloads[chunk])
            with counted(start, len(ids)):
                yield from halved(points, lambda few: self._form.upsert(name, few))

    def _make_way(self, name: str, ids: Sequence[PointId], keys: Sequence[ShardKey]) -> Steps[None]:
        """Make the shards that points are to go into, and take the points from others: ids are of one shard each."""
        if lacking := set(keys) - self._keys[name]:
            yield from with_shards(name, sorted(lacking, key=str))
            self._keys[name] |= lacking
        wanted = dict(zip(ids, keys, strict=True))
        for start in range(0, len(ids), UPSERT_CHUNK):
            found = yield from shard_keys(name, ids[start : start + UPSERT_CHUNK])
            moved = {identity: key for identity, key in found.items() if wanted.get(identity, key) != key}
            yield from self._delete(name, by_key([*moved], [*moved.values()]))

    def _placed(self, name: str, ids: Sequence[PointId]) -> Steps[dict[ShardKey | None, list[PointId]]]:
        """Gather points by the shards that they are in; those that are nowhere are left out where that is known."""
        if not self._layouts[name].keyed:
            return {None: [*ids]}
        found = yield from shard_keys(name, ids)
        return by_key([*found], [*found.values()])

    def amend(self, name: str, amendments: Sequence[Amendment], *, looked_after: bool = False) -> Steps[None]:
        limits = yield from self._limits_of(name)
        for key in () if limits.updates else {RADIUS, WORST_RADIUS} - limits.indexed:
            yield from self.add_index(name, key, "float")
        for start in range(0, len(amendments), UPSERT_CHUNK):
            few = amendments[start : start + UPSERT_CHUNK]
            changes: Sequence[Any] = [change.operation() for change in few]
            if keyed := self._layouts[name].keyed:
                places = yield from shard_keys(name, [change.id for change in few])
                changes = [change.operation(places[change.id]) for change in few if change.id in places]
            if self.local:  # which would look through all its points for each condition
                changes = fitting(few, (yield from self.retrieve(name, [change.id for change in few])))
            if looked_after and not keyed and len(changes) > 1:  # every shard gets all, and is done with the last
                yield from halved(changes[:-1], lambda few: Ask("batch_update_points", name, few, wait=False))
                changes = changes[-1:]
            if changes:
                yield from halved(changes, lambda few: Ask("batch_update_points", name, few, wait=True))

    def strip(self, name: str, keys: Sequence[str], filter: models.Filter) -> Steps[None]:
        where = {}
        if self._layouts[name].keyed:
            where = {"shard_key_selector": (yield from known_keys(name))}
        if where != {"shard_key_selector": []}:
            yield Ask("delete_payload", name, list(keys), filter, wait=True, **where)

    def query(self, name: str, query: VectorQuery) -> Steps[list[list[StoredPoint]]]:
        if not len(query.vectors):
            return []
        yield from self._expect_known(query.filter, *(query.filters or ()))
        limits = self._limits.get(name) or (yield from self._limits_of(name))
        if query.shard_key_selector is not None:
            some = requests.query_requests(limits.fitted(query), local=self.local)
            replies = yield from halved(some, lambda few: Ask("query_batch_points", name, few, **self._reads))
            return requests.read_responses([reply for each in replies for reply in each])
        asked = self._form.searches(name, limits.fitted(query))
        answers = yield from halved(asked, lambda few: self._form.search(name, few, self._reads))
        return [points for answer in answers for points in self._form.found(answer)]

    def query_groups(self, name: str, query: VectorQuery, groups: GroupQuery) -> Steps[list[Group]]:
        yield from self._expect_known(query.filter)
        fitted = (yield from self._limits_of(name)).fitted(query, groups.groups * groups.size)
        asked = requests.group_request(fitted, groups, local=self.local)
        found = requests.read_groups((yield Ask("query_points_groups", name, **asked, **self._reads)))
        # A server gathers groups from as many points as it deems enough, so that members may be missing.
        short = [row for row, group in enumerate(found) if len(group.points) < groups.size]
        if short and not self.local:
            whole = yield from self.query(name, requests.members_query(query, groups, [found[row] for row in short]))
            for row, points in zip(short, whole, strict=True):
                group = found[row]
                members = [p for p in points if group.value in requests.group_values(p.payload, groups.key)]
                if len(members) > len(group.points):
                    found[row] = replace(group, points=members[: groups.size])
        return found

    def scroll(
        self,
        name: str,
        *,
        filter: models.Filter | None = None,
        limit: int = 1000,
        after: PointId | None = None,
        with_vectors: bool | str = False,
        fields: Sequence[str] | None = None,
    ) -> Steps[tuple[list[StoredPoint], PointId | None]]:
        yield from self._expect_known(filter)
        vector = VECTOR_NAME if with_vectors is True else with_vectors
        limits = yield from self._limits_of(name)
        taken, left = limits.split(filter)
        shown: dict[str, Any] = {
            "with_payload": True if fields is None or left is not None else list(fields),
            "with_vectors": False if vector is False else [vector],
        }
        if left is None:
            return (yield from self._page(name, taken, limits.page(limit), after, shown))
        found: list[StoredPoint] = []
        while True:
            page, after = yield from self._page(name, taken, limits.page(max(limit, _PAGE)), after, shown)
            found += [point for point in page if meets(point, left)]
            if len(found) > limit:
                return found[:limit], found[limit].id
            if after is None:
                return found, None

    def _page(
        self, name: str, filter: models.Filter | None, limit: int, after: PointId | None, shown: dict[str, Any]
    ) -> Steps[tuple[list[StoredPoint], PointId | None]]:
        vector = (shown["with_vectors"] or [""])[0]
        records, following = yield Ask("scroll", name, scroll_filter=filter, limit=limit, offset=after, **shown)
        page = [requests.stored(record, vector=vector) for record in records]
        layout = self._layouts[name]
        if page and self._consistency is not None and layout.copies > 1:
            these: Any = models.Filter(must=[models.HasIdCondition(has_id=[point.id for point in page])])
            asked = partial(Ask, "scroll", name, scroll_filter=these, limit=len(page), **shown)
            agreed = yield from from_copies(self._consistency, layout, lambda copies: asked(consistency=copies))
            if agreed is not None:
                same = {record.id for record in agreed[0]}
                page = [point if point.id in same else point._replace(differs=True) for point in page]
        return page, following

    def retrieve(self, name: str, ids: Sequence[PointId]) -> Steps[list[StoredPoint]]:
        found: list[StoredPoint] = []
        for start in range(0, len(ids), UPSERT_CHUNK):
            few = list(ids[start : start + UPSERT_CHUNK])
            shown = {"with_payload": True, "with_vectors": [VECTOR_NAME]}
            records = yield Ask("retrieve", name, few, **shown, **self._reads)
            found.extend(requests.stored(record) for record in records)
        return found

    def count(self, name: str, filter: models.Filter | None = None) -> Steps[int]:
        yield from self._expect_known(filter)
        limits = yield from self._limits_of(name)
        if limits.split(filter)[1] is None:
            found: models.CountResult = yield Ask("count", name, count_filter=filter, exact=limits.exact)
            return found.count
        total, after = 0, None
        while True:
            page, after = yield from self.scroll(name, filter=filter, limit=_PAGE, after=after)
            total += len(page)
            if after is None:
                return total

    def delete(self, name: str, ids: Sequence[PointId]) -> Steps[None]:
        for start in range(0, len(ids), UPSERT_CHUNK):
            yield from self._delete(name, (yield from self._placed(name, ids[start : start + UPSERT_CHUNK])))

    def _delete(self, name: str, placed: Mapping[ShardKey | None, Sequence[PointId]]) -> Steps[None]:
        for key, some in placed.items():
            yield from halved(some, partial(removed, name, key))

    def optimize(self, name: str) -> Steps[None]:
        """Wait until a server has finished its graph, which it builds on its own; local mode has none."""
        deadline = time.monotonic() + OPTIMIZE_TIMEOUT
        while not self.local:
            info: models.CollectionInfo = yield Ask("get_collection", name)
            status, optimizer = info.status, info.optimizer_status
            if status is models.CollectionStatus.RED or isinstance(optimizer, models.OptimizersStatusOneOf1):
                raise unfinished(name, getattr(optimizer, "error", None) or f"it is {status.value}")
            if status in (models.CollectionStatus.GREEN, models.CollectionStatus.GREY):
                return
            if time.monotonic() > deadline:
                raise StoreError(f"collection {name!r} is still {status.value} after {OPTIMIZE_TIMEOUT:.0f} seconds")
            yield Ask("sleep", _POLL)

    def indexed(self, name: str) -> Steps[int]:
        info: models.CollectionInfo = yield Ask("get_collection", name)
        return info.indexed_vectors_count or 0

    def memory(self, name: str) -> Steps[int | None]:
        """Bytes of vectors and payloads on the node that answers, as it estimates them; local mode does not know."""
        if self.local:
            return None
        try:
            reply = yield Ask("http.service_api.telemetry", details_level=_TELEMETRY_OF_SHARDS)
        except StoreError:  # a key that may read the collection need not be allowed to read telemetry
            return None
        return requests.read_memory(reply.result, name)

    def _expect_known(self, *filters: models.Filter | None) -> Steps[None]:
        """Check that the server is new enough for some filters: its own words for what it does not know say little."""
        for feature in set() if self.local else set().union(*map(needed_features, filters)):
            feature.require((yield from self.version()))

    def _limits_of(self, name: str) -> Steps[Limits]:
        if name not in self._limits:
            self._limits[name] = Limits() if self.local else limits_of((yield Ask("get_collection", name)))
        return self._limits[name]

    def _described(self, name: str) -> Steps[Opened]:
        version = yield from self.version()
        if not self.local:
            versions.METADATA.require(version)
        info = yield Ask("get_collection", name)
        self._limits[name] = limits_of(info)
        formula = self.local or versions.FORMULAS.known(version)
        opened = requests.read_collection(info, formula=formula, estimates=not self._limits[name].exact)
        self._layouts[name] = layout_of(opened)
        return opened


def _exists(name: str) -> CollectionExistsError:
    hint = "Open it, or recreate it (which removes its points)"
    return CollectionExistsError(f"collection {name!r} exists already", hint=hint)
