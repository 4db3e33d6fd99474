"""Folders as people have them: links, thumbnails, names of other systems, files beside pictures."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.listed import listed

from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest import Content, Fields, Item, Listing, SourceOptions

links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
CASELESS = Path(__file__.swapcase()).exists()
NFC, NFD = (unicodedata.normalize(form, "Müller Café.jpg") for form in ("NFC", "NFD"))


def picture(path: Path, colour: str = "blue") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def files(sources: list[Any], options: SourceOptions | None = None) -> list[str]:
    return [str(item.payload["file"]) for item in listed(sources, options)[0]]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with links of all kinds, beside the folder `disk` that some of them lead to."""
    root, disk = tmp_path / "lib", tmp_path / "disk"
    picture(root / "z" / "one.jpg")
    for name in ("two.jpg", "sub/three.jpg"):
        picture(disk / name)
    (root / "a_disk").symlink_to(disk)
    (root / "z" / "again").symlink_to(disk, target_is_directory=True)
    (root / "z" / "loop").symlink_to(root, target_is_directory=True)
    (disk / "back").symlink_to(root, target_is_directory=True)
    (root / "a_favourite.jpg").symlink_to("z/one.jpg")
    (root / "z" / "linked.jpg").symlink_to(disk / "two.jpg")
    return root


@links
@pytest.mark.parametrize("namespace", [None, "photos"])
def test_every_real_file_is_listed_once_under_its_own_name(library: Path, namespace: str | None) -> None:
    items, failed = listed([library], SourceOptions(namespace=namespace))
    assert [item.payload["file"] for item in items] == ["z/one.jpg", "a_disk/two.jpg", "a_disk/sub/three.jpg"]
    assert failed == []


@links
def test_links_change_no_id(library: Path, tmp_path: Path) -> None:
    with_links = {Path(str(item.content)).name: item.id for item in listed([library])[0]}
    alone = {
        Path(str(item.content)).name: item.id for item in listed([library / "z" / "one.jpg", tmp_path / "disk"])[0]
    }
    assert with_links == alone


@links
@pytest.mark.parametrize("namespace", [None, "photos"])
def test_overlapping_sources_give_each_file_once(library: Path, tmp_path: Path, namespace: str | None) -> None:
    (tmp_path / "alias").symlink_to(library)
    sources = [library, library / "z", tmp_path / "disk", tmp_path / "alias", library / "z" / "one.jpg"]
    items, failed = listed(sources, SourceOptions(namespace=namespace))
    assert sorted(os.path.basename(str(item.content)) for item in items) == ["one.jpg", "three.jpg", "two.jpg"]
    assert failed == []


@links
def test_a_source_that_is_a_link_is_the_folder_itself(library: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path / "disk")
    (by_link,), (real,) = (
        [item for item in listed([tmp_path / name])[0] if item.payload["file"] == "two.jpg"]
        for name in ("alias", "disk")
    )
    assert (by_link.id, by_link.source) == (real.id, real.source)


@links
@pytest.mark.parametrize("target", ["nowhere.jpg", "broken.jpg", "/missing/disk"])
def test_a_link_that_leads_nowhere_is_reported_and_nothing_is_taken_for_gone(tmp_path: Path, target: str) -> None:
    picture(tmp_path / "one.jpg")
    (tmp_path / "broken.jpg").symlink_to(target)
    with Listing([tmp_path]) as listing:
        found = list(listing)
    assert [one.payload["file"] for one in found if isinstance(one, Item)] == ["one.jpg"]
    (failure,) = [one for one in found if not isinstance(one, Item)]
    assert failure.item == str(tmp_path / "broken.jpg")
    assert "leads nowhere" in failure.error
    assert not listing.complete
    assert listed([tmp_path], SourceOptions(exclude=("broken.jpg",)))[1] == []


CLUTTER = (
    "@eaDir/one.jpg/SYNOPHOTO_THUMB_XL.jpg",
    ".thumbnails/x.jpg",
    ".hidden.jpg",
    "._one.jpg",
    "a/.git/x.png",
    "#recycle/x.jpg",
    "$RECYCLE.BIN/x.jpg",
    "Thumbs/x.jpg",
    "a/thumbs/x.jpg",
    "__MACOSX/x.jpg",
    "Catalog Previews.lrdata/x.jpg",
)


@pytest.mark.parametrize("name", CLUTTER)
def test_what_nobody_means_is_left_out_unless_it_is_taken_back(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "one.jpg")
    picture(tmp_path / name)
    assert files([tmp_path]) == ["one.jpg"]
    left_out = next(part for part in Path(name).parts if part != "a")
    assert sorted(files([tmp_path], SourceOptions(exclude=(f"!{left_out}",)))) == sorted(["one.jpg", name])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"exclude": ("raw",)}, ["2020/b.png", "a.jpg", "#x.jpg"]),
        ({"exclude": ("*.PNG", "#x.jpg")}, ["2020/raw/c.jpg", "a.jpg"]),
        ({"exclude": ("/2020/*.png",)}, ["2020/raw/c.jpg", "a.jpg", "#x.jpg"]),
        ({"include": ("*.png",)}, ["2020/b.png"]),
        ({"include": ("2020/",)}, ["2020/b.png", "2020/raw/c.jpg"]),
        ({"include": ("2020/**", "a.*"), "exclude": ("raw/",)}, ["2020/b.png", "a.jpg"]),
    ],
)
def test_patterns_choose_among_files(tmp_path: Path, options: Any, expected: list[str]) -> None:
    for name in ("a.jpg", "#x.jpg", "2020/b.png", "2020/raw/c.jpg"):
        picture(tmp_path / name)
    assert sorted(files([tmp_path], SourceOptions(**options))) == sorted(expected)


def test_a_file_that_is_named_itself_is_taken_in_any_case(tmp_path: Path) -> None:
    path = picture(tmp_path / ".hidden" / "@eaDir" / "x.jpg")
    assert files([path]) == ["x.jpg"]
    assert files([path.parent]) == ["x.jpg"]


def test_a_pattern_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="pattern"):
        listed([picture(tmp_path / "a.jpg").parent], SourceOptions(exclude=("!",)))


SPELLINGS = [
    (NFD, NFC),
    (NFC, NFD),
    ("a/one.jpg", "a\\one.jpg"),
    ("a/one.jpg", ".\\a\\one.jpg"),
    ("a/one.jpg", "A/ONE.JPG"),
    (f"Fotos {NFD}/One.JPG", f"fotos {NFC}\\one.jpg"),
]


@pytest.mark.parametrize(("name", "written"), SPELLINGS)
def test_captions_tables_and_attach_mean_the_same_file_by_any_spelling(tmp_path: Path, name: str, written: str) -> None:
    root = tmp_path / "p"
    path = picture(root / name)
    (by_folder,), failed = listed(
        [root], SourceOptions(captions=jsonl(tmp_path / "c.jsonl", {"file": written, "caption": "x"}))
    )
    assert (by_folder.payload["caption"], failed) == ("x", [])
    (by_table,), failed = listed([jsonl(root / "t.jsonl", {"file": written})])
    assert failed == []
    assert (by_table.id, by_table.payload["file"]) == (by_folder.id, by_folder.payload["file"])
    content = Content(image="img", root=root).of({"img": written})
    assert content is not None
    assert os.path.samefile(str(content[1]), path)


@pytest.mark.skipif(CASELESS, reason="one name there")
def test_a_file_of_exactly_that_name_comes_before_other_spellings(tmp_path: Path) -> None:
    root = tmp_path / "p"
    for name in ("a.jpg", "A.jpg", "b.jpg", "B.jpg"):
        picture(root / name)
    captions = jsonl(
        tmp_path / "c.jsonl", {"file": "a.jpg", "caption": "small"}, {"file": "b.JPG", "caption": "which?"}
    )
    items, failed = listed([root], SourceOptions(captions=captions))
    assert {str(item.payload["file"]): item.payload.get("caption") for item in items} == {
        "a.jpg": "small",
        "A.jpg": None,
        "b.jpg": None,
        "B.jpg": None,
    }
    assert len(failed) == 1


@pytest.mark.parametrize("written", ["C:\\photos\\a.jpg", "\\\\server\\photos\\a.jpg", "c:/photos/a.jpg"])
@pytest.mark.skipif(sys.platform == "win32", reason="such paths are read there")
def test_a_path_with_a_drive_says_what_to_do(tmp_path: Path, written: str) -> None:
    picture(tmp_path / "a.jpg")
    items, (failure,) = listed([jsonl(tmp_path / "t.jsonl", {"file": written})])
    assert items == []
    assert "--prefix" in failure.error
    with pytest.raises(SourceError, match="--prefix"):
        Content(image="img", root=tmp_path).of({"img": written})
    prefix = written[: -len("a.jpg")].swapcase().replace("/", "\\")
    found = Content(image="img", root=tmp_path, prefix=prefix).of({"img": written})
    assert found == ("image", tmp_path / "a.jpg")


@pytest.mark.parametrize("written", ["a\0.jpg", "\ud83d.jpg", "x" * 300 + ".jpg", "x" * 5000 + ".jpg", "~nobody/x.jpg"])
def test_names_that_no_file_has_are_failures_of_their_rows(tmp_path: Path, written: str) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"file": written}) + '\n{"text": "a dog"}\n')
    items, failed = listed([tmp_path / "t.jsonl"])
    assert items[-1].content == "a dog"
    assert len(items) + len(failed) == 2
    with suppress(SourceError):  # or a file that is not there
        Content(image="img", root=tmp_path).of({"img": written})


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300,
        "x" * 300 + ".jpg",
        "x" * 5000,
        "a\0b",
        "a\0b.csv",
        "~nobody_has_this_name/x",
        "\ud83d.jpg",
        "hf:" + "x" * 300,
    ],
)
def test_sources_and_captions_that_cannot_be_there_are_refused(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.jpg")
    if not name.startswith("hf:"):
        with pytest.raises(SourceError, match="does not exist"):
            Listing([name])
    with pytest.raises(SourceError):
        Listing([tmp_path], SourceOptions(captions=name))


@pytest.mark.parametrize("name", ["http://x/y.jpg", "https://x/rows.csv", "s3://bucket/shard.tar", "file:///x"])
def test_a_url_is_no_source(name: str) -> None:
    with pytest.raises(SourceError, match="not fetched"):
        Listing([name])


def test_files_beside_a_picture_describe_it(tmp_path: Path) -> None:
    for name in ("00000/0.jpg", "00000/1.jpg", f"00000/{NFD}", "00000/3.PNG", "4.png"):
        picture(tmp_path / name)
    folder = tmp_path / "00000"
    (folder / "0.txt").write_text("a dog\n")
    (folder / "0.json").write_text(json.dumps({"caption": "other", "url": "http://x/0.jpg", "file": "x", "n": 1}))
    (folder / "1.json").write_text(json.dumps({"caption": ["a cat", "a tom"], "width": 3}))
    (folder / NFC.replace(".jpg", ".TXT")).write_text("\ufeffa house", encoding="utf-8")
    (folder / "3.PNG.json").write_text('{"n": 3}')
    (folder / "00000_stats.json").write_text("{}")
    (tmp_path / "4.txt").write_text("")
    items, failed = listed([tmp_path])
    assert failed == []
    assert [dict(item.payload) for item in sorted(items, key=lambda item: item.payload["file"])] == [
        {"file": "00000/0.jpg", "caption": "a dog", "url": "http://x/0.jpg", "n": 1},
        {"file": "00000/1.jpg", "caption": "a cat", "captions": ["a cat", "a tom"], "width": 3},
        {"file": "00000/3.PNG", "n": 3},
        {"file": f"00000/{NFD}", "caption": "a house"},
        {"file": "4.png"},
    ]
    assert all(item.payload.keys() == {"file"} for item in listed([tmp_path], SourceOptions(sidecars=False))[0])
    (alone,), _ = listed([folder / "0.jpg"])
    assert alone.payload["caption"] == "a dog"


def test_a_table_of_captions_comes_before_the_files_beside(tmp_path: Path) -> None:
    picture(tmp_path / "p" / "0.jpg")
    (tmp_path / "p" / "0.txt").write_text("beside")
    captions = jsonl(tmp_path / "c.jsonl", {"file": "0.jpg", "caption": "from the table"})
    (item,), _ = listed([tmp_path / "p"], SourceOptions(captions=captions))
    assert item.captions == ("from the table", "beside")


def test_fields_of_files_beside_can_be_named(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg")
    (tmp_path / "0.json").write_text('{"alt": "a dog", "caption": "kept as a field?"}')
    (item,), _ = listed([tmp_path], SourceOptions(fields=Fields(text="alt")))
    assert item.captions == ("a dog",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0.json", b"[1]"),
        ("0.json", b"{"),
        ("0.txt", b"\xff\xfe\xfd"),
        ("0.txt", b"x" * 1_000_001),
        ("0.json", b'{"caption": {}}'),
    ],
)
def test_a_damaged_file_beside_is_reported_and_the_picture_indexed(tmp_path: Path, name: str, content: bytes) -> None:
    picture(tmp_path / "0.jpg")
    (tmp_path / name).write_bytes(content)
    items, (failure,) = listed([tmp_path])
    assert [dict(item.payload) for item in items] == [{"file": "0.jpg"}]
    assert name in failure.error


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"caption": ["a", "b", "a", None]}, ("a", "b")),
        ({"captions": ["a", "b"]}, ("a", "b")),
        ({"text": ["a"]}, ("a",)),
        ({"caption": []}, ()),
        ({"caption": ["", "b"]}, ("b",)),
    ],
)
def test_a_picture_may_have_several_captions(tmp_path: Path, row: Any, captions: tuple[str, ...]) -> None:
    (item,), failed = listed([jsonl(tmp_path / "t.jsonl", {"file": "a.png"} | row)])
    assert (item.captions, failed) == (captions, [])
    assert item.payload.get("caption") == (captions[0] if captions else None)
    assert item.payload.get("captions") == (list(captions) if len(captions) > 1 else None)
    items, _ = listed([tmp_path / "t.jsonl"], SourceOptions(index_captions=True))
    assert [one.content for one in items if one.modality == "text"] == list(captions)


def test_several_texts_of_a_row_without_a_picture_are_texts_each(tmp_path: Path) -> None:
    rows = ({"text": ["a", "b"], "n": 1}, {"text": ["c"], "n": 2})
    items, _ = listed([jsonl(tmp_path / "t.jsonl", *rows)])
    assert [dict(item.payload) for item in items] == [
        {"text": text, "n": n} for text, n in (("a", 1), ("b", 1), ("c", 2))
    ]
    by_id, _ = listed([tmp_path / "t.jsonl"], SourceOptions(fields=Fields(id="n")))
    assert len({item.id for item in by_id}) == 3


@pytest.mark.parametrize("value", [[1], [["a"]], {"raw": "a"}, 5])
def test_captions_that_are_no_texts_are_reported(tmp_path: Path, value: Any) -> None:
    items, (failure,) = listed([jsonl(tmp_path / "t.jsonl", {"file": "a.png", "caption": value})])
    assert items == []
    assert "'caption'" in failure.error
