"""What there is to index: sources of every kind, listed as a stream of items before anything is decoded.

    folder of images            every file with the suffix of an image, recursively
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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.ingest.scratch import Captions, Seen
from hysac_retrieval.ingest.sources.datasets import PREFIX, dataset_tables, is_saved_dataset
from hysac_retrieval.ingest.sources.files import ImageFiles, TextFile
from hysac_retrieval.ingest.sources.options import SourceOptions
from hysac_retrieval.ingest.sources.rows import ROW_SUFFIXES
from hysac_retrieval.ingest.sources.shards import SHARD_SUFFIXES, Shard
from hysac_retrieval.ingest.sources.tables import PARQUET_SUFFIXES, normal, read_table, table
from hysac_retrieval.payload import is_utf8
from hysac_retrieval.search.queries import IMAGE_SUFFIXES

__all__ = ["Item", "Listing", "Source", "SourceOptions", "expand_braces"]

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Source(Protocol):
    """Something that holds items; it can be listed any number of times."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def source(self) -> str:
        """What its points carry as their source."""

    @property
    def whole(self) -> bool:
        """Whether it is all of that source, so that points with items no longer in it have left it."""

    def items(self) -> Iterator[Item | FailedItem]:
        """List it.

        Raises:
            SourceError: It is empty or cannot be read (any further).
        """

    def count(self) -> int | None:
        """About how many items it has; None if that takes too long to find out."""


class Listing:
    """All items of the sources, each key once; to be listed once.

    A source that breaks in the middle becomes a failed item, and the next one follows.

    Args:
        sources: Paths of folders and files, and names of datasets.
        options: How to read them.

    Attributes:
        seen: Ids of everything listed so far.
        complete: Whether everything could be read that was listed so far: what was not seen is not there.
        broken: Sources that could not be read to their end.

    Raises:
        SourceError: A source is missing or empty, or cannot be read from its beginning.
        SettingsError: Captions are given but no source has images to go with them.
        MissingExtraError: A kind of source needs a package that is not installed.
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]], options: SourceOptions | None = None) -> None:
        self._options = options or SourceOptions()
        if self._options.namespace == "":
            raise SettingsError("the namespace is empty; give it a name, or leave it out")
        self._captions_path = None if self._options.captions is None else Path(self._options.captions).expanduser()
        self._bad_captions: list[FailedItem] = []
        self._captions = self._read_captions()
        self._sources: dict[str, Source] = {}
        for name in sources:
            for path in expand_braces(os.fspath(name)):
                for source in self._open(path):
                    self._sources.setdefault(os.path.abspath(source.name), source)
        if self._captions is not None and not any(isinstance(source, ImageFiles) for source in self._sources.values()):
            raise SettingsError("--captions describes the images of a folder, but no source is a folder or an image")
        self.seen = Seen()
        self.complete = True
        self.broken: set[str] = set()
        for source in self._sources.values():
            if not is_utf8(source.source):
                raise SourceError(f"the name of {source.source!r} is not UTF-8, which points are stored in; rename it")
            next(source.items(), None)  # what cannot be read at all is an error before anything is indexed

    @property
    def whole(self) -> list[str]:
        """Sources that are listed whole; see `Source.whole`."""
        return list(dict.fromkeys(source.source for source in self._sources.values() if source.whole))

    @property
    def described(self) -> list[str]:
        """As `whole`, and the table of captions: whatever failed in them earlier fails again or is mended."""
        return self.whole if self._captions_path is None else [*self.whole, str(self._captions_path)]

    def count(self) -> int | None:
        """About how many items there are; None if that takes too long to find out."""
        total = 0
        for source in self._sources.values():
            try:
                found = source.count()
            except (OSError, SourceError):
                found = None
            if found is None:
                return None
            total += found
        return total

    def __iter__(self) -> Iterator[Item | FailedItem]:
        for found in self._all():
            if isinstance(found, FailedItem):
                yield found
                continue
            accepted = self._once(found)
            if accepted is not None:
                yield accepted
            if isinstance(accepted, Item) and self._options.index_captions:
                yield from filter(None, (self._once(text) for text in _caption_items(accepted)))

    def _all(self) -> Iterator[Item | FailedItem]:
        yield from self._bad_captions
        self.complete = self.complete and not self._bad_captions
        for source in self._sources.values():
            try:
                for found in source.items():
                    # A text that is empty is no text; a row that cannot be read may be one that has a point.
                    if isinstance(found, FailedItem) and found.kind == SourceError.__name__:
                        self.complete = False
                    yield found
            except SourceError as error:
                self.complete = False
                self.broken.add(source.source)
                yield FailedItem.of(source.name, error, source=source.source)
        for origin, file in self._captions.unmatched() if self._captions else ():
            wrong = SourceError(f"no source holds the image {file!r}; correct the name or remove the row")
            yield FailedItem.of(origin, wrong, source=str(self._captions_path))

    def _once(self, item: Item) -> Item | FailedItem | None:
        """The item, or None if it has been listed already, or a failure if something else has its key."""
        before, same = self.seen.add(item.id, item.place)
        if not before:
            return item
        if same:
            return None
        if item.modality == "image":
            wrong = SourceError(
                f"another item has the same key ({item.key}); put rows of one image next to each other, and index "
                "sources that share file names in separate namespaces"
            )
            return FailedItem.of(item.origin, wrong, source=item.source)
        if item.payload.keys() <= {"text"}:
            return None
        # Rows with the same text and other fields are points of their own.
        again = Item(
            item.origin, f"{item.key}#{before + 1}", item.source, "text", item.content, item.payload, item.place
        )
        return None if self.seen.add(again.id, again.place)[0] else again

    def _open(self, name: str) -> list[Source]:
        if name.startswith(PREFIX):
            return list(dataset_tables(name.removeprefix(PREFIX), self._options))
        path = Path(name).expanduser()
        lower = path.name.lower()
        if path.is_dir():
            if is_saved_dataset(path):
                return list(dataset_tables(str(path), self._options))
            return [ImageFiles(path, self._options, self._captions)]
        if not path.exists():
            raise SourceError(
                f"{path} does not exist; give a folder of images, an image, a text file, a table, a shard, or "
                f"{PREFIX}NAME for a Hugging Face dataset"
            )
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return [ImageFiles(path.parent, self._options, self._captions, only=path)]
        if path.suffix.lower() in ROW_SUFFIXES | PARQUET_SUFFIXES:
            return [table(path, self._options)]
        return [Shard(path, self._options) if lower.endswith(SHARD_SUFFIXES) else TextFile(path, self._options)]

    def _read_captions(self) -> Captions | None:
        if self._captions_path is None:
            return None
        captions = Captions()
        for row in read_table(self._captions_path, self._options.fields):
            if isinstance(row, FailedItem):
                self._bad_captions.append(replace(row, source=str(self._captions_path)))
            elif row.file is None:
                wrong = SourceError(f"the row names no image; it has {', '.join(row.extra) or 'no fields'}")
                self._bad_captions.append(FailedItem.of(row.origin, wrong, source=str(self._captions_path)))
            else:
                captions.add(normal(row.file), row)
        return captions


def expand_braces(name: str) -> list[str]:
    """The names that ``{000..010}`` stands for, with leading zeros as written; the name itself without braces."""
    found = _RANGE.search(name)
    if found is None or Path(name).exists():
        return [name]
    first, last = found.groups()
    if int(last) < int(first):
        raise SourceError(f"{name} counts backwards; write {{{last}..{first}}}")
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [rest for number in numbers for rest in expand_braces(name[: found.start()] + number + name[found.end() :])]


def _caption_items(image: Item) -> Iterator[Item]:
    """The captions of an image as texts of their own."""
    payload = {name: value for name, value in image.payload.items() if name != "caption"}
    for text in image.captions:
        fields = payload | {"text": text}
        yield Item(image.origin, f"{image.key}#{text}", image.source, "text", text, fields, f"{image.place}#{text}")
