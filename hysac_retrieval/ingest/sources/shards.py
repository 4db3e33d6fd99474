"""Shards of webdataset as sources: tar archives in which files of one name and several suffixes are one sample.

    000017.jpg  000017.txt  000017.json        an image, its caption, further fields

Members are read in the order in which they lie in the archive, one sample at a time.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from hysac_retrieval.encoder.preprocess import IMAGE_SUFFIXES
from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.sources.options import Fields, SourceOptions
from hysac_retrieval.ingest.sources.rows import Check, Records
from hysac_retrieval.ingest.sources.tables import TableSource

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_TEXTS = (".txt", ".text", ".caption")
_READ = IMAGE_SUFFIXES | {".json", *_TEXTS}


def shard(path: Path, options: SourceOptions) -> TableSource:
    """Return a tar archive of samples as a source."""

    def count() -> int | None:
        if path.suffix != ".tar":
            return None  # it would have to be read whole
        names = (sample_of(member.name) for member, _ in read_members(path, lambda _: False))
        return sum(1 for _ in groupby(names))

    def records(_: Check) -> Records:
        return _sample_records(path, options.fields)

    return TableSource(str(path), path.parent, path.resolve().as_posix(), options, records, count, named=True)


Members = Generator[tuple[tarfile.TarInfo, bytes], None, None]
"""Files of an archive as they are read; close it if it may not be read to its end."""


def read_members(path: Path, wanted: Callable[[str], bool]) -> Members:
    """Read the files of an archive in their order, with the contents of those whose names are wanted.

    Raises:
        SourceError: The archive cannot be opened, or ends before its end.
    """
    number = 0
    try:
        with _open(path) as stream:
            watched: Any = _Watched(stream)
            with tarfile.open(fileobj=watched, mode="r:") as opened:
                archive: Any = opened
                while (member := archive.next()) is not None:
                    archive.members.clear()  # else it remembers every one
                    if member.isfile() and not Path(member.name).name.startswith("."):
                        number += 1
                        with archive.extractfile(member) as file:
                            yield member, file.read() if wanted(member.name) else b""
            if watched.last != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end of archive")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        what = f"{path} is damaged after {number} files: {error}"
        raise SourceError(what, hint="Copy or download the archive again") from error


def _sample_records(path: Path, fields: Fields) -> Records:
    """Read samples as records of a table, each with its origin: ``archive:sample``."""
    name = ""
    files: list[tuple[str, bytes]] = []
    try:
        with closing(read_members(path, lambda name: _suffix(name) in _READ)) as members:
            for member, data in members:
                if files and sample_of(member.name) != name:
                    yield f"{path}:{name}", _record(files, fields)
                    files = []
                name = sample_of(member.name)
                files.append((member.name, data))
    except SourceError:
        if files:
            yield f"{path}:{name}", _record(files, fields)
        raise
    if not files:
        raise SourceError(f"{path} holds no files")
    yield f"{path}:{name}", _record(files, fields)


def _record(files: list[tuple[str, bytes]], fields: Fields) -> dict[str, Any] | SourceError:
    """Return the fields of a sample, where its own image and text replace fields of the same meaning."""
    try:
        record = next((_object(data) for member, data in files if _suffix(member) == ".json"), {})
        text = next((data.decode("utf-8-sig").strip() for member, data in files if _suffix(member) in _TEXTS), None)
    except ValueError as error:
        return SourceError(f"the text or the JSON of the sample cannot be read: {error}", hint="Give UTF-8")
    file, image = next((found for found in files if _suffix(found[0]) in IMAGE_SUFFIXES), (None, None))
    if image is None and not text and not record:
        found = ", ".join(member for member, _ in files)
        return SourceError(f"the sample holds neither an image nor a text; it has {found}")
    replaced = {*fields.images, *(fields.texts if text else ())}
    record = {field: value for field, value in record.items() if field not in replaced}
    if image is not None:
        record[fields.images[0]] = {"bytes": image, "path": file}
    if text:
        record[fields.texts[0]] = text
    return record


def _open(path: Path) -> IO[bytes]:
    return path.open("rb") if path.suffix == ".tar" else gzip.open(path)  # type: ignore[return-value]


class _Watched:
    """A stream that remembers its last block: `tarfile` takes an archive cut between two members for a whole one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        self.last = self._stream.read(size)
        return self.last


def sample_of(member: str) -> str:
    """Return the name of a file's sample: up to the first dot of its last part."""
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _suffix(member: str) -> str:
    return Path(member).suffix.lower()


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"the JSON is {type(value).__name__}, expected an object")
    return value
