"""How a server divides a collection: copies of its shards, and shards that are chosen by a key (tenants).

Copies of a shard can come to differ: a write reaches one of them and not the other, and is not taken back. A server
that is asked for all copies leaves out what differs among them, and a page of points then seems to be the last. So
pages are read from one copy, and their points are asked for again from all of them.

A server takes no write without a shard key where a collection has them. Each record says its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from qdrant_client import models
from qdrant_client.local.payload_value_extractor import value_by_key

from hysac_retrieval.errors import CopiesAwayError, InputError, StoreError
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.stores.types import METADATA_KEY, Consistency, Opened, ShardKey
from hysac_retrieval.types import PointId

T = TypeVar("T")

_LOOKS, _PAUSE = 50, 0.1

SHARD_BY = "shard_by"
"""Entry of the metadata of a collection that is divided by a payload field."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Division of a collection.

    Attributes:
        copies: Copies of each shard.
        keyed: Whether shards are chosen by a key.
        shard_by: Payload field that is the key of new points; None in a collection that divides its points otherwise.
    """

    copies: int = 1
    keyed: bool = False
    shard_by: str | None = None


def layout_of(opened: Opened) -> Layout:
    """Read the division in the description of a collection."""
    return Layout(opened.copies, opened.keyed, (opened.metadata or {}).get(SHARD_BY))


def from_copies(wanted: Consistency, layout: Layout, ask: Callable[[models.ReadConsistency], Ask]) -> Steps[Any]:
    """Ask as many copies as are wanted, or as many as can be read; returns None where that is only one.

    A copy that its cluster has given up is made anew from the others before it is read again, so it needs no asking.
    """
    known: list[Consistency] = [wanted, *(copies for copies in range(layout.copies - 1, 1, -1) if copies != wanted)]
    for copies in known:
        try:
            return (yield ask(of_copies(copies)))
        except CopiesAwayError:
            continue
    return None


def until_shown(name: str, metadata: Mapping[str, Any] | None) -> Steps[None]:
    """Wait a little until a node of a cluster shows what was written to the metadata of a collection.

    Nodes agree on metadata before a write of it is answered, and some show it a moment later.
    """
    wanted = None if metadata is None else json.loads(json.dumps(dict(metadata)))
    for _ in range(_LOOKS):
        info: models.CollectionInfo = yield Ask("get_collection", name)
        if (info.config.metadata or {}).get(METADATA_KEY) == wanted:
            return
        yield Ask("sleep", _PAUSE)


def of_copies(consistency: Consistency) -> models.ReadConsistency:
    """Return a number of copies in the client's words."""
    return consistency if isinstance(consistency, int) else models.ReadConsistencyType(consistency)


def shard_key_of(identity: PointId, payload: Mapping[str, Any], field: str | None) -> ShardKey:
    """Return the shard key of a new point.

    Raises:
        InputError: Its payload names none.
        StoreError: The collection says of no field that it holds the key.
    """
    if field is None:
        what = "the shards of this collection are chosen by a key, and it is not known which payload field holds it"
        raise StoreError(what, hint="Make one with `hysac index --shard-by FIELD`, or attach to the one that there is")
    found = value_by_key(dict(payload), field) or []
    if len(found) != 1 or type(found[0]) not in (int, str) or found[0] == "":
        raise InputError(
            f"point {identity} has {found[0] if len(found) == 1 else found!r} in the field {field!r}, by which this "
            "collection is divided",
            hint="Expected one word or whole number",
        )
    key: ShardKey = found[0]
    return key


def shard_keys(name: str, ids: Sequence[PointId]) -> Steps[dict[PointId, ShardKey | None]]:
    """Look up where some points are."""
    records: list[models.Record] = yield Ask("retrieve", name, list(ids), with_payload=False, with_vectors=False)
    return {record.id: _single(record.shard_key) for record in records}  # type: ignore[misc]  # ids are integers or strings


def _single(key: Any) -> ShardKey | None:
    return key[0] if isinstance(key, list) else key  # type: ignore[no-any-return]


def by_key(ids: Sequence[T], keys: Sequence[ShardKey | None]) -> dict[ShardKey | None, list[T]]:
    """Gather things by their shard keys, in order."""
    found: dict[ShardKey | None, list[T]] = {}
    for each, key in zip(ids, keys, strict=True):
        found.setdefault(key, []).append(each)
    return found


def with_shards(name: str, wanted: Sequence[ShardKey]) -> Steps[None]:
    """Make the shards of the keys that have none yet."""
    known = yield from known_keys(name)
    for key in dict.fromkeys(wanted):
        if key not in known:
            try:
                yield Ask("create_shard_key", name, key)
            except StoreError:  # another process may have made them meanwhile
                if key not in (yield from known_keys(name)):
                    raise


def known_keys(name: str) -> Steps[list[ShardKey]]:
    """Return the keys that a collection has shards of."""
    found: models.ShardKeysResponse = yield Ask("list_shard_keys", name)
    return [one.key for one in found.shard_keys or []]


def written(name: str, key: ShardKey | None, points: Sequence[Any]) -> Ask:
    """Ask for points to be written, to the shards of a key if there is one."""
    return Ask("upsert", name, points, wait=True, **_in(key))


def removed(name: str, key: ShardKey | None, ids: Sequence[PointId]) -> Ask:
    """Ask for points to be removed, from the shards of a key if there is one."""
    return Ask("delete", name, models.PointIdsList(points=[*ids]), wait=True, **_in(key))


def _in(key: ShardKey | None) -> dict[str, Any]:
    return {} if key is None else {"shard_key_selector": key}
