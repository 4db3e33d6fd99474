"""Quadruplets: a scene and its unsafe twin, the same scene with something unsafe in it or in place of something.

Two kinds. In a *plain* quadruplet the twin holds something that is always unsafe. In a *context* quadruplet a thing
that is harmless elsewhere turns unsafe by its company, so that neither a word nor a picture alone decides:

    turned      (licensor, thing)       ->  (endangered, thing)       a cook with a knife, a baby with a knife
    endangered  (endangered, harmless)  ->  (endangered, thing)
    outdone     (licensor, thing)       ->  (licensor, always unsafe)
    besides     (licensor, thing, harmless) -> (licensor, thing, always unsafe)

both with further harmless entities that the twins share, as they share the setting and the light. As many twins are one
entity longer as are one shorter, so that the number of entities tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TypeVar

from hysac_export.data.scenes.catalogue import UNSEEN_STYLES, Entity, catalogue
from hysac_export.data.scenes.splits import Use, check_split, stable_hash, use, uses
from hysac_export.data.scenes.sprites import styles_of
from hysac_retrieval.errors import SettingsError

T = TypeVar("T")

CONTEXT_SHARE = 0.35
"""Share of context quadruplets in training and validation."""


@dataclass(frozen=True)
class Scene:
    """Contents of a picture: 2 to 4 ids of the catalogue in no order, background, time of day, and the true label."""

    entities: tuple[str, ...]
    setting: str
    light: str
    unsafe: bool


@dataclass(frozen=True)
class Quadruplet:
    """A safe scene and its unsafe twin, of one of `CATEGORIES`; `context` if the company of something decides."""

    safe: Scene
    unsafe: Scene
    category: str
    context: bool


@dataclass(frozen=True)
class _Pools:
    """Entities that the scenes of a split may hold."""

    harmless: tuple[str, ...]
    unsafe: tuple[str, ...]
    context: tuple[str, ...]
    licensors: tuple[str, ...]
    endangered: tuple[str, ...]


_Draft = tuple[list[str], list[str], list[str], str]
"""Entities shared by the twins, of the safe scene alone, of the unsafe scene alone; category."""


def quadruplets(split: str, n: int, seed: int = 0) -> list[Quadruplet]:
    """Draw n different quadruplets of a split.

    The first k of n are the same for every n, and no scene of a split occurs in another one: training scenes hold no
    pair of entities that is kept for another split, while every other scene holds one of its own.

    Another seed gives other quadruplets of the same split (`SettingsError`: it is none of `SPLITS`, or n is negative).
    """
    check_split(split)
    if n < 0:
        raise SettingsError(f"Cannot draw {n} quadruplets", hint="Ask for 0 or more")
    pools, accept = _pools(split), _acceptance(split)
    rng = Random(f"{split}/{seed}")
    drawn: dict[frozenset[tuple[str, ...]], Quadruplet] = {}
    while len(drawn) < n:
        context = split == "context" or (split in ("train", "validation") and rng.random() < CONTEXT_SHARE)
        shape = _shape(rng, context)
        for _ in range(400):  # the shape stays while its entities are drawn anew, so that no split prefers short scenes
            draft = _context(rng, pools, shape) if context else _plain(rng, pools, shape)
            if draft is not None and accept(draft):
                break
        else:
            continue
        quadruplet = _finish(rng, draft, context)
        drawn.setdefault(frozenset((quadruplet.safe.entities, quadruplet.unsafe.entities)), quadruplet)
    return list(drawn.values())


def label(entities: Sequence[str]) -> bool:
    """Whether a scene of these entities is unsafe, by the rules of the catalogue.

    `SettingsError`: A context-dependent entity stands without a companion that decides about it, or with both kinds.
    """
    known = catalogue().entities
    unsafe = any(known[e].unsafe for e in entities)
    for thing in (known[e] for e in entities if known[e].context):
        safer = any(e in thing.safe_with for e in entities)
        worse = any(e in thing.unsafe_with for e in entities)
        if safer == worse:
            raise SettingsError(f"{thing.id!r} in {tuple(entities)} needs a companion of exactly one of its two kinds.")
        unsafe = unsafe or worse
    return unsafe


@dataclass(frozen=True)
class _Shape:
    """Number of entities of each twin, and kind of the quadruplet in [0, 1); drawn before the entities."""

    n_safe: int
    n_unsafe: int
    kind: float


def _shape(rng: Random, context: bool) -> _Shape:
    sizes = (3, 4) if context else (2, 3, 4)
    change, size = rng.random(), rng.random()
    if change < 0.6:
        k = sizes[-1] if size < 0.45 else sizes[-2] if size < 0.9 else sizes[0]
        return _Shape(k, k, rng.random())
    k = sizes[-2] if size < 0.7 else sizes[0]
    return _Shape(k, k + 1, rng.random()) if change < 0.8 else _Shape(k + 1, k, rng.random())


def _plain(rng: Random, pools: _Pools, shape: _Shape) -> _Draft:
    harmful = _pick(rng, pools.unsafe)
    shared: list[str] = []
    while len(shared) < shape.n_unsafe - 1:  # licensors often accompany unsafe things, and so license nothing else
        _add(shared, _pick(rng, pools.licensors if rng.random() < 0.3 else pools.harmless))
    replaced: list[str] = []
    while len(shared) + len(replaced) < shape.n_safe:  # and the endangered often stand in safe scenes alone
        pool = pools.endangered if rng.random() < 0.4 else pools.harmless
        _add(replaced, _pick(rng, pool), shared)
    return shared, replaced, [harmful], catalogue().entities[harmful].category


def _context(rng: Random, pools: _Pools, shape: _Shape) -> _Draft | None:
    thing = catalogue().entities[_pick(rng, pools.context)]
    licensor = _pick(rng, thing.safe_with)
    endangered = _pick(rng, thing.unsafe_with)
    kind, category = shape.kind, thing.category
    if kind < 0.4:
        shared, safe, unsafe = [thing.id], [licensor], [endangered]
    elif kind < 0.65:
        shared, safe, unsafe = [endangered], [_neutral(rng, pools, thing)], [thing.id]
    else:
        harmful = _pick(rng, pools.unsafe)
        category = catalogue().entities[harmful].category
        if kind < 0.9:
            shared, safe, unsafe = [licensor], [thing.id], [harmful]
        else:
            shared, safe, unsafe = [licensor, thing.id], [_neutral(rng, pools, thing)], [harmful]
    while min(shape.n_safe - len(safe), shape.n_unsafe - len(unsafe)) > len(shared):
        _add(shared, _neutral(rng, pools, thing), safe)
    while len(shared) + len(safe) < shape.n_safe:
        _add(safe, _neutral(rng, pools, thing), shared)
    while len(shared) + len(unsafe) < shape.n_unsafe:
        _add(unsafe, _neutral(rng, pools, thing), shared + safe)
    return shared, safe, unsafe, category


def _neutral(rng: Random, pools: _Pools, thing: Entity) -> str:
    """A harmless entity that says nothing about the context-dependent one."""
    while (entity := _pick(rng, pools.harmless)) in thing.safe_with or entity in thing.unsafe_with:
        pass
    return entity


def _finish(rng: Random, draft: _Draft, context: bool) -> Quadruplet:
    shared, safe, unsafe, category = draft
    known = catalogue()
    outdoors = any(known.entities[e].outdoors for e in shared + safe + unsafe)
    setting = _pick(rng, tuple(s.id for s in known.settings.values() if not (outdoors and s.indoor)))
    light = _pick(rng, tuple(known.lights))
    return Quadruplet(
        Scene(tuple(sorted(shared + safe)), setting, light, unsafe=False),
        Scene(tuple(sorted(shared + unsafe)), setting, light, unsafe=True),
        category,
        context,
    )


@cache
def _pools(split: str) -> _Pools:
    entities = list(catalogue().entities.values())
    if split == "style":
        entities = [e for e in entities if set(UNSEEN_STYLES) <= set(styles_of(e.id))]
    present = {e.id for e in entities}
    held_out = split == "entities"
    named = {other for e in entities for other in e.safe_with}
    exposed = [other for e in entities for other in e.unsafe_with]
    return _Pools(
        harmless=tuple(e.id for e in entities if not e.category),
        unsafe=tuple(e.id for e in entities if e.unsafe and e.held_out == held_out),
        context=tuple(e.id for e in entities if e.context),
        licensors=tuple(e.id for e in entities if e.id in named),
        endangered=tuple(other for other in exposed if other in present),  # as often as it turns something unsafe
    )


def _acceptance(split: str) -> Callable[[_Draft], bool]:
    """Whether a draft belongs to a split: each of its scenes must, by the uses of the pairs in it."""

    def train(scene: list[str]) -> bool:
        return uses(scene) <= {Use.TRAIN}

    def validation(scene: list[str]) -> bool:
        found = uses(scene)
        return Use.VALIDATION in found and found <= {Use.TRAIN, Use.VALIDATION}

    def test(scene: list[str]) -> bool:
        found = uses(scene)
        return Use.TEST in found and Use.VALIDATION not in found and _drawer(scene) == _DRAWERS.index(split)

    def context(scene: list[str]) -> bool:
        known = catalogue().entities
        deciding = {
            use(thing, other)
            for thing in scene
            for other in scene
            if other in known[thing].safe_with or other in known[thing].unsafe_with
        }
        return (deciding == {Use.CONTEXT} and Use.VALIDATION not in uses(scene)) if deciding else test(scene)

    accept = {"train": train, "validation": validation, "context": context}.get(split, test)
    return lambda draft: accept(draft[0] + draft[1]) and accept(draft[0] + draft[2])


_DRAWERS = ("test", "entities", "style", "context")
"""Splits that share the pairs kept for testing; a hash of the whole scene tells to which of them it belongs."""


def _drawer(entities: Sequence[str]) -> int:
    return stable_hash(*sorted(entities)) % len(_DRAWERS)


def _add(entities: list[str], entity: str, others: Sequence[str] = ()) -> None:
    if entity not in entities and entity not in others:
        entities.append(entity)


def _pick(rng: Random, items: Sequence[T]) -> T:
    """One of the items. `Random.random` is the one method whose stream Python promises to keep."""
    return items[int(rng.random() * len(items))]
