"""The quickstart by curl: the commands of the page that is made from the OpenAPI document, run as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from support.browser import NO_CURL, served
from support.guide import ROOT

from hysac_retrieval import connect
from hysac_retrieval.demo import gallery
from hysac_retrieval.ingest import SourceOptions, index_sources
from hysac_retrieval.service import Limits, ServiceSettings, create_app
from hysac_retrieval.service.keys import make_key
from hysac_retrieval.service.models import UUID

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("curl") is None, reason=NO_CURL)]

UNSAFE_PICTURE = "027.webp"
"""The one that the quickstart searches with."""


PAGE = ROOT / "docs" / "curl.md"


@dataclass
class Shell:
    """A shell with the variables that the page wants."""

    folder: Path
    url: str
    keys: dict[str, str]

    def run(self, command: str, key: str = "admin") -> tuple[int, str]:
        variables = {"URL": self.url, "KEY": self.keys[key], "PATH": os.environ["PATH"], "no_proxy": "*"}
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=variables, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    def routes(self) -> int:
        """Return how many the OpenAPI document has."""
        document = json.loads(self.run("curl $URL/openapi.json")[1])
        return sum(len(operations) for operations in document["paths"].values())


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell beside a service of the gallery, in which the page's id is that of a safe picture."""
    folder, images = tmp_path_factory.mktemp("curl"), gallery() / "images"
    shutil.copy(images / UNSAFE_PICTURE, folder / "picture.webp")
    keys = {scope: make_key(folder / "keys.json", scope, [scope])[1] for scope in ("search", "admin")}
    settings = ServiceSettings(
        keys=folder / "keys.json",
        audit=folder / "audit.jsonl",
        roots={"gallery": images},
        limits=Limits(threads=2, seconds=300),
    )
    with connect("gallery", location=folder / "data", create=True) as engine:
        options = SourceOptions(namespace="gallery", captions=gallery() / "captions.jsonl")
        index_sources([images], engine.index, engine.encoder, options=options, workers=0)
        hit = engine.search("a dog", limit=1, modality="image")[0]
        engine.index.upsert(
            [UUID],
            engine.encoder.encode_image([images / hit.payload["file"]]),
            modality="image",
            payloads=[hit.payload],
        )
        engine.index.delete([hit.id])
        with served(create_app(engine, settings)) as url:
            yield Shell(folder, url.rstrip("/"), keys)


def commands() -> list[str]:
    page = PAGE.read_text("utf-8")
    blocks = re.findall(r"^## .*?^```bash\n(.*?)^```$", page, re.M | re.S)
    return [line for block in blocks for line in re.sub(r" \\\n +", " ", block).splitlines()]


def lines(answer: str) -> list[str]:
    """Return what the quickstart prints of hits."""
    hits = json.loads(answer)["hits"]
    return [f"  {hit['distance']:.1f}  unsafe {hit['unsafe']:.2f}  {hit['payload']['caption']}" for hit in hits]


def test_the_quickstart_by_curl_finds_what_its_page_shows(shell: Shell) -> None:
    page = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    searched, pictured, _ = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    _, first, second, _, third, fourth = searched.splitlines()
    safe, as_asked = (command for command in commands() if '/v1/search"' in command and "elephant" in command)
    (upload,) = (command for command in commands() if "/upload" in command)
    assert lines(shell.run(safe, "search")[1]) == [first, second]
    assert lines(shell.run(as_asked)[1]) == [third, fourth]
    status, refused = shell.run(as_asked, "search")
    assert status == 22  # of curl, for an answer that is an error
    assert json.loads(refused)["status"] == 403
    found = json.loads(shell.run(upload, "search")[1])
    assert found["query"]["redirected"]
    assert found["hits"][0]["payload"]["caption"] == pictured.splitlines()[1]


def test_every_command_of_the_page_is_answered(shell: Shell) -> None:
    for command in commands():
        status, printed = shell.run(command)
        assert status == 0, f"{command}\n{printed}"
    with Image.open(shell.folder / "thumbnail.webp") as thumbnail:
        assert max(thumbnail.size) <= 256
    described = re.findall(r"^## ", PAGE.read_text("utf-8"), re.M)
    assert len(described) == shell.routes() - 1  # but for the one that takes a key
