"""Runs docs/integrate.md: the blocks of a section as they stand, in order, in a folder where its reader would be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from hysac_retrieval.collection.metadata import read_metadata
from hysac_retrieval.safety.filters import safety_filter
from hysac_retrieval.stores.qdrant.store import QdrantStore
from support.rest_server import rest_server

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "integrate.md"
GALLERY = ROOT / "hysac_retrieval" / "demo" / "gallery"
SIZE = 24
PER_KIND = 6

EMBED = """
import zlib
import numpy as np
def embed_text(text):
    return np.random.default_rng(zlib.crc32(text.encode())).normal(size={size}).tolist()
"""


def blocks(section: str) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a section; what comes before the first one is section ``""``."""
    text = GUIDE.read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    sections = {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}
    return re.findall(r"^```(\w+)\n(.*?)^```$", sections[section], flags=re.M | re.S)


def embed(text: str) -> list[float]:
    vector: list[float] = np.random.default_rng(zlib.crc32(text.encode())).normal(size=SIZE).tolist()
    return vector


class Reader:
    """Somebody who follows the guide.

    Attributes:
        client: A client of the server, for what had been done before the guide was found.
        captions: Of the pictures in the folder ``photos``, by file; half of them are unsafe ones.
        names: What the blocks of Python have defined.
        said: What the last command printed.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.client = QdrantClient(url=url, check_compatibility=False)
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "guide"}
        self.said = ""
        rows = [json.loads(line) for line in (GALLERY / "captions.jsonl").read_text("utf-8").splitlines()]
        some = [row for kind in (True, False) for row in [r for r in rows if r["unsafe"] is kind][:PER_KIND]]
        self.captions = {row["file"]: row["caption"] for row in some}
        (folder / "photos").mkdir()
        for file in self.captions:
            shutil.copy(GALLERY / "images" / file, folder / "photos" / file)
        (folder / "my_clip.py").write_text(EMBED.format(size=SIZE), "utf-8")

    def fill(self, name: str, payloads: list[dict[str, Any]], texts: list[str]) -> None:
        """A collection as an application has it, with the vector that has no name."""
        self.client.create_collection(name, models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
        points = [
            models.PointStruct(id=row, vector=embed(text), payload=payload)
            for row, (payload, text) in enumerate(zip(payloads, texts, strict=True))
        ]
        self.client.upsert(name, points)

    def follow(self, section: str) -> Iterator[str]:
        """Run the blocks of a section one by one; what each was is told after it has run."""
        for language, text in blocks(section):
            if language == "python":
                exec(compile(text, f"{GUIDE.name}, {section}", "exec"), self.names)
            else:
                assert language == "console"
                self.run(text)
            yield text

    def run(self, text: str) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        for command in text.splitlines():
            done = subprocess.run(
                ["bash", "-euc", command],
                cwd=self.folder,
                env={**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                check=False,
            )
            self.said = done.stdout + done.stderr
            assert done.returncode == 0, self.said

    def safe_ids(self, name: str) -> set[Any]:
        """Ids of the points that are safe, by what is stored with the collection."""
        store = QdrantStore(self.client)
        metadata = read_metadata(name, store.open(name))
        condition = safety_filter(metadata.safety.threshold, metadata.fingerprint)
        return {record.id for record in self.client.scroll(name, scroll_filter=condition, limit=1000)[0]}

    def close(self) -> None:
        for value in self.names.values():
            if isinstance(value, QdrantClient):
                value.close()
        self.client.close()


@contextmanager
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in a folder of his own, with a server of his own at ``QDRANT_URL``."""
    with rest_server() as server:
        monkeypatch.setenv("QDRANT_URL", server.url)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        for module in ("my_clip", "my_embeddings"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        made = Reader(server.url, folder)
        try:
            yield made
        finally:
            made.close()
