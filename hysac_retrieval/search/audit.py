"""Records of searches that were allowed unsafe results, for the policy's audit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from PIL import Image
from qdrant_client import models

from hysac_retrieval.results import Hit, QueryInfo
from hysac_retrieval.safety.policy import AuditRecord, Operation, SafetyPolicy
from hysac_retrieval.search.queries import Examples, PointRef, Query, is_pixels
from hysac_retrieval.search.request import AnyRequest

_NOT_RECORDED = {"safe", "threshold", "query_modality", "context", "filter"}
_ALWAYS_RECORDED = {"by", "groups", "size", "steps", "near"}


def audit(
    policy: SafetyPolicy,
    collection: str,
    operation: Operation,
    request: AnyRequest,
    queries: Sequence[Query],
    found: Sequence[tuple[QueryInfo, Sequence[Hit]]],
) -> None:
    """Tell a policy's audit of a search, before its results are returned, if it was allowed unsafe ones.

    Args:
        policy: The policy.
        collection: Name of the collection searched.
        operation: The method that was called.
        request: What was asked for.
        queries: The queries.
        found: What was done to each query, and its hits.
    """
    if request.safe or policy.audit is None or not found:
        return
    policy.audit(
        AuditRecord(
            collection=collection,
            operation=operation,
            asked=tuple(describe(query) for query in queries),
            queries=tuple(info for info, _ in found),
            options=_recorded(request),
            hits=tuple(tuple(hit.id for hit in hits) for _, hits in found),
            context=dict(request.context),  # a prepared request serves many calls
        )
    )


def describe(query: Any) -> str:
    """A query in words, for a record of who asked what: a text itself, a path, an id, or only what kind it is."""
    if isinstance(query, Examples):
        parts = (
            f"{sign}{describe(one)}" for sign, all in (("+", query.positive), ("−", query.negative)) for one in all
        )
        return "  ".join(parts)
    if isinstance(query, PointRef):
        return f"point {query.id}"
    if isinstance(query, str | os.PathLike):
        return os.fspath(query)
    return "image" if isinstance(query, bytes | Image.Image) or is_pixels(query) else "point"


def _recorded(request: AnyRequest) -> dict[str, Any]:
    """Options as JSON values: those that were given, and the size of the answer."""
    given = (request.model_fields_set - _NOT_RECORDED) | (_ALWAYS_RECORDED & type(request).model_fields.keys())
    options = request.model_dump(mode="json", include=given)
    if isinstance(request.filter, models.Filter):
        options["filter"] = request.filter.model_dump(mode="json", exclude_none=True, by_alias=True)
    return options
