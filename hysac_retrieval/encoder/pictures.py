"""Pictures from paths, bytes, arrays and Pillow images: opened, checked, frame by frame, in RGB.

A file is read once, so that what is hashed, judged and shown is the same picture.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hysac_retrieval.encoder.colour import is_deep, shown
from hysac_retrieval.encoder.formats import FORMATS, formats_here, looks_like_image, open_image
from hysac_retrieval.errors import ImageError

ImageSource: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A path, an encoded file in memory, or a decoded picture: of Pillow, or its pixels (h, w), (h, w, 3) or (h, w, 4)."""

DEFAULT_MAX_PIXELS = 89_478_485
"""Largest width × height that is decoded by default; the figure at which Pillow itself begins to warn."""

MAX_BYTES = 1 << 30
"""Largest file that is read."""

_AGAIN = "Copy or download the image again"
_RAISE = "Scale it down, or raise max_pixels (--max-pixels) if you trust it"
_IN_ORDER = ("GIF", "WEBP", "PNG", "AVIF", "HEIF", "JXL")  # to see a frame, all before it are decoded
_ANIMATED = 20  # such a picture may have so many times max_pixels, all frames together
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


def read_picture(path: Path) -> bytes:
    """Return the contents of an image file.

    Raises:
        ImageError: It is missing, a folder, empty, larger than `MAX_BYTES`, or cannot be read.
    """
    what = described(path)
    try:
        path = Path(os.path.expanduser(path))
        if os.path.isdir(path):
            raise ImageError(f"{what} is a folder", hint="Pass one image file, or index the folder with `hysac-index`")
        if not os.path.exists(path):
            raise ImageError(f"{what} does not exist", hint="Check the path")
        # A device or a pipe could block or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{what} is not a regular file", hint="Pass an image file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError(f"{what} cannot be read: {error}", hint="Check the path and its permissions") from error
    if not data:
        raise ImageError(f"{what} is empty (0 bytes)", hint=_AGAIN)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{what} has more than {MAX_BYTES} bytes", hint="Save it in a smaller file")
    return data


def frames_of(
    source: ImageSource, *, most: int = 1, max_pixels: int = DEFAULT_MAX_PIXELS, path: Path | None = None
) -> Generator[tuple[str, Image.Image], None, None]:
    """Yield a picture in RGB, in all the ways it may be shown, and then further frames or pages of it.

    Args:
        source: The picture. A Pillow image begins with the frame that it is at, and is left there.
        most: Frames at most: the first, the last, and others at even spacing.
        max_pixels: Largest width × height of each.
        path: Where bytes were read from.

    Yields:
        Name, empty for what the model sees, and picture, which is only valid until the next is taken.

    Raises:
        ImageError: The source is missing, a folder, empty, truncated, no image, of a format or colour mode that is
            not supported, or beyond `max_pixels`.
    """
    what = described(source if path is None else path)
    if isinstance(source, str | Path):
        _expect_no_url(source, what)
        path = Path(source)
        source = read_picture(path)
    elif isinstance(source, np.ndarray):
        source = _from_pixels(source)
    if isinstance(source, Image.Image):
        yield from _frames(source, None, what, most, max_pixels)
        return
    if not isinstance(source, bytes | bytearray | memoryview):
        raise ImageError(f"{what} is not an image", hint="Pass a path, the bytes of an image file or a PIL.Image")
    data, suffix = bytes(source), "" if path is None else path.suffix.lower()
    if not data:
        raise ImageError(f"{what} is empty", hint="Pass the contents of an image file")
    with _trusting(max_pixels):
        yield from _frames(_open(data, suffix, what, max_pixels), _opener(data, suffix), what, most, max_pixels)


def _opener(data: bytes, suffix: str) -> Callable[[], Image.Image]:
    """Return what opens a picture anew."""

    def again() -> Image.Image:
        with _quiet():
            return open_image(data, suffix)

    return again


def has_picture_header(path: Path, head: bytes) -> bool:
    """Whether a regular file is a picture by its first bytes, and its header can be read."""
    if not looks_like_image(head):
        return False
    try:
        with path.open("rb") as stream, _quiet(), Image.open(stream, formats=formats_here()):
            return True
    except Exception:  # see _open
        return False


def described(source: Any) -> str:
    """Return what messages call a source."""
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


def _expect_no_url(source: str | Path, what: str) -> None:
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ImageError(f"{what} is a URL, which is not fetched", hint="Download it and pass its bytes or a path")


def _from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    grey_or_colour = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not grey_or_colour or not pixels.size:
        raise ImageError(
            f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8, (h, w), (h, w, 3) or (h, w, 4)",
            hint="Scale them to 0 to 255, or make a PIL image of them",
        )
    return Image.fromarray(pixels)


def _frames(
    image: Image.Image, opened: Callable[[], Image.Image] | None, what: str, most: int, max_pixels: int
) -> Generator[tuple[str, Image.Image], None, None]:
    _check_size(image, what, max_pixels)
    with _as_image_error(what):
        began = image.tell()
        count = getattr(image, "n_frames", 1) if most > 1 else 1
    if image.format in _IN_ORDER and count * image.width * image.height > _ANIMATED * max_pixels:
        raise ImageError(
            f"{what} has {count} frames of {image.width}×{image.height} pixels, the limit is {_ANIMATED} times "
            f"{max_pixels} pixels",
            hint=_RAISE,
        )
    chosen = [began]
    if count > 1:
        chosen += [frame for frame in np.linspace(0, count - 1, min(most, count)).round().tolist() if frame != began]
    try:
        for frame in chosen:
            try:
                with _as_image_error(what):
                    if frame != image.tell():
                        image.seek(int(frame))
                    _check_size(image, what, max_pixels)
                    again = _at(opened, int(frame)) if opened is not None and is_deep(image) else None
                    image.load()
                    upright = _upright(image)
            except ImageError:
                # Phones name further pictures, which programs drop when they save the first again: nothing to see.
                if image.format == "MPO" and frame != began:
                    continue
                raise
            place = f"frame {frame + 1:.0f} of {count}" if frame != began else ""
            ways = shown(upright, again)
            while True:
                with _as_image_error(what):
                    way = next(ways, None)
                if way is None:
                    break
                yield ", ".join(filter(None, (place, way[0]))), way[1]
    finally:
        if opened is None and len(chosen) > 1:
            image.seek(began)


def _at(opened: Callable[[], Image.Image], frame: int) -> Callable[[], Image.Image]:
    def again() -> Image.Image:
        image = opened()
        if frame:
            image.seek(frame)
        return image

    return again


def _open(data: bytes, suffix: str, what: str, max_pixels: int) -> Image.Image:
    try:
        with _quiet():
            return open_image(data, suffix)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{what} is not an image in a known format ({', '.join(FORMATS)})", hint="Convert it first"
        ) from error
    except Image.DecompressionBombError as error:
        found = str(error).rstrip(".")
        raise ImageError(f"{what} is beyond the limit of {max_pixels} pixels: {found}", hint=_RAISE) from error
    except MemoryError:
        raise
    except ImageError as error:
        raise ImageError(f"{what} cannot be decoded: {error.message}", hint=error.hint) from error
    # Pillow's parsers let out whatever they trip over in a damaged file: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise ImageError(f"{what} has a damaged header: {error}", hint=_AGAIN) from error


def _check_size(image: Image.Image, what: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{what} has {width}×{height} = {width * height} pixels, the limit is {max_pixels}", hint=_RAISE
        )
    if width * height == 0:
        raise ImageError(f"{what} has {width}×{height} pixels, so it is empty")


@contextmanager
def _as_image_error(what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except ImageError as error:
        if error.message.startswith(what):
            raise
        raise ImageError(f"{what} cannot be decoded: {error.message}", hint=error.hint) from error
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


_LOCK = threading.Lock()
_trusted: list[int] = []
_limit: list[int | None] = []


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's remarks on odd headers; what matters becomes an `ImageError`.

    The filters of `warnings` belong to the whole process: two threads that saved and restored them at once could leave
    this one in place for good, hence the lock. It is held while headers are read, not while pixels are decoded.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _trusting(max_pixels: int) -> Iterator[None]:
    """Raise Pillow's own limit, which belongs to the whole process, while pictures beyond it are asked for.

    `_check_size` refuses what is larger than asked for, before a pixel is decoded.
    """
    own = Image.MAX_IMAGE_PIXELS
    if not _trusted and (own is None or max_pixels <= 2 * own):
        yield
        return
    with _LOCK:
        if not _trusted:
            _limit[:] = [Image.MAX_IMAGE_PIXELS]
        _trusted.append(max_pixels)
        _set_limit()
    try:
        yield
    finally:
        with _LOCK:
            _trusted.remove(max_pixels)
            _set_limit()


def _set_limit() -> None:
    own = _limit[0]
    Image.MAX_IMAGE_PIXELS = own if own is None or not _trusted else max(own, *_trusted)
