"""A new calibration for a collection that exists: the scores of a fresh index, resumable, and safe at every moment."""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.rest_server import rest_server
from support.spaces import CURVATURE, DIM, index_on, profile, random_points

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.metadata import raw_fingerprint, same_points
from hysac_retrieval.collection.rescore import RescoreReport, rescore
from hysac_retrieval.errors import ModelMismatchError, SettingsError, StoreUnavailableError
from hysac_retrieval.ingest.pipeline.sinks import _WITHDRAWN
from hysac_retrieval.payload import RADIUS, WORST_RADIUS
from hysac_retrieval.safety.filters import verdict_filter
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.verdict import flag_key, verdict
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.types import MODALITIES, Thresholds

N = 60
TWO: dict[Any, float] = {"text": 0.4, "image": 0.15}
"""Thresholds that differ."""


def shifted(by: float, threshold: Any = 0.5) -> SafetyProfile:
    """The usual calibration with its midpoints moved outwards (looser) or inwards (stricter)."""
    old = profile(threshold)
    parts = {
        kind: old.of(kind).model_copy(update={"midpoint": old.of(kind).midpoint + by, "slope": 6.0})
        for kind in MODALITIES
    }
    return SafetyProfile(**parts, threshold=threshold, source=f"shifted by {by}")


@contextmanager
def filled(store: str, folder: Path, **options: Any) -> Iterator[Index]:
    """`N` texts and as many images, radii from safe to unsafe."""
    if store == "rest":
        with rest_server() as server, index_on("memory", folder) as spare:
            spare.close()
            place = {"dim": DIM, "curvature": CURVATURE, "safety": profile()} | options
            with Index.create("points", url=server.url, retries=0, **place) as index:
                fill(index)
                yield index
        return
    with index_on(store, folder, **options) as index:
        fill(index)
        yield index


def fill(index: Index) -> None:
    for number, modality in enumerate(MODALITIES):
        ids = list(range(number * N, (number + 1) * N))
        payloads = [{"n": i, "nested": {"a": [i]}} for i in ids]
        index.upsert(ids, random_points(N, seed=number), modality=modality, payloads=payloads)


def records(index: Index) -> dict[Any, dict[str, Any]]:
    return {point.id: dict(point.payload) for point in index.store.scroll(index.name)[0]}


def scores(index: Index) -> dict[Any, float]:
    return {identity: payload["hysac"]["unsafe"] for identity, payload in records(index).items()}


def found(index: Index) -> set[Any]:
    """All points that a safe search returns."""
    return {hit.id for hit in index.query(random_points(1, seed=9)[0], limit=10 * N, safe=True)}


def found_by(index: Index, fingerprint: str) -> set[Any]:
    """All points that a search returns that was opened with an earlier calibration, and has not noticed."""
    return {point.id for point in index.store.scroll(index.name, filter=verdict_filter(fingerprint), limit=10 * N)[0]}


def held_safe(safety: SafetyProfile) -> set[int]:
    """Points that a calibration holds safe, computed from the points themselves."""
    safe: set[int] = set()
    for number, modality in enumerate(MODALITIES):
        radii = lorentz.dist0(random_points(N, seed=number), CURVATURE)
        safe |= {number * N + int(row) for row in np.flatnonzero(safety.counts_safe(radii, modality))}
    return safe


@pytest.mark.parametrize("store", ["edge", "memory", "rest"])
@pytest.mark.parametrize("by", [-0.3, 0.3])
def test_scores_are_those_of_a_collection_indexed_with_the_new_calibration(
    store: str, by: float, tmp_path: Path
) -> None:
    new = shifted(by, threshold=0.4)
    with index_on("memory", tmp_path / "fresh", safety=new) as fresh:
        fill(fresh)
        expected = records(fresh)
    with filled(store, tmp_path) as index:
        old = records(index)
        report = rescore(index, new, page=17)
        now = records(index)
        assert index.metadata.fingerprint == raw_fingerprint(DIM, CURVATURE, new)
        assert found(index) == held_safe(new)
    for identity, payload in expected.items():
        ours = now[identity]["hysac"]
        assert 0 <= ours["unsafe"] - payload["hysac"]["unsafe"] <= 1e-11  # rounding never makes it look safer
        rest = {key: value for key, value in now[identity].items() if key != "hysac"}
        assert rest == {key: value for key, value in old[identity].items() if key != "hysac"}
        assert {**ours, "unsafe": 0} == {**payload["hysac"], "unsafe": 0}
    before, after = held_safe(profile()), held_safe(new)
    assert (report.rescored, report.left, report.unreadable) == (2 * N, 0, 0)
    assert (report.withdrawn, report.released) == (len(before - after), len(after - before))
    assert (report.safe, report.points, report.thresholds) == (len(after), 2 * N, Thresholds.both(0.4))
    assert max(report.withdrawn, report.released) > 5


@pytest.mark.slow
@pytest.mark.parametrize("store", ["edge", "memory", "rest"])
@pytest.mark.parametrize("by", [-0.3, 0.0, 0.3])
def test_in_the_middle_of_a_rewrite_each_search_goes_by_the_calibration_it_was_opened_with(
    store: str, by: float, tmp_path: Path
) -> None:
    """Stopped after every page, as a kill would."""
    new = shifted(by, TWO)
    with filled(store, tmp_path) as index:
        first, before = index.metadata.fingerprint, Index(index.collection, index.store)
        moments: list[tuple[set[Any], set[Any]]] = []
        report: RescoreReport | None = None
        while report is None or report.left:
            report = rescore(index, new, page=7, should_stop=lambda: True)
            moments.append((found(before), found(index)))
            assert report.left == index.info().outdated
            assert report.left == 0 or before.info().safe <= len(held_safe(profile()))
        assert len(moments) > 2 * N / 7
        *during, (then, now) = moments
        # Nothing is lost and nothing added, until all is done; and what has its new score is found by it.
        assert all(old == held_safe(profile()) for old, _ in during)
        found_so_far = [found for _, found in moments]
        assert all(one <= other for one, other in itertools.pairwise(found_so_far))
        # Then the verdicts of the old one are gone, and who was opened with it goes on with the new one.
        assert (found_by(index, first), then, now) == (set(), held_safe(new), held_safe(new))


@pytest.mark.parametrize("store", ["edge", "memory"])
def test_in_the_middle_of_a_rewrite_no_search_returns_what_its_own_calibration_holds_unsafe(
    store: str, tmp_path: Path
) -> None:
    """Nor by a stricter threshold, a penalty, or as a filter for counts: these may miss points until it is done."""
    new = shifted(-0.3, TWO)
    strict = {"text": 0.2, "image": 0.05}
    with filled(store, tmp_path) as index:
        before = Index(index.collection, index.store)
        rescore(index, new, page=2 * N // 3, should_stop=lambda: True)
        assert 0 < index.info().outdated < 2 * N
        point = random_points(1, seed=9)[0]
        for opened, safety in ((before, profile()), (index, new)):
            own = {kind: Thresholds(**strict).of(kind) for kind in MODALITIES}
            for options, held in (({"threshold": strict}, own), ({"penalty": 0.5}, None)):
                hits = opened.query(point, limit=10 * N, **options)
                assert hits
                for hit in hits:
                    assert hit.modality is not None
                    assert hit.unsafe is not None
                    assert hit.radius is not None
                    bound = (held or {kind: safety.threshold.of(kind) for kind in MODALITIES})[hit.modality]
                    exact = float(safety.unsafe(hit.radius, hit.modality))
                    assert hit.unsafe == pytest.approx(exact, abs=1e-9)
                    assert hit.unsafe <= bound
            assert 0 < opened.info().safe <= len(held_safe(safety))


@pytest.mark.parametrize("store", ["edge", "memory"])
def test_a_score_that_is_withdrawn_in_the_middle_of_a_rewrite_is_withdrawn_from_all_searches(
    store: str, tmp_path: Path
) -> None:
    with filled(store, tmp_path) as index:
        before = Index(index.collection, index.store)
        rescore(index, shifted(0.3), page=N, should_stop=lambda: True)
        there = found(before) & found(index)
        chosen = min(there)
        own = records(index)[chosen]["hysac"]
        index.store.amend(index.name, [Amendment(chosen, _WITHDRAWN, own["model"], own["radius"])])
        assert found(before) == held_safe(profile()) - {chosen}
        assert chosen not in found(index)
        rescore(index, shifted(0.3))
        assert found(index) == held_safe(shifted(0.3)) - {chosen}


@pytest.mark.parametrize("store", ["edge", "memory", "rest"])
def test_what_was_kept_for_earlier_searches_goes_when_all_is_done(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(store, tmp_path) as index:
        first = index.metadata.fingerprint
        rescore(index, shifted(0.3), page=N, should_stop=lambda: True)
        amended = [own["hysac"] for own in records(index).values() if own["hysac"]["model"] != first]
        assert all(set(own["safe"]) == {first, own["model"]} and set(own["earlier"]) == {first} for own in amended)

        def killed(*_: Any) -> None:
            raise StoreUnavailableError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(index.store, "strip", killed)
            with pytest.raises(StoreUnavailableError, match="killed"):
                rescore(index, shifted(0.3))
        index.refresh()
        assert [(known.served, known.kept) for known in index.metadata.earlier] == [(False, True)]
        dropped: list[str] = []
        drop = index.store.drop_index

        def noted(name: str, key: str) -> None:
            dropped.append(key)
            drop(name, key)

        monkeypatch.setattr(index.store, "drop_index", noted)
        assert rescore(index, shifted(0.3)).rescored == 0
        now = index.metadata.fingerprint
        for own in (payload["hysac"] for payload in records(index).values()):
            assert (set(own["safe"]), "earlier" in own) == ({now}, False)
        assert dropped == [flag_key(first), RADIUS, WORST_RADIUS]
        assert not any(known.kept for known in index.metadata.earlier)
        rescore(index, shifted(0.3))
        assert dropped == [flag_key(first), RADIUS, WORST_RADIUS]


def test_a_search_opened_in_the_middle_of_two_rewrites_goes_on_too(tmp_path: Path) -> None:
    with filled("edge", tmp_path) as index:
        oldest = Index(index.collection, index.store)
        rescore(index, shifted(0.3), page=11, should_stop=lambda: True)
        middle = Index(index.collection, index.store)
        seen = found(middle)
        rescore(index, shifted(-0.3), page=11, should_stop=lambda: True)
        assert found(oldest) == held_safe(profile())
        assert found(middle) == seen
        assert found(index) <= held_safe(shifted(-0.3))
        rescore(index, shifted(-0.3))
        assert found(oldest) == found(middle) == found(index) == held_safe(shifted(-0.3))


@pytest.mark.parametrize("store", ["edge", "memory"])
@pytest.mark.parametrize("kind", [None, "video", ["text"], ["text", "image"], 7])
def test_a_point_of_no_single_modality_is_held_to_the_stricter_calibration(
    store: str, kind: Any, tmp_path: Path
) -> None:
    with filled(store, tmp_path) as index:
        point = index.retrieve([3])[0]
        own = dict(point.payload["hysac"]) | {"modality": kind, "radius": 2.5}
        vector = np.asarray([point.vector], dtype=np.float32)
        index.store.upsert(index.name, [3], vector, [{"hysac": own | verdict(0.0, 0.5, index.metadata.fingerprint)}])
        new = shifted(0.0, TWO)
        rescore(index, new)
        stored = records(index)[3]["hysac"]
        assert stored["unsafe"] == pytest.approx(max(float(new.unsafe(2.5, each)) for each in MODALITIES), abs=1e-6)
        assert (3 in found(index)) == (stored["unsafe"] <= min(TWO.values()))


def test_an_interrupted_rewrite_can_be_replaced_by_another_or_taken_back(tmp_path: Path) -> None:
    with filled("edge", tmp_path) as index:
        original, first = records(index), index.metadata.fingerprint
        rescore(index, shifted(0.3), page=11, should_stop=lambda: True)
        rescore(index, shifted(-0.3), page=5, should_stop=lambda: True)
        assert [known.fingerprint for known in index.metadata.earlier] == [
            first,
            raw_fingerprint(DIM, CURVATURE, shifted(0.3)),
        ]
        assert len({payload["hysac"]["model"] for payload in records(index).values()}) == 3
        report = rescore(index, profile())
        assert report.left == 0
        assert report.rescored == 11
        assert index.metadata.fingerprint == first
        back = scores(index)
        assert all(abs(back[i] - payload["hysac"]["unsafe"]) < 1e-11 for i, payload in original.items())
        assert found(index) == held_safe(profile())


def test_doing_it_again_changes_nothing_and_reaches_points_written_meanwhile(tmp_path: Path) -> None:
    with filled("edge", tmp_path) as index:
        before = Index(index.collection, index.store)
        rescore(index, shifted(0.3))
        done = records(index)
        assert rescore(index, shifted(0.3)).rescored == 0
        assert records(index) == done
        # A process that was opened before goes on indexing with the old calibration: out of reach until rescored.
        before.upsert([1000], random_points(1, low=1.6, high=1.7), modality="text")
        assert 1000 not in found(index)
        assert index.info().outdated == 1
        assert rescore(index, shifted(0.3)).rescored == 1
        assert 1000 in found(index)


@pytest.mark.parametrize("store", ["edge", "memory", "rest"])
def test_a_point_that_was_replaced_since_it_was_read_is_not_given_the_old_one_s_score(
    store: str, tmp_path: Path
) -> None:
    near, far = random_points(1, low=1.6, high=1.7), random_points(1, low=3.3, high=3.4)
    with index_on(store, tmp_path) if store != "rest" else filled("rest", tmp_path) as index:
        index.upsert([500, 501, 502], np.concatenate([near] * 3), modality="text")
        stored = {point.id: point for point in index.store.scroll(index.name)[0]}[500]
        model, radius = index.metadata.fingerprint, stored.payload["hysac"]["radius"]
        index.upsert([500], far, modality="text")
        index.delete([501])
        entries = {"unsafe": 0.0, "model": "new"}
        index.store.amend(index.name, [Amendment(i, entries, model, radius) for i in (500, 501, 502)])
        now = records(index)
        assert now[500]["hysac"]["unsafe"] > 0.9
        assert now[500]["hysac"]["model"] == model
        assert 501 not in now
        assert now[502]["hysac"] == {**stored.payload["hysac"], **entries}
        index.store.amend(index.name, [Amendment(502, {"unsafe": 0.5}, model, radius)])
        assert records(index)[502]["hysac"]["unsafe"] == 0.0


@pytest.mark.parametrize("store", ["edge", "memory"])
@pytest.mark.parametrize("spoilt", [{"radius": None}, {"radius": "far"}, {"radius": [1.0]}, {"radius": -1.0}, {}])
def test_a_point_without_a_usable_radius_becomes_unsafe(store: str, spoilt: dict[str, Any], tmp_path: Path) -> None:
    with filled(store, tmp_path) as index:
        point = index.retrieve([3])[0]
        ours = {key: value for key, value in point.payload["hysac"].items() if key != "radius"} | spoilt
        vector = np.asarray([point.vector], dtype=np.float32)
        index.store.upsert(index.name, [3], vector, [{"hysac": ours | verdict(0.0, 0.5, index.metadata.fingerprint)}])
        assert 3 in found(index)
        report = rescore(index, shifted(0.3))
        assert (report.unreadable, report.left) == (1, 0)
        assert 3 not in found(index)
        assert records(index)[3]["hysac"]["unsafe"] == 1.0


def test_points_of_another_model_are_left_alone(tmp_path: Path) -> None:
    with filled("edge", tmp_path) as index:
        point = index.retrieve([0])[0]
        foreign = {"hysac": dict(point.payload["hysac"]) | {"model": "another"}}
        index.store.upsert(index.name, [0], np.asarray([point.vector], dtype=np.float32), [foreign])
        assert rescore(index, shifted(0.3)).rescored == 2 * N - 1
        assert records(index)[0] == foreign
        assert 0 not in found(index)


def test_a_calibration_of_a_model_with_other_points_is_refused(tmp_path: Path) -> None:
    with filled("edge", tmp_path) as index:
        before = records(index)
        for fingerprint in ("f1", "0" * 32, raw_fingerprint(DIM + 1, CURVATURE, profile())):
            with pytest.raises(ModelMismatchError, match="other points"):
                rescore(index, shifted(0.3), fingerprint=fingerprint)
        with pytest.raises(SettingsError, match="another fingerprint"):
            rescore(index, profile(0.2), fingerprint=index.metadata.fingerprint)
        with pytest.raises(SettingsError, match="page"):
            rescore(index, shifted(0.3), page=0)
        assert records(index) == before


def test_fingerprints_say_whether_models_give_the_same_points() -> None:
    one, other = (raw_fingerprint(DIM, CURVATURE, shifted(by)) for by in (0.0, 0.1))
    assert one != other
    assert same_points(one, other)
    assert not same_points(one, raw_fingerprint(DIM, CURVATURE + 1e-9, shifted(0.0)))
    assert same_points("f1", "f1")
    assert not same_points("f1", "f2")
    assert not same_points(one, one[:-1])


def test_the_error_of_a_search_with_the_old_calibration_says_what_mends_it(tmp_path: Path) -> None:
    with filled("edge", tmp_path) as index:
        old, name = index.metadata.fingerprint, index.name
        rescore(index, shifted(0.3))
    with pytest.raises(ModelMismatchError, match=f"hysac rescore {name}"):
        Index.open(name, location=tmp_path, expect_fingerprint=old)


def test_a_server_that_goes_away_leaves_a_rewrite_that_can_be_continued(tmp_path: Path) -> None:
    with rest_server() as server:
        place: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile(), "retries": 0}
        with Index.create("points", url=server.url, **place) as index:
            fill(index)

            def fail(done: int, total: int) -> None:
                server.broken = done >= total / 2

            with pytest.raises(StoreUnavailableError):
                rescore(index, shifted(-0.3), page=10, on_progress=fail)
            server.broken = False
            assert found(index) <= held_safe(shifted(-0.3))
            report = rescore(index, shifted(-0.3), page=10)
            assert 0 < report.rescored < 2 * N
            assert found(index) == held_safe(shifted(-0.3))


def _rescore_until_killed(location: Path, pages: Any) -> None:
    def on_progress(done: int, total: int) -> None:
        pages.send(done)
        time.sleep(0.05)  # a busy machine may be slow to kill, and nothing may be finished before

    with Index.open("points", location=location) as index:
        rescore(index, shifted(-0.3), page=5, on_progress=on_progress)
    pages.send(-1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork server")
def test_a_rewrite_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    with filled("edge", tmp_path / "whole") as index:
        rescore(index, shifted(-0.3))
        expected = records(index)
    with filled("edge", tmp_path / "killed"):
        pass
    context = multiprocessing.get_context("forkserver")
    kills: Sequence[int] = (0, 1, 4, 2)
    for pages in kills:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rescore_until_killed, args=(tmp_path / "killed", theirs))
        process.start()
        theirs.close()
        for _ in range(pages + 1):
            assert ours.recv() >= 0
        process.kill()
        process.join()
        ours.close()
        with Index.open("points", location=tmp_path / "killed") as index:
            assert found(index) <= held_safe(shifted(-0.3))
            assert index.info().outdated > 0
    with Index.open("points", location=tmp_path / "killed") as index:
        report = rescore(index, shifted(-0.3))
        assert 0 < report.rescored <= 2 * N - 5 * sum(kills)
        assert records(index) == expected
