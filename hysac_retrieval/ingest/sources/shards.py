"""Shards of webdataset as sources: tar archives in which files of one name and several suffixes are one sample.

    000017.jpg  000017.txt  000017.json        an image, its caption, further fields

Members are read in the order in which they lie in the archive, one sample at a time.
"""

from __future__ import annotations

import gzip
import tarfile
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from hysac_retrieval.encoder.formats import IMAGE_SUFFIXES, OTHER_SUFFIXES
from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.sources.kinds import left_out
from hysac_retrieval.ingest.sources.options import Fields, SourceOptions
from hysac_retrieval.ingest.sources.rows import Check, Records
from hysac_retrieval.ingest.sources.sidecars import SUFFIXES, described
from hysac_retrieval.ingest.sources.tables import TableSource
from hysac_retrieval.payload import is_utf8

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_LARGEST = 2**28
"""Bytes of one file that are read; they lie in memory."""
_BLOCK, _PADDING = 1 << 20, 64
_READ = IMAGE_SUFFIXES | SUFFIXES


def shard(path: Path, options: SourceOptions) -> TableSource:
    """Return a tar archive of samples as a source."""

    def count() -> int | None:
        if path.suffix != ".tar":
            return None  # it would have to be read whole
        names = (sample_of(member.name) for member, _ in read_members(path, lambda _: False))
        return sum(1 for _ in groupby(names))

    remarks: list[str] = []

    def records(_: Check) -> Records:
        left: Counter[str] = Counter()
        yield from _sample_records(path, options.fields, left)
        remarks[:] = filter(None, [left_out(left)])

    base = path.resolve().as_posix()
    return TableSource(str(path), path.parent, base, options, records, count, named=True, remarks=remarks)


Content = bytes | SourceError
"""The content of a file of an archive, or why it is not read."""

Members = Generator[tuple[tarfile.TarInfo, Content], None, None]
"""The files, with their contents, of an archive as they are read; close it if it may not be read to its end."""


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
                end = -1
                while (member := archive.next()) is not None:
                    archive.members.clear()  # else it remembers every one
                    if member.size < 0 or archive.offset <= end:
                        raise tarfile.ReadError("a file of negative size")  # would be read for ever
                    end = archive.offset
                    if not member.isdir() and not Path(member.name).name.startswith("."):
                        number += 1
                        yield member, _refused(member) or _content(archive, member, wanted)
            watched.expect_end()
    except SourceError:
        raise
    except Exception as error:  # tarfile and zlib let out whatever they trip over in a damaged header
        what = f"{path} is damaged after {number} files: {error}"
        raise SourceError(what, hint="Copy or download the archive again") from error


def _refused(member: tarfile.TarInfo) -> SourceError | None:
    """Return why a file is not read: only plain ones are, and nothing is followed, made or filled up."""
    parts = member.name.replace("\\", "/").split("/")
    wrong = None
    if not is_utf8(member.name) or "\0" in member.name:
        wrong = "has a name that is not UTF-8"
    elif parts[0] == "" or ".." in parts:
        wrong = "has a name that leads out of the archive"
    elif not member.isreg() or member.issparse():
        wrong = "is a link, a device or a sparse file; only plain files are read"
    elif member.size > _LARGEST:
        wrong = f"has {member.size:,} bytes; at most {_LARGEST:,} are read"
    if wrong is None:
        return None
    return SourceError(f"file {shown(member.name)!r} {wrong}", hint="Write the archive again without it")


def _content(archive: Any, member: tarfile.TarInfo, wanted: Callable[[str], bool]) -> bytes:
    if not wanted(member.name):
        return b""
    with archive.extractfile(member) as file:
        data: bytes = file.read()
        return data


def shown(name: str) -> str:
    """Return the name of a file as text, whatever its bytes are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _sample_records(path: Path, fields: Fields, left: Counter[str]) -> Records:
    """Read samples as records of a table, each with its origin: ``archive:sample``.

    Pictures and films that cannot be read here are counted in `left` by their suffix.
    """
    name = ""
    files: list[tuple[str, Content]] = []
    try:
        with closing(read_members(path, lambda name: _suffix(name) in _READ)) as members:
            for member, data in members:
                if (suffix := _suffix(member.name)) in OTHER_SUFFIXES:
                    left[suffix] += 1
                    continue
                if files and sample_of(member.name) != name:
                    yield f"{path}:{shown(name)}", _record(files, fields)
                    files = []
                name = sample_of(member.name)
                files.append((member.name, data))
    except SourceError:
        if files:
            yield f"{path}:{shown(name)}", _record(files, fields)
        raise
    if not files:
        raise SourceError("; ".join(filter(None, [f"{path} holds no files that are read", left_out(left)])))
    yield f"{path}:{shown(name)}", _record(files, fields)


def _record(contents: list[tuple[str, Content]], fields: Fields) -> dict[str, Any] | SourceError:
    """Return the fields of a sample, where its own image and text replace fields of the same meaning."""
    files = [(member, data) for member, data in contents if not isinstance(data, SourceError)]
    refused = next((data for _, data in contents if isinstance(data, SourceError)), None)
    if refused is not None:
        return refused
    try:
        record = described(files, fields)
    except SourceError as error:
        return error
    file, image = next((found for found in files if _suffix(found[0]) in IMAGE_SUFFIXES), (None, None))
    if image is None and not record:
        found = ", ".join(member for member, _ in files)
        return SourceError(f"the sample holds neither an image nor a text; it has {found}")
    if image is not None:
        record[fields.images[0]] = {"bytes": image, "path": file}
    return record


def _open(path: Path) -> IO[bytes]:
    return path.open("rb") if path.suffix == ".tar" else gzip.open(path)  # type: ignore[return-value]


class _Watched:
    """A stream that remembers its last block: `tarfile` takes an archive cut between two members for a whole one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST:  # headers may say anything
            raise tarfile.ReadError(f"{size:,} bytes at once")
        self._last = self._stream.read(size)
        return self._last

    def expect_end(self) -> None:
        """Check that the archive was read to its end, and so was what it is packed in, whose checksum comes last."""
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end of archive")
        for _ in range(_PADDING):
            if not self._stream.read(_BLOCK):
                return
        raise tarfile.ReadError(f"more than {_PADDING * _BLOCK:,} bytes follow the end of the archive")


def sample_of(member: str) -> str:
    """Return the name of a file's sample: up to the first dot of its last part."""
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _suffix(member: str) -> str:
    return Path(member).suffix.lower()
