"""Folders of images, single images and text files as sources."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from hysac_retrieval.encoder.formats import IMAGE_SUFFIXES
from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.items import FailedItem, Item, Items
from hysac_retrieval.ingest.sources.kinds import is_picture, left_out
from hysac_retrieval.ingest.sources.options import Fields, SourceOptions
from hysac_retrieval.ingest.sources.rows import Records, Row, image_item
from hysac_retrieval.ingest.sources.scratch import Captions
from hysac_retrieval.ingest.sources.sidecars import Sidecars
from hysac_retrieval.ingest.sources.tables import TableSource, count_lines
from hysac_retrieval.ingest.sources.walk import Fail, Folder, Patterns, walk
from hysac_retrieval.payload import is_utf8


class ImageFiles:
    """The images of a folder, recursively, or `only` one of them.

    Captions are rows that describe images by their path within the folder, or by their whole path.
    """

    def __init__(self, root: Path, options: SourceOptions, captions: Captions | None, only: Path | None = None) -> None:
        self._patterns = Patterns(options.include, options.exclude)
        self.root = root
        self.path = only or root
        self.name = str(self.path)
        self.source = options.namespace or root.resolve().as_posix()
        self.whole = only is None
        self._options = options
        self._captions = captions
        self._left: Counter[str] = Counter()

    @property
    def remarks(self) -> list[str]:
        """Pictures that were left out."""
        return [words] if (words := left_out(self._left)) else []

    def __iter__(self) -> Items:
        unreadable: list[FailedItem] = []
        empty = True

        def fail(path: str, error: SourceError) -> None:
            unreadable.append(FailedItem.of(path, error, source=self.source))

        self._left = Counter()
        for folder in self._folders(fail, self._left):
            beside = Sidecars(folder.path, folder.beside, self._options) if self._options.sidecars else None
            for name in folder.files:
                empty = False
                path = folder.path / name
                try:
                    described = beside.row(name) if beside else None
                except SourceError as error:
                    described = None
                    fail(str(path), error)
                yield self._item(path, described)
        yield from unreadable
        if empty and not unreadable:
            what = f"{self.root} holds no images; looked for {' '.join(sorted(IMAGE_SUFFIXES))}"
            more = "".join(f"; {remark}" for remark in self.remarks)
            raise SourceError(what + more, hint="For texts give a text file or a table")

    def count(self, stop: Callable[[], bool] = lambda: False) -> int | None:
        """See `Source.count`."""
        total = 0
        for folder in self._folders(lambda *_: None, Counter()):
            total += len(folder.files)
            if stop():
                return None
        return total

    def _folders(self, fail: Fail, left: Counter[str]) -> Iterator[Folder]:
        """Folders with the names of their images; `left` counts what cannot be read."""
        if not self.whole:
            with suppress(OSError):
                yield Folder(self.root, [self.path.name], os.listdir(self.root))
            return
        for folder in walk(self.root, self._patterns, fail):
            images = [name for name in folder.files if is_picture(folder.path / name, left)]
            if images:
                yield Folder(folder.path, images, folder.beside)

    def _item(self, path: Path, described: Row | None) -> Item | FailedItem:
        if not is_utf8(str(path)):  # no payload can name it
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            wrong = SourceError("the name of the file is not UTF-8", hint="Rename it")
            return FailedItem.of(shown, wrong, source=self.source)
        file = path.relative_to(self.root).as_posix()
        whole = Path(os.path.realpath(path)).as_posix()  # as `resolve`, in half the time
        rows = [] if self._captions is None else self._captions.of(self.root, file, whole)
        rows += [] if described is None else [described]
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
    except (OSError, UnicodeError) as error:
        kinds = f"an image ({' '.join(sorted(IMAGE_SUFFIXES))}) or a table (.jsonl .csv .parquet .tar)"
        hint = f"Convert it to UTF-8, or give it the suffix of what it is: {kinds}"
        raise SourceError(f"{path} cannot be read as UTF-8 text: {error}", hint=hint) from error
    if empty:
        raise SourceError(f"{path} holds no text", hint="Give a file with one text per line")
