"""Versions of Qdrant servers: what each feature needs, in one table."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hysac_retrieval.errors import StoreError


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that not every server can do.

    Attributes:
        name: Its name, as the subject of a sentence.
        since: First version that can.
        otherwise: What happens, or what to do, with an older server.
    """

    name: str
    since: tuple[int, int]
    otherwise: str

    def known(self, version: str) -> bool:
        """Whether a version, such as ``1.18.3``, can do this; False for one that cannot be read."""
        found = re.match(r"v?(\d+)\.(\d+)", version)
        return found is not None and (int(found[1]), int(found[2])) >= self.since

    def require(self, version: str) -> None:
        """Raise `StoreError` if a version cannot do this."""
        if not self.known(version):
            major, minor = self.since
            raise StoreError(f"{self.name} needs Qdrant {major}.{minor}, this is {version}", hint=self.otherwise)


METADATA = Feature("collection metadata", (1, 16), "Use a newer server: nothing works without")
NEW_VECTOR = Feature(
    "a vector added to a collection that exists", (1, 18), "attach makes a companion collection instead"
)
TURBO4 = Feature("turbo4", (1, 18), "int8 and binary work here")
SLICES = Feature("a slice condition in a filter", (1, 19), "Leave it out of filters")
PREFIXES = Feature("a match by prefix in a filter", (1, 19), "Match whole values here, or words of a text")
TURBO8 = Feature("turbo8", (1, 20), "int8 works here, and turbo4 from 1.18")
SUBSTRINGS = Feature("a match by substring in a filter", (1, 20), "Match whole values here, or words of a text")
FORMULAS = Feature(
    "acosh in formulas", (1, 20), "The order of a search with rerank is computed here, from more candidates"
)
FEATURES = (METADATA, NEW_VECTOR, TURBO4, SLICES, PREFIXES, TURBO8, SUBSTRINGS, FORMULAS)
"""All of them, oldest first."""
