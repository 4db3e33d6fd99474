"""Draw an explanation: as a self-contained HTML page, or as a PNG if matplotlib is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from hysac_retrieval.errors import MissingExtraError, SettingsError, StoreError, printable
from hysac_retrieval.results import Hit
from hysac_retrieval.search.explain import ExplainedStep, Explanation

FORMATS = (".html", ".png")

_SAFE, _UNSAFE = (26, 127, 90), (190, 40, 45)
_ROW, _LINE, _TOP, _X, _WIDTH = 76, 19, 40, 150, 1000
_CHARACTERS = 88


def save_plot(explanation: Explanation, path: str | os.PathLike[str]) -> Path:
    """Write an explanation as a picture.

    Args:
        explanation: Result of `SafeSearch.explain`.
        path: File to write, replaced if it exists; its suffix, ``.html`` or ``.png``, gives the format.

    Raises:
        SettingsError: Another suffix.
        MissingExtraError: A PNG without matplotlib.
        StoreError: The file cannot be written.
    """
    file = Path(path)
    kind = file.suffix.lower()
    if kind not in FORMATS:
        raise SettingsError(
            f"{file.name!r} is no format to plot in", hint=f"Give a name that ends in {' or '.join(FORMATS)}"
        )
    try:
        if kind == ".html":
            file.write_text(render_html(explanation), encoding="utf-8")
        else:
            _save_png(explanation, file)
    except OSError as error:
        raise StoreError(f"the plot cannot be written: {error}") from error
    return file


def render_html(explanation: Explanation) -> str:
    """Return the picture as one HTML page that refers to no other file."""
    page = Template(resources.files(__package__).joinpath("plot.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(printable(explanation.asked)),
        notes="\n".join(f"<p>{escape(note)}</p>" for note in _legend(explanation)),
        width=_WIDTH,
        height=_TOP * 2 + _ROW * (len(explanation.steps) - 1),
        marks="\n".join(_marks(explanation)),
    )


def notes(explanation: Explanation) -> Iterator[str]:
    """Yield the sentences that help to read an explanation."""
    query = explanation.query
    yield f"{query}."
    if query.safe:
        yield f"Only points with an unsafe score of at most {query.thresholds} are shown."
    if not explanation.cones:
        yield (
            "No stored text entails the query: the collection has none, or the model has not learned entailment. "
            "The nearest points are shown instead."
        )
    if explanation.selectivity:
        shares = (
            f"{relation} {share.matched:.0%} and {share.unmatched:.0%}"
            for relation, share in explanation.selectivity.items()
        )
        yield (
            "Of what belongs to a text, and of all else, so much lay in its cone when the model was calibrated: "
            f"{'; '.join(shares)} (T safe text, T* unsafe text, I safe image, I* unsafe image)."
        )


def label(hit: Hit) -> str:
    """Name a point by its caption, else its text, else its file, else its id."""
    for name in ("caption", "text", "file"):
        if isinstance(value := hit.payload.get(name), str) and value.strip():
            return " ".join(value.split())
    return f"point {hit.id}"


def captions(step: ExplainedStep) -> list[tuple[str, bool]]:
    """Return labels of the texts that entail the query at a step, or of the nearest points if none does.

    With each comes whether it entails the query, and before a label by which relation.
    """
    if not step.entailing:
        return [(label(hit), False) for hit in step.nearest]
    named = zip(step.entailing, step.relations, strict=True)
    return [(f"{relation}  {label(hit)}" if relation else label(hit), True) for hit, relation in named]


def _legend(explanation: Explanation) -> Iterator[str]:
    yield from notes(explanation)
    if explanation.cones:
        yield "Upright: stored texts that entail the query there. Italic: the nearest points, if no text entails it."


def _marks(explanation: Explanation) -> Iterator[str]:
    steps = explanation.steps
    last = _TOP + _ROW * (len(steps) - 1)
    yield f'<line class="way" x1="{_X}" y1="{_TOP}" x2="{_X}" y2="{last}"/>'
    for row, step in enumerate(steps):
        y = _TOP + _ROW * row
        if row and steps[row - 1].beyond and not step.beyond:
            between = y - _ROW // 2
            yield f'<line class="bound" x1="0" y1="{between}" x2="{_WIDTH}" y2="{between}"/>'
            bound = f"boundary {explanation.boundary:.3f}"
            yield f'<text class="soft" x="{_WIDTH}" y="{between - 6}" text-anchor="end">{bound}</text>'
        if step.searched:
            yield f'<circle class="searched" cx="{_X}" cy="{y}" r="14"><title>searched here</title></circle>'
        yield f'<circle cx="{_X}" cy="{y}" r="9" fill="rgb{_colour(step.unsafe)}"/>'
        name = "origin" if step.radius == 0 else f"radius {step.radius:.3f}"
        yield f'<text x="{_X - 24}" y="{y + 1}" text-anchor="end">{name}</text>'
        yield f'<text class="soft" x="{_X - 24}" y="{y + _LINE}" text-anchor="end">unsafe {step.unsafe:.3f}</text>'
        for line, (text, entails) in enumerate(captions(step)[:3]):
            kind = "" if entails else ' class="other"'
            yield f'<text x="{_X + 28}" y="{y - 12 + _LINE * line}"{kind}>{escape(_cut(text))}</text>'


def _colour(unsafe: float) -> tuple[int, ...]:
    return tuple(round(safe + (other - safe) * unsafe) for safe, other in zip(_SAFE, _UNSAFE, strict=True))


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"


def _save_png(explanation: Explanation, file: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "plotting to a PNG (HTML needs nothing)") from error
    steps = explanation.steps
    figure = Figure(figsize=(11, 1.2 + 0.8 * len(steps)), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 0], [0, len(steps) - 1], color="0.8", zorder=1)
    for row, step in enumerate(steps):
        colour = tuple(value / 255 for value in _colour(step.unsafe))
        ring = "black" if step.searched else "none"
        axes.scatter([0], [row], s=170, color=[colour], edgecolors=ring, linewidths=2, zorder=2)
        name = "origin" if step.radius == 0 else f"radius {step.radius:.3f}"
        # Text is parsed for formulas between dollar signs, which captions may contain.
        axes.text(-0.03, row, f"{name}\nunsafe {step.unsafe:.3f}", ha="right", va="center", fontsize=9)
        for line, (text, entails) in enumerate(captions(step)[:3]):
            axes.text(
                0.03,
                row + 0.25 * (line - 1),
                _cut(text).replace("$", r"\$"),
                va="center",
                fontsize=9,
                color="black" if entails else "0.45",
                style="normal" if entails else "italic",
            )
        if row and steps[row - 1].beyond and not step.beyond:
            axes.axhline(row - 0.5, color="0.6", linestyle="--", linewidth=1, zorder=0)
            bound = f"boundary {explanation.boundary:.3f}"
            axes.text(1, row - 0.55, bound, ha="right", color="0.45", fontsize=8)
    axes.set_xlim(-0.2, 1)
    axes.set_ylim(len(steps) - 0.5, -0.5)
    axes.set_axis_off()
    heading = [_cut(explanation.asked), *_legend(explanation)]
    axes.set_title("\n".join(heading).replace("$", r"\$"), loc="left", fontsize=10)
    figure.savefig(file, dpi=150)
