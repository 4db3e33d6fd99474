"""Write the report of the demonstration: one HTML file with everything in it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from importlib import resources
from mimetypes import guess_type
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from hysac_retrieval.errors import StoreError, printable
from hysac_retrieval.results import Hit, QueryInfo, SearchResult
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import MODALITIES

if TYPE_CHECKING:
    from hysac_retrieval.demo.run import DemoResult, DemoSearch


def write_report(result: DemoResult, path: Path) -> Path:
    """Write the report.

    Args:
        result: Result of `run_demo`.
        path: File to write, replaced if it exists.

    Raises:
        StoreError: The file cannot be written.
    """
    try:
        path.write_text(render(result), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the report cannot be written: {error}", hint="Choose another folder with --out") from error
    return path


def render(result: DemoResult) -> str:
    """Return the report as HTML that refers to no other file."""
    return _filled(
        "page",
        facts="".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in _facts(result)),
        sections="".join(_section(search, result) for search in result.searches),
        model=escape(result.encoder.name),
        fingerprint=escape(result.encoder.fingerprint),
        threshold=str(result.encoder.safety.threshold),
    )


def shown(search: DemoSearch) -> str:
    """Return a query as people read it."""
    return f"“{search.query.query}”" if search.query.modality == "text" else search.query.query


def _facts(result: DemoResult) -> Iterable[tuple[str, str]]:
    yield "pictures indexed", str(result.info.points)
    yield "of them searchable safely", str(result.info.safe)
    yield "seconds to index", f"{result.report.seconds:.1f}"
    hits = [hit for search in result.searches for hit in search.safe.hits]
    unsafe = sum(bool(hit.payload.get("unsafe")) for hit in hits)
    yield "hits of safe searches labelled unsafe", f"{unsafe} of {len(hits)}"


def _section(search: DemoSearch, result: DemoResult) -> str:
    query, done = search.query, search.safe.query
    answers = _answer("Answered safely", "safe=True", search.safe, result, "answer-safe")
    if search.as_asked is not None:
        answers += _answer("Answered as asked", "safe=False", search.as_asked, result, "answer-asked")
    marks, legend = _axis(done, result.encoder.safety)
    return _filled(
        "section",
        title=escape(query.title),
        query=f"<blockquote>{escape(printable(shown(search)))}</blockquote>"
        if query.modality == "text"
        else _image(result.images / query.query, "The query"),
        done=str(done),
        asked=f"{done.radius:.2f}",
        searched=f"{done.radius_searched:.2f}",
        marks="".join(marks),
        legend="".join(f"<li>{entry}</li>" for entry in legend),
        answers=answers,
    )


def _answer(title: str, call: str, result: SearchResult, demo: DemoResult, kind: str) -> str:
    hits = "".join(_hit(hit, demo) for hit in result.hits)
    body = f'<ol class="hits">{hits}</ol>' if hits else '<p class="note">Nothing found.</p>'
    return f'<div class="{kind}"><h3>{title} <code>{call}</code></h3>{body}</div>'


def _hit(hit: Hit, demo: DemoResult) -> str:
    safe = demo.encoder.safety.threshold.passes(hit.unsafe, hit.modality)
    score = "no score" if hit.unsafe is None else f"{'safe' if safe else 'unsafe'}, {hit.unsafe:.2f}"
    caption = printable(str(hit.payload.get("caption", "")))
    radius = "" if hit.radius is None else f" · radius {hit.radius:.2f}"
    return _filled(
        "hit",
        image=_image(demo.images / str(hit.payload["file"]), caption),
        verdict="safe" if safe else "unsafe",
        score=score,
        label=_label(hit, safe),
        caption=escape(caption),
        numbers=f"distance {hit.distance:.2f}{radius}",
    )


def _label(hit: Hit, safe: bool) -> str:
    """Say how the gallery's maker labelled the scene; a label that differs from the score stands out."""
    if "unsafe" not in hit.payload:
        return ""
    marked = bool(hit.payload["unsafe"])
    text = "label: unsafe" if marked else "label: safe"
    if marked and hit.payload.get("category"):
        text += f", {printable(str(hit.payload['category']))}"
    return f'<span class="label{" differs" if marked == safe else ""}">{escape(text)}</span>'


def _axis(query: QueryInfo, profile: SafetyProfile) -> tuple[list[str], list[str]]:
    """Return marks and legend: the radii of the calibration's four groups, and of the query before and after."""
    groups = [
        (f"background:var(--{kind}-{modality})", f"{kind} {modality}s", getattr(profile.of(modality), kind))
        for kind in ("safe", "unsafe")
        for modality in MODALITIES
    ]
    longest = max(query.radius, *(stats.mean + 2 * stats.std for _, _, stats in groups)) * 1.03
    marks, legend = [], []

    def mark(kind: str, radius: float, width: float = 0.0, colour: str = "") -> None:
        style = f"left:{100 * radius / longest:.2f}%" + (f";width:{100 * width / longest:.2f}%" if width else "")
        marks.append(f'<i class="{kind}" style="{style};{colour}"></i>')

    for colour, label, stats in groups:
        low = max(stats.mean - stats.std, 0.0)
        mark("band", low, stats.mean + stats.std - low, colour)
        mark("mean", stats.mean, colour=colour)
        legend.append(f'<i style="{colour}"></i>{label} {stats.mean:.2f}')
    if query.redirected:
        mark("move", query.radius_searched, query.radius - query.radius_searched)
        mark("query-at", query.radius)
        legend.append(f'<i class="ring"></i>query as asked {query.radius:.2f}')
    mark("query-at after", query.radius_searched)
    legend.append(f'<i class="dot"></i>query searched {query.radius_searched:.2f}')
    return marks, legend


def _image(path: Path, text: str) -> str:
    """Return a picture inlined."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    mime, _ = guess_type(path.name, strict=False)
    return f'<img src="data:{mime};base64,{data}" alt="{escape(text)}">'


def _filled(name: str, **values: str) -> str:
    """Fill a template of this package."""
    template = resources.files(__package__).joinpath(f"{name}.html")
    return Template(template.read_text(encoding="utf-8")).substitute(values)
