"""Answers under attack: collections whose points say anything of themselves, asked through every door there is.

What may be answered is decided by what is stored, and never by what an answer says of itself.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from qdrant_client import QdrantClient

from hysac_retrieval import LabelRule, SafeQdrantClient, SafeSearch, SafetyPolicy, lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import HysacError
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.search.queries import Examples, PointRef
from hysac_retrieval.types import Thresholds
from support import fuzz_values as values
from support.fuzz_doors import PLUGINS, Words, installed
from support.hostile import allowed, counted
from support.spaces import CURVATURE, DIM, index_on, profile, random_points

Case = Callable[[int], int]
"""Runs one seed; returns the number of cases that it stood for."""

HOSTILE, WRITTEN = 30, 16
"""Points put there behind the back of the index, and points that it was given, whose views may be worse than they."""
COUNT = HOSTILE + WRITTEN

_SECONDS = 20
_BATCH, _SLOW_BATCH = 64, 4
_OF_A_WORLD = 5  # seeds in a row that ask one collection
_LIMITS = (Thresholds.both(0.5), Thresholds(text=0.25, image=0.6), Thresholds(text=0.7, image=0.3))


@contextmanager
def in_time() -> Iterator[None]:
    """Check that something does not hang."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < _SECONDS, "it took too long"


class World:
    """A collection of points that say anything of themselves, and what may be answered of it."""

    def __init__(self, random: Random, folder: Path, stack: ExitStack, store: str | None = None) -> None:
        self.store = store or random.choice(("edge", "edge", "memory"))
        self.thresholds = random.choice(_LIMITS)
        options: dict[str, Any] = {"safety": profile(self.thresholds)}
        options["lift"] = random.choice(("padded", "padded", "poincare"))
        if self.store == "edge":
            options["quantization"] = random.choice((None, None, "int8", "binary", "turbo4"))
        self.client: QdrantClient | None = None
        if self.store == "memory":
            self.client = QdrantClient(":memory:")
            stack.callback(self.client.close)
            made = Index.create("points", client=self.client, dim=DIM, curvature=CURVATURE, **options)
            self.index = stack.enter_context(made)
        else:
            self.index = stack.enter_context(index_on("edge", folder, **options))
        self.own = self.index.metadata.fingerprint
        self.encoder = Words(self.own, self.index.metadata.safety)
        self._fill(random)
        self.payloads = {int(one.id): dict(one.payload) for one in self.index.store.scroll("points", limit=COUNT)[0]}
        self.counted = sum(counted(payload, self.thresholds, self.own) for payload in self.payloads.values())
        self.safe = {one for one in self.payloads if self.allowed(one, self.thresholds)}

    def _fill(self, random: Random) -> None:
        points = random_points(COUNT, random.randrange(2**32))
        hostile = [values.record(random, self.own) for _ in range(HOSTILE)]
        lift = self.index.collection.lift
        for payload, extra in zip(hostile, lift.extras(points[:HOSTILE]), strict=True):
            if isinstance(payload.get("hysac"), dict):
                payload["hysac"].update(extra)
        self.index.store.upsert("points", list(range(HOSTILE)), lift.lift(points[:HOSTILE]), hostile)
        self.worse: dict[int, tuple[str, float]] = {}
        for modality, some in (("text", range(HOSTILE, COUNT, 2)), ("image", range(HOSTILE + 1, COUNT, 2))):
            radii = [random.uniform(0.5, 4.0) if random.random() < 0.7 else 0.0 for _ in some]
            self.index.upsert(
                some,
                points[some],
                modality=modality,
                payloads=[{"k": one % 4} for one in some],
                judged=[Judged(random.randrange(1, 9), "tile", radius) if radius else None for radius in radii],
            )
            own = lorentz.dist0(points[some], CURVATURE)
            self.worse |= {one: (modality, max(pair)) for one, *pair in zip(some, own, radii, strict=True)}

    def allowed(self, one: int, thresholds: Thresholds) -> bool:
        """Whether a point may be in a safe answer: by its payload, and by the worst that was judged of it."""
        if one in self.worse:
            modality, radius = self.worse[one]
            if self.index.metadata.safety.score(radius, modality) > thresholds.of(modality) + 1e-9:
                return False
        return allowed(self.payloads[one], thresholds, self.own)

    def check(self, ids: Iterable[Any], threshold: Any = None, denied: int | None = None) -> None:
        """Hold an answer to the invariant, and to the threshold and the rule that it was asked with."""
        for text in ids:
            one = int(text)
            assert one in self.safe, f"point {one}: {self.payloads[one]}"
            assert threshold is None or self.allowed(one, _stricter(self.thresholds, threshold)), (one, threshold)
            assert denied is None or self.payloads[one]["k"] != denied, (one, denied)


def _stricter(ceiling: Thresholds, named: float | Mapping[str, float]) -> Thresholds:
    each = named if isinstance(named, Mapping) else {"text": named, "image": named}
    return Thresholds(**{kind: min(ceiling.of(kind), each.get(kind, 1.0)) for kind in ("text", "image")})


def _threshold(random: Random) -> Any:
    number = partial(random.uniform, 0, 0.3)
    named = {"text": number(), "image": number()}
    return random.choice((number(), named, {"text": named["text"]}, {"image": named["image"]}))


def ask(random: Random, world: World) -> int:
    """Ask an engine under some policy, in one of its ways; returns the number of queries."""
    denied = values.some(random, random.randrange(4), 0.2)
    policy = SafetyPolicy(
        traversal=random.choice(("geodesic", "geodesic", "adaptive", "none")),
        steps=3,
        top=2,
        rules=() if denied is None else (LabelRule("k", deny=(denied,)),),
    )
    engine = SafeSearch(world.index, world.encoder, policy=policy)
    threshold = values.some(random, _threshold(random), 0.3)
    options: dict[str, Any] = {
        "filter": values.some(random, values.user_filter(random), 0.8),
        "threshold": threshold,
        "modality": random.choice((None, "image", "text")),
        "max_distance": values.some(random, random.random() * 5, 0.1),
        "penalty": random.choice((0, 0, 0, 0, 0, 0.7)),
        "rerank": values.some(random, "exact", 0.2),
    }
    # A formula for each query takes its time, and so does everything in the local client.
    quick = world.client is None and world.index.collection.lift.ranks and not options["penalty"]
    count, way = _BATCH if quick else _SLOW_BATCH, random.randrange(12)
    points: list[Any] = list(random_points(count, random.randrange(2**32), low=random.choice((0.1, 1.5, 3.0))))
    check = partial(world.check, threshold=threshold, denied=denied)
    if way == 0:
        check(h.id for g in engine.search_groups(points[0], "k", **options) for h in g)
        return 1
    if way == 1:
        options.pop("modality")
        steps = engine.explain(points[0], steps=3, **options).steps
        check(h.id for s in steps for h in (*s.entailing, *s.nearest))
        return 1
    page = {"limit": random.choice((1, 3, 10, 60)), "offset": random.choice((0, 0, 5))}
    if way == 2:
        some = PointRef(random.randrange(COUNT))
        query = random.choice((some, Examples([points[0]], [some]), values.words(random)))
        check(hit.id for hit in engine.search(query, **options, **page))
        return 1
    check(hit.id for result in engine.search_batch(points, **options, **page) for hit in result)
    return count


def ask_guard(random: Random, world: World) -> int:
    """Ask a guarded client of the application, in one of its ways."""
    assert world.client is not None
    guarded = SafeQdrantClient(world.client)
    given = values.some(random, values.user_filter(random), 0.8)
    vector = [random.uniform(-2, 2) for _ in range(world.index.collection.lift.size)]
    plain = {
        "with_payload": random.choice((True, False, ["k"], ["hysac"])),
        "with_vectors": random.choice((True, False)),
    }
    limit = random.randrange(1, 70)
    match random.randrange(5):
        case 0:
            found = guarded.query_points(
                "points", query=vector, using="hysac", query_filter=given, limit=limit, **plain
            )
            world.check(point.id for point in found.points)
        case 1:
            records, _ = guarded.scroll("points", scroll_filter=given, limit=limit, **plain)
            world.check(record.id for record in records)
        case 2:
            some = random.sample(range(COUNT), 20)
            world.check(record.id for record in guarded.retrieve("points", some, **plain))
        case 3:
            assert guarded.count("points", count_filter=given).count <= world.counted
        case 4:
            groups = guarded.query_points_groups(
                "points", "k", query=vector, using="hysac", query_filter=given, limit=limit, group_size=5, **plain
            )
            world.check(hit.id for group in groups.groups for hit in group.hits)
    return 1


class Answers:
    """Asks a collection through one door after another, and counts the cases of each.

    Args:
        folder: For collections.
        opened: Closes them.
    """

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self._folder, self._opened = folder, opened
        self._runner = opened.enter_context(asyncio.Runner())
        self._plugins, self._left_out = installed()
        self._of = opened.enter_context(ExitStack())
        self._doors: dict[str, Callable[[Random], int]] = {}
        self._number: int | None = None
        self._cases = Counter[str]()

    def __call__(self, seed: int) -> int:
        before, random = self._cases.total(), Random(seed)
        self._choose(seed // _OF_A_WORLD)
        doors = ["engine"] * 6 + ["guard"] * (6 if self._world.client else 0) + self._plugins
        for _ in range(4 if self._world.client else 12):
            door = random.choice(doors)
            with in_time(), suppress(HysacError):
                self._cases[door] += self._doors[door](random)
        return self._cases.total() - before

    def _choose(self, number: int) -> None:
        """Make the collection of a seed, unless it is the one that is open."""
        if number == self._number:
            return
        self._of.close()
        random, folder = Random(number), self._folder / f"w{number}"
        self._of.callback(shutil.rmtree, folder, ignore_errors=True)
        self._world = world = World(random, folder, self._of, "edge" if random.randrange(8) else "memory")
        self._doors = {
            "engine": partial(ask, world=world),
            "guard": partial(ask_guard, world=world),
            **{name: PLUGINS[name](world, self._runner).ask for name in self._plugins},
        }
        self._number = number

    def __str__(self) -> str:
        counted = ", ".join(f"{name} {count:,}" for name, count in self._cases.most_common())
        return counted + "".join(f"; left out, as it is not installed: {name}" for name in self._left_out)


@contextmanager
def answers(folder: Path) -> Iterator[Case]:
    """Store, lift, thresholds, policy, door, filter, query, records: no answer holds an unsafe point."""
    with ExitStack() as opened:
        yield Answers(folder, opened)
