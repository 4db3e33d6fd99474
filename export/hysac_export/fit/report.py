"""The report of a fit: one HTML file that refers to no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from hysac_export.evaluation.bootstrap import Figure
from hysac_export.fit.measure import SEARCHES, Measured, verdict
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.errors import printable
from hysac_retrieval.types import Modality

FILE = "report.html"
_SIDE = 260


def write_report(measured: Mapping[Modality, Measured], bundle: Bundle, labels: str) -> Path:
    """Write ``report.html`` into the folder of a bundle."""
    path = bundle.path / FILE
    path.write_text(render(measured, bundle, labels), encoding="utf-8")
    return path


def render(measured: Mapping[Modality, Measured], bundle: Bundle, labels: str) -> str:
    """Return the report as HTML."""
    page = resources.files("hysac_export.fit").joinpath(FILE).read_text(encoding="utf-8")
    return Template(page).substitute(
        name=escape(bundle.manifest.name),
        labels=escape(labels),
        fingerprint=bundle.fingerprint,
        sections="".join(_section(part, modality) for modality, part in measured.items()),
    )


def _section(part: Measured, modality: Modality) -> str:
    if part.pseudo:
        said = escape(verdict(part, modality))
        return f"<h2>{modality.capitalize()}s</h2><p class='verdict'>{said}</p>{_list('Least sure of', part.unsure)}"
    shares = [
        ("AUC", _figure(part.auc, "{:.3f}")),
        ("of what is unsafe, missed", _figure(part.missed)),
        ("of what is safe, lost", _figure(part.lost)),
        ("score", part.score + (", of the other modality" if part.shared else "")),
    ]
    if part.kept is not None:
        shares.append(("overlap of the ten nearest safe ones with the encoder's own", f"{part.kept:.1%}"))
    listed = (
        ("Least sure of", part.unsure),
        ("Unsafe, counted as safe", part.passed),
        ("Safe, counted as unsafe", part.refused),
    )
    return (
        f"<h2>{modality.capitalize()}s</h2><p class='verdict'>{escape(verdict(part, modality))}</p>"
        f"<div class='columns'><div>{_table((), shares)}</div><div>{_curve(part)}</div></div>"
        f"<h3>What an unsafe query finds first</h3>{_searches(part)}"
        f"{_by_category(part)}<div class='columns'>{''.join(_list(*one) for one in listed)}</div>"
    )


def _searches(part: Measured) -> str:
    twins = all("twin" in figures for figures in part.searches.values())
    header = ("", "something unsafe", *(("its safe counterpart",) if twins else ()))
    rows = [
        (words, *(_figure(part.searches[way][name]) for name in ("harmful", "twin") if name in part.searches[way]))
        for way, words in SEARCHES.items()
    ]
    return _table(header, rows)


def _by_category(part: Measured) -> str:
    if not part.categories:
        return ""
    rows = [
        (name, str(each["unsafe"]), f"{each['auc']:.3f}", f"{each['missed']:.1%}", f"{each['lost']:.1%}")
        for name, each in part.categories.items()
    ]
    return f"<h3>By category</h3>{_table(('', 'unsafe', 'AUC', 'missed', 'lost'), rows)}"


def _list(title: str, names: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(printable(name))}</li>" for name in names) or "<li>none</li>"
    return f"<div><h3>{title}</h3><ul>{items}</ul></div>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>" if header else ""
    body = "".join(
        f"<tr><td>{escape(row[0])}</td>{''.join(f'<td class=n>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f"<table>{head}{body}</table>"


def _figure(figure: Figure, form: str = "{:.1%}") -> str:
    value, low, high = (form.format(number) for number in (figure.value, figure.low, figure.high))
    return f"{value} ({low}–{high})"


def _curve(part: Measured) -> str:
    """Draw the share lost beside the share missed at every threshold, as SVG, the chosen one marked."""
    points = " ".join(f"{_SIDE * missed:.1f},{_SIDE * (1 - lost):.1f}" for missed, lost in sorted(part.curve))
    x, y = _SIDE * part.missed.value, _SIDE * (1 - part.lost.value)
    return (
        f"<svg viewBox='-40 -10 {_SIDE + 60} {_SIDE + 45}' role='img' aria-label='What thresholds cost' width='340'>"
        f"<rect width='{_SIDE}' height='{_SIDE}' fill='none' stroke='#8884'/>"
        f"<polyline points='{points}' fill='none' stroke='var(--accent)' stroke-width='2'/>"
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='var(--unsafe)'/>"
        f"<text x='0' y='{_SIDE + 15}'>0</text><text x='{_SIDE - 25}' y='{_SIDE + 15}'>100 %</text>"
        f"<text x='{_SIDE / 2 - 30}' y='{_SIDE + 30}'>unsafe, missed</text>"
        f"<text x='-38' y='10'>100 %</text><text x='-12' y='{_SIDE}'>0</text>"
        f"<text transform='translate(-22 {_SIDE / 2 + 20}) rotate(-90)'>safe, lost</text></svg>"
    )
