"""Facts about a collection, for people: its size, its space, and how many of its points a safe search finds."""

from __future__ import annotations

from qdrant_client import models

from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.payload import BEYOND
from hysac_retrieval.results import IndexInfo
from hysac_retrieval.safety.filters import safety_filter, scored_by
from hysac_retrieval.stores.base import Store


def facts(store: Store, collection: Collection) -> IndexInfo:
    """Count what is in a collection, and put it beside what its metadata says."""
    name, metadata = collection.name, collection.metadata
    points, size = store.count(name), store.memory(name)
    safe = store.count(name, safety_filter(metadata.safety.threshold, metadata.fingerprint))
    flagged = models.Filter(must=[models.FieldCondition(key=BEYOND, match=models.MatchValue(value=True))])
    earlier = [calibration.fingerprint for calibration in metadata.earlier]
    return IndexInfo(
        name=name,
        points=points,
        safe=safe,
        unsafe=points - safe,
        indexed=min(store.indexed(name), points),
        beyond=store.count(name, flagged),
        dim=metadata.dim,
        curvature=metadata.curvature,
        thresholds=metadata.safety.threshold,
        model=metadata.fingerprint,
        lift=collection.lift.kind,
        outdated=store.count(name, scored_by(earlier)) if earlier else 0,
        quantization=metadata.quantization,
        bytes_per_point=None if not points or size is None else size / points,
        measured=metadata.measured,
        estimated=collection.estimates,
    )
