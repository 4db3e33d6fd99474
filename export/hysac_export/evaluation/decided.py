"""Calibration samples from a collection: the radii of points that people have decided on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hysac_export.data.split import PAIRS, Group
from hysac_export.evaluation.samples import MIN_SAMPLES
from hysac_export.model.encoded import Floats
from hysac_retrieval.collection.index import Index
from hysac_retrieval.payload import PAYLOAD_KEY, own_payload, stored_modality
from hysac_retrieval.safety.verdict import decision_of
from hysac_retrieval.safety.views import worst_radius
from hysac_retrieval.stores.base import pages

_PAGE = 1000


def decided_radii(index: Index) -> dict[Group, Floats]:
    """Return the radii, by group, (n,), that the scores of decided points follow from: of their worst views.

    A modality with few decisions that a point is safe, or few that it is not, is left out, where another has enough.
    """
    radii: dict[Group, list[float]] = {}
    for page in pages(index.store, index.name, limit=_PAGE, fields=[PAYLOAD_KEY]):
        for own in (own_payload(point.payload) for point in page):
            decided, modality, radius = decision_of(own), stored_modality(own), worst_radius(own)
            if decided is not None and modality is not None and radius is not None:
                radii.setdefault(PAIRS[modality][decided], []).append(radius)
    enough = [pair for pair in PAIRS.values() if min(len(radii.get(group, ())) for group in pair) >= MIN_SAMPLES]
    groups = [group for pair in enough for group in pair] or [*radii]
    return {group: np.array(radii[group], np.float64) for group in groups}


def joined(some: Mapping[Group, Floats], others: Mapping[Group, Floats]) -> dict[Group, Floats]:
    """Return the radii of both, by group."""
    every = (some, others)
    groups = dict.fromkeys(group for radii in every for group in radii)
    return {group: np.concatenate([radii[group] for radii in every if group in radii]) for group in groups}
