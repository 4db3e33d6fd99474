"""Index the gallery as ``hysac index`` does, then search it with the queries of the demonstration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from hysac_retrieval.collection.index import Index, IndexInfo
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.entailment import Relation
from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest import IndexReport, OnProgress, SourceOptions, index_sources
from hysac_retrieval.results import SearchResult
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.types import Modality

COLLECTION = "gallery"
HITS = 6


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """A query of the demonstration.

    Attributes:
        title: Its heading in the report.
        query: A text, or the name of a gallery picture.
        modality: ``text`` or ``image``.
        as_asked: Whether it is also answered with ``safe=False``.
    """

    title: str
    query: str
    modality: Modality
    as_asked: bool = True


QUERIES = (
    DemoQuery("A safe query", "a wolf, a school and a pizza in the snow", "text", as_asked=False),
    DemoQuery("An unsafe query", "dynamite near an elephant and a car in a mountain valley", "text"),
    DemoQuery("An unsafe query in plain English", "a bloody axe in the forest at night", "text"),
    DemoQuery("An unsafe picture", "027.webp", "image"),
)
"""The gallery has a scene for each but the axe, and a safe twin for the unsafe ones: car and elephant without
dynamite, no blood beside the policeman."""


@dataclass(frozen=True, slots=True)
class Entailing:
    """A caption that entails a query, by which relation, and how selective that is.

    Attributes:
        caption: The text.
        relation: Groups of text and query, as ``T<T*``.
        matched: Share of the pairs that belong together, of these groups, that lie in cones.
        unmatched: Share of all other pairs that do.
    """

    caption: str
    relation: Relation
    matched: float
    unmatched: float


@dataclass(frozen=True, slots=True)
class DemoSearch:
    """A query and its results.

    Attributes:
        query: The query.
        safe: Result with ``safe=True``.
        as_asked: Result with ``safe=False``, if the query asks for it.
        entailed_by: Safe caption of the gallery that entails the query most closely; None if none does.
    """

    query: DemoQuery
    safe: SearchResult
    as_asked: SearchResult | None
    entailed_by: Entailing | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-serialisable values."""
        as_asked = None if self.as_asked is None else self.as_asked.to_dict()
        entailed_by = None if self.entailed_by is None else asdict(self.entailed_by)
        return asdict(self.query) | {"safe": self.safe.to_dict(), "as_asked": as_asked, "entailed_by": entailed_by}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything that the report shows.

    Attributes:
        encoder: The model.
        images: Folder of the pictures.
        location: Folder of the collection.
        report: Outcome of indexing.
        info: The collection.
        searches: The queries with their results.
    """

    encoder: Encoder
    images: Path
    location: Path
    report: IndexReport
    info: IndexInfo
    searches: tuple[DemoSearch, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-serialisable values, without the calibration and local paths."""
        return {
            "model": self.encoder.name,
            "fingerprint": self.encoder.fingerprint,
            "report": self.report.to_dict(),
            "collection": self.info.to_dict(),
            "searches": [search.to_dict() for search in self.searches],
        }


def gallery() -> Path:
    """Return the folder of the example gallery: ``images/`` and ``captions.jsonl``.

    Raises:
        SourceError: It is not installed.
    """
    folder = Path(str(resources.files("hysac_retrieval"))) / "demo" / "gallery"
    if not (folder / "captions.jsonl").is_file():
        raise SourceError(f"the example gallery is missing ({folder})", hint="Reinstall hysac-retrieval")
    return folder


def run_demo(
    out: str | Path,
    *,
    model: str = "hysac-mini",
    folder: Path | None = None,
    queries: Sequence[DemoQuery] = QUERIES,
    limit: int = HITS,
    on_progress: OnProgress | None = None,
) -> DemoResult:
    """Index the gallery into ``out/collections``, afresh, and ask the queries.

    Args:
        out: Folder to work in; made.
        model: The model, as `Encoder.load` takes it.
        folder: A gallery; default: the one that comes with the package.
        queries: Queries; names of pictures refer to the gallery.
        limit: Hits of each query.
        on_progress: Called as items are indexed.

    Raises:
        HysacError: The model, the gallery or the folder cannot be used.
    """
    folder = folder or gallery()
    images, location = folder / "images", Path(out) / "collections"
    encoder = Encoder.load(model)
    with Index.for_model(encoder, COLLECTION, recreate=True, location=location) as index:
        options = SourceOptions(captions=folder / "captions.jsonl", namespace=COLLECTION)
        report = index_sources([images], index, encoder, options=options, on_progress=on_progress)
        engine = SafeSearch(index, encoder)
        captions = _Captions(encoder, folder / "captions.jsonl")
        searches = []
        for query in queries:
            asked = images / query.query if query.modality == "image" else query.query
            safe = engine.search(asked, limit=limit)
            as_asked = engine.search(asked, limit=limit, safe=False) if query.as_asked else None
            searches.append(DemoSearch(query, safe, as_asked, captions.entailing(asked)))
        info = index.info()
    return DemoResult(encoder, images, location, report, info, tuple(searches))


class _Captions:
    """The captions of the gallery as points: the collection holds its pictures alone."""

    def __init__(self, encoder: Encoder, path: Path) -> None:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        self._encoder = encoder
        self._texts = [str(row["caption"]) for row in rows if row.get("caption")]
        self._points = encoder.encode_text(self._texts) if self._texts and encoder.entailment else None

    def entailing(self, query: str | Path) -> Entailing | None:
        """The safe caption at which a query has the smallest exterior angle, of those that entail it."""
        encoder, cones = self._encoder, self._encoder.entailment
        if cones is None or self._points is None:
            return None
        point = (encoder.encode_text([query]) if isinstance(query, str) else encoder.encode_image([query]))[0]
        relations = cones.relations(self._points, point, encoder.curvature, encoder.safety)
        angles = cones.angle(self._points, point, encoder.curvature)
        found = [i for i, relation in enumerate(relations) if relation is not None and relation.startswith("T<")]
        if not found:
            return None
        best = min(found, key=lambda i: float(angles[i]))
        relation = cast(Relation, relations[best])
        cone = cones.cones[relation]
        return Entailing(self._texts[best], relation, cone.matched, cone.unmatched)
