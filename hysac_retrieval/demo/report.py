"""Write the report of the demonstration: the explorer's figures, with what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.connecting import connect
from hysac_retrieval.search.figures.report import NEAR, figures, pictures_in, save, section

if TYPE_CHECKING:
    from hysac_retrieval.demo.run import DemoResult, DemoSearch


def write_report(result: DemoResult, path: Path) -> Path:
    """Write the report.

    Args:
        result: Result of `run_demo`, whose collection is still there.
        path: File to write, replaced if it exists.

    Raises:
        StoreError: The file cannot be written.
    """
    hits = [hit for search in result.searches for hit in search.safe.hits]
    facts = {
        "indexed": str(result.info.points),
        "searchable": str(result.info.safe),
        "seconds": f"{result.report.seconds:.1f}",
        "missed": f"{sum(bool(hit.payload.get('unsafe')) for hit in hits)} of {len(hits)}",
    }
    roots = pictures_in({result.info.name: result.images})
    with connect(result.info.name, model=result.encoder, location=str(result.location)) as engine:
        sections = [_section(engine, search, result.images) for search in result.searches]
        data = figures(engine, roots, sections, safe=False, title="Safe search, redirected", facts=facts)
    save(data, path)
    return path


def shown(search: DemoSearch) -> str:
    """Return a query as people read it."""
    return f"“{search.query.query}”" if search.query.modality == "text" else search.query.query


def _section(engine: SafeSearch, search: DemoSearch, images: Path) -> dict[str, object]:
    picture = images / search.query.query if search.query.modality == "image" else None
    explained = engine.explain(picture or search.query.query, near=NEAR)
    answers = [search.safe, *filter(None, [search.as_asked])]
    return section(explained, answers, title=search.query.title, asked=shown(search), picture=picture)
