"""What was opened before a fork: a typed error at once in the child, and no harm to the parent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.forking import run_forking
from support.rest_server import rest_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")]


def test_an_embedded_index_refuses_every_operation_in_a_fork_and_the_parent_goes_on(tmp_path: Path) -> None:
    lines = run_forking(
        """
        made = index({"location": sys.argv[1]})
        engine, x = SafeSearch(made, None), random_points(3, seed=9)
        acts = {
            "search": lambda: engine.search(x[0]),
            "similar": lambda: engine.similar(1),
            "explain": lambda: engine.explain(x[0]),
            "query": lambda: made.query(x[0]),
            "upsert": lambda: made.upsert([900], x[:1], modality="image"),
            "delete": lambda: made.delete([1]),
            "count": lambda: made.count(),
            "optimize": lambda: made.optimize(),
            "names": lambda: made.store.names(),
            "drop": lambda: made.store.drop("c"),
            "refresh": lambda: made.refresh(),
            "close": lambda: (made.close(), engine.close()),
        }
        for name, act in acts.items():
            print(name, child(act))
        made.upsert([61], x[:1], modality="image")
        print(made.count(), len(engine.search(x[0], safe=False)))
        """,
        tmp_path,
    )
    *acts, closed, last = lines
    assert len(acts) == 11
    for line in acts:
        assert line.split()[1] == "ForkedError", line
        assert "connect" in line
        assert "url=" in line
    assert closed.startswith("close done")
    assert last == "61 10"


@pytest.mark.parametrize("ends", ["sys.exit(0)", "os._exit(0)", "made.close() or sys.exit(0)", "globals().clear()"])
def test_a_child_that_ends_leaves_the_lock_and_the_acknowledged_points(tmp_path: Path, ends: str) -> None:
    lines = run_forking(
        f"""
        made = index({{"location": sys.argv[1]}})
        if (pid := os.fork()) == 0:
            {ends}
            os._exit(0)
        for start in range(100, 200, 10):
            made.upsert(range(start, start + 10), random_points(10, seed=start), modality="image")
        os.waitpid(pid, 0)

        def locked():
            return Index.open("c", location=sys.argv[1]).count()

        print(child(locked))  # by a store of its own, made after the fork
        made.close()
        again = Index.open("c", location=sys.argv[1])
        print(again.count())
        """,
        tmp_path,
    )
    assert lines[0].startswith("StorageLockedError")
    assert lines[1] == "160"


def test_a_folder_is_free_as_soon_as_the_parent_has_closed_it_whatever_its_children_do(tmp_path: Path) -> None:
    lines = run_forking(
        """
        made = index({"location": sys.argv[1]})
        if (pid := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        made.close()
        print(Index.open("c", location=sys.argv[1]).count())
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        """,
        tmp_path,
    )
    assert lines == ["60"]


def test_a_child_opens_what_the_parent_has_closed(tmp_path: Path) -> None:
    lines = run_forking(
        """
        made = index({"location": sys.argv[1]})
        down, up = os.pipe()
        if (pid := os.fork()) == 0:
            os.read(down, 1)
            mine = Index.open("c", location=sys.argv[1])
            mine.upsert([900], random_points(1), modality="image")
            print(mine.count(), flush=True)
            mine.close()
            os._exit(0)
        made.close()
        os.write(up, b"x")
        os.waitpid(pid, 0)
        print(Index.open("c", location=sys.argv[1]).count())
        """,
        tmp_path,
    )
    assert lines == ["61", "61"]


def test_a_fork_while_another_thread_writes_does_not_wait_for_its_lock(tmp_path: Path) -> None:
    lines = run_forking(
        """
        import threading
        made = index({"location": sys.argv[1]})
        held, go = threading.Event(), threading.Event()

        def hold():
            with made.store._shards.lock:
                held.set()
                go.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        print(child(made.count))
        print(child(made.close))
        go.set()
        thread.join()
        """,
        tmp_path,
    )
    assert lines[0].startswith("ForkedError")
    assert lines[1] == "done None"


def test_pools_and_processes_of_multiprocessing_get_the_error_through_their_pipes(tmp_path: Path) -> None:
    lines = run_forking(
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        made = index({"location": sys.argv[1]})
        x = random_points(1)[0]

        def work(_):
            return len(made.query(x))

        fork = multiprocessing.get_context("fork")
        with fork.Pool(2) as pool:
            try:
                print(pool.map_async(work, [1, 2]).get(20))
            except ForkedError as error:
                print(type(error).__name__, bool(error.hint))
        with ProcessPoolExecutor(1, mp_context=fork) as executor:
            print(type(executor.submit(work, 1).exception(20)).__name__)
        print(len(made.query(x)))
        """,
        tmp_path,
    )
    assert lines == ["ForkedError True", "ForkedError", "10"]


def test_memory_and_a_server_s_connection_are_the_parent_s(tmp_path: Path) -> None:
    with rest_server() as server:
        lines = run_forking(
            """
            for place in ({"location": ":memory:"}, {"path": sys.argv[2]}, {"url": sys.argv[1]}):
                made = index(place, n=20)
                print(child(lambda: made.query(random_points(1)[0])), flush=True)
                print(child(lambda: made.upsert([1], random_points(1), modality="text"), lambda: sys.exit(0)))
                print(child(made.close, lambda: sys.exit(0)))
                print(made.count())
                made.close()
            """,
            server.url,
            tmp_path / "local",
        )
    assert len(lines) == 12
    for query, upsert, close, count in zip(*[iter(lines)] * 4, strict=True):
        assert query.startswith("ForkedError")
        assert upsert.startswith("ForkedError")
        assert close == "done None"
        assert count == "20"
