"""What there is to index: folders, images, text files and tables become items, before anything is encoded.

    folder of images      every file with the suffix of an image, recursively
    image file            itself
    .jsonl .ndjson .csv   rows with a field for an image file, a text, or both (the text is then its caption)
    any other file        UTF-8 text, one item per line

An item's key decides its point's id, so that indexing the same source again replaces its points instead of adding to
them. The key of an image is its path; of a text, its file and the text itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hysac_retrieval.errors import SettingsError, SourceError, TextError
from hysac_retrieval.ingest.journal import FailedItem
from hysac_retrieval.ingest.rows import ROW_SUFFIXES, USUAL_FIELDS, Fields, Row, read_rows
from hysac_retrieval.queries import IMAGE_SUFFIXES
from hysac_retrieval.results import Modality


@dataclass(frozen=True, slots=True)
class Item:
    """Something to index.

    Attributes:
        origin: Where it came from, for people: a path or ``file:line``.
        key: Identity; `point_id` makes the point's id of it.
        modality: What it is.
        content: Path of an image, or a text.
        payload: What is stored with the point.
    """

    origin: str
    key: str
    modality: Modality
    content: Path | str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How sources are read.

    Attributes:
        captions: A table of captions and further fields for the images of folders, by file name.
        fields: Names of the fields of tables.
        index_captions: Whether captions are also indexed as texts of their own.
        namespace: Takes the place of the source's folder in keys, so that ids stay the same when the folder moves.
    """

    captions: str | os.PathLike[str] | None = None
    fields: Fields = USUAL_FIELDS
    index_captions: bool = False
    namespace: str | None = None


def read_sources(
    sources: Sequence[str | os.PathLike[str]], options: SourceOptions | None = None
) -> tuple[list[Item], list[FailedItem]]:
    """List all items of the sources, each key once.

    Args:
        sources: Paths of folders and files.
        options: How to read them.

    Returns:
        The items, and the rows that describe none.

    Raises:
        SourceError: A source is missing or cannot be read as what it should be. Nothing has been indexed yet.
        SettingsError: Captions are given but no source has images to go with them, or two sources share a namespace
            and a file name.
    """
    reader = _Reader(options or SourceOptions())
    for source in sources:
        reader.read(Path(source).expanduser())
    reader.finish()
    return list(reader.items.values()), reader.failed


class _Reader:
    def __init__(self, options: SourceOptions) -> None:
        self.options = options
        self.items: dict[str, Item] = {}
        self.failed: list[FailedItem] = []
        self.captions = self._captions()
        self.matched: set[str] = set()
        self.has_images = False

    def read(self, source: Path) -> None:
        if source.is_dir():
            self._folder(source)
        elif not source.exists():
            raise SourceError(f"{source} does not exist; give a folder of images, an image, a text file or a table")
        elif source.suffix.lower() in IMAGE_SUFFIXES:
            self._image_of_folder(source.parent, source)
        elif source.suffix.lower() in ROW_SUFFIXES:
            self._table(source)
        else:
            self._text_file(source)

    def finish(self) -> None:
        if self.options.captions is not None and not self.has_images:
            raise SettingsError("--captions describes the images of a folder, but no source is a folder or an image")
        for file, rows in self.captions.items():
            if file not in self.matched:
                error = SourceError(f"no source holds the image {file!r}; correct the name or remove the row")
                self.failed += [FailedItem.of(row.origin, error) for row in rows]

    def _captions(self) -> dict[str, list[Row]]:
        by_file: dict[str, list[Row]] = {}
        if self.options.captions is not None:
            path = Path(self.options.captions).expanduser()
            for row in self._rows(path):
                if row.file is None:
                    error = SourceError(f"the row names no image; it has {', '.join(row.extra) or 'no fields'}")
                    self.failed.append(FailedItem.of(row.origin, error))
                else:
                    by_file.setdefault(_normal(row.file), []).append(row)
        return by_file

    def _folder(self, folder: Path) -> None:
        unreadable: list[OSError] = []
        found = []
        for parent, folders, files in os.walk(folder, onerror=unreadable.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [
                Path(parent, name)
                for name in sorted(files)
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
            ]
        for error in unreadable:
            self.failed.append(FailedItem.of(str(error.filename), SourceError(f"folder cannot be read: {error}")))
        if not found and not unreadable:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"{folder} holds no images; looked for {known}. For texts give a text file or a table")
        for path in found:
            self._image_of_folder(folder, path)

    def _image_of_folder(self, root: Path, path: Path) -> None:
        self.has_images = True
        file = path.relative_to(root).as_posix()
        name = file if file in self.captions else path.resolve().as_posix()
        self.matched.add(name)
        self._image(root, file, self.captions.get(name, ()), str(path))

    def _table(self, path: Path) -> None:
        images: dict[str, list[Row]] = {}
        texts: list[Row] = []
        for row in self._rows(path):
            if row.file is not None:
                images.setdefault(_normal(row.file), []).append(row)
            else:
                texts.append(row)
        for file, rows in images.items():
            self._image(path.parent, file, rows, rows[0].origin)
        self._texts(path, texts)

    def _text_file(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            known = " ".join(sorted(IMAGE_SUFFIXES | ROW_SUFFIXES))
            raise SourceError(
                f"{path} cannot be read as UTF-8 text: {error}. Convert it to UTF-8, or give it the suffix of what it "
                f"is: {known}"
            ) from error
        lines = enumerate(text.split("\n"), start=1)
        rows = [Row(f"{path}:{number}", None, line.strip(), {}) for number, line in lines if line.strip()]
        if not rows:
            raise SourceError(f"{path} holds no text; give a file with one text per line")
        self._texts(path, rows)

    def _rows(self, path: Path) -> Iterable[Row]:
        for row in read_rows(path, self.options.fields):
            if isinstance(row, FailedItem):
                self.failed.append(row)
            else:
                yield row

    def _image(self, root: Path, file: str, rows: Sequence[Row], origin: str) -> None:
        path = root / file  # an absolute file stays what it is
        namespace = self.options.namespace
        key = path.resolve().as_posix() if namespace is None else f"{namespace}/{file}"
        extra = {name: value for row in rows for name, value in row.extra.items()}
        captions = list(dict.fromkeys(row.text for row in rows if row.text))
        payload = extra | {"file": file}
        if captions:
            # Qdrant filters a list as it does its members, so one name serves both.
            payload["caption"] = captions[0] if len(captions) == 1 else captions
        self._add(Item(origin, key, "image", path, payload))
        if self.options.index_captions:
            for text in captions:
                self._add(Item(origin, f"{key}#{text}", "text", text, extra | {"file": file, "text": text}))

    def _texts(self, path: Path, rows: Sequence[Row]) -> None:
        base = path.resolve().as_posix() if self.options.namespace is None else self.options.namespace
        seen: dict[str, int] = {}
        for row in rows:
            if row.text is None or not row.text.strip():
                self.failed.append(_empty(row))
                continue
            count = seen[row.text] = seen.get(row.text, 0) + 1
            # Rows with the same text and other fields are points of their own.
            key = f"{base}#{row.text}" if count == 1 else f"{base}#{row.text}#{count}"
            if count > 1 and not row.extra:
                continue
            self._add(Item(row.origin, key, "text", row.text, row.extra | {"text": row.text}))

    def _add(self, item: Item) -> None:
        other = self.items.setdefault(item.key, item)
        if other.content != item.content and other.modality == "image":
            raise SettingsError(
                f"{other.origin} and {item.origin} would get the same id in namespace {self.options.namespace!r}; "
                "index them in separate namespaces"
            )


def _empty(row: Row) -> FailedItem:
    return FailedItem.of(row.origin, TextError("the text is empty; fill it in, or leave the row out"))


def _normal(file: str) -> str:
    """A file name as in payloads: with forward slashes and without ``./``."""
    return Path(file.replace("\\", "/")).as_posix()
