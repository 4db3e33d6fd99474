"""An alias moves to a new collection when that is complete, and never backwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Run, invoke
from support.grpc_server import grpc_server
from support.pictures import write_pictures
from support.rest_server import RestServer

from hysac_retrieval.collection import alias
from hysac_retrieval.collection.alias import expect_alias, name_under, switch
from hysac_retrieval.errors import CollectionExistsError, CollectionNotFoundError, SettingsError
from hysac_retrieval.stores import CollectionSpec, open_store
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.qdrant.store import QdrantStore

SPEC = CollectionSpec(size=2, metadata={})
OLD, NEW, NEWEST = (f"photos-2026{month}-120000" for month in ("0101", "0202", "0303"))


@pytest.fixture(params=["rest", "grpc"])
def server(request: pytest.FixtureRequest) -> Iterator[RestServer]:
    with grpc_server() as both:
        both.rest.grpc_port = both.port if request.param == "grpc" else None
        yield both.rest


@pytest.fixture
def store(server: RestServer) -> Iterator[QdrantStore]:
    made = QdrantStore.connect(**server.place)
    for name in (OLD, NEW, NEWEST, "photos-of-others", "photos-20260101-12000", "other"):
        made.create(name, SPEC)
    yield made
    made.close()


@pytest.mark.parametrize(("keep", "removed"), [(0, [NEW, OLD]), (1, [OLD]), (2, []), (9, [])])
def test_an_alias_moves_and_as_many_older_collections_stay_as_asked(
    store: QdrantStore, keep: int, removed: list[str]
) -> None:
    assert switch(store, "photos", NEWEST, keep) == removed
    assert store.aliases() == {"photos": NEWEST}
    assert {"photos-of-others", "photos-20260101-12000", "other"} < set(store.names())
    assert not set(removed) & set(store.names())


def test_an_alias_never_moves_to_an_older_collection(store: QdrantStore) -> None:
    switch(store, "photos", NEWEST, keep=9)
    with pytest.raises(CollectionExistsError, match=rf"moved meanwhile to '{NEWEST}'.*complete and was left"):
        switch(store, "photos", NEW)
    assert store.aliases() == {"photos": NEWEST}
    assert NEW in store.names()
    assert switch(store, "photos", "other", keep=9) == []  # a name of one's own is whoever's wish it is


def test_a_collection_is_no_alias_and_the_embedded_engine_has_none(store: QdrantStore, tmp_path: Path) -> None:
    expect_alias(store, "photos")
    with pytest.raises(SettingsError, match="is a collection itself"):
        expect_alias(store, "other")
    edge, _ = open_store({"location": tmp_path})
    assert isinstance(edge, EdgeStore)
    with pytest.raises(SettingsError, match=r"no aliases.*server"):
        expect_alias(edge, "photos")


def test_the_command_builds_beside_and_moves_when_it_is_complete(
    server: RestServer, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Run = invoke
    folder = write_pictures(tmp_path / "p")
    options = ("--alias", "photos", *server.options, "--model", toy_bundle)
    names = iter([OLD, NEW])
    monkeypatch.setattr(alias, "name_under", lambda alias: next(names))
    first = run("index", folder, *options)
    assert (first.exit_code, "The alias 'photos' points to it" in first.stdout) == (0, True), first.output
    assert run("info", "photos", *server.options).exit_code == 0
    second = run("index", folder, *options)
    assert f"points to it; {OLD} removed" in second.stdout
    assert [collection.name for collection in server.backend.get_collections().collections] == [NEW]
    refused = run("index", folder, "--collection", "photos", "--recreate", *options[2:])
    assert (refused.exit_code, "--alias photos" in refused.stderr) == (1, True)
    assert server.backend.count("photos").count == 4
    neither = run("index", folder, *options[2:])
    assert (neither.exit_code, "--alias NAME" in neither.stderr) == (2, True)


def test_names_of_new_collections_sort_by_their_time() -> None:
    assert sorted([NEWEST, name_under("photos"), OLD]) == [OLD, NEWEST, name_under("photos")]


def test_a_collection_that_another_run_removed_is_said(server: RestServer) -> None:
    store = QdrantStore.connect(**server.place)
    store.create("c", SPEC)
    server.backend.delete_collection("c")
    with pytest.raises(CollectionNotFoundError, match=r"doesn't exist.*removed, renamed or recreated"):
        store.delete("c", [1])
    store.close()
