"""A new calibration for a collection that exists: scores follow from the stored radii, nothing is encoded again.

Each calibration has its fingerprint, and a safe search returns only points that carry a verdict of the calibration that
it was opened with. The new one is named first; from then on it finds what has been rewritten. A point that has been
rewritten keeps the verdicts and scores of the calibrations before, so that searches which were opened with one of these
go on with it and miss nothing. When all points are done, the earlier verdicts go, and the indexes on them. So no search
mixes two calibrations, at any moment and after any crash: none returns a point that its own holds unsafe.

The points that carry an earlier model are still to be rewritten: a rewrite that was killed is continued by the same
call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from qdrant_client import models

from hysac_retrieval.collection.copies import collections_of, differing_points
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.metadata import (
    Calibration,
    CollectionMetadata,
    raw_fingerprint,
    read_metadata,
    same_points,
)
from hysac_retrieval.errors import ModelMismatchError, NotACollectionError, SettingsError, StoreError
from hysac_retrieval.payload import (
    RADIUS,
    WORST_RADIUS,
    finite_number,
    own_payload,
    short_numbers,
    stored_modality,
)
from hysac_retrieval.safety.filters import safety_filter, scored_by
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.verdict import EARLIER, flag_key, flag_name, judged_verdict, kept_out, superseding
from hysac_retrieval.safety.views import Second, worst_radius
from hysac_retrieval.stores.amend import Amendment, stored_worst
from hysac_retrieval.stores.base import Store, found, pages
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import MODALITIES, Modality, Thresholds

PAGE = 1000
_ROUNDING = 5e-13
"""Radii are stored to 12 decimals; a score is that of the farthest radius that may have been meant."""
_COUNTED = ("rescored", "withdrawn", "released", "unreadable")


@dataclass(frozen=True, slots=True)
class RescoreReport:
    """Outcome of a rewrite of scores.

    Attributes:
        collection: The collection.
        fingerprint: The model with the new calibration.
        thresholds: Largest score that counts as safe now, of each modality.
        rescored: Points that were given a new score.
        withdrawn: Of these, points that counted as safe and no longer do.
        released: Of these, points that did not count as safe and now do.
        unreadable: Of these, points without a usable radius; they count as unsafe.
        left: Points that still carry an earlier score, because the rewrite was stopped or they were written meanwhile.
        differing: Points whose copies on a cluster are not the same all the same; a write has missed some of them.
        safe: Points that a safe search can return now.
        points: All points of the collection.
        seconds: Duration.
    """

    collection: str
    fingerprint: str
    thresholds: Thresholds
    rescored: int
    withdrawn: int
    released: int
    unreadable: int
    left: int
    differing: int
    safe: int
    points: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-serialisable values."""
        return asdict(self)


def rescore(
    index: Index,
    safety: SafetyProfile,
    *,
    fingerprint: str | None = None,
    page: int = PAGE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RescoreReport:
    """Apply a calibration to a collection, or continue an application that was interrupted.

    Args:
        index: The collection. It has the new calibration afterwards; others that are open follow when it is
            done.
        safety: The calibration.
        fingerprint: Identity of the model with this calibration, from its bundle; None for points of no bundle.
        page: Points read and written at once, 1 or more.
        on_progress: Called with the number of points that are done and of all that are to be done.
        should_stop: Asked between pages.

    Raises:
        ModelMismatchError: The fingerprint is of a model that gives other points.
        SettingsError: `page` is out of range, or the fingerprint is known with another calibration.
    """
    if page < 1:
        raise SettingsError(f"page is {page}; expected at least 1")
    start, store = time.perf_counter(), index.store
    index.refresh()
    names = collections_of(index)
    _expect_shown(index, {_name_calibration(store, name, safety, fingerprint) for name in names})
    metadata, counts, done = index.metadata, dict.fromkeys(_COUNTED, 0), 0
    total = sum(_left(store, name, metadata) for name in names)
    on_progress(0, total)
    for amended in chain.from_iterable(_rewrite(store, name, metadata, page, counts) for name in names):
        done += amended
        on_progress(done, total)
        if should_stop():
            break
    left = sum(_left(store, name, metadata) for name in names)
    differing = sum(_copied(store, name, metadata, page) for name in names)
    if not differing and not any(_first(store, name, metadata) for name in names):  # a count may be an estimate
        for name in names:
            _finish(store, name, page)
        index.refresh()
    return RescoreReport(
        collection=index.name,
        fingerprint=metadata.fingerprint,
        thresholds=metadata.safety.threshold,
        **counts,
        left=left,
        differing=differing,
        safe=index.count(safety_filter(metadata.safety.threshold, metadata.fingerprint)),
        points=index.count(),
        seconds=time.perf_counter() - start,
    )


def _expect_shown(index: Index, targets: set[str]) -> None:
    """Read the metadata again, and check it: by a node that is behind nothing would be rewritten, and all be done."""
    index.refresh()
    if targets != {index.metadata.fingerprint}:
        what = f"collection {index.name!r} does not show the calibration that was just written to it"
        raise StoreError(what, hint="Run it again: the node that answers is behind, or somebody else rescores")


def _left(store: Store, name: str, metadata: CollectionMetadata) -> int:
    return store.count(name, scored_by(c.fingerprint for c in metadata.earlier)) if metadata.earlier else 0


def _first(store: Store, name: str, metadata: CollectionMetadata) -> list[StoredPoint]:
    earlier = [calibration.fingerprint for calibration in metadata.earlier]
    return store.scroll(name, filter=scored_by(earlier), limit=1)[0] if earlier else []


def _rewrite(store: Store, name: str, metadata: CollectionMetadata, page: int, counts: dict[str, int]) -> Iterator[int]:
    """Give the points of a collection their new scores and count them anew; yields how many, after every page."""
    counts.update(dict.fromkeys(_COUNTED, 0))
    earlier = {calibration.fingerprint: calibration for calibration in metadata.earlier}
    if not earlier:
        return
    for points in pages(store, name, filter=scored_by(earlier), limit=page):
        amendments = []
        for point in points:
            model = own_payload(point.payload).get("model")
            # An engine takes a list for a match by one element.
            before = next(earlier[one] for one in (model if isinstance(model, list) else [model]) if one in earlier)
            amendments.append(_amended(point, metadata, before, counts))
        store.amend(name, amendments, looked_after=True)  # what is left is counted in the end
        yield len(points)


def _copied(store: Store, name: str, metadata: CollectionMetadata, page: int) -> int:
    """Give the copies of points that a rewrite has missed what the others have; returns how many differ all the same.

    Only a copy that has the score of an earlier calibration, for the same radius, is changed. What is between two
    calibrations, or was finished on one copy only, loses the earlier verdicts.
    """
    left = 0
    flags = [flag_key(calibration.fingerprint) for calibration in metadata.earlier if not calibration.served]
    for points in differing_points(store, name, page=page):
        mended = [point for point in points if own_payload(point.payload).get("model") == metadata.fingerprint]
        for earlier in metadata.earlier:
            store.amend(name, [_as_here(point, earlier.fingerprint) for point in mended])
        these = [point.id for point in mended]
        if these and flags:
            same: Any = models.HasIdCondition(has_id=[*these])
            store.strip(name, [*flags, EARLIER], models.Filter(must=[same, scored_by([metadata.fingerprint])]))
        left += len(points) - len(mended) + sum(point.differs for point in found(store, name, these))
    return left


def _as_here(point: StoredPoint, earlier: str) -> Amendment:
    """Return what brings another copy of a point from an earlier calibration to where this one is."""
    own = own_payload(point.payload)
    entries = {key: own[key] for key in ("unsafe", "model", "safe", "earlier") if key in own}
    return Amendment(point.id, entries, earlier, finite_number(own.get("radius")), stored_worst(own))


def _finish(store: Store, name: str, page: int) -> None:
    """Take the verdicts of earlier calibrations from a collection all of whose points have those of the last."""
    metadata = read_metadata(name, store.open(name))
    flags = [flag_key(calibration.fingerprint) for calibration in metadata.earlier if calibration.kept]
    if not flags:
        return
    # First, so that searches that were opened before go on with the new one instead of missing what is gone.
    metadata = _with_earlier(store, name, metadata, served=False)
    for flag in flags:
        store.add_index(name, flag, "bool")  # a run that was killed may have dropped it
    flagged = [
        models.FieldCondition(key=flag, match=models.MatchValue(value=value))
        for flag in flags
        for value in (True, False)
    ]
    for points in pages(store, name, filter=models.Filter(should=[*flagged]), limit=page):
        # A point that was written meanwhile with an earlier calibration keeps its verdict, until the next rewrite.
        these: Any = models.HasIdCondition(has_id=[point.id for point in points])
        store.strip(name, [*flags, EARLIER], models.Filter(must=[these, scored_by([metadata.fingerprint])]))
    for key in (*flags, RADIUS, WORST_RADIUS):  # the radii have one where strict mode asks for it
        store.drop_index(name, key)
    _with_earlier(store, name, metadata, kept=False)


def _with_earlier(store: Store, name: str, metadata: CollectionMetadata, **changes: bool) -> CollectionMetadata:
    """Change all earlier calibrations in a collection's metadata, and return it."""
    earlier = tuple(calibration.model_copy(update=changes) for calibration in metadata.earlier)
    changed = metadata.model_copy(update={"earlier": earlier})
    _write(store, name, changed)
    return changed


def _write(store: Store, name: str, metadata: CollectionMetadata) -> None:
    store.write_metadata(name, metadata.model_dump(mode="json", exclude_none=True))


def _name_calibration(store: Store, name: str, safety: SafetyProfile, fingerprint: str | None) -> str:
    """Make the calibration that of a collection, if it is not yet; returns its fingerprint."""
    opened = store.open(name)
    if opened.metadata is None:
        raise NotACollectionError(
            f"collection {name!r} has no hysac metadata, so no scores", hint="Index or attach it first"
        )
    metadata = CollectionMetadata.model_validate(dict(opened.metadata))
    target = fingerprint or raw_fingerprint(metadata.dim, metadata.curvature, safety)
    if not same_points(target, metadata.fingerprint):
        raise ModelMismatchError(
            f"collection {name!r} holds points of model {metadata.fingerprint}, but the calibration is of model "
            f"{target}, which gives other points",
            hint="Calibrate the model that the collection was indexed with",
        )
    if target == metadata.fingerprint:
        if safety.threshold != metadata.safety.threshold:
            raise SettingsError(
                f"collection {name!r} knows {target} with the threshold {metadata.safety.threshold}, not "
                f"{safety.threshold}",
                hint="Give the calibration another fingerprint",
            )
        return target
    replaced = Calibration(fingerprint=metadata.fingerprint, safety=metadata.safety, served=True, kept=True)
    earlier = [known for known in (*metadata.earlier, replaced) if known.fingerprint != target]
    changed = metadata.model_copy(update={"fingerprint": target, "safety": safety, "earlier": tuple(earlier)})
    store.add_index(name, flag_key(target), "bool")
    _write(store, name, changed)
    return target


def _amended(
    point: StoredPoint, metadata: CollectionMetadata, before: Calibration, counts: dict[str, int]
) -> Amendment:
    """Return the new score of a point, and count it."""
    own = own_payload(point.payload)
    radius, farthest, modality = finite_number(own.get("radius")), worst_radius(own), stored_modality(own)
    score = 1.0 if farthest is None else _score(metadata.safety, farthest, modality)
    old = finite_number(own.get("unsafe"))
    second, threshold = Second.stored(own), metadata.safety.threshold.of(modality)
    given = judged_verdict(score, threshold, metadata.fingerprint, second)
    held = kept_out(own) or (second is not None and second.unsafe)
    was_safe = before.safety.threshold.passes(old, modality) and not held
    is_safe = given["safe"][flag_name(metadata.fingerprint)] and not held
    facts = (True, was_safe and not is_safe, is_safe and not was_safe, farthest is None)
    for counted, fact in zip(_COUNTED, facts, strict=True):
        counts[counted] += fact
    served = [known.fingerprint for known in metadata.earlier if known.served]
    entries = superseding(own, given, served)
    return Amendment(point.id, entries, before.fingerprint, radius, stored_worst(own))


def _score(safety: SafetyProfile, radius: float, modality: Modality | None) -> float:
    """Return the score to store; a point of unknown kind is held to both calibrations."""
    kinds: Sequence[Modality] = MODALITIES if modality is None else (modality,)
    exact = max(float(safety.unsafe(radius + _ROUNDING, kind)) for kind in kinds)
    return float(np.minimum(short_numbers([exact], up=True)[0], 1.0))
