"""Formats of pictures: which decoders may run, what a file's first bytes say, and what needs a package more.

The content decides, not the name: a picture with an odd suffix is read, and a suffix makes nothing a picture.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from PIL import Image

from hysac_retrieval.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI")
"""Decoders that may run. Pillow has more; some take almost any bytes for theirs, EPS starts Ghostscript."""

HEAD = 64
"""First bytes of a file that tell what it is."""

_TGA = frozenset({".icb", ".tga", ".vda", ".vst"})
_TGA_END = b"TRUEVISION-XFILE.\0"
_CORE = _TGA | frozenset(
    {".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"}
    | {".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tif", ".tiff", ".webp"}
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")


@dataclass(frozen=True, slots=True)
class Extra:
    """A package that reads further formats, and the extra of this distribution that installs it."""

    name: str
    module: str
    suffixes: frozenset[str]

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return find_spec(self.module) is not None


HEIF = Extra("heif", "pillow_heif", frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"}))
JXL = Extra("jxl", "pillow_jxl", frozenset({".jxl"}))
RAW = Extra(
    "raw",
    "rawpy",
    frozenset(
        {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef"}
        | {".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
    ),
)
EXTRAS = (HEIF, JXL, RAW)

IMAGE_SUFFIXES = _CORE.union(*(extra.suffixes for extra in EXTRAS if extra.installed))
"""Ends of file names that mean an image which can be read here."""

OTHER_SUFFIXES = (
    frozenset(suffix for extra in EXTRAS for suffix in extra.suffixes)
    | frozenset({".ai", ".dds", ".djvu", ".emf", ".eps", ".exr", ".hdr", ".icns", ".ico", ".jxr", ".pcx", ".psb"})
    | frozenset({".psd", ".sgi", ".svg", ".svgz", ".wdp", ".wmf", ".xbm", ".xcf", ".xpm"})
    | frozenset({".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"})
) - IMAGE_SUFFIXES
"""Ends of the names of pictures and films which cannot be read here."""


def remedy(suffix: str) -> str:
    """Return what reads files with a suffix of `OTHER_SUFFIXES`; empty if nothing does."""
    return next((f"install hysac-retrieval[{extra.name}]" for extra in EXTRAS if suffix in extra.suffixes), "")


def open_image(data: bytes, suffix: str = "") -> Image.Image:
    """Read the header of an encoded picture.

    Args:
        data: The contents of a file.
        suffix: End of the file's name, in lower case; it only counts where the content says too little.

    Raises:
        ImageError: The content needs a package that is not installed.
        Exception: Whatever Pillow raises.
    """
    extra = extra_of(data, suffix)
    if extra is RAW and extra.installed:
        return _raw_preview(data)
    if extra is not None and (extra is not RAW or not _is_tiff(data)):
        return Image.open(BytesIO(data), formats=(_registered(extra),))
    formats = formats_here()
    if suffix in _TGA or data[-18:] == _TGA_END:
        formats = (*formats, "TGA")
    return Image.open(BytesIO(data), formats=formats)


def looks_like_image(head: bytes) -> bool:
    """Whether a file's first `HEAD` bytes are those of a picture that could be read, here or with a package more."""
    head = head.ljust(HEAD, b"\0")  # some decoders look farther than a short file goes
    if extra_of(head, "") is not None:
        return True
    accepts: list[Callable[..., Any]] = [
        accept for name in formats_here() if (accept := Image.OPEN[name][1]) is not None
    ]
    return any(accept(head[:16]) is True for accept in accepts)


def extra_of(data: bytes, suffix: str) -> Extra | None:
    """Return the extra that reads a content; None for Pillow itself."""
    if data[4:8] == b"ftyp":
        if data[8:12] == b"crx ":
            return RAW
        brands = [data[8:12], *(data[i : i + 4] for i in range(16, min(_box(data), HEAD), 4))]
        avif = any(brand in (b"avif", b"avis") for brand in brands)
        return HEIF if not avif and any(brand in _HEIF_BRANDS for brand in brands) else None
    if data[:2] == b"\xff\x0a" or data[:12] == b"\0\0\0\x0cJXL \r\n\x87\n":
        return JXL
    if data.startswith(_RAW_STARTS) or (_is_tiff(data) and (data[8:10] == b"CR" or suffix in RAW.suffixes)):
        return RAW
    return None


def _box(data: bytes) -> int:
    return int.from_bytes(data[:4], "big")


def _is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*")


def _registered(extra: Extra) -> str:
    if not extra.installed:
        raise ImageError(
            f"its format needs the package {extra.module}", hint=f"pip install 'hysac-retrieval[{extra.name}]'"
        )
    return _register(extra)


@cache
def _register(extra: Extra) -> str:
    module = importlib.import_module(extra.module)
    if extra is HEIF:
        module.register_heif_opener()
    return "HEIF" if extra is HEIF else "JXL"


@cache
def formats_here() -> tuple[str, ...]:
    """Return those of `FORMATS` that this build of Pillow knows (AVIF came with 11.3)."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _raw_preview(data: bytes) -> Image.Image:
    """Return the picture that a camera's file shows: its preview, or what is developed where it has none."""
    import rawpy

    with rawpy.imread(BytesIO(data)) as raw:
        try:
            preview = raw.extract_thumb()
        except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
            return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
        if isinstance(preview.data, bytes):
            return Image.open(BytesIO(preview.data), formats=("JPEG",))
        return Image.fromarray(preview.data)
