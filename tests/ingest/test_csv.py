"""CSV as spreadsheets and programs write it: types of its columns, delimiters, encodings; and the same as Parquet."""

from __future__ import annotations

import datetime
import decimal
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.cli import invoke
from support.listed import listed
from support.pictures import write_pictures

from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest import Fields, Listing, SourceOptions
from hysac_retrieval.payload import plain_fields


def column(tmp_path: Path, cells: list[str], **options: Any) -> list[Any]:
    """Values of a column of a table of texts; None where a row lacks it."""
    path = tmp_path / "rows.csv"
    path.write_text("text,x\n" + "".join(f"text {n},{cell}\n" for n, cell in enumerate(cells)), encoding="utf-8")
    items, failed = listed([path], SourceOptions(**options))
    assert failed == []
    return [item.payload.get("x") for item in items]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-20", "0"], [1, -20, 0]),
        (["1", "", "3"], [1, None, 3]),
        (["1", "NaN", "NULL", "n/a"], [1, None, None, None]),
        (["1", "2.5", "1e3", ".5", "-0.25"], [1.0, 2.5, 1000.0, 0.5, -0.25]),
        (["true", "False", "TRUE"], [True, False, True]),
        (["1", "0"], [1, 0]),
        ([str(2**53 + 1), str(2**63 - 1)], [2**53 + 1, 2**63 - 1]),
        # What would lose something stays as it is.
        (["007", "8"], ["007", "8"]),
        (["00", "0.5"], ["00", "0.5"]),
        ([str(2**63), "1"], [str(2**63), "1"]),
        ([str(2**53 + 1), "1.5"], [str(2**53 + 1), "1.5"]),
        (["1" * 5000, "1"], ["1" * 5000, "1"]),
        (["1e999", "1"], ["1e999", "1"]),
        (["inf", "1"], ["inf", "1"]),
        # And so does what is no number in any table.
        (["1_000", "2"], ["1_000", "2"]),
        (["+49", "2"], ["+49", "2"]),
        (["٣", "2"], ["٣", "2"]),
        (["0x1f", "1"], ["0x1f", "1"]),
        (["1", "two"], ["1", "two"]),
        (["true", "yes"], ["true", "yes"]),
        (["true", "1"], ["true", "1"]),
        (["NaN", "x"], ["NaN", "x"]),
        (["2024-05-01", "2024-05-01T10:00:00+02:00"], ["2024-05-01", "2024-05-01T10:00:00+02:00"]),
        (["NaN", ""], [None, None]),
    ],
)
def test_the_type_of_a_column_is_what_all_of_its_cells_are(tmp_path: Path, cells: list[str], values: list[Any]) -> None:
    found = column(tmp_path, cells)
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_the_last_row_counts_as_the_first(tmp_path: Path) -> None:
    assert column(tmp_path, ["1"] * 3000 + ["x"]) == ["1"] * 3000 + ["x"]


def test_types_can_be_given(tmp_path: Path) -> None:
    assert column(tmp_path, ["1", "2"], types={"x": "string"}) == ["1", "2"]
    assert column(tmp_path, ["1", "2"], types={"x": "double"}) == [1.0, 2.0]
    (tmp_path / "rows.csv").write_text("text,x\na,1\nb,two\nc,3\n")
    items, (failure,) = listed([tmp_path / "rows.csv"], SourceOptions(types={"x": "int64"}))
    assert [item.payload["x"] for item in items] == [1, 3]
    assert failure.item.endswith("rows.csv:3")
    assert "'two'" in failure.error
    with pytest.raises(SettingsError, match="int, float"):
        Listing([tmp_path / "rows.csv"], SourceOptions(types={"x": "number"}))
    with Listing([tmp_path / "rows.csv"], SourceOptions(types={"y": "int"})) as listing:
        assert "'y'" in listing.remarks[0]


def test_texts_names_of_files_and_identities_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("file,caption,n\n1,2020,007\n2,2021,8\n")
    items, failed = listed([tmp_path / "rows.csv"], SourceOptions(fields=Fields(id="n")))
    assert failed == []
    assert [dict(item.payload) for item in items] == [
        {"file": "1", "caption": "2020", "n": "007"},
        {"file": "2", "caption": "2021", "n": "8"},
    ]


def test_captions_are_typed_too(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("file,caption,stars,ok\nsea.jpg,the sea,5,true\n")
    options = SourceOptions(captions=tmp_path / "c.csv")
    items, _ = listed([write_pictures(tmp_path / "p")], options)
    (sea,) = [dict(item.payload) for item in items if item.payload["file"] == "sea.jpg"]
    assert sea == {"file": "sea.jpg", "caption": "the sea", "stars": 5, "ok": True}


@pytest.mark.parametrize("by", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_delimiters_and_encodings_that_a_file_tells_are_read(tmp_path: Path, by: str, name: str, encoding: str) -> None:
    text = f'file{by}caption{by}n\na.png{by}"Müller{by} 猫"{by}1\n'
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / name).write_bytes((mark + text).encode(encoding))
    (item,), failed = listed([tmp_path / name])
    assert failed == []
    assert dict(item.payload) == {"file": "a.png", "caption": f"Müller{by} 猫", "n": 1}


def test_a_single_column_needs_no_delimiter(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\na dog; a cat\n")
    (item,), _ = listed([tmp_path / "rows.csv"])
    assert item.content == "a dog; a cat"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("füße,caption\n".encode("latin-1"), "UTF-8"),
        ("file,caption\na,b\n".encode("utf-16-le"), "UTF-16"),
        ("\ufefffile,caption\na,b\n".encode("utf-16-le")[:-1], "truncated"),
        (b"title;year\nx;1\n", "--image-field"),
        (b"", "no rows"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(SourceError, match=says):
        listed([tmp_path / "rows.csv"])


def test_a_cell_in_latin_1_fails_with_its_row_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,n\na dog,1\nMüller,2\na cat,3\n".encode("latin-1"))
    items, (failure,) = listed([tmp_path / "rows.csv"])
    assert [(item.content, item.payload["n"]) for item in items] == [("a dog", 1), ("a cat", 3)]
    assert "UTF-8" in failure.error


def test_typed_values_can_be_filtered(tmp_path: Path, toy_bundle: Path) -> None:
    rows = [f"a dog {n},{n},{'true' if n % 2 else 'false'},2024-0{n + 1}-01" for n in range(6)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,rating,ok,taken", *rows]))
    place = ("--collection", "c", "--location", tmp_path / "d", "--model", toy_bundle)
    assert invoke("index", tmp_path / "rows.csv", *place, "--types", "taken=string").exit_code == 0
    for condition, count in (
        ('{"key": "rating", "range": {"gte": 4}}', 2),
        ('{"key": "rating", "match": {"value": 4}}', 1),
        ('{"key": "ok", "match": {"value": true}}', 3),
        ('{"key": "taken", "range": {"gte": "2024-05-01T00:00:00Z"}}', 2),
    ):
        result = invoke("search", "a dog", "--json", "--filter", '{"must": [' + condition + "]}", *place)
        assert result.stdout.count('"distance"') == count, condition
    wrong = invoke("index", tmp_path / "rows.csv", *place, "--types", "rating")
    assert wrong.exit_code == 2


def parquet(path: Path, rows: list[dict[str, Any]], **types: Any) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    import pyarrow.parquet

    table = pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))
    pyarrow.parquet.write_table(table, path)
    return path


def test_values_of_parquet_become_what_qdrant_filters(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    zone = datetime.timezone(datetime.timedelta(hours=2))
    row = {
        "text": "a dog",
        "price": decimal.Decimal("1.10"),
        "whole": decimal.Decimal(12345678901234567890),
        "prices": [decimal.Decimal("0.5")],
        "taken": datetime.datetime(2024, 5, 1, 10, tzinfo=zone),
        "day": datetime.date(2024, 5, 1),
        "took": datetime.timedelta(minutes=1, milliseconds=500),
        "at": datetime.time(10, 30),
        "snow": 2**63 - 1,
        "code": b"abc",
        "blob": b"\xff\xfe",
        "empty": None,
        "nan": float("nan"),
        "place": {"lat": 48.1, "lon": 11.5},
    }
    path = parquet(
        tmp_path / "rows.parquet",
        [row],
        text=pa.string(),
        price=pa.decimal128(6, 2),
        whole=pa.decimal128(20, 0),
        prices=pa.list_(pa.decimal128(3, 1)),
        taken=pa.timestamp("us", "UTC"),
        day=pa.date32(),
        took=pa.duration("ms"),
        at=pa.time32("s"),
        snow=pa.int64(),
        code=pa.binary(),
        blob=pa.binary(),
        empty=pa.string(),
        nan=pa.float64(),
        place=pa.struct([("lat", pa.float64()), ("lon", pa.float64())]),
    )
    (item,), failed = listed([path])
    assert failed == []
    payload = plain_fields(item.payload)
    taken = datetime.datetime.fromisoformat(payload.pop("taken"))
    assert taken == row["taken"]
    assert payload == {
        "text": "a dog",
        "price": 1.1,
        "whole": 12345678901234567890,
        "prices": [0.5],
        "day": "2024-05-01",
        "took": 60.5,
        "at": "10:30:00",
        "snow": 2**63 - 1,
        "code": "abc",
        "place": {"lat": 48.1, "lon": 11.5},
    }


def test_texts_and_names_that_are_binary_are_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    rows = [{"file": b"sea.jpg", "caption": b"the sea", "id": uuid.UUID(int=1).hex}]
    path = parquet(tmp_path / "rows.parquet", rows, file=pa.binary(), caption=pa.binary(), id=pa.string())
    (item,), failed = listed([path])
    assert failed == []
    assert item.payload == {"file": "sea.jpg", "caption": "the sea", "id": uuid.UUID(int=1).hex}


def test_a_table_means_the_same_as_csv_and_as_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    rows = [{"text": "a", "n": 1, "f": 0.5, "ok": True}, {"text": "b", "n": None, "f": 2.0, "ok": False}]
    path = parquet(tmp_path / "rows.parquet", rows, text=pa.string(), n=pa.int64(), f=pa.float64(), ok=pa.bool_())
    (tmp_path / "rows.csv").write_text("text,n,f,ok\na,1,0.5,true\nb,,2,false\n")
    first, second = ([dict(item.payload) for item in listed([source])[0]] for source in (path, tmp_path / "rows.csv"))
    assert first == second
    assert [[type(value) for value in row.values()] for row in first] == [
        [type(value) for value in row.values()] for row in second
    ]
