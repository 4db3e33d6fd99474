"""Reports of users, the queue of a reviewer, and decisions."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query

from hysac_retrieval.errors import PointNotFoundError
from hysac_retrieval.payload import own_payload, stored_id
from hysac_retrieval.service import models
from hysac_retrieval.service.problems import answers
from hysac_retrieval.service.queue import highest, reported, uncertain
from hysac_retrieval.service.routes.shared import ACaller, AnId, AService

ERRORS = answers(401, 403, 404, 413, 422, 429, 503, 504)
_REASONS = 5


async def report(body: models.ReportBody, service: AService, caller: ACaller) -> models.Reported:
    """Report a point that should not be seen; it comes to the queue, and its verdict stays until somebody decides."""
    caller.expect("search")

    def write() -> models.Reported:
        point = service.find(body.id, caller)
        known = own_payload(point.payload).get("reported")
        before = known if isinstance(known, dict) else {}
        count = before["count"] if isinstance(before.get("count"), int) else 0
        reasons = before["reasons"] if isinstance(before.get("reasons"), list) else []
        service.note("report", caller, {"ids": [point.id]})
        told = [*reasons, body.reason][-_REASONS:] if body.reason else reasons
        service.decide(point, reported={"count": count + 1, "last": _now(), "reasons": told})
        return models.Reported(id=point.id, reports=count + 1)

    return await service.pool.run(write)


async def queue(
    service: AService,
    caller: ACaller,
    order: Annotated[str, Query(pattern=r"^(uncertain|reported|field:[^|]+)$", max_length=200)] = "uncertain",
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> models.Queue:
    """List points that nobody has decided on: those nearest to their threshold, or those that most have reported.

    ``field:NAME`` goes by a payload field that the application keeps: ``field:views`` begins with the largest number,
    ``field:added`` with the latest time that is written as ISO 8601 writes it.

    It shows unsafe points, so it needs ``search:unsafe`` as well, and goes to the audit log.
    """
    caller.expect("review", "search:unsafe")

    def read() -> models.Queue:
        service.expect_unsafe(caller)
        named = {"uncertain": uncertain, "reported": reported}
        find = named.get(order) or partial(highest, field=order.removeprefix("field:"))
        items = find(service.index, limit, service.admits)
        service.write_down("queue", caller, {"ids": [item.id for item in items]})
        return models.Queue(items=items)

    return await service.pool.run(read)


async def decide(id: AnId, body: models.DecisionBody, service: AService, caller: ACaller) -> models.Decided:
    """Decide on a point, or take a decision back with ``unsafe: null``.

    Unsafe counts at once, in every safe search. Safe is a label; where two people must agree, it only stands when a
    second one says so.
    """
    caller.expect("review", "search:unsafe")

    def write() -> models.Decided:
        service.expect_unsafe(caller)
        identity = stored_id(id)
        found = [] if identity is None else service.index.retrieve([identity])
        if not found or not service.admits(found[0].payload):
            raise PointNotFoundError("there is no such point", hint="Give the id of one that is stored")
        (point,) = found
        own = own_payload(point.payload)
        review = None if body.unsafe is None else _review(body, caller.id)
        vote = own.get("vote")
        first = vote.get("by") if isinstance(vote, dict) else None
        alone = service.settings.two_people and body.unsafe is False and first in (None, caller.id)
        facts = {"ids": [point.id], "unsafe": body.unsafe, "category": body.category, "note": body.note}
        service.write_down("vote" if alone else "review", caller, facts)
        if alone:
            service.decide(point, vote=review)
            return models.Decided(id=point.id, unsafe=None, state="waits for a second person")
        if review is not None and isinstance(first, str) and body.unsafe is False:
            review["second"], review["by"] = caller.id, first
        service.decide(point, review=review, vote=None)
        return models.Decided(id=point.id, unsafe=body.unsafe, state="taken back" if review is None else "decided")

    return await service.pool.run(write)


def _review(body: models.DecisionBody, who: str) -> dict[str, Any]:
    told = {name: text for name in ("category", "note") if (text := getattr(body, name))}
    return {"unsafe": body.unsafe, "by": who, "at": _now(), **told}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def add_to(router: APIRouter) -> None:
    """Add these routes."""
    tags = ["reviews"]
    router.post("/v1/reviews", response_model=models.Reported, responses=ERRORS, tags=[*tags])(report)
    router.get("/v1/reviews", response_model=models.Queue, responses=ERRORS, tags=[*tags])(queue)
    router.post("/v1/reviews/{id}", response_model=models.Decided, responses=ERRORS, tags=[*tags])(decide)
