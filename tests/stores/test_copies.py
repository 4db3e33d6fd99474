"""Copies on a cluster that differ: seen, written again, and never the reason why something unsafe is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from support.cli import invoke as run
from support.pictures import write_pictures
from support.rest_server import RestServer
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval.collection.copies import differing
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import CopiesAwayError, StoreError, StoreUnavailableError
from hysac_retrieval.guard import SafeQdrantClient
from hysac_retrieval.ingest import Content, attached_collection_for, fill, index_sources, status_of
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.search.connecting import connect
from hysac_retrieval.stores.base import pages
from hysac_retrieval.types import Thresholds

N = 30
POINTS = random_points(N)


@pytest.fixture
def server(either: RestServer) -> RestServer:
    return either


def made(server: RestServer, **options: Any) -> Index:
    space: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile(), "retries": 0}
    return Index.create("c", **server.place, exist_ok=True, **{"consistency": "all", **space, **options})


def filled(server: RestServer) -> Index:
    index = made(server)
    index.upsert(range(N), POINTS, modality="image", payloads=[{"n": i} for i in range(N)])
    return index


@pytest.mark.parametrize("lost", [{3}, {0, 1, 2}, set(range(0, N, 2)), set(range(N))], ids=len)
@pytest.mark.parametrize("page", [1, 4, N, 1000])
def test_every_point_of_a_copy_is_read_and_said_to_differ_where_another_lacks_it(
    server: RestServer, lost: set[int], page: int
) -> None:
    copies = server.copied()
    with filled(server) as index:
        copies.clients[1].delete("c", [*lost])
        read = {point.id: point.differs for some in pages(index.store, "c", limit=page) for point in some}
        assert read == {identity: identity in lost for identity in range(N)}
        assert differing(index) == len(lost)


CHANGES = {
    "score": lambda client: client.set_payload("c", {"unsafe": 0.0}, [5], key=PAYLOAD_KEY),
    "payload": lambda client: client.set_payload("c", {"n": -1}, [5]),
    "gone": lambda client: client.delete("c", [5]),
    "cleared": lambda client: client.clear_payload("c", [5]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("copy", [1, 2])
def test_what_differs_in_any_way_on_any_copy_is_counted(server: RestServer, change: str, copy: int) -> None:
    copies = server.copied(3)
    with filled(server) as index:
        assert differing(index) == 0
        CHANGES[change](copies.clients[copy])
        assert differing(index) == 1


def test_a_vector_that_differs_is_counted_where_vectors_are_compared(server: RestServer) -> None:
    copies = server.copied()
    with filled(server) as index:
        copies.clients[1].update_vectors("c", [models.PointVectors(id=5, vector={"hysac": [0.5] * (DIM + 2)})])
        assert differing(index) == 0
        assert differing(index, with_vectors=True) == 1


def test_where_there_is_one_copy_none_is_compared(server: RestServer) -> None:
    with filled(server) as index:
        assert differing(index) is None
        list(pages(index.store, "c"))
        assert len(server.bodies("POST", "/collections/c/points/scroll")) == 1


@pytest.mark.parametrize(("number", "dead"), [(2, {1}), (3, {1}), (3, {1, 2})])
def test_copies_that_the_cluster_has_given_up_are_not_waited_for(
    server: RestServer, number: int, dead: set[int]
) -> None:
    copies = server.copied(number)
    with filled(server) as index:
        if number - len(dead) > 1:
            copies.clients[2].delete("c", [4])
        copies.dead = set(dead)
        assert differing(index) == (1 if number - len(dead) > 1 else 0)
        with pytest.raises(CopiesAwayError, match=r"enough active replicas.*consistency="):
            index.query(POINTS[0])  # a search was asked to hold all copies to it


def test_a_copy_that_does_not_answer_and_was_not_given_up_is_an_error(server: RestServer) -> None:
    copies = server.copied()
    with filled(server) as index:
        copies.away = {1}
        with pytest.raises(StoreUnavailableError, match="read operations failed"):
            differing(index)


def test_a_search_of_all_copies_leaves_out_what_only_some_have(server: RestServer) -> None:
    copies = server.copied()
    with filled(server) as index:
        all_hits = {hit.id for hit in index.query(POINTS[0], limit=N)}
        some = next(iter(all_hits))
        copies.clients[1].set_payload("c", {"safe": None}, [some], key=PAYLOAD_KEY)
        assert {hit.id for hit in index.query(POINTS[0], limit=N)} == all_hits - {some}
    with made(server, consistency=None) as index:
        assert some in {hit.id for hit in index.query(POINTS[0], limit=N)}


@pytest.mark.parametrize("stayed", ["first", "second"])
def test_a_rescore_that_one_copy_missed_is_done_when_both_have_it(server: RestServer, stayed: str) -> None:
    copies = server.copied(factor=2)
    stricter = profile(Thresholds(text=0.5, image=0.1))
    with filled(server) as index:
        copies.deaf = {1}
        with pytest.raises(StoreError):
            rescore(index, stricter)
        copies.deaf = set()
    if stayed == "second":  # the node that is asked may be the one that missed it
        copies.clients.reverse()
    with Index.open("c", **server.place, consistency="all") as index:
        copies.clients[1].delete("c", [5])
        report = rescore(index, profile(0.2))
        assert report.differing == 1
        assert all(calibration.kept for calibration in index.metadata.earlier)


TEXTS = ["a dog", "a cat", "a house", "a tree"]
TITLES = Content(text="title")


@pytest.fixture
def shop(server: RestServer) -> Iterator[QdrantClient]:
    server.copied(factor=2)
    client = server.client()
    vectors = {"own": models.VectorParams(size=2, distance=models.Distance.COSINE)}
    client.create_collection("shop", vectors_config=vectors)
    rows = [
        models.PointStruct(id=row, vector={"own": [1.0, row]}, payload={"title": text})
        for row, text in enumerate(TEXTS)
    ]
    client.upsert("shop", rows)
    yield client
    client.close()


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("title", ["", 5, None], ids=repr)
def test_an_erase_that_one_copy_missed_is_made_up_for(
    server: RestServer, shop: QdrantClient, encoder: Encoder, title: Any, asked: int
) -> None:
    assert server.copies is not None
    place: dict[str, Any] = {**server.place, "consistency": "all", "retries": 0}
    with attached_collection_for(encoder, "shop", TITLES, **place) as index:
        assert fill(index, encoder, TITLES).differing == 0
        shop.set_payload("shop", {"title": title}, [1])
        server.copies.deaf = {1}
        with pytest.raises(StoreError):
            fill(index, encoder, TITLES)
        server.copies.deaf = set()
        whole = SafeQdrantClient(shop, consistency=models.ReadConsistencyType.ALL)
        assert {record.id for record in whole.scroll("shop", limit=2)[0]} <= {0, 2, 3}
    if asked:
        server.copies.clients.reverse()
    with attached_collection_for(encoder, "shop", TITLES, **place) as index:
        report = fill(index, encoder, TITLES)
        assert report.differing == 0
    for client in server.copies.clients:
        assert PAYLOAD_KEY not in (client.retrieve("shop", [1])[0].payload or {})


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_a_guard_of_all_copies_reads_every_page(
    server: RestServer, shop: QdrantClient, encoder: Encoder, limit: int
) -> None:
    assert server.copies is not None
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        fill(index, encoder, TITLES)
    server.copies.clients[1].set_payload("shop", {PAYLOAD_KEY: None}, [1])
    guard, found, after = SafeQdrantClient(shop, consistency=models.ReadConsistencyType.ALL), list[Any](), None
    while True:
        page, after = guard.scroll("shop", limit=limit, offset=after)
        found += [record.id for record in page]
        if after is None:
            break
    assert found == [0, 2, 3]
    assert [record.id for record in guard.retrieve("shop", [0, 1, 2])] == [0, 2]
    answer = guard.query_points("shop", query=[1.0, 0.0], using="own", consistency=1)
    assert {point.id for point in answer.points} == {0, 1, 2, 3}  # what a call says itself counts


def test_content_that_cannot_be_judged_any_more_loses_its_score_on_a_copy_that_missed_it(
    server: RestServer, encoder: Encoder, tmp_path: Path
) -> None:
    copies = server.copied()
    folder = write_pictures(tmp_path / "p")
    with Index.for_model(encoder, "c", **server.place, consistency="all") as index:
        index_sources([folder], index, encoder, workers=0)
        victim = folder / "grass.png"
        victim.write_bytes(b"not a picture")
        report = index_sources([folder], index, encoder, workers=0)
        assert (report.failures, report.differing) == (1, 0)
        withdrawn = copies.clients[0].scroll("c", limit=N)[0]
        (identity,) = [record.id for record in withdrawn if (record.payload or {})[PAYLOAD_KEY].get("radius") is None]
        # The second copy has it as it was before.
        copies.clients[1].set_payload("c", {"unsafe": 0.0, "radius": 1.0, "safe": {"x": True}}, [identity], key="hysac")
        assert index_sources([folder], index, encoder, workers=0).differing == 0
    found = (copies.clients[1].retrieve("c", [identity])[0].payload or {})[PAYLOAD_KEY]
    assert [found.get(key) for key in ("unsafe", "radius", "safe")] == [None, None, None]


def test_status_counts_what_differs_and_a_run_is_done_when_nothing_does(
    server: RestServer, encoder: Encoder, toy_bundle: Path, tmp_path: Path
) -> None:
    copies = server.copied()
    folder, other = write_pictures(tmp_path / "p"), write_pictures(tmp_path / "q")
    options = ("--collection", "c", *server.options, "--model", toy_bundle)
    assert run("index", folder, other, *options, "--workers", 0).exit_code == 0
    assert "0 points differ" in run("status", folder, *options).output
    of_other = [
        r.id for r in copies.clients[1].scroll("c", limit=N)[0] if (r.payload or {})["hysac"]["source"] == str(other)
    ]
    copies.clients[1].delete("c", of_other[:2])
    told = run("status", folder, other, *options, "--json")
    assert (json.loads(told.stdout)["differing"], json.loads(told.stdout)["stale"]) == (2, 2)
    part = run("index", folder, *options, "--workers", 0)
    assert part.exit_code == 3
    assert "2 points are not the same on all copies" in part.stderr
    assert run("index", folder, other, *options, "--workers", 0).exit_code == 0
    with Index.open("c", **server.place, consistency="all") as index:
        assert status_of([folder, other], index).differing == 0


def test_an_engine_says_how_many_copies_it_asks(server: RestServer, encoder: Encoder) -> None:
    copies = server.copied()
    with Index.for_model(encoder, "c", **server.place) as index:
        index.upsert([1, 2], np.zeros((2, encoder.dim)), modality="text")
    copies.clients[1].clear_payload("c", [2])
    for consistency, found in ((None, {1, 2}), (1, {1, 2}), (2, {1}), ("quorum", {1}), ("majority", {1}), ("all", {1})):
        with connect("c", model=encoder, **server.place, consistency=consistency) as engine:  # type: ignore[arg-type]
            assert {hit.id for hit in engine.search("a dog")} == found


def test_a_batch_that_one_copy_missed_is_written_again_whatever_copies_are_asked(
    server: RestServer, toy_bundle: Path, tmp_path: Path
) -> None:
    copies = server.copied(factor=2)
    folder = write_pictures(tmp_path / "p")
    options = ("--collection", "c", *server.options, "--model", toy_bundle, "--workers", 0, "--wait", 0, "--json")
    copies.deaf = {1}
    assert run("index", folder, *options, "--consistency", 1).exit_code == 1
    assert copies.clients[0].count("c").count == 4
    copies.deaf = set()
    again = json.loads(run("index", folder, *options, "--consistency", 1).stdout)["report"]
    assert again["indexed"]["image"] == 4
    assert copies.clients[1].count("c").count == 4
    assert json.loads(run("index", folder, *options, "--consistency", 1).stdout)["report"]["skipped"] == 4


def test_a_removal_that_one_copy_missed_is_made_up_for(server: RestServer, toy_bundle: Path, tmp_path: Path) -> None:
    copies = server.copied(factor=2)
    folder = write_pictures(tmp_path / "p")
    options = ("--collection", "c", *server.options, "--model", toy_bundle, "--workers", 0, "--wait", 0)
    assert run("index", folder, *options).exit_code == 0
    (folder / "grass.png").unlink()
    copies.deaf = {1}
    assert run("index", folder, *options, "--prune", "--yes").exit_code == 1
    assert [client.count("c").count for client in copies.clients] == [3, 4]
    copies.deaf = set()
    assert run("index", folder, *options).exit_code == 0  # by way of the copy that no longer has it
    assert [client.count("c").count for client in copies.clients] == [3, 3]
