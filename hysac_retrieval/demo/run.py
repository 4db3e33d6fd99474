"""Index the gallery as ``hysac index`` does, then search it with the queries of the demonstration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hysac_retrieval.collection.index import Index, IndexInfo
from hysac_retrieval.encoder.encoder import Encoder
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
    DemoQuery("An unsafe query in plain English", "a murder in the living room", "text"),
    DemoQuery("An unsafe picture", "027.webp", "image"),
)
"""The gallery has a scene for each but the murder, and a safe twin for the unsafe ones: car and elephant without
dynamite, no blood beside the policeman."""


@dataclass(frozen=True, slots=True)
class DemoSearch:
    """A query and its results.

    Attributes:
        query: The query.
        safe: Result with ``safe=True``.
        as_asked: Result with ``safe=False``, if the query asks for it.
    """

    query: DemoQuery
    safe: SearchResult
    as_asked: SearchResult | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-serialisable values."""
        as_asked = None if self.as_asked is None else self.as_asked.to_dict()
        return asdict(self.query) | {"safe": self.safe.to_dict(), "as_asked": as_asked}


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
        searches = []
        for query in queries:
            asked = images / query.query if query.modality == "image" else query.query
            safe = engine.search(asked, limit=limit)
            as_asked = engine.search(asked, limit=limit, safe=False) if query.as_asked else None
            searches.append(DemoSearch(query, safe, as_asked))
        info = index.info()
    return DemoResult(encoder, images, location, report, info, tuple(searches))
