"""Decisions of people, beside the scores: written to a point, and kept when the point is written anew.

A decision that a point is unsafe takes it out of every safe search at once: its verdicts become false, and what comes
back from a search is held to the decision itself. It goes with the point through a new calibration and a new version of
its content, until a person takes it back. A decision that a point is safe is a label, and says nothing of new content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hysac_retrieval.collection.metadata import CollectionMetadata
from hysac_retrieval.payload import PAYLOAD_KEY, own_payload, stored_modality
from hysac_retrieval.safety.verdict import flag_name, kept_out, score_of
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import PointId


def keep_reviews(stored: Iterable[StoredPoint], ids: Sequence[PointId], rows: Sequence[dict[str, Any]]) -> None:
    """Give payloads that are about to replace those of points the decisions that these are unsafe.

    Args:
        stored: Those of the points that are there.
        ids: The points, n.
        rows: Their new payloads, n; changed in place.
    """
    held = {point.id: own_payload(point.payload) for point in stored}
    for identity, row in zip(ids, rows, strict=True):
        if kept_out(known := held.get(identity, {})):
            own = row[PAYLOAD_KEY]
            row[PAYLOAD_KEY] = {**own, "review": known["review"], "safe": dict.fromkeys(own["safe"], False)}


def decide(
    store: Store, names: Sequence[str], metadata: CollectionMetadata, point: StoredPoint, **entries: Any
) -> None:
    """Write a decision, or what else people say of a point, to it; what its verdicts are then follows from it.

    Args:
        store: The store.
        names: The collection, and others that hold the same point.
        metadata: The collection's.
        point: The point as it was read.
        **entries: Entries under the key ``hysac``, such as ``review``; None takes one away.
    """
    own = {**own_payload(point.payload), **entries}
    changed = {**entries, "safe": _verdicts(own, metadata)} if "review" in entries else entries
    for name in names:
        store.amend(name, [Amendment(point.id, changed, None)])


def _verdicts(own: Mapping[str, Any], metadata: CollectionMetadata) -> dict[str, bool]:
    """Return the verdicts of a point: those of its scores, or false where a person has decided so."""
    known = own.get("safe")
    thresholds = {one.fingerprint: one.safety.threshold for one in metadata.earlier}
    thresholds[metadata.fingerprint] = metadata.safety.threshold
    passes = {
        flag_name(fingerprint): threshold.passes(score_of(own, fingerprint), stored_modality(own))
        for fingerprint, threshold in thresholds.items()
    }
    names = known if isinstance(known, Mapping) else ()
    return {name: not kept_out(own) and passes.get(name, False) for name in names}
