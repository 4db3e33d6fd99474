"""Decoded pictures to RGB of 8 bits: wide values scaled, transparency laid on something.

Where a file does not say how it is to be shown, it is shown in each of the ways that would be usual: values of more
than 8 bits up to their largest, or up to where nearly all of them end; what is transparent on white, on black and
without its transparency. The first is what the model sees, the others are judged beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_retrieval.errors import ImageError

Shown = Iterator[tuple[str, Image.Image]]
"""Pictures of mode ``RGB`` with the names of the ways in which they show one; the first has none."""

Values = NDArray[np.float32]

_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE, _SAMPLE_FORMAT, _SMAX_SAMPLE = 258, 262, 281, 339, 341
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_TAILS = (0.5, 99.5)  # percentiles between which nearly all values are
_SAMPLED = 1_000_000  # values that percentiles are taken of
_SAME = 0.05  # two ranges that differ by less, of their length, show the same
_DARK = 64  # of 255: nearly all of a picture below it uses two bits less than it could
_SWAPPED = {"B": "L", "L": "B", "N": "B"}  # byte orders of raw modes; this machine's, N, is little-endian


def shown(image: Image.Image, again: Callable[[], Image.Image] | None = None) -> Shown:
    """Yield a decoded picture in RGB of 8 bits.

    Args:
        image: The picture.
        again: Opens the same picture anew, at the same frame; given for one that `is_deep`.

    Raises:
        ImageError: Values are not finite, or were lost in decoding.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        yield from _toned(_grey_values(image))
    elif (deep := _deep(image, again)) is not None:
        yield from _toned(deep)
    elif image.has_transparency_data:
        yield from _laid(image.convert("RGBA"))
    else:
        yield "", image if image.mode == "RGB" else image.convert("RGB")


def _laid(image: Image.Image) -> Shown:
    """Lay a picture of mode ``RGBA`` on white, on black, and show it without its transparency."""
    for name, ground in (("", "white"), ("on black", "black")):
        yield name, Image.alpha_composite(Image.new("RGBA", image.size, ground), image).convert("RGB")
        if image.getchannel("A").getextrema()[0] == 255:
            return
    yield "opaque", image.convert("RGB")


def _toned(values: tuple[Values, float]) -> Shown:
    """Show values, (h, w) or (h, w, 3), up to white, over their whole range, and over that of nearly all of them."""
    v, white = values
    some = v.reshape(-1)[:: max(v.size // _SAMPLED, 1)]
    inner, outer = np.percentile(some, _TAILS).tolist()
    ranges: list[tuple[str, tuple[float, float]]] = [
        ("", (min(float(v.min()), 0.0), white)),
        ("whole range", (float(v.min()), float(v.max()))),
        ("most of the range", (inner, outer)),
    ]
    done: list[tuple[float, float]] = []
    for name, (low, high) in ranges:
        length = high - low
        near = any(max(abs(low - a), abs(high - b)) <= _SAME * (b - a) for a, b in done)
        if name and (length <= 0 or near):
            continue
        done.append((low, high))
        scaled = np.rint(np.clip((v - low) * (255.0 / (length or 1.0)), 0.0, 255.0)).astype(np.uint8)
        yield name, Image.fromarray(scaled).convert("RGB")


def _grey_values(image: Image.Image) -> tuple[Values, float]:
    """Return the values of a wide grey, and the one that is white."""
    tags = getattr(image, "tag_v2", {})
    pixels = np.asarray(image)
    if image.mode == "I" and tags and _first(tags.get(_SAMPLE_FORMAT), _UNSIGNED) == _UNSIGNED:
        pixels = pixels.view(np.uint32)  # as the file has them; Pillow knows signed ones only
    if not np.isfinite(pixels).all():
        raise ImageError("it holds NaN or infinite values", hint="Replace them with numbers")
    largest, v = float(pixels.max()), pixels.astype(np.float32)
    told = max(_first(tags.get(tag), 0.0) for tag in (_MAX_SAMPLE, _SMAX_SAMPLE))
    whole = image.mode != "F" or (largest > 1 and bool((v == np.rint(v)).all()))
    white = told if told >= largest > 0 else _white(largest, whole=whole)
    if _first(tags.get(_PHOTOMETRIC), 1) == _WHITE_IS_ZERO:
        v = white - v
    return v, white


def _white(largest: float, *, whole: bool) -> float:
    """Return the value that is white, by the largest there is: of whole numbers that of 8 bits or more."""
    if not whole:
        return max(largest, 1.0)
    bits = max(int(largest).bit_length(), 8)
    return float((1 << bits) - 1)


def _first(value: object, default: float) -> float:
    """Return a tag's value, of several the largest."""
    many = value if isinstance(value, tuple) else (value,)
    numbers = [float(one) for one in many if isinstance(one, int | float)]
    return max(numbers, default=default)


def _deep(image: Image.Image, again: Callable[[], Image.Image] | None) -> tuple[Values, float] | None:
    """Return the values of a dark colour picture of 16 bits a channel, and the one that is white; None for others.

    Pillow keeps the upper 8 bits, so that of 12 bits in 16 only 4 are left.
    """
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA", "L", "CMYK") or again is None:
        return None
    upper = np.asarray(image.convert("RGB"))
    if np.percentile(upper[:: max(len(upper) // 1000, 1)], _TAILS[1]) >= _DARK:
        return None
    low = _lower_bytes(again())
    if low is None or image.mode not in ("RGB", "RGBA", "RGBX"):
        raise ImageError(
            "it is dark in 16 bits a channel, of which only 8 can be read", hint="Save it with 8 bits a channel"
        )
    v = upper.astype(np.float32) * 256.0 + np.asarray(low.convert("RGB"))
    return v, _white(float(v.max()), whole=True)


def _raw_mode(image: Image.Image) -> str:
    tile: Any = getattr(image, "tile", None) or [(None, None, None, ("",))]
    args: Any = tile[0][3]
    found = args if isinstance(args, str) else args[0] if args else ""
    return found if isinstance(found, str) else ""


def is_deep(image: Image.Image) -> bool:
    """Whether a picture that is not decoded yet has 16 bits a channel, of which Pillow keeps 8."""
    tags = getattr(image, "tag_v2", {})
    return ";16" in _raw_mode(image) or _first(tags.get(_BITS_PER_SAMPLE), 8) > 8


def _lower_bytes(image: Any) -> Any:
    """Decode the lower byte of each value instead of the upper one; None where that cannot be done."""
    mode = _raw_mode(image)
    if mode[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16"):
        return None
    swapped = mode[:-1] + _SWAPPED[mode[-1]]
    image.tile = [
        tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *tile.args[1:])) for tile in image.tile
    ]
    try:
        image.load()
    except (OSError, ValueError, KeyError):
        return None
    return image
