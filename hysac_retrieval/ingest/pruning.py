"""Removal of points whose items have left their source, within a limit.

A source that has lost much of what it held is more often damaged than tidied up: a disk that is not mounted, a table
that was cut short, a stray quote that swallowed its rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from qdrant_client import models

from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.plan import left_points
from hysac_retrieval.ingest.report import IndexReport
from hysac_retrieval.ingest.sources.open import Listing
from hysac_retrieval.payload import SOURCE

DEFAULT_LIMIT = "10%"
UNREADABLE = "some of the sources could not be read, so what has left them is not known"
"""Why no point is pruned."""

Departed = dict[str, tuple[int, int]]
"""Points that have left a source, and points that it has, by its name; for sources that some have left."""

_LIMIT = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")


@dataclass(frozen=True, slots=True)
class PruneLimit:
    """Points of a source that may be removed at once: a number, or a percentage of those that it has and at least 1."""

    amount: float
    percent: bool

    @classmethod
    def of(cls, limit: int | str | None) -> PruneLimit | None:
        """Return the limit that ``200`` or ``"10%"`` stands for; None for none.

        Raises:
            SettingsError: It is neither.
        """
        if limit is None:
            return None
        found = None if isinstance(limit, bool) else _LIMIT.fullmatch(str(limit).strip())
        if found is None or (found[2] and float(found[1]) > 100) or (not found[2] and "." in found[1]):
            raise SettingsError(f"prune limit {limit!r}", hint="Give a number of points, or a percentage such as 10%")
        return cls(float(found[1]), bool(found[2]))

    def refusal(self, departed: Departed) -> str:
        """Return, in words, which points are more than may be removed; empty if there are none."""
        beyond = [
            f"{left:,} of the {points:,} points of {source}"
            for source, (left, points) in departed.items()
            if left > self._allowed(points)
        ]
        return f"{' and '.join(beyond)} would go, and the limit is {self} of a source" if beyond else ""

    def _allowed(self, points: int) -> float:
        if not self.percent:
            return self.amount
        return max(points * self.amount / 100, 1) if self.amount else 0

    def __str__(self) -> str:
        return f"{self.amount:g}%" if self.percent else f"{self.amount:,.0f}"


def departed_points(index: Index, listing: Listing) -> Departed:
    """Count the points that have left their sources; the listing has been read to its end."""
    found: Departed = {}
    for source in listing.whole:
        if left := sum(len(ids) for ids in left_points(index, [source], listing.seen)):
            of_source = models.FieldCondition(key=SOURCE, match=models.MatchValue(value=source))
            found[source] = (left, index.count(models.Filter(must=[of_source])))
    return found


def prune(
    report: IndexReport, index: Index, listing: Listing, limit: PruneLimit | None, journal: Journal
) -> IndexReport:
    """Remove the points that have left their sources, unless these are not known or, of any source, too many."""
    if not listing.complete:
        return replace(report, unpruned=UNREADABLE)
    departed = departed_points(index, listing)
    if refusal := limit.refusal(departed) if limit else "":
        return replace(report, unpruned=refusal, refused=sum(left for left, _ in departed.values()))
    pruned = 0
    for ids in left_points(index, list(departed), listing.seen):
        with journal.writing(ids, removing=True):
            index.delete(ids)
        pruned += len(ids)
    return replace(report, pruned=pruned)
