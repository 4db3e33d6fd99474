"""Views of an item: what of it the model sees, one after the other.

The first view of a picture is the model's own, its centre. What that leaves out is in the others: the whole picture
squashed to the model's square and the squares that cover it along its longer side, of its first and last frame and some
between; thorough ones also tile it, so that what is small in it is seen in the model's own resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.encoder.pictures import DEFAULT_MAX_PIXELS, ImageSource, frames_of
from hysac_retrieval.encoder.preprocess import RESAMPLING, preprocess
from hysac_retrieval.safety.views import ViewSetting

PIXELS = ImageSpec(size=384, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""How pictures are brought to what a function of the caller's, or a detector, gets of them."""

FRAMES = 8
"""Frames or pages of one picture that are judged at most."""

MOST_VIEWS = 512
"""Views of one picture that tiles bring it to at most."""

_SQUARISH = 1.5  # aspect ratio up to which the squashed picture shows enough of what the centre leaves out
_MOST_CROPS = 16
_DEPTHS = (2, 4)  # sides of tiles, as parts of the picture's shorter side
_FINEST = 0.75  # a tile has at least so much of the model's resolution: it would show a blur otherwise

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Views:
    """Views of one item, k ≥ 1; the first is the one that its vector is made of.

    Attributes:
        names: Their names, k of them.
        rows: What the model takes: pixels (k, size, size, 3) uint8, or token ids (k, context_length) int64.
        known: How much of a text the model knows, in [0, 1]; None for an image, or where that is not known.
    """

    names: tuple[str, ...]
    rows: NDArray[Any]
    known: float | None = None


def picture_views(
    source: ImageSource,
    spec: ImageSpec,
    setting: ViewSetting = "fast",
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    path: Path | None = None,
) -> Views:
    """Return the views of a picture; no two are the same.

    Args:
        source: The picture.
        spec: How it enters the model.
        setting: Which views.
        max_pixels: Largest width × height of a frame.
        path: Where bytes were read from.

    Raises:
        ImageError: See `frames_of`; also of a later frame.
    """
    found: dict[bytes, tuple[str, NDArray[np.uint8]]] = {}
    for frame, image in frames_of(source, most=FRAMES, max_pixels=max_pixels, path=path):
        for place, pixels in _views(image, spec, setting):
            name = ", ".join(filter(None, (frame, place)))
            found.setdefault(pixels.tobytes(), (name, pixels))
    names, rows = zip(*found.values(), strict=True)
    return Views(names, np.stack(rows))


def _views(image: Image.Image, spec: ImageSpec, setting: ViewSetting) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the views of one RGB picture with their places."""
    cut = spec.resize == "shortest"
    yield "centre" if cut else "whole", preprocess(image, spec)
    width, height = image.size
    if width != height:
        yield "whole", _cut(image, (0, 0, width, height), spec)
        crops = _crops(width, height)
        side = min(image.size)
        centre = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        for number, box in enumerate(crops, start=1):
            if cut and np.allclose(box, centre):
                continue
            yield f"crop {number} of {len(crops)}", _cut(image, box, spec)
    if setting == "thorough":
        for depth in _DEPTHS:
            yield from _tiles(image, spec, depth)


def _crops(width: int, height: int) -> list[Box]:
    """Return squares that cover a picture along its longer side, overlapping by half; of a very long one, oblongs."""
    short, long = sorted((width, height))
    if long <= _SQUARISH * short:
        return []
    count = 2 * math.ceil(long / short) - 1  # so that what lies across the edge of one is in another
    starts, side = _spans(long, short, min(count, _MOST_CROPS), overlap=0.0)
    if width > height:
        return [(start, 0, start + side, height) for start in starts]
    return [(0, start, width, start + side) for start in starts]


def _tiles(image: Image.Image, spec: ImageSpec, depth: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield tiles whose side is a part of the picture's shorter one; neighbours overlap by half."""
    side = min(image.size) / depth
    if side < _FINEST * spec.size:
        return
    most = [math.ceil(2 * length / side) - 1 for length in image.size]
    across = max(2, MOST_VIEWS // min(most))
    (lefts, wide), (tops, high) = (
        _spans(length, side, min(count, across), overlap=0.5) for length, count in zip(image.size, most, strict=True)
    )
    # What is much finer than the model sees is dropped at once, not for every tile that shows it.
    factor = max(int(side / (2 * spec.size)), 1)
    small = image.reduce(factor) if factor > 1 else image
    x, y = small.width / image.width, small.height / image.height
    for row, top in enumerate(tops, start=1):
        for column, left in enumerate(lefts, start=1):
            box = (left * x, top * y, min((left + wide) * x, small.width), min((top + high) * y, small.height))
            yield f"tile 1/{depth} at {column}, {row}", _cut(small, box, spec)


def _spans(length: int, side: float, count: int, overlap: float) -> tuple[list[float], float]:
    """Return the starts of `count` spans at equal spacing that cover a length, and their own length.

    They are of length `side`, or longer where so few would leave gaps or overlap by less than such a share.
    """
    if count == 1:
        return [0.0], float(length)
    side = max(side, length / (1 + (count - 1) * (1 - overlap)))
    return np.linspace(0.0, length - side, count).tolist(), side


def _cut(image: Image.Image, box: Box, spec: ImageSpec) -> NDArray[np.uint8]:
    """Squash a part of a picture to the model's square."""
    resized = image.resize((spec.size, spec.size), RESAMPLING[spec.interpolation], box=box)
    return np.asarray(resized, dtype=np.uint8)
