"""Quadruplets in files: rows of a safe caption and picture and their unsafe twins, and how they are read.

    {"safe": "a dog on a beach", "unsafe": "a wolf on a beach",
     "safe_image": "pictures/1.jpg", "unsafe_image": "pictures/2.jpg", "category": "predators"}

That is a line of JSON Lines. CSV, Parquet, JSON (a list of such objects) and Hugging Face datasets have the same
columns. Pictures are paths relative to the file, or bytes. They may be missing, captions may not. Columns also go by
the names that the ViSU data set (``nsfw``, ``tag``) and the scenes (``safe_caption``, ``unsafe_caption``) have.

In shards of webdataset, a sample's files are ``KEY.safe.txt``, ``KEY.unsafe.txt``, ``KEY.safe.jpg``,
``KEY.unsafe.jpg`` (or any other kind of picture), and ``KEY.json`` with such columns.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hysac_retrieval.encoder.formats import IMAGE_SUFFIXES
from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.sources.datasets import PREFIX, dataset_records, is_saved_dataset
from hysac_retrieval.ingest.sources.open import expand_braces
from hysac_retrieval.ingest.sources.options import SourceOptions
from hysac_retrieval.ingest.sources.shards import SHARD_SUFFIXES, read_members, sample_of
from hysac_retrieval.ingest.sources.tables import PARQUET_SUFFIXES, ROW_SUFFIXES, table_records

SAFE, UNSAFE = ("safe", "safe_caption"), ("unsafe", "unsafe_caption", "nsfw")
CATEGORY = ("category", "tag")
IMAGES = ("safe_image", "unsafe_image")
UNCATEGORISED = "uncategorised"
_TEXTS = (".txt", ".text", ".caption")
_KINDS = ".jsonl .ndjson .csv .tsv .parquet .json .tar .tar.gz"


@dataclass(frozen=True, slots=True)
class Slice:
    """A picture within a larger file: `size` bytes from `offset` on."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


Picture = Path | Slice
"""Where a picture is."""


@dataclass(frozen=True, slots=True)
class QuadrupletRow:
    """A quadruplet in files: captions and pictures of a safe scene and its unsafe twin, and what is unsafe about it.

    `origin` tells people where it stands: ``file:line``.
    """

    origin: str
    safe: str
    unsafe: str
    safe_image: Picture | None = None
    unsafe_image: Picture | None = None
    category: str = UNCATEGORISED

    @property
    def pictures(self) -> tuple[Picture | None, Picture | None]:
        """The safe picture and the unsafe one."""
        return self.safe_image, self.unsafe_image


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no quadruplet: its origin, a kind (``"damaged row"``, ``"empty caption"``), and what is wrong."""

    origin: str
    kind: str
    what: str


class Spool:
    """Temporary file of the pictures inside tables, datasets and compressed shards, so that any process can read them.

    The file is removed with this object.
    """

    def __init__(self) -> None:
        self._stream: IO[bytes] | None = None

    def keep(self, data: bytes) -> Slice:
        """Write a picture to the end of the file."""
        if self._stream is None:
            self._stream = tempfile.NamedTemporaryFile(prefix="hysac-pictures-", delete=False)  # noqa: SIM115
            weakref.finalize(self, _remove, self._stream, os.getpid())
        offset = self._stream.tell()
        self._stream.write(data)
        return Slice(self._stream.name, offset, len(data))

    def flush(self) -> None:
        """Make what was written readable."""
        if self._stream is not None:
            self._stream.flush()


def read_quadruplets(sources: Iterable[str], spool: Spool) -> Iterator[QuadrupletRow | BadRow]:
    """Read the rows of sources, in their order.

    Sources are tables, JSON files and shards, where ``{000..010}`` stands for several; ``hf:NAME`` is a Hugging Face
    dataset on the hub or in a folder, ``hf:NAME#SPLIT`` and ``hf:NAME#SUBSET/SPLIT`` a part of it. Pictures that are
    not files are kept in `spool`.

    Raises:
        SourceError: A source cannot be read, or has no column of captions.
        MissingExtraError: It needs a package that is not installed.
    """
    for name in (part for source in sources for part in expand_braces(source)):
        path = Path(name).expanduser()
        if name.lower().endswith(SHARD_SUFFIXES):
            yield from _shard(path, spool)
        else:
            for origin, record in _records(name, path):
                yield _row(origin, record, path.parent, spool)
    spool.flush()


def _records(name: str, path: Path) -> Iterator[tuple[str, Any]]:
    def check(columns: Iterable[str]) -> None:
        found = list(columns)
        if not set(SAFE) & set(found) or not set(UNSAFE) & set(found):
            message = f"{name} has the columns {', '.join(found)}; quadruplets have the captions 'safe' and 'unsafe'"
            raise SourceError(message, hint="Pictures are in 'safe_image' and 'unsafe_image'")

    suffix = path.suffix.lower()
    if name.startswith(PREFIX) or is_saved_dataset(path):
        dataset, _, part = name.removeprefix(PREFIX).partition("#")
        subset, _, split = part.rpartition("/")
        return dataset_records(dataset, SourceOptions(split=split or None, subset=subset or None), check)
    if suffix == ".json":
        return _json(path)
    if suffix in ROW_SUFFIXES | PARQUET_SUFFIXES:
        return table_records(path, check)
    raise SourceError(f"{name} is no source of quadruplets", hint=f"Give a file ({_KINDS}), or {PREFIX}NAME")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}", hint="Give a list of objects, in UTF-8") from error
    if not isinstance(records, list) or not records:
        raise SourceError(f"{path} holds {type(records).__name__}, expected a list of objects that is not empty")
    for number, record in enumerate(records, start=1):
        yield f"{path}:{number}", record


def _shard(path: Path, spool: Spool) -> Iterator[QuadrupletRow | BadRow]:
    in_place = path.suffix == ".tar"  # a compressed archive cannot be entered in the middle

    def wanted(member: str) -> bool:
        suffix = Path(member).suffix.lower()
        return suffix in (".json", *_TEXTS) or (suffix in IMAGE_SUFFIXES and not in_place)

    name: str | None = None
    record: dict[str, Any] = {}
    for member, data in read_members(path, wanted):
        if name is not None and sample_of(member.name) != name:
            yield _row(f"{path}:{name}", record, path.parent, spool)
            record = {}
        name = sample_of(member.name)
        field, suffix = os.path.splitext(member.name[len(name) :].lower().removeprefix("."))
        if isinstance(data, SourceError):
            record["error"] = data
        elif suffix in IMAGE_SUFFIXES:
            picture = Slice(str(path), member.offset_data, member.size) if in_place else spool.keep(data)
            record[field if field in IMAGES else f"{field}_image"] = picture
        elif suffix in _TEXTS or field == "json":
            try:
                record |= json.loads(data) if field == "json" else {field: data.decode("utf-8-sig").strip()}
            except (ValueError, TypeError, RecursionError) as error:
                record["error"] = SourceError(f"{member.name} cannot be read: {error}")
    if name is None:
        raise SourceError(f"{path} holds no files")
    yield _row(f"{path}:{name}", record, path.parent, spool)


def _row(origin: str, record: Any, folder: Path, spool: Spool) -> QuadrupletRow | BadRow:
    wrong = record.get("error") if isinstance(record, dict) else record
    if isinstance(wrong, SourceError):
        return BadRow(origin, "damaged row", str(wrong))
    if not isinstance(record, Mapping):
        return BadRow(origin, "damaged row", f"it is {type(record).__name__}, expected an object with fields")
    captions: list[str] = []
    for names in (SAFE, UNSAFE):
        text = _first(record, names)
        if text is not None and not isinstance(text, str):
            return BadRow(origin, "damaged row", f"{names[0]!r} is {type(text).__name__}, expected a caption")
        if text is None or not text.strip():
            return BadRow(origin, "empty caption", f"{names[0]!r} is empty; both twins need a caption")
        captions.append(text.strip())
    pictures: list[Picture | None] = []
    for name in IMAGES:
        try:
            pictures.append(_picture(record.get(name), folder, spool))
        except SourceError as error:
            return BadRow(origin, "damaged row", f"{name!r} {error}")
    category = _first(record, CATEGORY)
    (safe, unsafe), (safe_image, unsafe_image) = captions, pictures
    named = UNCATEGORISED if category in (None, "") else str(category)
    return QuadrupletRow(origin, safe, unsafe, safe_image, unsafe_image, named)


def _picture(value: Any, folder: Path, spool: Spool) -> Picture | None:
    if isinstance(value, Mapping):  # as Hugging Face keeps images
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or isinstance(value, Slice):
        return value or None
    if isinstance(value, bytes):
        return spool.keep(value)
    if not isinstance(value, str):
        raise SourceError(f"is {type(value).__name__}, expected the path of a picture or its bytes")
    if value.startswith(("http://", "https://")):
        raise SourceError("is a URL, which is not fetched", hint="Download the picture and give its path")
    return folder / Path(value.replace("\\", "/")).expanduser()


def _first(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _remove(stream: IO[bytes], owner: int) -> None:
    if os.getpid() == owner:  # a forked worker has it too, and must leave the file
        stream.close()
        Path(stream.name).unlink(missing_ok=True)
