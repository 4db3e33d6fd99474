"""What a cluster of Qdrant adds to one server: copies that can come to differ, and shards chosen by a key.

As in Qdrant 1.18.3's source (`lib/collection/src/shards`): a read asks one copy, that of the node it comes to, or as
many as it names, and then leaves out what is not equal on all of them *before* it decides whether a page was the last.
A write goes to all copies. If too few take it, the client gets an error and the others keep it; if enough do, those
that failed are given up, and are read again after they were made anew. Where a collection has shard keys, every write
must name one, and by id changes only what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import QdrantClient

READS = ("points/scroll", "points/count", "points/query", "points/query/batch", "points/query/groups", "facet")


def reads(method: str, action: str) -> bool:
    return action in READS or action.startswith("points/search") or (method, action) == ("POST", "points")


@dataclass
class Copies:
    """Copies of all collections.

    Attributes:
        clients: One for each node; the first is the one that is asked.
        away: Nodes that do not answer, and that their cluster counts on.
        deaf: Nodes that answer, and that writes do not reach.
        dead: Nodes that it has given up.
        factor: Copies that must take a write.
    """

    clients: list[QdrantClient]
    away: set[int] = field(default_factory=set)
    deaf: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    factor: int = 1

    def answer(self, on: Callable[[QdrantClient, Any], Any], method: str, action: str, body: Any, asked: str) -> Any:
        if reads(method, action):
            return self._read(on, action, body, asked)
        if not action.startswith("points"):  # of the collection: nodes that are away make up for it
            answers = [on(client, body) for client in self.clients]
            return answers[0]
        there = [node for node in range(len(self.clients)) if node not in self.away | self.deaf | self.dead]
        answers = [on(self.clients[node], body) for node in there]
        missed = (self.away | self.deaf) - self.dead
        if missed:
            if len(there) < self.factor:
                raise RuntimeError("Service internal error: error trying to connect: tcp connect error")
            self.dead |= missed
        return answers[0]

    def _read(self, on: Callable[[QdrantClient, Any], Any], action: str, body: Any, asked: str) -> Any:
        nodes = len(self.clients)
        number = int(asked) if asked.isdecimal() else nodes // 2 + 1 if asked == "quorum" else nodes
        number = min(number, nodes)
        active = [node for node in range(nodes) if node not in self.dead]
        if len(active) < number:
            what = "The replica set for shard 0 on peer 1 does not have enough active replicas"
            raise RuntimeError(f"Service internal error: {what}")
        there = [self.clients[node] for node in active if node not in self.away][:number]
        if len(there) < number:
            raise RuntimeError("Service internal error: 1 of 2 read operations failed:\n  tcp connect error")
        if action == "points/scroll" and number > 1:
            limit = body.get("limit") or 10
            pages = [on(client, {**body, "limit": limit + 1})["points"] for client in there]
            points = _same(pages)
            following = points.pop()["id"] if len(points) > limit else None
            return {"points": points, "next_page_offset": following}
        return _resolved([on(client, body) for client in there])

    def recover(self) -> None:
        """Have all nodes answer again, those that were given up with what the first one has."""
        for node in self.dead:
            for found in self.clients[0].get_collections().collections:
                records, _ = self.clients[0].scroll(found.name, limit=10**6, with_vectors=True)
                stale, _ = self.clients[node].scroll(found.name, limit=10**6, with_payload=False)
                if stale:
                    self.clients[node].delete(found.name, [record.id for record in stale])
                self.clients[node].upload_points(found.name, [_point(record) for record in records])
        self.away, self.deaf, self.dead = set(), set(), set()


def _point(record: Any) -> Any:
    from qdrant_client import models

    return models.PointStruct(id=record.id, payload=record.payload, vector=record.vector)


def _same(lists: list[list[Any]]) -> list[Any]:
    return [point for point in lists[0] if all(point in others for others in lists[1:])]


def _resolved(answers: list[Any]) -> Any:
    first = answers[0]
    if len(answers) == 1:
        return first
    if isinstance(first, list) and first and "points" in first[0]:
        return [_resolved([answer[row] for answer in answers]) for row in range(len(first))]
    if isinstance(first, list):
        return _same(answers)
    if "points" in first:
        return {**first, "points": _same([answer["points"] for answer in answers])}
    return {**first, "count": min(answer["count"] for answer in answers)} if "count" in first else first


@dataclass
class Tenants:
    """Shards of one collection that are chosen by a key.

    Attributes:
        keys: Those that have shards.
        places: The key of each point.
    """

    keys: list[Any] = field(default_factory=list)
    places: dict[Any, Any] = field(default_factory=dict)

    def make(self, key: Any) -> bool:
        if key in self.keys:
            raise ValueError(f"Bad request: Sharding key {key} already exists")
        self.keys.append(key)
        return True

    def written(self, action: str, body: Any) -> Any:
        """Check a write, and return it with what it may change."""
        if action == "points/batch":
            return {"operations": [{k: self._one(k, op) for k, op in each.items()} for each in body["operations"]]}
        if not action.startswith("points"):
            return body
        return self._one("upsert" if action == "points" else action.rpartition("/")[2], body)

    def _one(self, kind: str, body: Any) -> Any:
        key = body.get("shard_key")
        if key is None:
            raise ValueError("Wrong input: Shard key not specified")
        keys = key if isinstance(key, list) else [key]
        for one in keys:
            if one not in self.keys:
                raise ValueError(f"Wrong input: Shard key {one} not found")
        here = [identity for identity, place in self.places.items() if place in keys]
        body = {name: value for name, value in body.items() if name != "shard_key"}
        ids = [point["id"] if isinstance(point, dict) else point for point in body.get("points") or ()]
        if kind == "upsert":
            for identity in ids:
                if self.places.setdefault(identity, keys[0]) != keys[0]:
                    raise AssertionError(f"{identity} would be in two shards")
            return body
        if kind == "delete" and "payload" not in body and "keys" not in body and "vector" not in body:
            for identity in set(ids) & set(here):
                del self.places[identity]
            return {**body, "points": [identity for identity in ids if identity in here]}
        if missing := [identity for identity in ids if identity not in here]:
            raise LookupError(f"Not found: No point with id {missing[0]} found")
        return _among(body, here) if body.get("filter") is not None else body

    def asked(self, body: Any) -> Any:
        """Return a read of the shards that it names."""
        if "searches" in body:
            return {"searches": [self.asked(one) for one in body["searches"]]}
        key = body.get("shard_key")
        body = {name: value for name, value in body.items() if name != "shard_key"}
        if key is None:
            return body
        if isinstance(key, dict):
            key = key["target"] if key["target"] in self.keys else key["fallback"]
        keys = key if isinstance(key, list) else [key]
        if unknown := [one for one in keys if one not in self.keys]:
            raise LookupError(f"Not found: Shard key {unknown[0]} not found")
        return _among(body, [identity for identity, place in self.places.items() if place in keys])

    def told(self, answer: Any) -> Any:
        """Return an answer whose points say where they are."""
        if isinstance(answer, list):
            return [self.told(one) for one in answer]
        if not isinstance(answer, dict):
            return answer
        if "id" in answer and answer["id"] in self.places:
            return {**answer, "shard_key": self.places[answer["id"]]}
        return {name: self.told(value) for name, value in answer.items()}


def _among(body: Any, ids: list[Any]) -> Any:
    condition = body.get("filter")
    return {**body, "filter": {"must": [{"has_id": ids}, *([condition] if condition else ())]}}
