"""What is fuzzed: each target opens what it needs once, and then runs any number of cases, each made of a seed.

A case may raise nothing but `HysacError`, and must end in time; no answer to somebody who asked for what is safe holds
a point that is not; and stores can be opened and read afterwards.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from hysac_retrieval import SafeSearch
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.bundle import MANIFEST_NAME
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.graphs import expect_listed
from hysac_retrieval.encoder.preprocess import load_image
from hysac_retrieval.errors import HysacError, InputError
from hysac_retrieval.ingest import FailedItem, Listing
from hysac_retrieval.search.queries import Examples, PointRef
from support import fuzz_values as values
from support.fuzz_answers import Case, World, answers, in_time
from support.fuzz_service import service
from support.spaces import CURVATURE, DIM, profile, random_points
from support.toy_bundle import write_toy_bundle

_REOPENED = 100  # cases


@contextmanager
def _stored(folder: Path) -> Iterator[Callable[[Path], None]]:
    """Yield what lists a file and stores its items; every so often the collection is opened again and read."""
    count, place = 0, {"location": str(folder)}
    with ExitStack() as stack:
        made = Index.create("c", dim=DIM, curvature=CURVATURE, safety=profile(), **place)
        index = stack.enter_context(made)
        point = random_points(1)

        def run(path: Path) -> None:
            nonlocal count, index
            count += 1
            found: list[Any] = []
            with in_time(), suppress(HysacError), Listing([path]) as listing:
                found.extend(listing)
            for item in found:
                if isinstance(item, FailedItem):
                    assert item.error
                    continue
                with suppress(InputError):
                    index.upsert([item.id], point, modality=item.modality, payloads=[item.payload])
            if count % _REOPENED == 0:
                stack.close()
                index = stack.enter_context(Index.open("c", **place))
                ids = [one.id for one in index.store.scroll("c", limit=10**6)[0]]
                assert len(ids) == index.count()
                index.delete(ids)

        yield run


@contextmanager
def tables(folder: Path) -> Iterator[Case]:
    """CSV, TSV, JSON Lines and Parquet, with rows of any kind and bytes that were changed."""

    def row(random: Random) -> dict[str, Any]:
        fields = {values.text(random) or "f": values.json_value(random) for _ in range(random.randrange(4))}
        return {"text": values.text(random) if random.random() < 0.8 else values.json_value(random), **fields}

    def case(seed: int) -> int:
        random = Random(seed)
        rows = [row(random) for _ in range(random.randrange(1, 8))]
        kind = random.choice(("jsonl", "csv", "tsv", "parquet"))
        path = folder / f"t.{kind}"
        if kind == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            texts = pa.array([str(row["text"]).encode("utf-8", "ignore").decode() for row in rows])
            bits = pa.array([random.getrandbits(63) for _ in rows])
            other = bits.cast(
                random.choice((pa.int64(), pa.timestamp("us"), pa.timestamp("ns"), pa.float64())), safe=False
            )
            pq.write_table(pa.table({"text": texts, "n": other}), path)
            data = path.read_bytes()
        elif kind == "jsonl":
            data = "\n".join(map(values.as_json, rows)).encode()
        else:
            names, comma = ["text", *{name for row in rows for name in row} - {"text"}], "," if kind == "csv" else "\t"
            lines = [comma.join(values.as_json(row.get(name)) for name in names) for row in rows]
            data = "\n".join([comma.join(values.as_json(name) for name in names), *lines]).encode()
        path.write_bytes(data if random.random() < 0.5 else values.mutated(random, data))
        run(path)
        return 1

    with _stored(folder / "db") as run:
        yield case


@contextmanager
def shards(folder: Path) -> Iterator[Case]:
    """Archives with files of any kind and bytes that were changed."""

    kinds = [tarfile.REGTYPE] * 8 + [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
    ]

    def member(random: Random, number: int) -> tuple[tarfile.TarInfo, bytes]:
        name = random.choice(
            (f"{number // 2}", "../x", "/x", "d/./x", "\udcff", values.text(random)[:80].replace("\ud800", ""))
        )
        suffix = random.choice((".txt", ".json", ".png", ".cls", ".jpg.json"))
        info = tarfile.TarInfo(name + suffix)
        info.type, info.linkname = random.choice(kinds), "/etc/passwd"
        content = {"text": values.text(random), "v": values.json_value(random)}
        data = values.as_json(content).encode() if "json" in suffix else values.text(random).encode("utf-8", "replace")
        info.size = len(data) if info.isreg() else 0
        return info, data

    def case(seed: int) -> int:
        random = Random(seed)
        stream = io.BytesIO()
        form = random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            for number in range(random.randrange(6)):
                info, data = member(random, number)
                archive.addfile(info, io.BytesIO(data))
        whole = stream.getvalue()
        if random.random() < 0.5:
            whole = values.mutated(random, whole)
        path = folder / random.choice(("x.tar", "x.tar.gz"))
        if path.suffix == ".gz":
            whole = gzip.compress(whole, 1)
            whole = whole if random.random() < 0.5 else values.mutated(random, whole, 3)
        path.write_bytes(whole)
        run(path)
        return 1

    with _stored(folder / "db") as run:
        yield case


FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "QOI", "TGA", "DIB", "MPO")


@contextmanager
def images(folder: Path) -> Iterator[Case]:
    """Pictures of every format that Pillow writes, with bytes that were changed."""
    encoder = Encoder(write_toy_bundle(folder / "toy"), threads=1)
    whole: list[bytes] = []
    for form in FORMATS:
        for mode in ("RGB", "RGBA", "L", "I;16", "F", "P", "CMYK"):
            frame = Image.effect_noise((24, 16), 50).convert(mode if mode != "I;16" else "I").convert(mode)
            for more in ({}, {"save_all": True, "append_images": [frame, frame]}):
                stream = io.BytesIO()
                with suppress(Exception):  # not every format has every mode
                    frame.save(stream, form, **more)
                    whole.append(stream.getvalue())

    def case(seed: int) -> int:
        random = Random(seed)
        data = values.mutated(random, random.choice(whole))
        with in_time(), suppress(HysacError):
            load_image(data, max_pixels=1 << 20)
            encoder.judge_image([data])
        return 1

    yield case


@contextmanager
def bundles(folder: Path) -> Iterator[Case]:
    """Bundles whose manifest, tokenizer or graph was changed; graphs are looked through, and run as they are listed."""
    source = folder / "toy"
    write_toy_bundle(source)
    document = json.loads((source / MANIFEST_NAME).read_text())
    graph = (source / "text.onnx").read_bytes()

    def spoiled(random: Random, value: Any, depth: int = 3) -> Any:
        if isinstance(value, dict) and value and depth and random.random() < 0.9:
            key = random.choice(sorted(value))
            return {**value, key: spoiled(random, value[key], depth - 1)}
        return random.choice((values.json_value(random), -value if isinstance(value, int | float) else None, None))

    def case(seed: int) -> int:
        random = Random(seed)
        if random.random() < 0.4:
            (folder / "g.onnx").write_bytes(values.mutated(random, graph))
            with in_time(), suppress(HysacError):
                expect_listed(folder / "g.onnx", [])
            return 1
        place = folder / "bundle"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)
        changed = spoiled(random, document)
        if random.random() < 0.3:
            words = values.mutated(random, (source / "tokenizer.json").read_bytes())
            (place / "tokenizer.json").write_bytes(words)
            entry = {"size": len(words), "sha256": hashlib.sha256(words).hexdigest()}
            changed = {**document, "files": {**document["files"], "tokenizer.json": entry}}
        data = values.as_json(changed).encode()
        (place / MANIFEST_NAME).write_bytes(data if random.random() < 0.8 else values.mutated(random, data))
        with in_time(), suppress(HysacError):
            encoder = Encoder.load(place, threads=1)
            assert encoder.lift is None or encoder.lift.dim == encoder.dim
            assert np.isfinite(encoder.encode_text(["a dog with a gun"])).all()
            encoder.encode_image([Image.new("RGB", (20, 20))])
        return 1

    yield case


@contextmanager
def filters(folder: Path) -> Iterator[Case]:
    """Filters as JSON of any kind, through engine and guard, which refuse them in words or answer with what is safe."""
    with ExitStack() as stack:
        worlds = [World(Random(store), folder / store, stack, store) for store in ("edge", "memory")]

        def spoiled(random: Random) -> Any:
            given = values.user_filter(random).model_dump(mode="json", exclude_none=True, by_alias=True)
            for _ in range(random.randrange(3)):
                inner = given
                while isinstance(inner, dict) and inner and random.random() < 0.7:
                    key = random.choice(sorted(inner))
                    if random.random() < 0.4:
                        inner[key] = values.json_value(random)
                    inner = inner[key]
                    inner = random.choice(inner) if isinstance(inner, list) and inner else inner
            return random.choice((given, given, given, values.json_value(random)))

        def case(seed: int) -> int:
            random = Random(seed)
            world = random.choice(worlds)
            given, point = spoiled(random), random_points(1, random.randrange(2**32))[0]
            engine = SafeSearch(world.index, None)
            with in_time(), suppress(HysacError):
                world.check(hit.id for hit in engine.search(point, filter=given, limit=60))
            return 1

        yield case


@contextmanager
def queries(folder: Path) -> Iterator[Case]:
    """Texts, bytes, arrays, points, ids and examples of any kind."""
    encoder = Encoder(write_toy_bundle(folder / "toy"), threads=1)
    with Index.for_model(encoder, "points", location=str(folder / "db")) as index:
        texts = ["a man", "a man with a gun", "a dog", "blood in the house"]
        index.upsert(range(4), encoder.encode_text(texts), modality="text")
        engine, dim = SafeSearch(index, encoder), encoder.dim
        stream = io.BytesIO()
        Image.new("RGB", (20, 20), "red").save(stream, "PNG")

        def query(random: Random, depth: int = 1) -> Any:
            match random.randrange(8 if depth else 6):
                case 0 | 1:
                    return values.text(random)
                case 2:
                    return values.mutated(random, stream.getvalue())
                case 3:
                    shape = random.choice(((dim,), (dim,), (dim + 1,), (4, 4), (8, 8, 3), (1, dim), ()))
                    kind = random.choice((np.float64, np.float32, np.uint8, np.int64, object))
                    return (np.array(random.choice((0, 1, 7))) + np.zeros(shape)).astype(kind) * random.choice(
                        (1, 1e200)
                    )
                case 4:
                    return [random.choice((0.5, 1, np.nan, np.inf, 1e300, "x", None)) for _ in range(dim)]
                case 5:
                    return PointRef(values.json_value(random) if random.random() < 0.5 else random.randrange(5))
                case 6:
                    return values.json_value(random)
            some = [[query(random, 0) for _ in range(random.randrange(3))] for _ in range(2)]
            return Examples(*some)

        def case(seed: int) -> int:
            random = Random(seed)
            with in_time(), suppress(HysacError):
                limit = random.choice((1, 10, 10, 0, -1, 10**9, True, None, 2.5))
                options = values.some(random, {"limit": limit}, 0.3) or {}
                assert not {hit.id for hit in engine.search(query(random), **options)} & {1, 3}
            return 1

        yield case


TARGETS = {target.__name__: target for target in (tables, shards, images, bundles, filters, queries, service, answers)}
