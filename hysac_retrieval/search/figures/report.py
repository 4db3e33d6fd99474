"""The explorer's figures for people without a server: what is drawn, and the files that it is drawn into."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hysac_retrieval.encoder.pictures import DEFAULT_MAX_PIXELS
from hysac_retrieval.errors import PointNotFoundError, SettingsError, StoreError, printable
from hysac_retrieval.payload import PAYLOAD_KEY, finite_number, own_payload, stored_modality
from hysac_retrieval.results import SearchResult
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.explain import Explanation
from hysac_retrieval.search.figures.page import self_contained
from hysac_retrieval.search.figures.pictures import MEDIA_TYPE, Pictures, small
from hysac_retrieval.search.figures.still import draw, to_png
from hysac_retrieval.search.overview import Overview, drawn, levels, overview
from hysac_retrieval.steps import run
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import MODALITIES

NEAR, SHOWN, SIZE = 4, 200, 128
"""Points at each step of a path; points of the map that come with a picture, and its longer side in pixels."""


def pictures_in(roots: Mapping[str, str | Path]) -> Pictures:
    """Return where pictures are found: folders by the name of their source.

    Raises:
        SettingsError: One is no folder.
    """
    return Pictures({name: Path(folder) for name, folder in roots.items()}, DEFAULT_MAX_PIXELS)


def section(explanation: Explanation, answers: Sequence[SearchResult] = (), **more: Any) -> dict[str, Any]:
    """Return what is drawn of a query.

    Args:
        explanation: Its way to the origin.
        answers: What was found for it.
        more: ``title`` of the section; ``asked``, the query in words; ``picture``, the file that was asked with.
    """
    if (picture := more.get("picture")) is not None:
        more["picture"] = _inlined(small(picture, SIZE))
    found = [{"safe": one.query.safe, "hits": one.hits} for one in answers]
    explanation = replace(explanation, asked=printable(explanation.asked))  # a file's name may be no Unicode
    held: dict[str, Any] = orjson.loads(orjson.dumps({"explanation": explanation, "answers": found}))
    return {**held.pop("explanation"), **held, **more}


def figures(
    engine: SafeSearch,
    pictures: Pictures,
    sections: Sequence[dict[str, Any]] = (),
    *,
    safe: bool = True,
    limit: int = 20_000,
    **more: Any,
) -> dict[str, Any]:
    """Return what is drawn: queries, a map and radii, with the points and pictures in them.

    Args:
        engine: A search, as `connect` returns it.
        pictures: Where pictures are found.
        sections: Queries, of `section`.
        safe: Whether only safe points are in it.
        limit: Points on the map; 0 for neither map nor radii.
        more: ``title``, and ``facts`` to begin with.

    Raises:
        UnsafeNotAllowedError: ``safe=False`` where the policy forbids it.
    """
    metadata = engine.index.metadata
    met = [hit for one in sections for each in (*one["steps"], *one["answers"]) for hit in _hits(each)]
    data: dict[str, Any] = {"title": engine.index.name, "safe": safe, "model": metadata.fingerprint}
    data |= {"levels": levels(metadata.safety), "sections": sections, **more}
    telling: list[Any] = []
    if limit:
        found = run(engine.live.steps(lambda live: overview(live, safe=safe, limit=limit)), engine.index.store)
        telling = [*dict.fromkeys([*_telling(found, metadata.safety.threshold), *found.ids])][:SHOWN]
        data["map"] = orjson.loads(orjson.dumps(drawn(found, metadata), option=orjson.OPT_SERIALIZE_NUMPY))
    wanted = [*dict.fromkeys([*(hit["id"] for hit in met), *telling])]
    known = engine.permitted(wanted)
    for hit in met:
        hit["safe"] = hit["id"] in known
    points = [one for one in engine.index.retrieve(wanted) if not safe or one.id in known]
    data["points"] = {str(one.id): _point(one, one.id in known) for one in points} if limit else {}
    data["pictures"] = dict(_thumbnails(points, pictures))
    return data


def save(data: Mapping[str, Any], path: Path) -> None:
    """Write figures: a page that refers to no other file (``.html``), one drawing (``.svg``, ``.png``), or a folder.

    Args:
        data: Of `figures`.
        path: What to write, replaced if it exists. Without a suffix it is a folder, of every drawing as SVG and PNG.

    Raises:
        SettingsError: Another suffix, or several drawings for one file.
        MissingExtraError: A drawing without the extra ``figures``; a page needs nothing.
        StoreError: It cannot be written.
    """
    files: dict[Path, bytes] = {}
    kind = path.suffix.lower()
    if kind == ".html":
        files[path] = self_contained(data).encode()
    elif kind in (".svg", ".png", ""):
        made = draw(data)
        if kind and len(made) > 1:
            raise SettingsError(f"{len(made)} drawings do not fit into {path.name!r}", hint="Give the name of a folder")
        for name, drawing in made.items():
            for each in [kind] if kind else [".svg", ".png"]:
                file = path if kind else path / f"{name}{each}"
                files[file] = drawing.encode() if each == ".svg" else to_png(drawing)
    else:
        raise SettingsError(
            f"{path.name!r} is no format to draw in", hint="Give a name that ends in .html, .svg or .png, or a folder"
        )
    try:
        for file, content in files.items():
            if not kind:
                path.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    except OSError as error:
        raise StoreError(f"the figures cannot be written: {error}", hint="Choose another place for them") from error


def _hits(one: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name in ("hits", "entailing", "nearest"):
        yield from one.get(name, ())


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
            yield str(point.id), _inlined(pictures.thumbnail(point.payload, SIZE))
        except PointNotFoundError:
            continue


def _inlined(picture: bytes) -> str:
    return f"data:{MEDIA_TYPE};base64,{base64.b64encode(picture).decode('ascii')}"
