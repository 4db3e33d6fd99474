"""The explorer's figures of a collection in one file, for people without a server."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hysac_retrieval.errors import PointNotFoundError, StoreError
from hysac_retrieval.payload import PAYLOAD_KEY, finite_number, own_payload, stored_modality
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.figures import self_contained
from hysac_retrieval.search.overview import Overview, overview
from hysac_retrieval.search.queries import Query
from hysac_retrieval.service.pictures import MEDIA_TYPE, Pictures
from hysac_retrieval.service.routes.explorer import levels
from hysac_retrieval.steps import run
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import MODALITIES

NEAR, SHOWN, SIZE = 4, 200, 128
"""Points at each step of a path; points that come with a picture, and its longer side in pixels."""


def write_report(
    engine: SafeSearch,
    path: Path,
    pictures: Pictures,
    queries: Sequence[Query] = (),
    *,
    safe: bool = True,
    limit: int = 20_000,
) -> Path:
    """Write the map, the radii, and what happens to some queries, as one HTML file that refers to no other.

    Args:
        engine: A search, as `connect` returns it.
        path: File to write, replaced if it exists.
        pictures: Where pictures are found.
        queries: Queries to explain.
        safe: Whether only safe points are in it.
        limit: Points on the map.

    Raises:
        UnsafeNotAllowedError: ``safe=False`` where the policy forbids it.
        StoreError: The file cannot be written.
    """
    page = self_contained(engine.index.name, _data(engine, pictures, queries, safe, limit))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the report cannot be written: {error}", hint="Choose another file with --out") from error
    return path


def _data(engine: SafeSearch, pictures: Pictures, queries: Sequence[Query], safe: bool, limit: int) -> dict[str, Any]:
    metadata = engine.index.metadata
    explained = [orjson.loads(orjson.dumps(engine.explain(query, safe=safe, near=NEAR))) for query in queries]
    steps = [step for one in explained for step in one["steps"]]
    met = [hit for step in steps for hit in (*step["entailing"], *step["nearest"])]
    found = run(engine.live.steps(lambda live: overview(live, safe=safe, limit=limit)), engine.index.store)
    wanted = [*dict.fromkeys([*(hit["id"] for hit in met), *_telling(found, metadata.safety.threshold), *found.ids])]
    known = engine.permitted(wanted[:SHOWN])
    for hit in met:
        hit["safe"] = hit["id"] in known
    points = [one for one in engine.index.retrieve(wanted[:SHOWN]) if not safe or one.id in known]
    drawn = {name: getattr(found, name) for name in found.__slots__}
    drawn |= {"curvature": metadata.curvature, "levels": levels(metadata.safety)}
    return {
        "safe": safe,
        "facts": {"points": len(found.ids), "name": engine.index.name, "model": metadata.fingerprint},
        "map": orjson.loads(orjson.dumps(drawn, option=orjson.OPT_SERIALIZE_NUMPY)),
        "explanations": explained,
        "points": {str(one.id): _point(one, one.id in known) for one in points},
        "pictures": dict(_thumbnails(points, pictures)),
    }


def _telling(found: Overview, threshold: Any) -> Iterable[int | str]:
    """Return the ids of the points nearest to the threshold of their kind: what a reader drags the line over."""
    for kind, name in enumerate(MODALITIES):
        (rows,) = np.nonzero((found.kind == kind) & np.isfinite(found.unsafe))
        apart = np.abs(found.unsafe[rows] - threshold.of(name))
        yield from (found.ids[row] for row in rows[np.argsort(apart, kind="stable")][: SHOWN // 4])


def _point(point: StoredPoint, safe: bool) -> Mapping[str, Any]:
    own = own_payload(point.payload)
    return {
        "id": point.id,
        "safe": safe,
        "unsafe": finite_number(own.get("unsafe")),
        "radius": finite_number(own.get("radius")),
        "modality": stored_modality(own),
        "payload": {key: value for key, value in point.payload.items() if key != PAYLOAD_KEY},
    }


def _thumbnails(points: Iterable[StoredPoint], pictures: Pictures) -> Iterable[tuple[str, str]]:
    for point in points:
        try:
            data = pictures.thumbnail(point.payload, SIZE)
        except PointNotFoundError:
            continue
        yield str(point.id), f"data:{MEDIA_TYPE};base64,{base64.b64encode(data).decode('ascii')}"
