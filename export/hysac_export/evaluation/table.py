"""Tables of figures: how they are written, and shown in a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """A table of strings, ready to be shown anywhere."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> RichTable:
        """The table for a terminal."""
        table = RichTable(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, name in enumerate(self.header):
            table.add_column(name, justify="left" if index < 2 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """The table as GitHub Markdown, under its title in bold."""
        lines = [f"**{self.title}**", "", _row(self.header)]
        lines.append("|" + "|".join("---" if i < 2 else "---:" for i in range(len(self.header))) + "|")
        lines += [_row(row) for row in self.rows]
        return "\n".join(lines)


def percent(figure: Figure | None) -> str:
    """A share in per cent with its interval, such as ``75.3 [72.6, 78.0]``."""
    return NONE if figure is None else f"{figure.value:.1%} [{figure.low:.1%}, {figure.high:.1%}]".replace("%", "")


def number(figure: Figure | None) -> str:
    """A number with its interval, such as ``0.994 [0.991, 0.997]``."""
    return NONE if figure is None else f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def title(evaluations: Sequence[Evaluation]) -> str:
    """What the split of the first evaluation is about."""
    return SPLIT_TITLES.get(evaluations[0].split, evaluations[0].split)


def sample(evaluations: Sequence[Evaluation]) -> str:
    """How much was measured, for a title."""
    sizes = sorted({len(e.encoded) for e in evaluations})
    return f"{' or '.join(map(str, sizes))} quadruplets each, 95 % intervals"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
