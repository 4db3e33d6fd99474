"""Thumbnails of indexed files, from the roots that were named and nothing else.

A caller names a point, never a path. The point's payload names the file, and content is not trusted either: what it
names must lie under a root after all links are resolved, and be a picture.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from hysac_retrieval.encoder.pictures import DEFAULT_MAX_PIXELS, frames_of, read_picture
from hysac_retrieval.errors import ImageError, PointNotFoundError, SettingsError
from hysac_retrieval.payload import own_payload

FILE, SOURCE = "file", "source"
MEDIA_TYPE = "image/webp"
_KEPT = 256


class Pictures:
    """Makes thumbnails, and keeps the last ones.

    Args:
        roots: Folders by the name of their source.
        pixels: Largest width × height of a picture that is decoded.

    Raises:
        SettingsError: A root is no folder.
    """

    def __init__(self, roots: Mapping[str, Path], pixels: int) -> None:
        self._roots: dict[str, Path] = {}
        for name, root in roots.items():
            if not root.is_dir():
                raise SettingsError(f"the root {name!r} is no folder: {root}", hint="Name the folder of the pictures")
            self._roots[name] = Path(os.path.realpath(root))
        self._pixels = pixels
        self._kept: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def thumbnail(self, payload: Mapping[str, Any], size: int) -> bytes:
        """Return the picture of a point as WebP, no side longer than `size`, without what its file says besides.

        Raises:
            PointNotFoundError: The point has no file under a root, or it is gone or no picture.
        """
        path = self.path(payload)
        try:
            state = path.stat()
            key = (path, state.st_mtime_ns, state.st_size, size)
            with self._lock:
                if (known := self._kept.get(key)) is not None:
                    self._kept.move_to_end(key)
                    return known
            made = small(path, size, self._pixels)
        except (ImageError, OSError) as error:
            raise _nothing() from error
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made

    def path(self, payload: Mapping[str, Any]) -> Path:
        """Return the file of a point, with all links resolved.

        Raises:
            PointNotFoundError: There is none under a root.
        """
        file, source = payload.get(FILE), own_payload(payload).get(SOURCE)
        if isinstance(file, str) and file and "\0" not in file:
            for base in self._bases(source if isinstance(source, str) else ""):
                found = Path(os.path.realpath(base / file))
                # `isfile` says no where `is_file` raises: names that are too long, folders that may not be read.
                if any(found.is_relative_to(root) for root in self._roots.values()) and os.path.isfile(found):
                    return found
        raise _nothing()

    def _bases(self, source: str) -> Iterator[Path]:
        """Folders that a file's name may be relative to: its source's root, or where the source itself is."""
        if source in self._roots:
            yield self._roots[source]
        elif source and "\0" not in source and os.path.isabs(source):
            yield Path(source)
            yield Path(source).parent  # a table beside its pictures
        else:
            yield from self._roots.values()


def small(path: Path, size: int, pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """Return a picture as WebP, no side longer than `size`, without what its file says besides.

    Raises:
        ImageError: It is none, or has more pixels than `pixels`.
        OSError: It cannot be read.
    """
    _, picture = next(frames_of(read_picture(path), max_pixels=pixels, path=path))
    picture = picture.copy()
    picture.thumbnail((size, size))
    out = BytesIO()
    picture.convert("RGB").save(out, "WEBP", quality=80)
    return out.getvalue()


def _nothing() -> PointNotFoundError:
    return PointNotFoundError("there is no picture to show", hint="Give the id of a point with a file under a root")
