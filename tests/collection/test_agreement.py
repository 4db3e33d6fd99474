"""Index and payload are compared, and written anew where they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from qdrant_client import QdrantClient
from support.cli import invoke
from support.rest_server import RestServer, rest_server
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval.collection.agreement import Agreement, reconcile
from hysac_retrieval.collection.index import Index


@pytest.fixture
def server() -> Iterator[RestServer]:
    with rest_server() as made:
        yield made


@pytest.fixture
def index(server: RestServer) -> Iterator[Index]:
    with Index.create("points", dim=DIM, curvature=CURVATURE, safety=profile(), url=server.url) as made:
        rows = [{"title": str(row)} for row in range(6)]
        made.upsert(range(6), random_points(6, low=1.5, high=1.6), modality="text", payloads=rows)
        yield made


def spoil(client: QdrantClient, index: Index) -> None:
    """What applications do: a key deleted whole, a part of it, and a list in place of a verdict."""
    own = index.metadata.fingerprint
    client.delete_payload("points", ["hysac"], [0, 1])
    client.delete_payload("points", ["hysac.safe"], [2])
    client.set_payload("points", {"safe": {own: [True, False]}}, [3], key="hysac")


def test_what_an_index_still_finds_is_taken_out_of_it(server: RestServer, index: Index) -> None:
    assert reconcile(index.store, "points") == Agreement(6, (), ())
    spoil(server.backend, index)
    assert reconcile(index.store, "points") == Agreement(6, (0, 1, 2, 3), ())
    assert reconcile(index.store, "points") == Agreement(6, (), ())
    payloads = {point.id: point.payload for point in index.retrieve(range(6))}
    assert payloads[0] == {"title": "0"}
    assert payloads[2]["hysac"]["safe"] == {index.metadata.fingerprint: False}
    assert payloads[5]["hysac"]["safe"] == {index.metadata.fingerprint: True}
    assert index.info().safe == 2


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_says_what_differed(server: RestServer, index: Index, as_json: bool) -> None:
    spoil(server.backend, index)
    given = ["doctor", "--collection", "points", "--url", server.url, *(["--json"] if as_json else [])]
    first, second = invoke(*given), invoke(*given)
    if as_json:
        assert json.loads(first.stdout) == {"collection": "points", "points": 6, "stale": [0, 1, 2, 3], "missing": []}
        assert json.loads(second.stdout)["stale"] == []
    else:
        assert "found as safe, and not safe: 4 points: 0, 1, 2, 3" in first.stdout
        assert "agree: 6 points" in second.stdout
