"""One asynchronous engine and several event loops, cancelled openings, and use after close."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from support.rest_server import rest_server
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval import AsyncSafeSearch, Index, PointRef, SafeSearch, aconnect
from hysac_retrieval.errors import HysacError, ResourceError, StoreError
from hysac_retrieval.search import connecting

POINTS = random_points(30, low=1.5, high=2.2)
Make = Callable[[], AsyncSafeSearch]


def filled(**place: Any) -> Index:
    index = Index.create("c", dim=DIM, curvature=CURVATURE, safety=profile(), **place)
    index.upsert(range(30), POINTS, modality="image")
    return index


@pytest.fixture(params=["edge", "memory", "server", "application's memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes an asynchronous engine on a collection of 30 points."""
    if request.param == "edge":
        filled(location=tmp_path).close()
        yield lambda: aconnect("c", model=None, location=tmp_path)
    elif request.param.endswith("memory"):
        client = QdrantClient(":memory:")
        filled(client=client)
        apart = AsyncQdrantClient(":memory:")
        apart._client.collections = client._client.collections  # type: ignore[attr-defined]
        if request.param == "memory":
            yield lambda: aconnect("c", model=None, client=client)
        else:
            yield lambda: aconnect("c", model=None, async_client=apart)
        client.close()
    else:
        with rest_server() as server:
            filled(url=server.url).close()
            yield lambda: aconnect("c", model=None, url=server.url)


async def hits(engine: AsyncSafeSearch, many: int = 1) -> list[int]:
    return [len(result) for result in await asyncio.gather(*[engine.search(POINTS[i % 30]) for i in range(many)])]


def test_event_loops_one_after_the_other(make: Make) -> None:
    engine = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            assert asyncio.run(hits(engine, 3)) == [10] * 3
            gc.collect()
        asyncio.run(engine.close())


def test_event_loops_at_once_in_threads_of_their_own(make: Make) -> None:
    engine, answers, meet = make(), {}, threading.Barrier(4)

    async def work(number: int) -> None:
        await asyncio.to_thread(meet.wait)
        answers[number] = await hits(engine, 8)

    threads = [threading.Thread(target=lambda n=n: asyncio.run(work(n)), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {n: [10] * 8 for n in range(4)}
    assert asyncio.run(hits(engine)) == [10]
    asyncio.run(engine.close())


def test_an_application_s_client_serves_its_own_loop_and_others_get_one_like_it() -> None:
    with rest_server() as server:
        filled(url=server.url).close()
        app = AsyncQdrantClient(url=server.url, check_compatibility=False)
        engine = aconnect("c", model=None, async_client=app)
        with asyncio.Runner() as own:
            assert own.run(hits(engine)) == [10]
            for _ in range(3):
                assert asyncio.run(hits(engine, 3)) == [10] * 3
            assert own.run(hits(engine)) == [10]
            own.run(engine.close())
            assert own.run(app.count("c")).count == 30
            own.run(app.close())


def test_closing_in_one_loop_closes_what_another_has_open(make: Make) -> None:
    engine = make()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        assert asyncio.run_coroutine_threadsafe(hits(engine), loop).result(60) == [10]
        asyncio.run(engine.close())
        with pytest.raises(StoreError, match="closed"):
            asyncio.run_coroutine_threadsafe(hits(engine), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def test_use_after_close_is_an_error_and_closing_twice_is_none(make: Make) -> None:
    for opened in (True, False):
        engine = make()
        if opened:
            await hits(engine)
        await engine.close()
        await engine.close()
        acts: dict[str, Any] = {
            "search": [POINTS[0]],
            "search_batch": [[POINTS[0]]],
            "similar": [1],
            "search_groups": [POINTS[0], "g"],
            "explain": [POINTS[0]],
            "permitted": [[1]],
            "refresh": [],
            "__aenter__": [],
        }
        for name, arguments in acts.items():
            with pytest.raises(StoreError, match="closed"):
                await getattr(engine, name)(*arguments)


async def test_a_cancelled_opening_leaves_nothing_broken(make: Make) -> None:
    for delay in (0.0, 0.001, 0.01):
        engine = make()
        first = asyncio.create_task(engine.search(POINTS[0]))
        await asyncio.sleep(delay)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await hits(engine, 5) == [10] * 5
        await engine.close()


async def test_closing_while_it_is_opened_leaves_the_folder_free(tmp_path: Path) -> None:
    filled(location=tmp_path).close()
    engine = aconnect("c", model=None, location=tmp_path)
    opening = asyncio.create_task(engine.search(POINTS[0]))
    await asyncio.sleep(0)
    await engine.close()
    await asyncio.gather(opening, return_exceptions=True)
    with Index.open("c", location=tmp_path) as index:
        assert index.count() == 30


def test_an_opening_that_fails_is_tried_again(tmp_path: Path) -> None:
    engine = aconnect("c", model=None, location=tmp_path)
    for _ in range(2):
        with pytest.raises(HysacError, match="no collection"):
            asyncio.run(hits(engine))
    filled(location=tmp_path).close()
    assert asyncio.run(hits(engine)) == [10]
    asyncio.run(engine.close())


async def test_a_thread_that_cannot_start_is_an_error_and_the_next_call_tries_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, start = make(), threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "hysac-open":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(ResourceError, match="can't start new thread"):
            await hits(engine)
    assert await hits(engine) == [10]
    await engine.close()


async def test_a_first_call_of_many_opens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(location=tmp_path).close()
    opened: list[str] = []
    connect = connecting.connect
    monkeypatch.setattr(connecting, "connect", lambda *a, **k: (opened.append(a[0]), connect(*a, **k))[1])  # type: ignore[func-returns-value]
    async with aconnect("c", model=None, location=tmp_path) as engine:
        assert await hits(engine, 20) == [10] * 20
    assert opened == ["c"]


@pytest.mark.parametrize("store", ["edge", "memory", "server"])
def test_a_closed_engine_refuses_every_call(store: str, tmp_path: Path) -> None:
    with rest_server() as server:
        place: dict[str, Any] = {"edge": {"location": tmp_path}, "server": {"url": server.url}}.get(  # type: ignore[assignment]
            store, {"location": ":memory:"}
        )
        index = filled(**place)
        with SafeSearch(index, None) as engine:
            assert len(engine.search(POINTS[0])) == 10
        engine.close()
        index.close()
        acts: list[Callable[[], Any]] = [
            lambda: engine.search(POINTS[0]),
            lambda: engine.search_batch([POINTS[0]]),
            lambda: engine.similar(1),
            lambda: engine.search_groups(POINTS[0], "g"),
            lambda: engine.explain(POINTS[0]),
            lambda: engine.permitted([1]),
            lambda: engine.refresh(),
            lambda: engine.__enter__(),
            lambda: index.__enter__(),
            lambda: index.upsert([1], POINTS[:1], modality="image"),
            lambda: index.count(),
            lambda: index.query(POINTS[0]),
            lambda: index.points([1]),
            lambda: index.retrieve([1]),
            lambda: index.delete([1]),
            lambda: index.info(),
            lambda: index.optimize(),
            lambda: index.refresh(),
        ]
        for act in acts:
            with pytest.raises(StoreError, match="closed"):
                act()


def test_closing_an_engine_on_an_application_s_client_leaves_the_client_open() -> None:
    client = QdrantClient(":memory:")
    index = filled(client=client)
    index.close()
    with pytest.raises(StoreError, match="closed"):
        index.count()
    assert client.count("c").count == 30
    client.close()


def test_a_folder_that_is_removed_while_open_is_an_error_for_reads_and_writes(tmp_path: Path) -> None:
    import shutil

    index = filled(location=tmp_path)
    engine = SafeSearch(index, None)
    shutil.rmtree(tmp_path / "c")
    for act in (
        lambda: engine.search(POINTS[0]),
        lambda: index.upsert([99], POINTS[:1], modality="image"),
        lambda: index.count(),
        lambda: engine.refresh(),
    ):
        with pytest.raises(StoreError):
            act()
    engine.close()
    with filled(location=tmp_path) as again:
        assert again.count() == 30


def test_some_points_are_searched_in_the_event_loop_and_all_else_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    plain = asyncio.to_thread

    async def counted(act: Callable[..., Any], /, *arguments: Any) -> Any:
        threads.append(1)
        return await plain(act, *arguments)

    async def meet(engine: AsyncSafeSearch) -> list[bool]:
        counts = []
        searches: list[tuple[list[Any], dict[str, Any]]] = [
            ([POINTS[0]], {}),
            ([PointRef(3)], {"limit": 50}),
            ([*POINTS[:9]], {"limit": 5}),
            ([POINTS[0].tolist()], {}),
            ([*POINTS[:9]], {"limit": 50}),
            ([POINTS[0]], {"candidates": 500}),
        ]
        for queries, options in searches:
            threads.clear()
            assert len(await engine.search_batch(queries, **options)) == len(queries)
            counts.append(bool(threads))
        await engine.close()
        return counts

    with rest_server() as server:
        filled(url=server.url).close()
        engine = aconnect("c", model=None, url=server.url)

        async def all_of_it() -> list[bool]:
            await engine
            monkeypatch.setattr(asyncio, "to_thread", counted)
            return await meet(engine)

        assert asyncio.run(all_of_it()) == [False, False, False, True, True, True]
