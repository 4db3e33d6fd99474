"""Long texts in windows, each an item and so a point of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hysac_retrieval.errors import TextError
from hysac_retrieval.ingest.items import Item

WINDOW = "window"
"""Payload field of a window: its ``number`` from 1, ``of`` how many, and its characters from ``start`` to ``end``."""

Spans = Callable[[str], Sequence[tuple[int, int]]]
"""Characters of a text's windows, as `Encoder.text_spans` gives them."""


def chunks(item: Item, spans: Spans) -> Iterator[Item]:
    """Return a text as items of its windows; the item itself if it has one, is an image, or is refused by the model.

    The payload of a window has the window's text in place of the whole, so that a safe one shows nothing of an unsafe
    one, and its place in the text as `WINDOW`. The first window has the key of the whole text; another's ends with its
    number.
    """
    whole = item.content
    if not isinstance(whole, str) or item.modality != "text":
        yield item
        return
    try:
        places = spans(whole)
    except TextError:  # said when it is encoded
        places = ()
    if len(places) < 2:
        yield item
        return
    for number, (start, end) in enumerate(places, start=1):
        part = whole[start:end]
        position = {"number": number, "of": len(places), "start": start, "end": end}
        held = {name: part if value == whole else value for name, value in item.payload.items()}
        suffix = "" if number == 1 else f"#{WINDOW}={number}"
        payload = held | {WINDOW: position}
        yield item._replace(key=item.key + suffix, place=item.place + suffix, content=part, payload=payload)
