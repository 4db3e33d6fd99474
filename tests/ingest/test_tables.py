"""Parquet tables and Hugging Face datasets as sources."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.listed import listed

from hysac_retrieval.errors import MissingExtraError, SourceError
from hysac_retrieval.ingest import Fields, Item, Listing, SourceOptions

pa = pytest.importorskip("pyarrow", reason="needs the extra tables")


def png(colour: str) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (40, 30), colour).save(stream, "PNG")
    return stream.getvalue()


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), path, **options)
    return path


def test_a_parquet_table_gives_texts_and_image_files(tmp_path: Path) -> None:
    day = datetime.date(2020, 5, 17)
    columns = {
        "file": ["sea.jpg", None, "sub/hill.png"],
        "caption": ["the sea", "a dog", None],
        "day": [day, None, day],
        "height": [1.5, float("nan"), 2.5],
    }
    path = parquet(tmp_path / "rows.parquet", columns)
    items, failed = listed([path])
    assert failed == []
    assert [(item.modality, item.content, dict(item.payload)) for item in items] == [
        ("image", tmp_path / "sea.jpg", {"file": "sea.jpg", "caption": "the sea", "day": day, "height": 1.5}),
        ("text", "a dog", {"text": "a dog"}),
        ("image", tmp_path / "sub" / "hill.png", {"file": "sub/hill.png", "day": day, "height": 2.5}),
    ]
    assert [item.origin for item in items] == [f"{path}:{number}" for number in (1, 2, 3)]
    with Listing([path]) as listing:
        assert listing.count() == 3


def test_images_inside_a_table_are_identified_by_their_row(tmp_path: Path) -> None:
    images = [{"bytes": png("red"), "path": "red.png"}, {"bytes": png("blue"), "path": None}]
    columns = {"image": images, "caption": ["red", None], "mask": [b"\1", b"\2"]}
    items, failed = listed([parquet(tmp_path / "rows.parquet", columns)], SourceOptions(namespace="colours"))
    assert failed == []
    assert [item.content for item in items] == [png("red"), png("blue")]
    assert [dict(item.payload) for item in items] == [{"file": "red.png", "caption": "red"}, {}]
    assert [item.key for item in items] == ["colours/rows.parquet#0", "colours/rows.parquet#1"]


def test_plain_bytes_are_images_too(tmp_path: Path) -> None:
    path = parquet(tmp_path / "rows.parquet", {"jpg": [png("red")], "n": [1]})
    (item,), _ = listed([path], SourceOptions(fields=Fields(image="jpg", id="n")))
    assert (item.modality, item.content, dict(item.payload)) == ("image", png("red"), {"n": 1})
    assert item.key.endswith("rows.parquet#1")


def test_a_table_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    columns = {"text": [f"{n} {'dog ' * 50}" for n in range(50_000)]}
    path = parquet(tmp_path / "rows.parquet", columns, row_group_size=50_000, compression="none", use_dictionary=False)
    before = pa.total_allocated_bytes()
    most = 0
    with Listing([path]) as listing:
        for number, _ in enumerate(listing):
            most = max(most, pa.total_allocated_bytes() - before)
            if number == 500:
                break
    assert most < path.stat().st_size / 4


@pytest.mark.parametrize(
    ("columns", "says"),
    [({"title": ["x"]}, "--image-field"), ({"text": pa.array([], pa.string())}, "holds no rows")],
)
def test_a_table_without_anything_to_index_is_refused(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        Listing([parquet(tmp_path / "rows.parquet", columns)])


def test_a_damaged_table_is_refused_or_reported(tmp_path: Path) -> None:
    texts = [f"a dog {n} in the park" for n in range(5000)]
    path = parquet(tmp_path / "rows.parquet", {"text": texts}, row_group_size=1000, compression="gzip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="no Parquet table"):
        Listing([path])
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(500) + whole[middle + 500 :])
    with Listing([path]) as listing:
        found = list(listing)
    assert [one.item for one in found if not isinstance(one, Item)] == [str(path)]
    assert len(found) > 1000
    assert not listing.complete


def test_what_a_table_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "rows.parquet", {"text": ["a dog"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[tables\]"):
        Listing([path])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[datasets\]"):
        Listing(["hf:some/name"])


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    return pytest.importorskip("datasets", reason="needs the extra datasets")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_saved_dataset_gives_its_splits(tmp_path: Path, datasets: Any) -> None:
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [{"bytes": png(c), "path": None} for c in colours], "caption": colours}, features=features
        )
        for split, colours in (("train", ["red", "blue"]), ("test", ["green"]))
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for name in (str(tmp_path / "saved"), f"hf:{tmp_path / 'saved'}"):
        with Listing([name]) as listing:
            assert listing.count() == 3
            items = [one for one in listing if isinstance(one, Item)]
        assert [item.content for item in items] == [png("red"), png("blue"), png("green")]
        assert [dict(item.payload) for item in items] == [{"caption": c} for c in ("red", "blue", "green")]
        assert [item.key.rpartition("/")[2] for item in items] == ["train#0", "train#1", "test#0"]
    items, _ = listed([tmp_path / "saved"], SourceOptions(split="test"))
    assert [item.payload["caption"] for item in items] == ["green"]
    with pytest.raises(SourceError, match="no split 'dev'; it has train, test"):
        Listing([tmp_path / "saved"], SourceOptions(split="dev"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_dataset_may_have_several_captions_of_a_picture_and_rows_without_one(tmp_path: Path, datasets: Any) -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Sequence(datasets.Value("string")),
            "t": datasets.Value("timestamp[us]"),
            "mask": datasets.Image(),
        }
    )
    picture = {"bytes": png("red"), "path": None}
    columns = {
        "image": [picture, picture, None, None],
        "caption": [["a", "b"], [], ["c"], ["d", "e"]],
        "t": [datetime.datetime(2024, 1, 1)] * 4,
        "mask": [picture] * 4,
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    items, failed = listed([tmp_path / "saved"])
    assert failed == []
    assert [(item.modality, item.captions) for item in items if item.modality == "image"] == [
        ("image", ("a", "b")),
        ("image", ()),
    ]
    assert [item.content for item in items if item.modality == "text"] == ["c", "d", "e"]
    assert all("mask" not in item.payload and "t" in item.payload for item in items)
    assert len({item.id for item in items}) == 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_of_local_files_is_a_dataset_when_asked_for(tmp_path: Path, datasets: Any) -> None:
    parquet(tmp_path / "train.parquet", {"text": ["a dog", "a cat"], "n": [1, 2]})
    with Listing([f"hf:{tmp_path}"]) as listing:
        assert listing.count() is None
        items = [one for one in listing if isinstance(one, Item)]
    assert [dict(item.payload) for item in items] == [{"text": "a dog", "n": 1}, {"text": "a cat", "n": 2}]
    assert listing.complete


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("bad", [[0], [3], [70, 71], [199], range(200)])
@pytest.mark.parametrize("saved", [True, False])
def test_a_row_of_a_dataset_that_is_none_of_python_s_fails_alone(
    tmp_path: Path, datasets: Any, bad: Sequence[int], saved: bool
) -> None:
    pa = pytest.importorskip("pyarrow")
    times = pa.array([2**62 if row in bad else 0 for row in range(200)], type=pa.timestamp("us"))
    parquet(tmp_path / "rows.parquet", {"text": [f"text {row}" for row in range(200)], "t": times})
    if saved:
        datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet")).save_to_disk(tmp_path / "saved")
    with Listing([str(tmp_path / "saved") if saved else f"hf:{tmp_path}"]) as listing:
        found = list(listing)
    assert [one.content for one in found if isinstance(one, Item)] == [
        f"text {row}" for row in range(200) if row not in bad
    ]
    failed = [one for one in found if not isinstance(one, Item)]
    assert [int(one.item.rpartition(":")[2]) for one in failed] == [row + 1 for row in bad]
    assert all("field 't' cannot be read" in one.error for one in failed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_dataset_that_is_not_there_is_refused(tmp_path: Path, datasets: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="cannot be loaded"):
        Listing([f"hf:{tmp_path / 'empty'}"])
