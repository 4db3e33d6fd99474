"""Sources of every kind, opened by name and listed as a stream of items before anything is decoded.

    folder of images            every file with the suffix of an image, recursively, links followed (see `walk`)
    image file                  itself
    .jsonl .ndjson .csv .tsv    rows with a field for an image file, a text, or both (the text is then its caption)
    .parquet                    the same; an image may also lie in the table itself
    .tar .tar.gz .tgz           shards of webdataset; ``shards/{000..010}.tar`` names eleven
    hf:NAME, hf:FOLDER          a Hugging Face dataset; a folder of `save_to_disk` is known without the prefix
    any other file              UTF-8 text, one item per line

An item's key decides its point's id, so that indexing the same source again replaces its points instead of adding to
them. The key of an image file is its path; of a text, its file and the text itself; of a sample, its shard and name; of
an image inside a table, the table and the number of its row, unless a field identifies rows.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from hysac_retrieval.encoder.formats import IMAGE_SUFFIXES
from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest.items import FailedItem, Item, Items
from hysac_retrieval.ingest.sources.chunks import Spans, chunks
from hysac_retrieval.ingest.sources.datasets import PREFIX, dataset_tables, is_saved_dataset
from hysac_retrieval.ingest.sources.files import ImageFiles, text_file
from hysac_retrieval.ingest.sources.kinds import is_picture, unread
from hysac_retrieval.ingest.sources.names import normal
from hysac_retrieval.ingest.sources.options import SourceOptions
from hysac_retrieval.ingest.sources.rows import Row
from hysac_retrieval.ingest.sources.scratch import Captions, Seen
from hysac_retrieval.ingest.sources.shards import SHARD_SUFFIXES, shard
from hysac_retrieval.ingest.sources.tables import PARQUET_SUFFIXES, ROW_SUFFIXES, TableSource, table
from hysac_retrieval.payload import is_utf8, point_id

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


NamedSource: TypeAlias = ImageFiles | TableSource
"""A file, folder or dataset. It lists itself any number of times, and raises `SourceError` if it is empty or cannot be
read any further. It has a `name` for people, and a `source`, the name that its points carry; `whole` says whether it is
all of that source, so that points with items no longer in it have left it; `count` estimates its items, or gives None
if that takes too long."""


class Listing(AbstractContextManager["Listing"]):
    """All items of named sources, each key once; see `protocols.Source`.

    A source that breaks in the middle becomes a failed item, and the next one follows. Use it as a context manager.

    Args:
        sources: Their names.
        options: How they are read.
        spans: Gives the windows of a text; needed to list the items of ``chunk``.

    Attributes:
        seen: Ids of everything listed so far.
        complete: Whether everything listed so far could be read: what was not seen is not there.
        broken: Sources that could not be read to their end.

    Raises:
        SourceError: A source is missing or empty, or cannot be read from its beginning.
        SettingsError: Captions are given but no source has images to go with them.
        MissingExtraError: A kind of source needs a package that is not installed.
    """

    def __init__(
        self,
        sources: Sequence[str | os.PathLike[str]],
        options: SourceOptions | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._options = options or SourceOptions()
        self._spans = spans if self._options.chunk else None
        if self._options.namespace == "":
            raise SettingsError("the namespace is empty", hint="Give it a name, or leave it out")
        self._captions_path = (
            None if self._options.captions is None else Path(os.path.expanduser(self._options.captions))
        )
        self._bad_captions: list[FailedItem] = []
        self._captions: Captions | None = None
        self._caption_remarks: list[str] = []
        self._sources: dict[str, NamedSource] = {}
        self.complete = True
        self.broken: set[str] = set()
        with ExitStack() as opened:
            self.seen = opened.enter_context(closing(Seen()))
            self._places = opened.enter_context(closing(Seen()))
            if self._captions_path is not None:
                self._captions = opened.enter_context(closing(Captions()))
                self._read_captions(self._captions_path, self._captions)
            self._open_all(sources)
            self._opened = opened.pop_all()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was seen."""
        self._opened.close()

    @property
    def whole(self) -> list[str]:
        """Sources that are listed whole; see `NamedSource.whole`."""
        return list(dict.fromkeys(source.source for source in self._sources.values() if source.whole))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Fields that span lines and the like, of tables that were read to their end; pictures that were left out."""
        tables = [source for source in self._sources.values() if isinstance(source, TableSource | ImageFiles)]
        found = self._caption_remarks + [f"{table.name}: {remark}" for table in tables for remark in table.remarks]
        return tuple(dict.fromkeys(found))

    @property
    def finished(self) -> set[str]:
        """Whole sources that were listed to their end, and the table of captions, whose rows are all checked again."""
        tables = [] if self._captions_path is None else [str(self._captions_path)]
        return {*self.whole, *tables} - self.broken

    def count(self, stop: Callable[[], bool] = lambda: False) -> int | None:
        """See `Source.count`."""
        total = 0
        with suppress(OSError, SourceError):
            for source in self._sources.values():
                found = source.count(stop) if isinstance(source, ImageFiles) else source.count()
                if found is None or stop():
                    return None
                total += found
            return total
        return None

    def __iter__(self) -> Items:
        with closing(self._all()) as all_items:
            for found in all_items:
                accepted = found if isinstance(found, FailedItem) else self._once(found)
                if accepted is not None:
                    yield from self._windows(accepted)
                if isinstance(accepted, Item) and self._options.index_captions:
                    for caption in _caption_items(accepted):
                        if (text := self._once(caption)) is not None:
                            yield from self._windows(text)

    def _all(self) -> Items:
        yield from self._bad_captions
        self.complete = self.complete and not self._bad_captions
        for source in self._sources.values():
            try:
                with closing(iter(source)) as items:
                    for found in items:
                        # A text that is empty is no text; a row that cannot be read may be one that has a point.
                        if isinstance(found, FailedItem) and found.kind == SourceError.__name__:
                            self.complete = False
                        yield found
            except SourceError as error:
                self.complete = False
                self.broken.add(source.source)
                yield FailedItem.of(source.name, error, source=source.source)
        for origin, file in self._captions.unmatched() if self._captions else ():
            wrong = SourceError(f"no source holds the image {file!r}", hint="Correct the name or remove the row")
            yield FailedItem.of(origin, wrong, source=str(self._captions_path))

    def _windows(self, item: Item | FailedItem) -> Items:
        if self._spans is None or isinstance(item, FailedItem):
            yield item
            return
        for part in chunks(item, self._spans):
            if part.key != item.key:
                self.seen.add(part.id, part.place)
            yield part

    def _once(self, item: Item) -> Item | FailedItem | None:
        """Return the item; None if it was listed before, and a failure if something else has its key."""
        if self._options.namespace is not None and item.modality == "image":
            # Within a namespace a file has as many keys as ways lead to it.
            before, same = self._places.add(point_id(item.place), item.key)
            if before and not same:
                return None
        before, same = self.seen.add(item.id, item.place)
        if not before:
            return item
        if same:
            return None
        if item.modality == "image":
            hint = "Put rows of one image next to each other; sources that share file names need separate namespaces"
            wrong = SourceError(f"another item has the same key ({item.key})", hint=hint)
            return FailedItem.of(item.origin, wrong, source=item.source)
        if item.payload.keys() <= {"text"}:
            return None
        # Rows with the same text and other fields are points of their own.
        again = item._replace(key=f"{item.key}#{before + 1}")
        return None if self.seen.add(again.id, again.place)[0] else again

    def _open_all(self, sources: Sequence[str | os.PathLike[str]]) -> None:
        for name in sources:
            for path in expand_braces(os.fspath(name)):
                for source in self._open(path):
                    self._sources.setdefault(os.path.abspath(source.name), source)
        opened = self._sources.values()
        if self._captions is not None and not any(isinstance(source, ImageFiles) for source in opened):
            raise SettingsError("--captions describes the images of a folder, but no source is a folder or an image")
        for source in opened:
            if not is_utf8(source.source):
                raise SourceError(f"the name of {source.source!r} is not UTF-8, as points need", hint="Rename it")
            with closing(iter(source)) as items:
                next(items, None)  # what cannot be read at all is an error before anything is indexed

    def _open(self, name: str) -> Sequence[NamedSource]:
        if "://" in name:
            hint = "Download it, and give the file; or name a dataset of the Hugging Face hub as hf:owner/name"
            raise SourceError(f"{name!r} is a URL, which is not fetched", hint=hint)
        if name.startswith(PREFIX):
            return dataset_tables(name.removeprefix(PREFIX), self._options)
        path = Path(os.path.expanduser(name))
        suffix = path.suffix.lower()
        if os.path.isdir(path):  # methods of a path raise where a name is too long
            if is_saved_dataset(path):
                return dataset_tables(str(path), self._options)
            return [ImageFiles(path, self._options, self._captions)]
        if not os.path.exists(path):
            kinds = f"a folder of images, an image, a text file, a table, a shard, or {PREFIX}NAME for a dataset"
            raise SourceError(f"{path} does not exist", hint=f"Give {kinds}")
        if suffix in IMAGE_SUFFIXES:
            return [ImageFiles(path.parent, self._options, self._captions, only=path)]
        if suffix in ROW_SUFFIXES | PARQUET_SUFFIXES:
            return [table(path, self._options)]
        is_shard = path.name.lower().endswith(SHARD_SUFFIXES)
        if not is_shard and is_picture(path, Counter()):
            return [ImageFiles(path.parent, self._options, self._captions, only=path)]
        if mend := unread(path):
            raise SourceError(f"{path} is a picture or a film that is not read", hint=mend)
        return [shard(path, self._options) if is_shard else text_file(path, self._options)]

    def _read_captions(self, path: Path, captions: Captions) -> None:
        if not os.path.isfile(path):
            raise SourceError(f"the table of captions {str(path)!r} does not exist", hint="Check --captions")
        captioned = table(path, self._options)
        for row in captioned.rows():
            if isinstance(row, Row) and row.file is not None:
                captions.add(normal(row.file), row)
                continue
            if isinstance(row, Row):
                wrong = SourceError(f"the row names no image; it has {', '.join(row.extra) or 'no fields'}")
                row = FailedItem.of(row.origin, wrong)
            self._bad_captions.append(replace(row, source=str(path)))
        self._caption_remarks = [f"{path}: {remark}" for remark in captioned.remarks]


def expand_braces(name: str) -> list[str]:
    """Return the names that ``{000..010}`` stands for, with leading zeros as written; else the name itself."""
    found = _RANGE.search(name)
    if found is None or os.path.exists(name):
        return [name]
    first, last = found.groups()
    if int(last) < int(first):
        raise SourceError(f"{name} counts backwards", hint=f"Write {{{last}..{first}}}")
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [rest for number in numbers for rest in expand_braces(name[: found.start()] + number + name[found.end() :])]


def _caption_items(image: Item) -> Iterator[Item]:
    """Return the captions of an image as items."""
    payload = {name: value for name, value in image.payload.items() if name != "caption"}
    for text in image.captions:
        fields = payload | {"text": text}
        yield Item(image.origin, f"{image.key}#{text}", image.source, "text", text, fields, f"{image.place}#{text}")
