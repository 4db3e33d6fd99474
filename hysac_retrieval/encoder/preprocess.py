"""Decoding of images, and the preprocessing of CLIP, with Pillow only.

The result is uint8: the scaling to [0, 1] and the normalisation are part of the model's graph.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.errors import ImageError

ImageSource: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A path, an encoded file in memory, or a decoded picture: of Pillow, or its pixels (h, w), (h, w, 3) or (h, w, 4)."""

DEFAULT_MAX_PIXELS = 89_478_485
"""Largest width × height that is decoded by default; the figure at which Pillow itself begins to warn."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI")
"""Decoders that may run. Pillow has more; some take almost any bytes for theirs, EPS starts Ghostscript."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".j2k", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".qoi", ".tga", ".tif"}
    | {".tiff", ".webp"}
)
"""Ends of file names that mean an image."""

_AGAIN = "Copy or download the image again"
_ELONGATED = 32  # aspect ratio from which only the cropped part is resized
_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_WARNINGS_LOCK = threading.Lock()


def load_image(source: ImageSource, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image to RGB.

    The EXIF orientation is applied, transparency is laid on white, of an animation the first frame is taken, and
    16-bit and floating-point greys are brought to 8 bits.

    Args:
        source: A path, the bytes of an image file, a Pillow image (which is left as it is), or pixels: an array of
            uint8, shape (h, w) for grey, (h, w, 3) for RGB or (h, w, 4) for RGBA.
        max_pixels: Largest width × height to decode. Above about 179 million Pillow's own limit applies too.

    Returns:
        An image of mode ``RGB``; the source itself when it is a plain RGB picture.

    Raises:
        ImageError: The source is missing, a folder, empty, truncated, no image, of a format or colour mode that is
            not supported, or beyond `max_pixels`.
    """
    what = _describe(source)
    if isinstance(source, Image.Image):
        return _decode(source, what, max_pixels)
    if isinstance(source, np.ndarray):
        return _decode(_from_pixels(source), what, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        if not source:
            raise ImageError(f"{what} is empty", hint="Pass the contents of an image file")
        return _open(BytesIO(source), what, max_pixels)
    if not isinstance(source, str | Path):
        raise ImageError(f"{what} is not an image", hint="Pass a path, the bytes of an image file or a PIL.Image")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ImageError(f"{what} is a URL, which is not fetched", hint="Download it and pass its bytes or a path")
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            raise ImageError(f"{what} is a folder", hint="Pass one image file, or index the folder with `hysac-index`")
        if not path.exists():
            raise ImageError(f"{what} does not exist", hint="Check the path")
        # A device or a pipe could block or never end.
        if not path.is_file():
            raise ImageError(f"{what} is not a regular file", hint="Pass an image file")
        if path.stat().st_size == 0:
            raise ImageError(f"{what} is empty (0 bytes)", hint=_AGAIN)
        with path.open("rb") as stream:
            return _open(stream, what, max_pixels)
    except (OSError, RuntimeError) as error:  # RuntimeError: "~user" of an unknown user
        raise ImageError(f"{what} cannot be read: {error}", hint="Check the path and its permissions") from error


def _from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    grey_or_colour = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not grey_or_colour or not pixels.size:
        raise ImageError(
            f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8, (h, w), (h, w, 3) or (h, w, 4)",
            hint="Scale them to 0 to 255, or make a PIL image of them",
        )
    return Image.fromarray(pixels)


def preprocess(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """Resize the shorter side to the model's size and cut out the centre, as CLIP does.

    The same pixels as torchvision's ``Resize(size)`` and ``CenterCrop(size)`` give on Pillow images.

    Args:
        image: An image of mode ``RGB``, as `load_image` returns it.
        spec: Size and interpolation, from the manifest.

    Returns:
        Pixels, shape (size, size, 3), uint8 in [0, 255].
    """
    size, (width, height) = spec.size, image.size
    resampling = _RESAMPLING[spec.interpolation]
    short, long = min(width, height), max(width, height)
    scaled = size * long // short
    # Offset of the crop in the resized picture, rounded to even at one half as CenterCrop does.
    start = round((scaled - size) / 2.0)
    wide = width >= height
    if long <= _ELONGATED * short:
        image = image.resize((scaled, size) if wide else (size, scaled), resampling)
        left, top = (start, 0) if wide else (0, start)
        image = image.crop((left, top, left + size, top + size))
    else:
        # A picture of 1 × 10⁷ pixels would become one of 224 × 2·10⁹: compute only what the crop keeps. Not done for
        # every picture because Pillow may then take its two passes, which round in between, in the other order.
        begin, end = start * long / scaled, (start + size) * long / scaled
        box = (begin, 0.0, end, float(height)) if wide else (0.0, begin, float(width), end)
        image = image.resize((size, size), resampling, box=box)
    return np.asarray(image, dtype=np.uint8)


def _describe(source: Any) -> str:
    if isinstance(source, Image.Image):
        return f"image (mode {source.mode}, {source.width}×{source.height})"
    if isinstance(source, np.ndarray):
        return f"pixels ({source.dtype}, {source.shape})"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"image data ({len(source)} bytes)"
    if isinstance(source, str | Path):
        text = str(source)
        return repr(text if len(text) <= 300 else f"{text[:300]}…")
    return f"an object of type {type(source).__name__}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's remarks on odd headers; what matters becomes an `ImageError`.

    The filters of `warnings` belong to the whole process: two threads that saved and restored them at once could leave
    this one in place for good, hence the lock. It is held while headers are read, not while pixels are decoded.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this build of Pillow knows (AVIF came with 11.3)."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(stream: IO[bytes], what: str, max_pixels: int) -> Image.Image:
    try:
        with _quiet():
            image = Image.open(stream, formats=_formats())
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{what} is not an image in a known format ({', '.join(FORMATS)})", hint="Convert it first"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{what} is beyond Pillow's limit: {error}",
            hint="Scale it down, or raise both max_pixels and PIL.Image.MAX_IMAGE_PIXELS if you trust it",
        ) from error
    except MemoryError:
        raise
    # Pillow's parsers let out whatever they trip over in a damaged file: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise ImageError(f"{what} has a damaged header: {error}", hint=_AGAIN) from error
    return _decode(image, what, max_pixels)


def _decode(image: Image.Image, what: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{what} has {width}×{height} = {width * height} pixels, the limit is {max_pixels}",
            hint="Scale it down, or raise max_pixels if you trust it",
        )
    if width * height == 0:
        raise ImageError(f"{what} has {width}×{height} pixels, so it is empty")
    try:
        image.load()
        return _to_rgb(_upright(image))
    except MemoryError:
        raise
    except Exception as error:  # see _open
        raise ImageError(f"{what} cannot be decoded: {error}", hint=_AGAIN) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        with _quiet():
            orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a damaged EXIF block is no reason to refuse a picture that decodes
        orientation = None
    transpose = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_rgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    """Bring wide greys to 8 bits; Pillow's own conversion would clip everything above 255 to white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16") or values.max() > 255:
        values = values / 257.0  # 65535 becomes 255
    elif image.mode == "F" and values.max() <= 1:
        values = values * 255.0
    grey = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
