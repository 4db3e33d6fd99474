"""Folders of images, single images and text files as sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from hysac_retrieval.encoder.preprocess import IMAGE_SUFFIXES
from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.items import FailedItem, Item, Items
from hysac_retrieval.ingest.sources.options import Fields, SourceOptions
from hysac_retrieval.ingest.sources.rows import Records, image_item
from hysac_retrieval.ingest.sources.scratch import Captions
from hysac_retrieval.ingest.sources.tables import TableSource, count_lines
from hysac_retrieval.payload import is_utf8


class ImageFiles:
    """The images of a folder, recursively, or `only` one of them.

    Captions are rows that describe images by their path within the folder, or by their whole path.
    """

    def __init__(self, root: Path, options: SourceOptions, captions: Captions | None, only: Path | None = None) -> None:
        self.root = root
        self.path = only or root
        self.name = str(self.path)
        self.source = options.namespace or root.resolve().as_posix()
        self.whole = only is None
        self._options = options
        self._captions = captions

    def __iter__(self) -> Items:
        unreadable: list[OSError] = []
        empty = True
        for path in _images(self.root, unreadable) if self.whole else (self.path,):
            empty = False
            yield self._item(path)
        for error in unreadable:
            wrong = SourceError(f"folder cannot be read: {error}")
            yield FailedItem.of(str(error.filename), wrong, source=self.source)
        if empty and not unreadable:
            what = f"{self.root} holds no images; looked for {' '.join(sorted(IMAGE_SUFFIXES))}"
            raise SourceError(what, hint="For texts give a text file or a table")

    def count(self) -> int:
        """See `NamedSource.count`."""
        return sum(1 for _ in _images(self.root, [])) if self.whole else 1

    def _item(self, path: Path) -> Item | FailedItem:
        if not is_utf8(str(path)):  # no payload can name it
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            wrong = SourceError("the name of the file is not UTF-8", hint="Rename it")
            return FailedItem.of(shown, wrong, source=self.source)
        file = path.relative_to(self.root).as_posix()
        whole = Path(os.path.realpath(path)).as_posix()  # as `resolve`, in half the time
        rows = [] if self._captions is None else self._captions.of(file, whole)
        namespace = self._options.namespace
        key = whole if namespace is None else f"{namespace}/{file}"
        return image_item(path, file, rows, self.source, key, place=whole)


def text_file(path: Path, options: SourceOptions) -> TableSource:
    """Return a UTF-8 file with one text per line as a source."""
    base, plain = path.resolve().as_posix(), replace(options, fields=Fields())
    return TableSource(str(path), path.parent, base, plain, lambda _: _lines(path), partial(count_lines, path))


def _lines(path: Path) -> Records:
    empty = True
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if text := line.strip():
                    empty = False
                    yield f"{path}:{number}", {"text": text}
    except (OSError, UnicodeDecodeError) as error:
        kinds = f"an image ({' '.join(sorted(IMAGE_SUFFIXES))}) or a table (.jsonl .csv .parquet .tar)"
        hint = f"Convert it to UTF-8, or give it the suffix of what it is: {kinds}"
        raise SourceError(f"{path} cannot be read as UTF-8 text: {error}", hint=hint) from error
    if empty:
        raise SourceError(f"{path} holds no text", hint="Give a file with one text per line")


def _images(folder: Path, unreadable: list[OSError]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(parent, name)
