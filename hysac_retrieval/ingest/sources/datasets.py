"""Hugging Face datasets as sources: from the hub, from local files, or from a folder of `save_to_disk`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from hysac_retrieval.errors import MissingExtraError, SourceError
from hysac_retrieval.ingest.sources.options import SourceOptions
from hysac_retrieval.ingest.sources.rows import Check, Records, plain_record
from hysac_retrieval.ingest.sources.tables import TableSource, batch_records

PREFIX = "hf:"
_ROWS_AT_ONCE = 64

_log = logging.getLogger(__name__)


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return os.path.isfile(folder / "dataset_dict.json") or all(
        os.path.isfile(folder / name) for name in ("dataset_info.json", "state.json")
    )


def dataset_tables(name: str, options: SourceOptions) -> list[TableSource]:
    """Return the splits of a dataset, on the hub or in a folder, as sources, read as a stream.

    Raises:
        MissingExtraError: `datasets` is not installed.
        SourceError: It cannot be loaded, or has no such split.
    """
    folder = Path(os.path.expanduser(name))
    base = f"{PREFIX}{folder.resolve().as_posix() if os.path.exists(folder) else name}"
    if options.subset:
        base = f"{base}/{options.subset}"
    return [
        TableSource(title, folder, f"{base}/{split}", options, partial(_records, title, data), partial(_count, data))
        for split, data in _splits(name, folder, options).items()
        for title in [f"{PREFIX}{name}/{split}"]
    ]


def dataset_records(name: str, options: SourceOptions, check: Check) -> Records:
    """Read the records of a dataset, each with its origin; images are not decoded. Errors as of `dataset_tables`."""
    for split, data in _splits(name, Path(os.path.expanduser(name)), options).items():
        yield from _records(f"{PREFIX}{name}/{split}", data, check)


def _splits(name: str, folder: Path, options: SourceOptions) -> dict[str, Any]:
    try:
        from datasets import load_dataset, load_from_disk
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets", f"reading the dataset {name!r}") from error
    try:
        if is_saved_dataset(folder):
            loaded = load_from_disk(str(folder))
        else:
            loaded = load_dataset(str(folder) if os.path.exists(folder) else name, options.subset, streaming=True)
    except Exception as error:  # whatever its loaders, the hub's client and the file system come up with
        hint = "Give a name on the Hugging Face hub, a folder of its files or one of save_to_disk, and perhaps --subset"
        raise SourceError(f"the dataset {name!r} cannot be loaded: {error}", hint=hint) from error
    splits = dict(loaded) if isinstance(loaded, Mapping) else {str(loaded.split or "data"): loaded}
    if options.split is None:
        return splits
    if options.split not in splits:
        raise SourceError(f"the dataset {name!r} has no split {options.split!r}; it has {', '.join(splits)}")
    return {options.split: splits[options.split]}


def _records(title: str, data: Any, check: Check) -> Records:
    for column, feature in (data.features or {}).items():
        if hasattr(feature, "decode"):  # images, audio, video: the file is wanted, not its content decoded
            data = data.cast_column(column, type(feature)(decode=False))
    number = 0
    try:
        for record in _values(data, check):
            number += 1
            yield f"{title}:{number}", record
    except SourceError:
        raise
    except Exception as error:  # as above, and what the hub's connection may do in the middle
        raise SourceError(f"the dataset {title!r} cannot be read after row {number}: {error}") from error
    if number == 0:
        raise SourceError(f"{title} holds no rows")


def _values(data: Any, check: Check) -> Iterator[Any]:
    """Read the rows; from where one holds what is no value of Python's, as Arrow, of which the others can be taken."""
    number = 0
    try:
        with closing(data.iter(batch_size=_ROWS_AT_ONCE)) as batches:
            for batch in batches:
                if number == 0:
                    check(batch)
                for values in zip(*batch.values(), strict=True):
                    number += 1
                    yield plain_record(dict(zip(batch, values, strict=True)))
        return
    except SourceError:
        raise
    except Exception as error:
        _log.info("row %d and those after it are read as Arrow: %s", number + 1, error)
    with closing(data.with_format("arrow").skip(number).iter(batch_size=_ROWS_AT_ONCE)) as tables:
        for table in tables:
            if number == 0:
                check(table.column_names)
            number += len(table)
            yield from batch_records(table)


def _count(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a stream
        return None
