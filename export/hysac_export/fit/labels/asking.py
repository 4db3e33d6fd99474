"""The order in which a person is asked for labels: what tells most comes first.

Without anything to go by, that is what differs most from all that was asked before (farthest first), so that no part of
a collection is left out. Once there are a few labels of each kind, or a head that has an opinion, it is what a
regression on them is least sure of; among the least sure the one that differs most, since neighbours tell the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hysac_export.fit.labels.candidates import Candidate
from hysac_export.fit.scores import FEWEST, Vectors
from hysac_retrieval.errors import MissingExtraError
from hysac_retrieval.types import MODALITIES

SHARE = 0.05
"""Share of what is not labelled that counts as least sure, and at least `FEW` of it."""
FEW = 16


class Keeper(Protocol):
    """Keeps labels: a folder, or a payload field."""

    def keep(self, item: Candidate, unsafe: bool) -> None:
        """Keep a label; it is safe when this returns."""

    def take_back(self, item: Candidate) -> None:
        """Take away the label that was kept last."""


class Asking:
    """Asks about one item after the other, and hands the answers to what keeps them.

    Args:
        items: The items; those with a label are not asked about.
        keepers: Where answers go.
        seed: Of the order of what has no vector.
    """

    def __init__(self, items: Sequence[Candidate], keepers: Sequence[Keeper], seed: int = 0) -> None:
        self.items, self._keepers = items, keepers
        self.labels: dict[int, bool] = {row: item.label for row, item in enumerate(items) if item.label is not None}
        self._answered: list[int | tuple[int]] = []
        self._skipped: set[int] = set()
        groups: dict[tuple[str, bool], list[int]] = {}
        for row, item in enumerate(items):
            groups.setdefault((item.modality, item.vector is not None), []).append(row)
        ordered = [groups[key] for key in ((m, known) for m in MODALITIES for known in (True, False)) if key in groups]
        self._groups = [(rows, _Order([items[row] for row in rows], seed)) for rows in ordered]

    def count(self, unsafe: bool) -> int:
        """Return how many items have a label."""
        return sum(label is unsafe for label in self.labels.values())

    @property
    def left(self) -> int:
        """How many items have neither a label nor been skipped."""
        return len(self.items) - len(self.labels.keys() | self._skipped)

    def next(self) -> int | None:
        """Return the number of the item to ask about; None when all are done. Kinds of items take turns."""
        done = self.labels.keys() | self._skipped
        open_groups = [(rows, order) for rows, order in self._groups if any(row not in done for row in rows)]
        if not open_groups:
            return None
        rows, order = min(open_groups, key=lambda group: sum(row in done for row in group[0]))
        labels = {place: self.labels[row] for place, row in enumerate(rows) if row in self.labels}
        return rows[order.next(labels, [place for place, row in enumerate(rows) if row in self._skipped])]

    def answer(self, row: int, unsafe: bool) -> None:
        """Keep the label of an item."""
        for keeper in self._keepers:
            keeper.keep(self.items[row], unsafe)
        self.labels[row] = unsafe
        self._answered.append(row)

    def skip(self, row: int) -> None:
        """Leave an item for another time."""
        self._skipped.add(row)
        self._answered.append((row,))

    def undo(self) -> int | None:
        """Take back the last answer, or skip; returns the item, None if there is nothing to take back."""
        if not self._answered:
            return None
        last = self._answered.pop()
        if isinstance(last, tuple):
            self._skipped.discard(last[0])
            return last[0]
        for keeper in self._keepers:
            keeper.take_back(self.items[last])
        del self.labels[last]
        return last


class _Order:
    """Chooses among items of one kind."""

    def __init__(self, items: Sequence[Candidate], seed: int) -> None:
        vectors = [item.vector for item in items if item.vector is not None]
        self._vectors: Vectors | None = np.stack(vectors) if vectors else None
        self._held = np.array([item.held is True for item in items])
        self._opinions = all(item.held is not None for item in items) and self._held.any() and not self._held.all()
        self._shuffled = np.random.default_rng(seed).permutation(len(items))
        self._by_head: NDArray[Any] | None = None

    def next(self, labels: dict[int, bool], skipped: Sequence[int]) -> int:
        """Return the place of the item that tells most beside those with labels, and those that were skipped."""
        asked = np.array([*labels, *skipped], dtype=np.int64)
        if self._vectors is None:
            done = {*asked.tolist()}
            return next(int(place) for place in self._shuffled if int(place) not in done)
        free = np.setdiff1d(np.arange(len(self._vectors)), asked)
        doubts = self._doubts(labels)
        if doubts is not None:
            few = max(FEW, round(SHARE * len(free)))
            free = free[np.argsort(doubts[free], kind="stable")[:few]]
        if not asked.size:  # the most ordinary one
            centre = self._vectors.mean(axis=0)
            return int(free[np.argmax(self._vectors[free] @ centre)])
        nearest = (self._vectors[free] @ self._vectors[asked].T).max(axis=1)
        return int(free[np.argmin(nearest)])

    def _doubts(self, labels: dict[int, bool]) -> NDArray[Any] | None:
        """Return distances from the boundary in logits, (n,), by labels if there are enough, else by a head."""
        unsafe = np.array([*labels.values()], dtype=np.bool_)
        assert self._vectors is not None
        if min(unsafe.sum(), (~unsafe).sum()) >= FEWEST:
            return _distances(self._vectors, self._vectors[[*labels]], unsafe)
        if self._opinions and self._by_head is None:
            # Scores of a fitted head are flat, and would tell nothing of what it is unsure of.
            self._by_head = _distances(self._vectors, self._vectors, self._held)
        return self._by_head


def _distances(vectors: Vectors, known: Vectors, unsafe: NDArray[np.bool_]) -> NDArray[Any]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "fit", "asking for labels") from error
    regression = LogisticRegression(C=1 / vectors.shape[1], class_weight="balanced", max_iter=500)
    model = make_pipeline(StandardScaler(), regression).fit(known, unsafe)
    return np.asarray(abs(model.decision_function(vectors)))
