"""Values of more than 8 bits and transparency: shown in every way that a viewer might, never cut off in silence."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from hysac_retrieval.encoder.pictures import frames_of
from hysac_retrieval.errors import ImageError

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def grey(values: NDArray[Any], format: str = "TIFF", **options: Any) -> bytes:
    return encoded(Image.fromarray(values), format, **options)


def ways(data: bytes) -> dict[str, NDArray[np.int_]]:
    return {name: np.asarray(image).astype(int)[..., 0] for name, image in frames_of(data)}


def deep_png(pixels: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def deep_tiff(pixels: NDArray[np.uint16], order: str) -> bytes:
    """A TIFF of 16 bits a channel in one uncompressed strip."""
    height, width, _ = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    bits = 8 + 2 + 9 * 12 + 4
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, bits + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data))]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value))
        for tag, kind, count, value in tags
    )
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    return head + directory + struct.pack(f"{order}HHH", 16, 16, 16) + data


@pytest.mark.parametrize(
    "data",
    [
        grey((RAMP * 65535).astype(np.uint16), "PNG"),
        grey((RAMP * 4095).astype(np.uint16), "PNG"),
        grey((RAMP * 4095).astype(np.uint16)),
        grey((RAMP * 1023).astype(np.uint16)),
        grey((RAMP * 4095).astype(">u2").astype(np.uint16)),
        grey((RAMP * 65535).astype(np.int32)),
        grey((RAMP * (2**31 - 1)).astype(np.int32)),
        grey((RAMP * 255).astype(np.int32)),
        grey(RAMP.astype(np.float32)),
        grey((RAMP * 1.2).astype(np.float32)),
        grey((RAMP * 255).astype(np.float32)),
        grey(np.rint(RAMP * 255).astype(np.float32)),
        grey((RAMP * 40).astype(np.float32)),
        grey((RAMP * 4095).astype(np.float32)),
        encoded(Image.frombytes("I;16B", (64, 64), (RAMP * 4095).astype(">u2").tobytes()), "TIFF"),
        b"P5 64 64 4095\n" + (RAMP * 4095).astype(">u2").tobytes(),
        b"Pf\n64 64\n-1.0\n" + (RAMP[::-1] * 3).astype("<f4").tobytes(),
    ],
    ids=lambda data: None,
)
def test_wide_greys_come_in_their_true_range(data: bytes) -> None:
    first = ways(data)[""]
    np.testing.assert_allclose(first, RAMP * 255, atol=2)


@pytest.mark.parametrize("most", [4095, 1023, 511])
def test_few_bits_in_16_of_a_colour_are_not_lost(most: int) -> None:
    pixels = (np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2) * most).astype(np.uint16)
    for data in (deep_png(pixels), deep_tiff(pixels, "<"), deep_tiff(pixels, ">")):
        image = next(iter(frames_of(data)))[1]
        np.testing.assert_allclose(np.asarray(image), pixels / most * 255, atol=1)


def test_a_colour_of_all_16_bits_is_as_pillow_reads_it() -> None:
    pixels = (np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2) * 65535).astype(np.uint16)
    (found,) = frames_of(deep_png(pixels))
    np.testing.assert_array_equal(np.asarray(found[1]), pixels >> 8)


@pytest.mark.parametrize("kind", ["float32", "uint16", "int32"])
def test_one_bright_value_hides_nothing(kind: str) -> None:
    values = (RAMP * 300).astype(kind)
    values[0, 0] = 60000
    found = ways(grey(values))
    assert found[""][:, 1:].max() < 5  # in its own range, all else is black
    np.testing.assert_allclose(found["most of the range"][8:56], RAMP[8:56] * 255, atol=4)


@pytest.mark.parametrize("low", [-1.0, -500.0, 20.0, 60000.0])
def test_values_that_do_not_begin_at_zero_are_shown(low: float) -> None:
    found = ways(grey((low + RAMP * 10).astype(np.float32)))
    shown = found.get("whole range", found[""])
    np.testing.assert_allclose(shown, RAMP * 255, atol=2)


def test_unsigned_numbers_of_32_bits_are_not_negative() -> None:
    whole = (RAMP * (2**32 - 1)).astype(np.uint32)
    signed = bytearray(grey(whole.view(np.int32)))
    entry = bytes(signed).index(struct.pack("<HH", 339, 3))

    signed[entry + 8 : entry + 10] = struct.pack("<H", 1)
    np.testing.assert_allclose(ways(bytes(signed))[""], RAMP * 255, atol=2)


def test_a_wide_grey_whose_zero_is_white_is_turned_round() -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = 0
    data = bytearray(grey((RAMP * 65535).astype(np.uint16)))
    plain = Image.open(io.BytesIO(bytes(data)))
    entry = bytes(data).index(struct.pack("<HH", 262, 3))
    data[entry + 8 : entry + 10] = struct.pack("<H", 0)
    assert plain.tag_v2[262] == 1  # type: ignore[attr-defined]
    np.testing.assert_allclose(ways(bytes(data))[""], 255 - RAMP * 255, atol=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    values = RAMP.astype(np.float32)
    values[3, 3] = value
    with pytest.raises(ImageError, match="NaN or infinite"):
        ways(grey(values))


def drawing(colour: str, ground: tuple[int, ...], mode: str = "RGBA") -> Image.Image:
    image = Image.new("RGBA", (16, 16), ground)
    image.paste(colour, (4, 4, 12, 12))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("PA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "TIFF")],
)
def test_a_drawing_of_any_colour_on_nothing_is_seen(mode: str, format: str) -> None:
    for colour in ("white", "black"):
        image = drawing(colour, (0, 0, 0, 0), "RGBA" if mode == "P" else mode)
        data = encoded(image.quantize(8) if mode == "P" else image.convert("RGBA") if mode == "PA" else image, format)
        found = ways(data)
        assert max(np.ptp(way) for way in found.values()) > 200
        assert {"", "on black"} <= found.keys()


def test_what_lies_under_full_transparency_is_seen() -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12, 4:12, 0] = 255
    found = ways(encoded(Image.fromarray(pixels), "PNG"))
    assert np.ptp(found["opaque"]) == 255


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_other_modes_are_shown_in_one_way(mode: str) -> None:
    image = drawing("white", (0, 0, 0, 255)).convert("RGB").convert(mode)
    assert len(list(frames_of(image))) == 1
