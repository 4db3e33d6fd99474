"""Points are added, replaced and removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from hysac_retrieval.errors import InputError, SettingsError
from hysac_retrieval.payload import point_id, stored_id
from hysac_retrieval.safety.views import JUDGE, judge_of
from hysac_retrieval.search.queries import JudgingEncoder
from hysac_retrieval.service import models
from hysac_retrieval.service.core import Service
from hysac_retrieval.service.problems import TooLargeError, answers
from hysac_retrieval.service.routes.shared import ACaller, AnId, AService, checked_picture
from hysac_retrieval.types import MODALITIES, Modality, PointId

ERRORS = answers(401, 403, 413, 422, 429, 503, 504, 507)


async def add(body: models.PointsBody, service: AService, caller: ACaller) -> models.Written:
    """Encode texts and pictures, judge them and write them; a point with the same id is replaced.

    A decision that a point is unsafe stays with its id.
    """
    caller.expect("write")
    most = service.settings.limits.batch
    if len(body.points) > most:
        raise TooLargeError(f"this service takes {most} points at once", hint="Send the others next")
    ids = [_id_of(point) for point in body.points]
    if len({*ids}) < len(ids):
        raise InputError("two of the points have the same id", hint="Send each once")

    def write() -> None:
        service.note("write", caller, {"ids": ids})
        _write(service, ids, body.points)

    await service.pool.run(write)
    return models.Written(ids=ids)


async def remove(id: AnId, service: AService, caller: ACaller) -> None:
    """Remove a point; one that is not there is no error."""
    caller.expect("write")
    if (identity := stored_id(id)) is not None:

        def delete(identity: PointId = identity) -> None:
            service.note("delete", caller, {"ids": [identity]})
            service.index.delete([identity])

        await service.pool.run(delete)


def _write(service: Service, ids: Sequence[PointId], points: Sequence[models.Point]) -> None:
    encoder = service.live.engine.encoder
    if not isinstance(encoder, JudgingEncoder):
        raise SettingsError("this service has no model that could judge a point", hint="Serve it with one")
    written: dict[Modality, list[int]] = {
        kind: [row for row, point in enumerate(points) if (point.text is None) == (kind == "image")]
        for kind in MODALITIES
    }
    # All are encoded before one is written, so that a wrong one leaves nothing half done.
    made: list[Any] = []
    for kind, rows in written.items():
        if kind == "text":
            made.append(encoder.judge_text([points[row].text or "" for row in rows]) if rows else None)
        else:
            pixels = service.settings.limits.pixels
            pictures = [checked_picture(points[row].image or b"", pixels) for row in rows]
            made.append(encoder.judge_image(pictures) if rows else None)
    for (kind, rows), encoded in zip(written.items(), made, strict=True):
        if encoded is not None:
            payloads = [_payload(points[row]) for row in rows]
            marks = [{JUDGE: judge_of(kind, "fast")}] * len(rows)
            service.index.upsert(
                [ids[row] for row in rows], encoded[0], modality=kind, payloads=payloads, marks=marks, judged=encoded[1]
            )


def _id_of(point: models.Point) -> PointId:
    if point.key is not None:
        return point_id(point.key)
    if (identity := stored_id(point.id)) is None:
        raise InputError(
            f"id {str(point.id)[:64]!r} is neither an integer from 0 nor a UUID", hint="Give a key instead"
        )
    return identity


def _payload(point: models.Point) -> dict[str, Any]:
    return {**({} if point.text is None else {"text": point.text}), **point.payload}


def add_to(router: APIRouter) -> None:
    """Add these routes."""
    router.post("/v1/points", response_model=models.Written, responses=ERRORS, tags=["points"])(add)
    router.delete("/v1/points/{id}", status_code=204, responses=ERRORS, tags=["points"])(remove)
