"""Tables with rows that cannot be kept: each is reported with its field, and harms no other."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.listed import listed

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest import Listing, index_sources, status_of
from hysac_retrieval.payload import DEEPEST


def nested(levels: int, name: str | None = None) -> str:
    opening, closing = ("[", "]") if name is None else (f'{{"{name}":', "}")
    return opening * levels + "1" + closing * levels


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (nested(DEEPEST + 1), "field 'n"),
        (nested(DEEPEST + 1, "a"), "field 'n.a.a"),
        (nested(130), "field 'n"),
        (nested(400, "a"), "field 'n'"),
        (nested(100_000), "not JSON"),
        (nested(100_000, "a"), "not JSON"),
        ('{"a": [0, ' + "9" * 30 + "]}", "field 'n.a[1]' is an integer"),
        (str(2**64), "64 bits"),
        (str(-(2**63) - 1), "64 bits"),
        ("9" * 5000, "not JSON"),
        ("NaN", "field 'n' is nan"),
        ('[{"a": -Infinity}]', r"field 'n[0].a' is -inf"),
        ("1e999", "field 'n' is inf"),
        (r'"\ud800"', "surrogate"),
        (r'{"\udfff": 1}', "surrogate"),
        ('"caf\udce9"', "not UTF-8"),
    ],
)
def test_a_row_that_cannot_be_kept_is_reported_and_the_others_are_read(tmp_path: Path, value: str, says: str) -> None:
    good = '{"text": "a dog"}\n', '{"text": "a cat"}\n'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f'{good[0]}{{"text": "x", "n": {value}}}\n{good[1]}'.encode("utf-8", "surrogateescape"))
    items, failed = listed([path])
    assert [item.content for item in items] == ["a dog", "a cat"]
    assert [failure.item for failure in failed] == [f"{path}:2"]
    (wrong,) = failed
    assert says in wrong.error


def test_what_an_engine_keeps_is_taken(tmp_path: Path) -> None:
    values = [json.loads(nested(DEEPEST)), json.loads(nested(DEEPEST, "a")), 2**64 - 1, -(2**63), 5e-324, "\x00", "😀"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{i}", "v": v}) + "\n" for i, v in enumerate(values)), "utf-8")
    items, failed = listed([path])
    assert failed == []
    assert [item.payload["v"] for item in items] == values


def parquet(path: Path, **columns: Any) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"text": ["a dog", "x", "a cat"], **columns}), path)
    return path


def test_values_of_a_parquet_table_that_are_none_of_python_are_reported(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    far, deep = 400_000_000_000, np.array(1)
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], dtype=np.int32).tobytes())
    columns = {
        "seconds": pa.array([1, far, 2], pa.timestamp("s")),
        "days": pa.array([1, 2**31 - 1, 2], pa.date32()),
        "inside": pa.StructArray.from_arrays([pa.array([1, far, 2], pa.timestamp("s"))], ["when"]),
        "name": pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xff\xfeb")]),
        "size": [1.0, float("inf"), 2.0],
        "inner": [[1.0], [float("nan")], [2.0]],
    }
    assert deep == 1
    for name, column in columns.items():
        path = parquet(tmp_path / f"{name}.parquet", **{name: column})
        items, failed = listed([path])
        assert [item.content for item in items] == ["a dog", "a cat"], name
        assert [failure.item for failure in failed] == [f"{path}:2"], name
        assert f"field '{name}" in failed[0].error
    (item, *_), _ = listed([tmp_path / "seconds.parquet"])
    assert item.payload["seconds"] == datetime.datetime(1970, 1, 1, 0, 0, 1)


ROWS = [f"a dog number {n},{n}\n" for n in range(200)]


def csv_of(path: Path, changed: dict[int, str], rows: list[str] = ROWS) -> Path:
    tab = "\t" if path.suffix == ".tsv" else ","
    lines = [changed.get(n, row) for n, row in enumerate(rows)]
    path.write_text("text,n\n".replace(",", tab) + "".join(lines).replace(",", tab), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    "changed",
    [
        {10: '"a dog number 10,10\n'},
        {199: '"a dog number 199,199\n'},
        {199: '"a dog number 199,199'},
        {10: '"a dog number 10,10\n', 50: '"a dog, number 50",50\n'},
        {10: 'a dog number 10,"10\n', 60: '"a "" dog",60\n', 61: '"a dog",61\n'},
    ],
)
def test_a_stray_quote_damages_its_row_only(tmp_path: Path, suffix: str, changed: dict[int, str]) -> None:
    path = csv_of(tmp_path / f"t.{suffix}", changed)
    with Listing([path]) as listing:
        found = list(listing)
        assert not listing.complete
        assert listing.remarks == ()
    damaged = min(changed)
    failed = [one.item for one in found if not hasattr(one, "key")]
    assert failed == [f"{path}:{damaged + 2}"]
    assert len(found) == len(ROWS)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_field_that_spans_lines_in_good_order_is_taken_and_said(tmp_path: Path, suffix: str) -> None:
    path = csv_of(tmp_path / f"t.{suffix}", {10: '"a dog\nin two lines",1\n', 20: '"a\n\nb ""c""",1\n'})
    with Listing([path]) as listing:
        found: list[Any] = list(listing)
        assert [one.content for one in found[10::10]][:2] == ["a dog\nin two lines", 'a\n\nb "c"']
        assert [one.origin.rpartition(":")[2] for one in (found[10], found[11], found[20])] == ["12", "14", "23"]
        (remark,) = listing.remarks
        assert str(path) in remark
        assert "12 to 13, 23 to 25" in remark


def test_a_table_full_of_stray_quotes_is_given_up_in_time(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "t.csv", {}, ["a,b\n"] + ['a","b\n'] * 20_000)
    with Listing([path]) as listing:
        found = list(listing)
        assert "too many stray quotes" in found[-1].error  # type: ignore[union-attr]


def test_pruning_stops_at_its_limit(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    path, other = csv_of(tmp_path / "t.csv", {}), csv_of(tmp_path / "u.csv", {}, ROWS[:10])
    index_sources([path, other], index, encoder)
    csv_of(path, {}, ROWS[:179])
    for limit in ("10%", 20, "10.4 %", 0, "0%"):
        report = index_sources([path, other], index, encoder, prune=True, prune_limit=limit)
        assert (report.pruned, report.refused, index.count()) == (0, 21, 210)
        assert f"21 of the 200 points of {path} would go" in report.unpruned
        assert str(other) not in report.unpruned
    assert dict(status_of([path, other], index).departed) == {str(path): (21, 200)}
    csv_of(path, {}, ROWS[:180])
    assert index_sources([path], index, encoder, prune=True).pruned == 20
    csv_of(path, {}, ROWS[:1])
    assert index_sources([path], index, encoder, prune=True, prune_limit=None).pruned == 179
    csv_of(other, {}, ROWS[:9])
    assert index_sources([other], index, encoder, prune=True).pruned == 1


@pytest.mark.parametrize("limit", ["a", "-1", "101%", "1.5", True, "10%%", ""])
def test_a_limit_that_is_none_is_an_error(index: Index, encoder: Encoder, limit: Any) -> None:
    with pytest.raises(SettingsError, match="prune limit"):
        index_sources([], index, encoder, prune=True, prune_limit=limit)


def test_a_field_under_the_reserved_key_is_an_error_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "hysac": {"unsafe": 0}}\n', encoding="utf-8")
    items, (failed,) = listed([path])
    assert len(items) == 1
    assert failed.kind == SourceError.__name__
    assert "reserved" in failed.error
