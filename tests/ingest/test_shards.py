"""Webdataset shards as sources."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from support.listed import listed
from support.pictures import write_pictures
from support.shards import shard

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.formats import OTHER_SUFFIXES
from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest import FailedItem, Fields, Listing, SourceOptions, index_sources, status_of
from hysac_retrieval.ingest.items import Item
from hysac_retrieval.ingest.sources import shards
from hysac_retrieval.ingest.sources.open import expand_braces

SAMPLES = {
    "a/001.jpg": b"first image",
    "a/001.txt": b"the sea\n",
    "a/001.json": b'{"place": "Genoa", "caption": "not this one", "width": 3}',
    "a/002.b.PNG": b"second image",
    "a/002.json": b'{"caption": "a hill"}',
    "003.txt": b"a dog",
    "004.cls": b"7",
    "005.jpg": b"fifth image",
    "005.json": b"[1]",
}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
def test_files_of_one_name_are_one_sample(tmp_path: Path, name: str) -> None:
    path = shard(tmp_path / name, SAMPLES)
    items, failed = listed([path])
    assert [(item.modality, item.content, dict(item.payload)) for item in items] == [
        ("image", b"first image", {"file": "a/001.jpg", "caption": "the sea", "place": "Genoa", "width": 3}),
        ("image", b"second image", {"file": "a/002.b.PNG", "caption": "a hill"}),
        ("text", "a dog", {"text": "a dog"}),
    ]
    assert [item.key.rpartition("#")[2] for item in items] == ["a/001", "a/002", "003"]
    assert [failure.item.rpartition(":")[2] for failure in failed] == ["004", "005"]
    assert "004.cls" in failed[0].error
    assert "expected an object" in failed[1].error


def test_shards_as_other_programs_leave_them(tmp_path: Path) -> None:
    """Of a Mac, of img2dataset, with folders that have dots, capital suffixes and nulls."""
    files = {
        ".DS_Store": b"x",
        "._000.jpg": b"fork",
        "__MACOSX/._000.jpg": b"fork",
        "000.jpg": b"first image",
        "000.txt": b"",
        "000.json": b'\xef\xbb\xbf{"caption": null, "key": "000", "url": "http://x/1.jpg", "n": null}',
        "my.folder/v1.0/img_2.JPG": b"second image",
        "my.folder/v1.0/img_2.TXT": b"a cat",
        "my.folder/v1.0/img_3.Jpeg": b"third image",
        "my.folder/v1.0/img_3.JSON": b'{"caption": ["a dog", "a puppy"]}',
        "004.cls": b"7",
        "004.webp": b"fourth image",
        "004.npy": b"x",
    }
    items, failed = listed([shard(tmp_path / "x.tar", files)])
    assert failed == []
    assert [(item.key.rpartition("#")[2], item.content, dict(item.payload)) for item in items] == [
        ("000", b"first image", {"file": "000.jpg", "key": "000", "url": "http://x/1.jpg", "n": None}),
        ("my.folder/v1.0/img_2", b"second image", {"file": "my.folder/v1.0/img_2.JPG", "caption": "a cat"}),
        (
            "my.folder/v1.0/img_3",
            b"third image",
            {"file": "my.folder/v1.0/img_3.Jpeg", "caption": "a dog", "captions": ["a dog", "a puppy"]},
        ),
        ("004", b"fourth image", {"file": "004.webp"}),
    ]


def test_pictures_that_are_not_read_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OTHER_SUFFIXES", OTHER_SUFFIXES | {".cr2"})  # whatever is installed
    files = {
        "1.jpg": b"image",
        "1.cr2": b"raw",
        "2.cr2": b"raw",
        "3.CR2": b"raw",
        "3.txt": b"a text",
        "4.mp4": b"film",
        "5.psd": b"layers",
    }
    only = {"1.mov": b"film", "2.mov": b"film"}
    path, films = shard(tmp_path / "x.tar", files), shard(tmp_path / "films.tar", only)
    with Listing([path]) as listing:
        assert [item.origin.rpartition(":")[2] for item in listing if isinstance(item, Item)] == ["1", "3"]
        (remark,) = listing.remarks
        assert remark.startswith(f"{path}: left out: ")
        assert all(words in remark for words in ("3 .cr2, install hysac-retrieval[raw]", "1 .mp4", "1 .psd"))
        assert listing.complete
    (said,) = status_of([path], None).remarks
    assert said == remark
    with pytest.raises(SourceError, match=r"holds no files that are read; left out: 2 \.mov"):
        Listing([films])


def test_a_text_and_the_captions_of_the_json_are_both_kept(tmp_path: Path) -> None:
    files = {"1.jpg": b"image", "1.txt": b"first", "1.json": b'{"captions": ["second", "third"], "n": 1}'}
    (item,), _ = listed([shard(tmp_path / "x.tar", files)])
    assert item.captions == ("first", "second", "third")
    assert item.payload["caption"] == "first"


def test_samples_are_counted_without_being_read(tmp_path: Path) -> None:
    for name, count in (("x.tar", 5), ("x.tgz", None)):
        with Listing([shard(tmp_path / name, SAMPLES)]) as listing:
            assert listing.count() == count


def test_a_field_of_the_json_can_identify_samples_and_name_the_text(tmp_path: Path) -> None:
    files = {"1.jpg": b"image", "1.json": json.dumps({"uid": "k", "alt": "a hill", "caption": "kept"}).encode()}
    (item,), _ = listed([shard(tmp_path / "x.tar", files)], SourceOptions(fields=Fields(text="alt", id="uid")))
    assert item.key.endswith("x.tar#k")
    assert item.payload == {"file": "1.jpg", "caption": "a hill", "uid": "k"}


def test_with_a_namespace_samples_of_equal_names_in_two_shards_stay_apart(tmp_path: Path) -> None:
    shards = [shard(tmp_path / f"{name}.tar", {"1.jpg": name.encode()}) for name in "ab"]
    items, failed = listed(shards, SourceOptions(namespace="web"))
    assert [(item.key, item.source) for item in items] == [("web/a.tar#1", "web"), ("web/b.tar#1", "web")]
    assert failed == []


@pytest.mark.parametrize(("cut", "read"), [(1536, 1), (1536 + 512, 1), (2 * 1536 + 100, 2), (3 * 1536, 3)])
def test_a_shard_that_was_cut_is_reported_and_what_is_whole_is_read(tmp_path: Path, cut: int, read: int) -> None:
    """Also where it was cut between two members, which `tarfile` does not notice."""
    path = shard(tmp_path / "x.tar", {f"{n}.txt": b"x" * 700 for n in range(3)})
    path.write_bytes(path.read_bytes()[:cut])
    with Listing([path]) as listing:
        found = list(listing)
    assert [one.item for one in found if isinstance(one, FailedItem)] == [str(path)]
    assert len(found) == read + 1
    assert not listing.complete


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, bytes(10240), bytes(200)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(SourceError, match=r"damaged|holds no files"):
        Listing([tmp_path / "x.tar"])


def test_links_and_folders_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("2.txt"), io.BytesIO())
    items, failed = listed([tmp_path / "x.tar"])
    assert items == []
    assert [failure.item for failure in failed] == [f"{tmp_path / 'x.tar'}:{name}" for name in "12"]
    assert "is a link" in failed[0].error


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{0..1}/{0..1}", ["0/0", "0/1", "1/0", "1/1"]),
        ("plain", ["plain"]),
        ("{a..b}", ["{a..b}"]),
    ],
)
def test_braces_stand_for_a_range(name: str, names: list[str]) -> None:
    assert expand_braces(name) == names


def test_a_range_that_counts_backwards_is_refused() -> None:
    with pytest.raises(SourceError, match=r"Write \{0\.\.3\}"):
        expand_braces("{3..0}.tar")


def test_a_range_of_shards_is_indexed(tmp_path: Path, toy_bundle: Path) -> None:
    pictures = sorted(write_pictures(tmp_path / "p").rglob("*.*p*g"))
    for number, path in enumerate(pictures):
        shard(tmp_path / f"s{number}.tar", {f"1{path.suffix}": path.read_bytes(), "1.txt": b"a picture"})
    encoder = Encoder.load(toy_bundle, threads=1)
    with Index.for_model(encoder, "web", exist_ok=True, location=":memory:") as index:
        report = index_sources([tmp_path / f"s{{0..{len(pictures) - 1}}}.tar"], index, encoder)
        assert (report.failures, report.total, index.count()) == (0, len(pictures), len(pictures))
        again = index_sources([tmp_path / f"s{{0..{len(pictures) - 1}}}.tar"], index, encoder)
        assert again.skipped == len(pictures)
