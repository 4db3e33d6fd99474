"""Points to what is stored, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hysac_retrieval import lorentz
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.errors import InputError, InvalidVectorError, PointNotFoundError
from hysac_retrieval.payload import (
    PAYLOAD_KEY,
    finite_number,
    normal_ids,
    own_payload,
    plain_payloads,
    short_numbers,
    stored_modality,
)
from hysac_retrieval.safety.verdict import judged_verdict
from hysac_retrieval.safety.views import Judged, check_judged
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import Modality, PointId

LARGEST = 1e18
"""Bound of a coordinate: beyond it the stored float32 vector would overflow; no encoder comes near."""


def records(
    collection: Collection,
    ids: Sequence[Any],
    points: ArrayLike,
    modality: Modality,
    payloads: Sequence[Mapping[str, Any] | None] | None,
    marks: Sequence[Mapping[str, Any]] | None = None,
    judged: Sequence[Judged | None] | None = None,
) -> tuple[list[PointId], NDArray[np.float32], list[dict[str, Any]]]:
    """Turn points into what is stored: ids, vectors (n, size) and payloads with radius, score and verdict.

    `marks` are further entries under the key ``hysac``, such as a source and its hash; they replace none of the others.
    The score is that of the worst view where more than the vector's own was `judged`, or that of a second
    judge if it is worse.

    Raises:
        InvalidVectorError: A point is not finite or not of dimension d; the message names its row.
        InputError: An id or a payload cannot be stored, or the numbers of each differ.
    """
    keys, x = normal_ids(ids), checked_points(collection, points)
    given: Sequence[Mapping[str, Any] | None] = [None] * len(keys) if payloads is None else payloads
    marked = [{}] * len(keys) if marks is None else plain_payloads(marks, "mark")
    views: Sequence[Judged | None] = [None] * len(keys) if judged is None else judged
    if not len(keys) == len(x) == len(given) == len(marked) == len(views):
        raise InputError(
            f"{len(keys)} ids, {len(x)} points, {len(given)} payloads, {len(marked)} marks and {len(views)} judged",
            hint="Give as many of each",
        )
    check_judged(views)
    metadata = collection.metadata
    radius = np.asarray(lorentz.dist0(x, metadata.curvature))
    worst = np.maximum(radius, [0.0 if one is None else one.radius for one in views])
    unsafe = np.minimum(short_numbers(metadata.safety.unsafe(worst, modality), up=True), 1.0).tolist()
    radii, threshold = short_numbers(radius), metadata.safety.threshold.of(modality)
    beyond, extras = collection.lift.beyond(x), collection.lift.extras(x)
    rows = plain_payloads(given)
    for row, payload in enumerate(rows):
        own = {
            **marked[row],
            **judged_verdict(unsafe[row], threshold, metadata.fingerprint, one.second if (one := views[row]) else None),
            "radius": radii[row],
            "modality": modality,
            **extras[row],
        }
        if one is not None:
            own |= one.entries(float(radius[row]))
        if beyond[row]:
            own["beyond"] = True
        if metadata.stamp is not None:
            own["stamp"] = metadata.stamp
        payload[PAYLOAD_KEY] = own
    return keys, collection.lift.lift(x), rows


def stored_points(
    collection: Collection, stored: Sequence[StoredPoint]
) -> tuple[NDArray[np.float64], list[Modality | None]]:
    """Return points (n, d) and modalities of records that came back with their vectors."""
    if not stored:
        return np.empty((0, collection.metadata.dim)), []
    lacking = [point.id for point in stored if point.vector is None]
    if lacking:
        raise InvalidVectorError(
            f"point {lacking[0]} of {collection.name!r} has no vector named 'hysac'", hint="Index it"
        )
    own = [own_payload(point.payload) for point in stored]
    vectors = np.asarray([point.vector for point in stored], dtype=np.float64)
    radii = np.array([math.nan if (r := finite_number(each.get("radius"))) is None else r for each in own])
    return collection.lift.unlift(vectors, radii), [stored_modality(each) for each in own]


def found_points(
    collection: Collection, ids: Sequence[PointId], stored: Sequence[StoredPoint]
) -> tuple[NDArray[np.float64], list[Modality | None]]:
    """Return points and modalities of records, in the order of `ids`.

    Raises:
        PointNotFoundError: An id is not among the records.
        InvalidVectorError: A record has no vector, or one that another lift stored.
    """
    by_id = {point.id: point for point in stored}
    for identity in ids:
        if identity not in by_id:
            raise PointNotFoundError(
                f"collection {collection.name!r} has no point {identity!r}", hint="Give the id of one it has"
            )
    if foreign := [identity for identity in ids if is_foreign(own_payload(by_id[identity].payload), collection)]:
        raise InvalidVectorError(
            f"point {foreign[0]!r} of {collection.name!r} was stored by another lift than the collection's",
            hint="Index it again",
        )
    return stored_points(collection, [by_id[identity] for identity in ids])


def is_foreign(own: Mapping[str, Any], collection: Collection) -> bool:
    """Whether a point, by its ``hysac`` payload, was stored by another lift, so that its vector cannot be read."""
    return own.get("stamp") not in (None, collection.metadata.stamp)


def checked_points(collection: Collection, points: ArrayLike) -> NDArray[np.float64]:
    """Return points as a float64 array (n, d).

    Raises:
        InvalidVectorError: They are not numbers, not of that shape, or not finite; the message names the row.
    """
    try:
        x = np.asarray(points)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidVectorError(f"points cannot be read as an array of shape (n, d): {error}") from error
    dim = collection.metadata.dim
    if x.dtype.kind not in "fiu" and x.size:
        raise InvalidVectorError(f"points have dtype {x.dtype}; expected real numbers of shape (n, {dim})")
    if x.ndim == 1 and not x.size:
        x = x.reshape(0, dim)
    if x.ndim != 2 or x.shape[1] != dim:
        raise InvalidVectorError(f"points have shape {x.shape}; this collection takes (n, {dim})")
    x = x.astype(np.float64)
    bad = np.flatnonzero(~(np.abs(x) < LARGEST).all(axis=1))
    if bad.size:
        raise InvalidVectorError(f"point in row {bad[0]} holds NaN, infinity or a number beyond 1e18")
    return x


def checked_point(collection: Collection, point: ArrayLike) -> NDArray[np.float64]:
    """Return a point as a float64 array (d,).

    Raises:
        InvalidVectorError: It is not that, or not finite.
    """
    try:
        x = np.asarray(point)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidVectorError(f"the query cannot be read as a point: {error}") from error
    dim = collection.metadata.dim
    if x.shape != (dim,):
        raise InvalidVectorError(
            f"the query is an array of shape {x.shape}; a point of this collection has shape ({dim},)",
            hint="Give several points to a batch, and a picture as a PIL image",
        )
    if x.dtype.kind not in "fiu":
        raise InvalidVectorError(f"the point has dtype {x.dtype}; expected real numbers of shape ({dim},)")
    x = x.astype(np.float64)
    # The sum of squares bounds every number, and says for nearly every point at once that none is too large, or NaN.
    if not np.vdot(x, x) < LARGEST**2 and not float(np.abs(x).max(initial=0.0)) < LARGEST:
        raise InvalidVectorError("the point holds NaN, infinity or a number beyond 1e18")
    return x
