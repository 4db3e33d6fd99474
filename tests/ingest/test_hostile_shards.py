"""Shards with files that are not read: each is reported with its sample, and harms no other."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from support.listed import listed
from support.shards import shard

from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest import Item, Listing

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **attributes: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


FIRST, LAST = [member("a.png", b"image"), member("a.txt", b"a dog")], [member("z.txt", b"a cat")]
DEEP = b'{"text": "x", "v": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def archive(path: Path, members: list[Member], form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as opened:
        for info, data in members:
            opened.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([member("b.png", kind=tarfile.SYMTYPE, linkname="/etc/passwd")], "link"),
        ([member("b.png", kind=tarfile.LNKTYPE, linkname="a.png")], "link"),
        ([member("b.png", kind=tarfile.CHRTYPE, devmajor=1, devminor=5)], "device"),
        ([member("b.json", kind=tarfile.FIFOTYPE)], "device"),
        ([member("../../b.png", b"image")], "leads out"),
        ([member("c/../../b.png", b"image")], "leads out"),
        ([member("c\\..\\b.png", b"image")], "leads out"),
        ([member("/etc/b.png", b"image")], "leads out"),
        ([member("b\udcff.png", b"image")], "not UTF-8"),
        ([member("b.png", b"image"), member("b.json", DEEP)], "b.json"),
        ([member("b.json", b'{"text": "x", "n": ' + b"9" * 5000 + b"}")], "b.json"),
        ([member("b.json", b'{"text": "x", "n": ' + b"[" * 130 + b"]" * 130 + b"}")], "field 'n"),
        ([member("b.json", b'{"text": "x", "n": {"a": NaN}}')], "field 'n.a' is nan"),
        ([member("b.json", b'{"text"')], "b.json"),
        ([member("b.png", b"image"), member("b.txt", b"caf\xe9")], "b.txt"),
    ],
)
def test_a_file_that_is_not_read_fails_its_sample_alone(tmp_path: Path, members: list[Member], says: str) -> None:
    path = archive(tmp_path / "x.tar", [*FIRST, *members, *LAST])
    items, failed = listed([path])
    assert [item.content for item in items] == [b"image", "a cat"]
    (failure,) = failed
    assert says in failure.error
    failure.item.encode()


def sparse(real: int) -> bytes:
    """A sparse file of GNU's first form that claims to be of some size, with a block of content."""
    info = tarfile.TarInfo("b.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"%011o\0" % 0, b"%011o\0" % 512
    header[482] = 0
    header[483:495] = b"\x80" + real.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"image".ljust(512, b"\0")


def packed(members: list[Member]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for info, data in members:
            opened.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("real", [2**36, 2**60])
def test_a_sparse_file_is_not_filled_up(tmp_path: Path, real: int) -> None:
    (tmp_path / "x.tar").write_bytes(packed(FIRST)[: 4 * 512] + sparse(real) + packed(LAST))
    items, failed = listed([tmp_path / "x.tar"])
    assert [item.content for item in items] == [b"image", "a cat"]
    assert "sparse" in failed[0].error


def header(name: str, size: bytes) -> bytes:
    made = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    made[124:136] = size
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


@pytest.mark.parametrize(
    "size",
    [b"\x80" + b"\xff" * 11, b"\xff" * 8 + b"\0\0\0\0", b"\xff" * 10 + b"\xfe\0", b"\x80" + bytes(6) + b"\x7f" * 5],
)
def test_an_archive_with_a_size_that_cannot_be_is_damaged(tmp_path: Path, size: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(packed(FIRST)[: 4 * 512] + header("b.png", size) + packed(LAST))
    with Listing([tmp_path / "x.tar"]) as listing:
        items = [one for one in listing if isinstance(one, Item)]
        assert [item.content for item in items] == [b"image"]
        assert not listing.complete


def test_headers_that_nest_or_claim_too_much_are_damage(tmp_path: Path) -> None:
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 512
    nest = (long_name.tobuf(tarfile.GNU_FORMAT) + b"n".ljust(512, b"\0")) * 5000
    huge = bytearray(header("x", b"\x80" + (2**40).to_bytes(11, "big")))
    huge[156:157], huge[148:156] = tarfile.XHDTYPE, b" " * 8
    huge[148:156] = b"%06o\0 " % sum(huge)
    for wrong in (nest, bytes(huge)):
        (tmp_path / "x.tar").write_bytes(packed(FIRST)[: 4 * 512] + wrong + packed(LAST))
        with Listing([tmp_path / "x.tar"]) as listing:
            assert [one.content for one in listing if isinstance(one, Item)] == [b"image"]
            assert not listing.complete


@pytest.mark.slow
def test_a_bomb_is_passed_over_in_little_memory(tmp_path: Path) -> None:
    info, size = tarfile.TarInfo("b.png"), 2**28 + 2**20
    info.size = size
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as stream:
        stream.write(packed(FIRST)[: 4 * 512] + info.tobuf())
        for _ in range(size >> 20):
            stream.write(bytes(1 << 20))
        stream.write(packed(LAST))
    tracemalloc.start()
    items, failed = listed([tmp_path / "x.tar.gz"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [item.content for item in items] == [b"image", "a cat"]
    assert "bytes; at most" in failed[0].error
    assert peak < 2**25


def test_a_wrong_checksum_is_found_at_the_end(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar.gz", {"a.txt": b"a dog", "z.txt": b"a cat"})
    whole = path.read_bytes()
    for wrong in (whole[:-8] + b"abcd" + whole[-4:], whole[:-4] + b"abcd", whole[:-3]):
        path.write_bytes(wrong)
        with Listing([path]) as listing:
            found = list(listing)
            assert [one.content for one in found if isinstance(one, Item)] == ["a dog", "a cat"]
            assert not listing.complete


def test_what_follows_the_end_of_an_archive_is_bounded(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as stream:
        stream.write(packed(LAST) + bytes(65 << 20))
    items, failed = listed([tmp_path / "x.tar.gz"])
    assert len(items) == 1
    assert "follow the end" in failed[0].error
    assert failed[0].kind == SourceError.__name__
