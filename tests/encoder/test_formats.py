"""Formats: read by content whatever the name, by packages where installed, and only by decoders on the list."""

from __future__ import annotations

import io
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hysac_retrieval.encoder import formats
from hysac_retrieval.encoder.formats import HEIF, IMAGE_SUFFIXES, JXL, RAW, extra_of, looks_like_image
from hysac_retrieval.encoder.pictures import DEFAULT_MAX_PIXELS
from hysac_retrieval.encoder.preprocess import load_image
from hysac_retrieval.errors import ImageError

RED = Image.new("RGB", (24, 16), (220, 20, 20))
CORE = {
    ".apng": "PNG", ".avif": "AVIF", ".bmp": "BMP", ".dib": "DIB", ".gif": "GIF", ".j2k": "JPEG2000", ".jfif": "JPEG",
    ".jp2": "JPEG2000", ".jpe": "JPEG", ".jpeg": "JPEG", ".mpo": "MPO", ".pgm": "PPM", ".ppm": "PPM", ".pnm": "PPM",
    ".pbm": "PPM", ".qoi": "QOI", ".tga": "TGA", ".tif": "TIFF", ".webp": "WEBP",
}  # fmt: skip


def encoded(format: str, image: Image.Image = RED, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def is_red(source: Any) -> bool:
    r, g, b = np.asarray(load_image(source)).reshape(-1, 3).mean(axis=0)
    return bool(r > 180 and g < 80 and b < 80)


@pytest.mark.parametrize("suffix", sorted(CORE))
def test_what_people_call_a_picture_is_read(suffix: str, tmp_path: Path) -> None:
    assert suffix in IMAGE_SUFFIXES
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(encoded(CORE[suffix]))
    assert is_red(path)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.heic", "photo.txt", "photo", "photo.tga"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_the_content_decides_not_the_suffix(name: str, format: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(encoded(format))
    assert is_red(path)


def test_a_tga_needs_its_suffix_or_its_footer(tmp_path: Path) -> None:
    with_footer = encoded("TGA")
    assert is_red(with_footer)
    path = tmp_path / "old.TGA"
    path.write_bytes(with_footer[:-26])
    assert is_red(path)
    with pytest.raises(ImageError, match="not an image"):
        load_image(with_footer[:-26])


@pytest.mark.parametrize("format", ["EPS", "PDF", "PCX", "SGI", "XBM", "ICO"])
def test_other_decoders_of_pillow_do_not_run(format: str) -> None:
    image = RED.convert("1") if format == "XBM" else RED
    with pytest.raises(ImageError, match="not an image"):
        load_image(encoded(format, image))


@pytest.mark.parametrize("format", ["HEIF", "JXL"])
def test_a_package_reads_more(format: str, tmp_path: Path) -> None:
    extra = {"HEIF": HEIF, "JXL": JXL}[format]
    pytest.importorskip(extra.module, reason=f"needs the extra {extra.name}")
    if format == "HEIF":
        import pillow_heif

        data = io.BytesIO()
        pillow_heif.from_pillow(RED.resize((64, 64))).save(data, format="HEIF")
        content = data.getvalue()
    else:
        import pillow_jxl  # noqa: F401  # registers itself

        content = encoded("JXL", RED.resize((64, 64)))
    assert extra_of(content, "") is extra
    assert is_red(content)
    (tmp_path / "named.jpg").write_bytes(content)
    assert is_red(tmp_path / "named.jpg")


@pytest.mark.parametrize(
    ("head", "extra"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", HEIF),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", HEIF),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", None),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", None),
        (b"\xff\x0a\0\0\0\0", JXL),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", JXL),
        (b"II*\0\x10\0\0\0CR\x02\0", RAW),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", RAW),
        (b"FUJIFILMCCD-RAW 0201FF", RAW),
    ],
)
def test_without_its_package_a_format_is_named_with_what_reads_it(
    head: bytes, extra: formats.Extra | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extra_of(head, "") is extra
    if extra is None or head[:4] == b"II*\0":
        return
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=rf"hysac-retrieval\[{extra.name}\]"):
        load_image(head)


def dng(preview: bytes) -> bytes:
    """A camera's file of 64 × 64 black sensor values with a preview."""
    raw = np.zeros((64, 64), "<u2").tobytes()
    matrix = struct.pack("<18i", *(v for n in (1, 0, 0, 0, 1, 0, 0, 0, 1) for v in (n, 1)))
    blob = [b"Maker\0", b"Model\0", matrix, struct.pack("<6I", 1, 1, 1, 1, 1, 1), preview, raw]
    starts, at = [], 8
    for part in blob:
        starts.append(at)
        at += len(part) + len(part) % 2
    body = b"".join(part + b"\0" * (len(part) % 2) for part in blob)

    def directory(tags: list[tuple[int, int, int, int]], follow: int = 0) -> bytes:
        entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
        return struct.pack("<H", len(tags)) + entries + struct.pack("<I", follow)

    sub = at
    sensor = directory(
        [
            *((254, 4, 1, 0), (256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 32803)),
            *((273, 4, 1, starts[5]), (277, 3, 1, 1), (278, 4, 1, 64), (279, 4, 1, len(raw))),
            *((33421, 3, 2, 2 | 2 << 16), (33422, 1, 4, int.from_bytes(b"\0\1\1\2", "little"))),
        ]
    )
    main = directory(
        [
            *((254, 4, 1, 1), (256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6)),
            *((271, 2, 6, starts[0]), (272, 2, 6, starts[1]), (273, 4, 1, starts[4]), (277, 3, 1, 3), (278, 4, 1, 64)),
            *((279, 4, 1, len(preview)), (330, 4, 1, sub), (50706, 1, 4, int.from_bytes(b"\1\4\0\0", "little"))),
            *((50721, 10, 9, starts[2]), (50728, 5, 3, starts[3]), (50778, 3, 1, 21)),
        ]
    )
    return b"II*\0" + struct.pack("<I", sub + len(sensor)) + body + sensor + main


def test_a_camera_s_file_is_read_by_its_preview(tmp_path: Path) -> None:
    pytest.importorskip("rawpy", reason="needs the extra raw")
    path = tmp_path / "IMG_1.DNG"
    path.write_bytes(dng(encoded("JPEG", RED.resize((64, 64)))))
    assert is_red(path)


@pytest.mark.parametrize("head", [b"", b"PK\x03\x04", b"%PDF-1.7", b"hello, world", b"{}", b"\x7fELF", b"%!PS-Adobe"])
def test_other_files_do_not_look_like_pictures(head: bytes) -> None:
    assert not looks_like_image(head.ljust(64, b"\0") if head else head)


def test_the_limit_can_be_raised_beyond_pillow_s_own_for_that_call_only() -> None:
    data = encoded("PNG", Image.new("1", (20_000, 9_100)))
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="max_pixels") as refused:
        load_image(data)
    assert "--max-pixels" in str(refused.value)
    assert load_image(data, max_pixels=182_000_000).size == (20_000, 9_100)
    with pytest.raises(ImageError, match="the limit is 181999999"):
        load_image(data, max_pixels=181_999_999)
    assert limit == Image.MAX_IMAGE_PIXELS == DEFAULT_MAX_PIXELS
    with pytest.raises(ImageError, match="max_pixels"):
        load_image(data)


def test_pillow_s_limit_is_as_before_after_threads_have_raised_it() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    data = encoded("PNG", Image.new("1", (64, 64)))
    bomb = encoded("PNG", RED)

    def work(most: int) -> None:
        for _ in range(30):
            load_image(data, max_pixels=most)
            assert load_image(bomb, max_pixels=most).size == RED.size

    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(10**9 + n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
    assert limit == Image.MAX_IMAGE_PIXELS
