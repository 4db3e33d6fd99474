"""Items to points and to what was judged of them: every view is encoded, the first gives the point."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval import lorentz
from hysac_retrieval.encoder.tokenization import TextTokenizer
from hysac_retrieval.encoder.views import Views
from hysac_retrieval.safety.views import Judged, judged

T = TypeVar("T")

Points: TypeAlias = NDArray[np.float32]


def text_views(text: str, tokenizer: TextTokenizer) -> Views:
    """Return the views of a text: every window of it, and of every reading; the first is its beginning.

    Raises:
        TextError: The text is empty, blank or not a `str`.
    """
    tokenizer.check(text)
    readings = tokenizer.readings(text)
    if len(readings) == 1:
        parts = {"text": tokenizer.windows(text).rows}
    else:
        # Where other readings have all that is known of it, the rest of a text would be judged by pieces of words.
        own = tokenizer([text]) if tokenizer.lexicon.complete else tokenizer.windows(text).rows
        parts = {name: tokenizer.windows(reading).rows if name != "text" else own for name, reading in readings.items()}
    names, rows = [], []
    seen: set[bytes] = set()
    for name, windows in parts.items():
        for number, row in enumerate(windows, start=1):
            if (key := row.tobytes()) not in seen:
                seen.add(key)
                names.append(name if len(windows) == 1 else f"{name}, window {number}")
                rows.append(row)
    return Views(tuple(names), np.stack(rows), tokenizer.known(readings.values()))


def judging(
    items: Sequence[Views], encode: Callable[[NDArray[Any]], Points], curvature: float, at_once: int
) -> Generator[None, None, tuple[Points, list[Judged]]]:
    """Encode all views of n items, n ≥ 1, in runs of at most `at_once`; stop after each, since one text may have many.

    Args:
        items: The items.
        encode: Turns rows (m, …) into points (m, d).
        curvature: Curvature c > 0 of the space (−c).
        at_once: Views that are encoded at once.

    Returns:
        The points of the first views, (n, d) float32, and what was judged of each item.
    """
    points, found = [], []
    for group in in_groups(items, at_once):
        rows = np.concatenate([item.rows for item in group])
        runs = []
        for start in range(0, len(rows), at_once):
            runs.append(encode(rows[start : start + at_once]))
            yield
        encoded = np.concatenate(runs)
        radii = np.asarray(lorentz.dist0(encoded.astype(np.float64), curvature))
        ends = np.cumsum([len(item.names) for item in group])
        for item, end in zip(group, ends, strict=True):
            start = end - len(item.names)
            points.append(encoded[start])
            found.append(judged(item.names, radii[start:end], encoded[start:end], item.known))
    return np.stack(points), found


def finished(steps: Generator[None, None, T]) -> T:
    """Go through steps to their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def in_groups(items: Sequence[Views], at_once: int) -> Iterator[list[Views]]:
    """Yield the items in groups of at most `at_once` views, or of one item with more."""
    group: list[Views] = []
    for item in items:
        if group and sum(len(each.names) for each in group) + len(item.names) > at_once:
            yield group
            group = []
        group.append(item)
    if group:
        yield group
