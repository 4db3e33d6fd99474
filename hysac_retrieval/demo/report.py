"""The report of the demonstration: one HTML file with everything in it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from hysac_retrieval.errors import StoreError
from hysac_retrieval.results import Hit, QueryInfo, SearchResult
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import MODALITIES

if TYPE_CHECKING:
    from hysac_retrieval.demo.run import DemoResult, DemoSearch

_MIME = {".webp": "image/webp", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}

_LEAD = """Pictures and texts are points of one hyperbolic space in which distance from the origin grows from safe to
unsafe. An unsafe query is moved toward the origin, to its safe counterpart, and only safe points may answer. With
<code>safe=False</code> the same query is answered as asked."""
_FOOTER = """Model {model}, fingerprint <code>{fingerprint}</code>. A point counts as safe if its unsafe score is at
most {threshold}. The mark under a score is how the gallery's maker labelled the scene; the search never sees it."""


def write_report(result: DemoResult, path: Path) -> Path:
    """Write the report.

    Args:
        result: What `run_demo` returned.
        path: File to write, replaced if it exists.

    Raises:
        StoreError: The file cannot be written.
    """
    try:
        path.write_text(render(result), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the report cannot be written: {error}; choose another folder with --out") from error
    return path


def render(result: DemoResult) -> str:
    """The report as HTML; it refers to no other file."""
    template = Template(resources.files(__package__).joinpath("template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title="Safe search, redirected",
        lead=_LEAD,
        facts="".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for name, value in _facts(result)),
        sections="\n".join(_section(search, result) for search in result.searches),
        footer=_FOOTER.format(
            model=escape(result.model),
            fingerprint=escape(result.fingerprint),
            threshold=f"{result.safety.threshold:.3g}",
        ),
    )


def is_safe(hit: Hit, threshold: float) -> bool:
    """Whether the stored score counts as safe."""
    return hit.unsafe is not None and hit.unsafe <= threshold


def shown(search: DemoSearch) -> str:
    """A query as people read it."""
    return f"“{search.query.query}”" if search.query.modality == "text" else search.query.query


def _facts(result: DemoResult) -> Iterable[tuple[str, str]]:
    yield "pictures indexed", str(result.info.points)
    yield "of them searchable safely", str(result.info.safe)
    yield "seconds to index", f"{result.report.seconds:.1f}"
    hits = [hit for search in result.searches for hit in search.safe.hits]
    unsafe = sum(bool(hit.payload.get("unsafe")) for hit in hits)
    yield "hits of safe searches labelled unsafe", f"{unsafe} of {len(hits)}"


def _section(search: DemoSearch, result: DemoResult) -> str:
    query = search.query
    asked = (
        f"<blockquote>{escape(shown(search))}</blockquote>"
        if query.modality == "text"
        else _image(result.images / query.query, "The query")
    )
    columns = _answer("Answered safely", "safe=True", search.safe, result, "answer-safe")
    if search.as_asked is not None:
        columns += _answer("Answered as asked", "safe=False", search.as_asked, result, "answer-asked")
    return (
        f'<section><h2>{escape(query.title)}</h2><div class="query">{asked}'
        f'<p class="done">{_what_was_done(search.safe.query)}</p></div>'
        f"{_axis(search.safe.query, result.safety)}"
        f'<div class="columns">{columns}</div></section>'
    )


def _what_was_done(query: QueryInfo) -> str:
    found = f"Radius {query.radius:.2f}, unsafe score {query.unsafe:.2f}. "
    if query.redirected:
        return found + f"Redirected to radius {query.radius_searched:.2f} before the search."
    return found + "Searched as it is: it counts as safe."


def _answer(title: str, call: str, result: SearchResult, demo: DemoResult, kind: str) -> str:
    hits = "".join(_hit(hit, demo) for hit in result.hits)
    body = f'<ol class="hits">{hits}</ol>' if hits else '<p class="note">Nothing found.</p>'
    return f'<div class="{kind}"><h3>{title} <code>{call}</code></h3>{body}</div>'


def _hit(hit: Hit, demo: DemoResult) -> str:
    safe = is_safe(hit, demo.safety.threshold)
    score = "no score" if hit.unsafe is None else f"{'safe' if safe else 'unsafe'}, {hit.unsafe:.2f}"
    caption = str(hit.payload.get("caption", ""))
    radius = "" if hit.radius is None else f" · radius {hit.radius:.2f}"
    return (
        f"<li>{_image(demo.images / str(hit.payload['file']), caption)}"
        f'<div class="body"><span class="badge {"safe" if safe else "unsafe"}">{score}</span>'
        f"{_label(hit, safe)}"
        f'<span class="caption">{escape(caption)}</span>'
        f'<span class="numbers">distance {hit.distance:.2f}{radius}</span></div></li>'
    )


def _label(hit: Hit, safe: bool) -> str:
    """How the scene was marked by whoever made it; set off where the score says otherwise."""
    if "unsafe" not in hit.payload:
        return ""
    marked = bool(hit.payload["unsafe"])
    text = "label: unsafe" if marked else "label: safe"
    if marked and hit.payload.get("category"):
        text += f", {hit.payload['category']}"
    return f'<span class="label{" differs" if marked == safe else ""}">{escape(text)}</span>'


def _axis(query: QueryInfo, profile: SafetyProfile) -> str:
    """The radii of the four groups of the calibration, and where the query lies before and after."""
    groups = [
        (f"{kind}-{modality}", f"{kind} {modality}s", getattr(profile.of(modality), kind))
        for kind in ("safe", "unsafe")
        for modality in MODALITIES
    ]
    longest = max(query.radius, *(stats.mean + 2 * stats.std for _, _, stats in groups)) * 1.03

    def at(radius: float) -> str:
        return f"{100 * radius / longest:.2f}%"

    marks, legend = [], []
    for name, label, stats in groups:
        low, high = max(stats.mean - stats.std, 0.0), stats.mean + stats.std
        colour = f"background:var(--{name})"
        marks.append(f'<i class="band" style="left:{at(low)};width:{at(high - low)};{colour}"></i>')
        marks.append(f'<i class="mean" style="left:{at(stats.mean)};{colour}"></i>')
        legend.append(f'<li><i style="{colour}"></i>{label} {stats.mean:.2f}</li>')
    if query.redirected:
        width = at(query.radius - query.radius_searched)
        marks.append(f'<i class="move" style="left:{at(query.radius_searched)};width:{width}"></i>')
        marks.append(f'<i class="query-at" style="left:{at(query.radius)}"></i>')
        legend.append(f'<li><i class="ring"></i>query as asked {query.radius:.2f}</li>')
    marks.append(f'<i class="query-at after" style="left:{at(query.radius_searched)}"></i>')
    legend.append(f'<li><i class="dot"></i>query searched {query.radius_searched:.2f}</li>')
    description = f"Radius axis: query at {query.radius:.2f}, searched at {query.radius_searched:.2f}"
    return (
        f'<div class="axis" role="img" aria-label="{description}"><i class="rule"></i><i class="origin"></i>'
        f'{"".join(marks)}<span class="end" style="left:0">origin</span>'
        f'<span class="end" style="right:0">distance from the origin →</span></div>'
        f'<ul class="legend">{"".join(legend)}</ul>'
    )


def _image(path: Path, text: str) -> str:
    """A picture, inlined."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    mime = _MIME.get(path.suffix.lower(), "application/octet-stream")
    return f'<img src="data:{mime};base64,{data}" alt="{escape(text)}">'
