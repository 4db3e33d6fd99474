"""Repair of a collection of the embedded engine: its points, and the metadata without which they cannot be read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from hysac_retrieval import lorentz
from hysac_retrieval.collection.metadata import read_metadata
from hysac_retrieval.collection.schema import PointModel, collection_metadata, model_options, spec_of
from hysac_retrieval.errors import NotACollectionError
from hysac_retrieval.lift import lift_from_dict
from hysac_retrieval.payload import finite_number, own_payload
from hysac_retrieval.stores.edge.files import SIDECAR, sidecar_of, write_json
from hysac_retrieval.stores.edge.repair import Repaired, repair_shard
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.types import StoredPoint

_COMPARED = 200  # points


def repair(location: str | os.PathLike[str], name: str, model: PointModel | None = None) -> Repaired:
    """Rebuild a collection of the embedded engine that cannot be opened or read; see `Repaired`.

    Args:
        location: Folder of the collections.
        name: The collection.
        model: Model that it was indexed with, of which the metadata is made again if it is damaged. Radii and model of
            stored points must agree with it.

    Raises:
        CollectionNotFoundError: There is none of that name.
        NotACollectionError: Its metadata is damaged, and there is no model, or it is of another one.
        StorageLockedError: A process has it open.
        StoreError: Nothing of it can be read; it is as it was.
    """
    root = Path(location).expanduser()
    done = repair_shard(root, name)
    store = EdgeStore(root)
    try:
        opened = store.open(name)
        if opened.metadata is not None:
            read_metadata(name, opened)
        return done
    except NotACollectionError as error:
        if model is None:
            hint = "Give --model with the one it was indexed with"
            raise NotACollectionError(
                f"its points can be read, but not what they are: {error.message}", hint=hint
            ) from error
    finally:
        store.close()
    _describe(root, name, model)
    return replace(done, described=True)


def _describe(root: Path, name: str, model: PointModel) -> None:
    """Write the metadata of a collection anew, and take it back if its points say otherwise."""
    metadata = collection_metadata(**model_options(model, {}))
    path = root / name / SIDECAR
    damaged = path.read_bytes() if path.exists() else b""
    write_json(path, sidecar_of(spec_of(metadata, None)))
    store = EdgeStore(root)
    try:
        points, _ = store.scroll(name, limit=_COMPARED, with_vectors=True)
        if wrong := _contradiction(points, model, metadata.lift):
            path.write_bytes(damaged)
            raise NotACollectionError(
                f"collection {name!r} is not one of that model: {wrong}", hint="Give another --model"
            )
    finally:
        store.close()


def _contradiction(points: list[StoredPoint], model: PointModel, described: dict[str, object]) -> str:
    lift = lift_from_dict(dict(described))
    for point in points:
        own = own_payload(point.payload)
        if own.get("model") not in (None, model.fingerprint):
            return f"point {point.id} was scored by {own['model']}"
        radius = finite_number(own.get("radius"))
        if radius is None or point.vector is None:
            continue
        if len(point.vector) != lift.size:
            return f"point {point.id} has a vector of {len(point.vector)} numbers, and the model needs {lift.size}"
        found = lorentz.dist0(lift.unlift(np.array([point.vector]), np.array([radius])), model.curvature)
        if not np.allclose(found, radius, rtol=1e-3, atol=1e-3):
            return f"point {point.id} has radius {radius:g}, and its vector says {float(np.asarray(found)[0]):g}"
    return ""
