"""Pictures from files: read once, found by content, judged whole; what cannot be read is counted and said."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder import formats
from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest import index_sources, status_of
from hysac_retrieval.ingest.pipeline.decode import Decoding, Job, content_hash
from hysac_retrieval.ingest.sources import kinds
from hysac_retrieval.ingest.sources import open as sources_open
from hysac_retrieval.ingest.sources.kinds import is_picture, left_out

SPEC = ImageSpec(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
RED, GREEN = (255, 0, 0), (0, 128, 0)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def plain(colour: Any) -> bytes:
    return encoded(Image.new("RGB", (16, 16), colour))


def own(index: Index) -> dict[str, dict[str, Any]]:
    points, _ = index.store.scroll(index.name)
    return {point.payload["file"]: dict(point.payload["hysac"]) for point in points}


def test_hash_and_pixels_are_of_the_same_bytes(tmp_path: Path) -> None:
    contents = [
        encoded(Image.effect_noise((64, 64), 60).convert("RGB").point(lambda v, n=n: v // 8 + n)) for n in (0, 200)
    ]
    dark = content_hash(b"", contents[0])
    path, spare, stop = tmp_path / "x.png", tmp_path / "spare", threading.Event()
    path.write_bytes(contents[0])

    def swap() -> None:
        while not stop.is_set():
            for content in contents:
                spare.write_bytes(content)
                os.replace(spare, path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = Counter[bool]()
    try:
        for _ in range(300):
            (found,) = Decoding(SPEC, 10**6)([Job(path, b"")])
            assert found.views is not None
            is_dark = bool(found.views.rows.mean() < 100)
            assert (found.hash == dark) == is_dark
            seen[is_dark] += 1
    finally:
        stop.set()
        swapping.join()
    assert seen


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(plain(RED))
    opened: list[Path] = []
    real = Path.open

    def counted(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(self)
        stream = real(self, *arguments, **options)
        other = self.with_name("other.png")
        other.write_bytes(plain(GREEN)) if not other.exists() else None
        os.replace(other, self)  # whoever opens it again reads something else
        return stream

    monkeypatch.setattr(Path, "open", counted)
    (found,) = Decoding(SPEC, 10**6)([Job(path, b"")])
    assert opened.count(path) == 1
    assert found.hash == content_hash(b"", plain(RED))
    assert found.views is not None
    assert (found.views.rows[0] == RED).all()


def test_what_a_picture_holds_beside_its_centre_keeps_it_out_of_safe_results(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "green.png").write_bytes(plain(GREEN))
    (folder / "plain.png").write_bytes(plain(RED))
    strip = Image.new("RGB", (96, 32), GREEN)
    strip.paste(RED, (0, 0, 32, 32))
    strip.save(folder / "strip.png")
    strip.rotate(90, expand=True).save(folder / "tall.jpg", quality=95)
    frames = [Image.new("RGB", (16, 16), (255, n, 0)) for n in range(5)]
    for name in ("film.gif", "film.webp", "film.apng", "pages.tif"):
        options = {"format": "PNG"} if name.endswith("apng") else {}
        Image.new("RGB", (16, 16), GREEN).save(folder / name, save_all=True, append_images=frames, **options)
    hidden = np.zeros((16, 16, 4), np.uint8)
    hidden[..., :3] = RED
    Image.fromarray(hidden).save(folder / "clear.png")
    index_sources([folder], index, encoder, workers=0)
    assert {name for name, entries in own(index).items() if entries["unsafe"] <= 0.5} == {"green.png"}
    for name, entries in own(index).items():
        assert entries["judge"] == "fast"
        assert (entries.get("views", 1) > 1) == (name not in ("green.png", "plain.png"))
    film = own(index)["film.gif"]
    assert film["worst"]["view"].startswith("frame ")
    assert film["radius"] < 2.0 < film["worst"]["radius"]
    with _engine(index, encoder) as engine:
        found = {hit.payload["file"]: hit for hit in engine.search("a dog", safe=False)}
        assert found["film.gif"].worst == film["worst"]["view"]
        assert engine.search(folder / "strip.png").query.redirected
        assert {hit.payload["file"] for hit in engine.search(folder / "strip.png")} == {"green.png"}


def _engine(index: Index, encoder: Encoder) -> Any:
    from hysac_retrieval.search.blocking import SafeSearch

    return SafeSearch(index, encoder)


def test_what_was_judged_by_less_is_done_again(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    (tmp_path / "a.png").write_bytes(plain(GREEN))
    first = index_sources([tmp_path], index, encoder, workers=0)
    assert (first.total, index_sources([tmp_path], index, encoder, workers=0).skipped) == (1, 1)
    thorough = index_sources([tmp_path], index, encoder, workers=0, views="thorough")
    assert (thorough.total, own(index)["a.png"]["judge"]) == (1, "thorough")
    assert index_sources([tmp_path], index, encoder, workers=0).skipped == 1  # the fast views are among them
    assert status_of([tmp_path], index).present == 1
    (point,), _ = index.store.scroll(index.name)
    bare = {key: value for key, value in point.payload["hysac"].items() if key in ("source", "hash")}
    index.upsert([point.id], index.points([point.id])[0], modality="image", payloads=[{"file": "a.png"}], marks=[bare])
    assert status_of([tmp_path], index).stale == 1
    assert index_sources([tmp_path], index, encoder, workers=0).total == 1


def test_pictures_are_found_by_their_content(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    for name in ("no suffix", "photo.jpg_large", "really-a-png.jpg", "photo.psd", "photo.2024"):
        (tmp_path / name).write_bytes(plain(GREEN))
    (tmp_path / "archive.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "BMW").write_text("BM is how a bitmap begins")
    (tmp_path / "P5").write_text("P5 is how a greymap begins")
    os.mkfifo(tmp_path / "pipe")
    report = index_sources([tmp_path], index, encoder, workers=0)
    assert (report.indexed["image"], report.failures, report.remarks) == (5, 0, ())
    assert index_sources([tmp_path / "no suffix"], index, encoder, workers=0).skipped == 1


def test_what_cannot_be_read_is_counted_and_said(
    tmp_path: Path, encoder: Encoder, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    missing = frozenset(suffix for extra in formats.EXTRAS for suffix in extra.suffixes)
    monkeypatch.setattr(kinds, "IMAGE_SUFFIXES", kinds.IMAGE_SUFFIXES - missing)
    monkeypatch.setattr(kinds, "OTHER_SUFFIXES", kinds.OTHER_SUFFIXES | missing)
    monkeypatch.setattr(sources_open, "IMAGE_SUFFIXES", kinds.IMAGE_SUFFIXES)
    (tmp_path / "a.png").write_bytes(plain(GREEN))
    for number in range(3):
        (tmp_path / f"IMG_{number}.CR2").write_bytes(b"II*\0\x10\0\0\0CR\x02\0")
    (tmp_path / "IMG.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "renamed.jpeg2").write_bytes(b"\xff\x0a" + b"\0" * 30)
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (tmp_path / "notes.txt").write_text("no picture")
    report = index_sources([tmp_path], index, encoder, workers=0)
    (words,) = report.remarks
    for part in (
        "3 .cr2, install hysac-retrieval[raw]",
        "1 .heic, install hysac-retrieval[heif]",
        "1 .jxl, install hysac-retrieval[jxl]",
        "1 .mp4, which are not read",
    ):
        assert part in words
    assert ".txt" not in words
    assert report.failures == 0
    assert status_of([tmp_path], index).remarks == report.remarks
    with pytest.raises(SourceError, match=r"hysac-retrieval\[raw\]"):
        index_sources([tmp_path / "IMG_0.CR2"], index, encoder)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.cr3").write_bytes(b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom")
    with pytest.raises(SourceError, match=r"1 \.cr3"):
        index_sources([tmp_path / "only"], index, encoder)


def test_nothing_left_out_says_nothing(tmp_path: Path) -> None:
    assert left_out(Counter()) == ""
    left: Counter[str] = Counter()
    for name in ("a.json", "a.xml", "a.mp3", "a.py", "a.csv"):
        (tmp_path / name).write_bytes(plain(RED))
        assert not is_picture(tmp_path / name, left)
    assert not left


@pytest.mark.parametrize("workers", [0, 1])
def test_the_limit_of_a_run_can_be_raised_beyond_pillow_s(
    workers: int, tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    Image.new("1", (20_000, 9_100)).save(tmp_path / "large.png")
    refused = index_sources([tmp_path], index, encoder, workers=workers)
    assert "--max-pixels" in refused.failed[0].error
    done = index_sources([tmp_path], index, encoder, workers=workers, max_pixels=182_000_000)
    assert (done.total, done.failures) == (1, 0)
