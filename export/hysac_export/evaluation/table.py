"""Tables of figures: how they are written, and shown in a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable

from hysac_export.evaluation.bootstrap import Figure
from hysac_export.evaluation.subjects import Evaluation

SPLIT_TITLES = {
    "validation": "validation",
    "test": "unseen combinations",
    "context": "context",
    "entities": "unseen unsafe entities",
    "style": "unseen art style",
}
NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table of strings, ready to be shown anywhere; the first `labels` columns are words."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 2

    def rich(self) -> RichTable:
        """The table for a terminal."""
        table = RichTable(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, name in enumerate(self.header):
            table.add_column(name, justify="left" if index < self.labels else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """The table as GitHub Markdown, under its title in bold."""
        rule = "|" + "|".join("---" if i < self.labels else "---:" for i in range(len(self.header))) + "|"
        return "\n".join([f"**{self.title}**", "", _row(self.header), rule, *map(_row, self.rows)])


def split_table(
    evaluations: Sequence[Evaluation], kind: str, header: str, rows: Iterable[Sequence[str]], unit: str = ", in %"
) -> Table:
    """Make a table of one split; `header` holds its columns, separated by bars."""
    title = f"{kind}, {split_title(evaluations[0])}{unit} ({sample(evaluations)})"
    return Table(title, tuple(header.split(" | ")), tuple(map(tuple, rows)))


def percent(figure: Figure | None) -> str:
    """A share in per cent with its interval, such as ``75.3 [72.6, 78.0]``."""
    return NONE if figure is None else f"{figure.value:.1%} [{figure.low:.1%}, {figure.high:.1%}]".replace("%", "")


def number(figure: Figure | None) -> str:
    """A number with its interval, such as ``0.994 [0.991, 0.997]``."""
    return NONE if figure is None else f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def split_title(evaluation: Evaluation) -> str:
    """The split of an evaluation in words."""
    return SPLIT_TITLES.get(evaluation.split, evaluation.split)


def sample(evaluations: Sequence[Evaluation]) -> str:
    """How much was measured, for a title."""
    sizes = sorted({len(e.encoded) for e in evaluations})
    return f"{' or '.join(map(str, sizes))} quadruplets each, 95 % intervals"


def categories(evaluation: Evaluation) -> Iterator[str]:
    """Names of the categories that an evaluation has figures of."""
    yield from dict.fromkeys(key.split(".")[1] for key in evaluation.figures if key.startswith("category."))


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
