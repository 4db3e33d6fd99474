"""What becomes of folders, images, text files and rows before anything is encoded."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support.listed import listed
from support.pictures import COLOURS, write_pictures

from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest import Fields, Item, Listing, SourceOptions


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def by_file(items: list[Item]) -> dict[str, dict[str, Any]]:
    return {item.payload["file"]: dict(item.payload) for item in items if item.modality == "image"}


def test_a_folder_gives_every_visible_image_in_it(tmp_path: Path) -> None:
    items, failed = listed([write_pictures(tmp_path)])
    assert sorted(by_file(items)) == sorted(COLOURS)
    assert failed == []


def test_a_text_file_gives_one_text_per_line_that_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\ufeffa dog\r\n\n  a cat \na dog\n", encoding="utf-8")
    items, _ = listed([path])
    assert [(item.modality, item.content, item.payload) for item in items] == [
        ("text", "a dog", {"text": "a dog"}),
        ("text", "a cat", {"text": "a cat"}),
    ]


def test_keys_do_not_depend_on_how_a_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path)
    absolute, _ = listed([tmp_path])
    monkeypatch.chdir(tmp_path)
    relative, _ = listed([".", "deep", "sea.jpg"])
    assert {item.key for item in absolute} == {item.key for item in relative}


def test_with_a_namespace_keys_survive_a_move_of_the_folder(tmp_path: Path) -> None:
    options = SourceOptions(namespace="photos")
    keys = [{item.key for item in listed([write_pictures(tmp_path / name)], options)[0]} for name in ("one", "two")]
    assert keys[0] == keys[1]


def test_two_sources_that_share_a_namespace_and_a_file_name_are_reported(tmp_path: Path) -> None:
    folders = [write_pictures(tmp_path / name) for name in ("one", "two")]
    items, failed = listed(folders, SourceOptions(namespace="photos"))
    assert {Path(str(item.content)).parts[-2] for item in items if "deep" not in str(item.content)} == {"one"}
    assert len(items) == len(failed) == len(COLOURS)
    assert all("separate namespaces" in failure.error for failure in failed)


def test_an_empty_namespace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="namespace is empty"):
        Listing([write_pictures(tmp_path)], SourceOptions(namespace=""))


def test_captions_and_extra_fields_go_into_the_payload_of_their_image(tmp_path: Path) -> None:
    captions = jsonl(
        tmp_path / "captions.jsonl",
        {"file": "sea.jpg", "caption": "the sea", "place": "Genoa", "tags": ["blue"]},
        {"file": "./deep/snow.webp", "caption": "snow"},
        {"file": "deep/snow.webp", "caption": "more snow", "place": "Oslo"},
    )
    items, failed = listed([write_pictures(tmp_path / "p")], SourceOptions(captions=captions))
    assert by_file(items)["sea.jpg"] == {"file": "sea.jpg", "caption": "the sea", "place": "Genoa", "tags": ["blue"]}
    snow = by_file(items)["deep/snow.webp"]
    assert (snow["caption"], snow["captions"]) == ("snow", ["snow", "more snow"])
    assert by_file(items)["grass.png"] == {"file": "grass.png"}
    assert failed == []
    assert all(item.modality == "image" for item in items)


def test_captions_can_also_become_texts(tmp_path: Path) -> None:
    captions = jsonl(tmp_path / "captions.jsonl", {"file": "sea.jpg", "caption": "the sea", "place": "Genoa"})
    options = SourceOptions(captions=captions, index_captions=True)
    items, _ = listed([write_pictures(tmp_path / "p")], options)
    texts = [item.payload for item in items if item.modality == "text"]
    assert texts == [{"text": "the sea", "file": "sea.jpg", "place": "Genoa"}]


def test_a_caption_without_its_image_is_reported(tmp_path: Path) -> None:
    captions = jsonl(tmp_path / "captions.jsonl", {"file": "lost.png", "caption": "lost"}, {"caption": "of nothing"})
    _, failed = listed([write_pictures(tmp_path / "p")], SourceOptions(captions=captions))
    assert [failure.item for failure in failed] == [f"{captions}:2", f"{captions}:1"]
    assert "lost.png" in failed[1].error
    assert {failure.source for failure in failed} == {str(captions)}


def test_a_table_gives_images_where_a_row_names_one_and_texts_elsewhere(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [["image", "text", "year"], ["sea.jpg", "the sea, calm", "1999"], ["", "a dog", ""], ["", "", "2000"]]
        )
    items, failed = listed([path])
    assert [(item.modality, dict(item.payload)) for item in items] == [
        ("image", {"file": "sea.jpg", "caption": "the sea, calm", "year": 1999}),
        ("text", {"text": "a dog"}),
    ]
    assert items[0].content == tmp_path / "sea.jpg"
    assert [failure.item for failure in failed] == [f"{path}:4"]


def test_fields_can_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"src": "a.png", "alt": "a house", "text": "kept"})
    items, _ = listed([path], SourceOptions(fields=Fields(image="src", text="alt")))
    assert items[0].payload == {"file": "a.png", "caption": "a house", "text": "kept"}


def test_equal_texts_with_other_fields_are_points_of_their_own(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"text": "a dog", "n": 1}, {"text": "a dog", "n": 2})
    items, _ = listed([path])
    assert len({item.key for item in items}) == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{broken\n", "not JSON"),
        ("[1, 2]\n", "list"),
        ('{"text": 5}\n', "expected a string"),
        ('{"title": "x"}\n', "none of the fields"),
        ('{"text": "  "}\n', "empty"),
    ],
)
def test_a_row_that_is_no_item_is_reported_and_the_others_stay(tmp_path: Path, line: str, says: str) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"text": "a dog"}, line, {"text": "a cat"})
    items, failed = listed([path])
    assert [item.content for item in items] == ["a dog", "a cat"]
    assert [failure.item for failure in failed] == [f"{path}:2"]
    assert says in failed[0].error


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.txt", None, "does not exist"),
        ("empty.txt", b"\n\n", "holds no text"),
        ("binary.dat", b"\xff\xfe\x00\x81", "UTF-8"),
        ("empty.jsonl", b"", "holds no rows"),
        ("odd.csv", b"title,year\nx,1\n", "--image-field"),
        ("latin.jsonl", '{"text": "é"}'.encode("latin-1"), "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=says):
        listed([tmp_path / name])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        listed([tmp_path])


def test_captions_without_images_to_go_with_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a dog", encoding="utf-8")
    captions = jsonl(tmp_path / "captions.jsonl", {"file": "sea.jpg", "caption": "the sea"})
    with pytest.raises(SettingsError, match="--captions"):
        listed([tmp_path / "texts.txt"], SourceOptions(captions=captions))


def test_rows_of_one_image_become_one_item_where_they_stand_together(tmp_path: Path) -> None:
    rows = [{"file": "a.png", "caption": "one", "n": 1}, {"file": "./a.png", "caption": "two"}, {"file": "b.png"}]
    items, failed = listed([jsonl(tmp_path / "rows.jsonl", *rows)])
    assert by_file(items) == {
        "a.png": {"file": "a.png", "caption": "one", "captions": ["one", "two"], "n": 1},
        "b.png": {"file": "b.png"},
    }
    assert failed == []


def test_a_row_of_an_image_that_another_row_has_described_is_reported(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"file": "a.png"}, {"file": "b.png"}, {"file": "a.png", "caption": "late"})
    items, failed = listed([path])
    assert sorted(by_file(items)) == ["a.png", "b.png"]
    assert [failure.item for failure in failed] == [f"{path}:3"]
    assert "next to each other" in failed[0].error


def test_a_field_can_identify_rows(tmp_path: Path) -> None:
    options = SourceOptions(fields=Fields(id="n"), namespace="words")
    first, _ = listed([jsonl(tmp_path / "rows.jsonl", {"n": 7, "text": "a dog"}, {"n": 8, "text": "a dog"})], options)
    second, _ = listed([jsonl(tmp_path / "rows.jsonl", {"n": 8, "text": "a cat"}, {"n": 7, "text": "a cat"})], options)
    assert {item.key for item in first} == {item.key for item in second} == {"words/rows.jsonl#7", "words/rows.jsonl#8"}
    assert first[0].payload == {"n": 7, "text": "a dog"}


@pytest.mark.parametrize("value", [None, 1.5, True, ["x"]])
def test_a_row_without_a_usable_identity_is_reported(tmp_path: Path, value: Any) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"n": value, "text": "a dog"}, {"n": "x", "text": "a cat"})
    items, failed = listed([path], SourceOptions(fields=Fields(id="n")))
    assert [item.content for item in items] == ["a cat"]
    assert "identifies rows" in failed[0].error


def test_a_source_given_twice_is_listed_once(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"text": "a dog", "n": 1}, {"text": "a dog", "n": 2})
    items, failed = listed([path, str(path), write_pictures(tmp_path / "p"), tmp_path / "p" / "sea.jpg"])
    assert len(items) == 2 + len(COLOURS)
    assert failed == []


def test_a_source_that_breaks_in_the_middle_is_reported_and_the_next_one_follows(tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken.txt", tmp_path / "whole.txt"
    broken.write_bytes(b"a dog\n" * 20_000 + b"\xff\n")
    whole.write_text("a cat", encoding="utf-8")
    with Listing([broken, whole]) as listing:
        found = list(listing)
    assert {item.content for item in found if isinstance(item, Item)} == {"a dog", "a cat"}
    assert not listing.complete
    assert listing.broken == {broken.resolve().as_posix()}


def test_unreadable_rows_make_a_listing_incomplete_and_empty_texts_do_not(tmp_path: Path) -> None:
    for rows, complete in (((), True), (("{\n",), False), (({"text": " "},), True)):
        with Listing([jsonl(tmp_path / "rows.jsonl", {"text": "a dog"}, *rows)]) as listing:
            list(listing)
            assert listing.complete is complete


def test_counts_are_known_before_anything_is_listed(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a dog\na cat\n", encoding="utf-8")
    rows = jsonl(tmp_path / "rows.jsonl", {"text": "a dog"})
    with Listing([write_pictures(tmp_path / "p"), tmp_path / "p" / "sea.jpg", texts, rows]) as listing:
        assert listing.count() == 4 + 1 + 2 + 1
