"""The example of each README, run as it stands over a collection as `hysac index` makes it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from hysac_retrieval import Encoder, connect

PLUGINS = sorted(path.parent for path in Path(__file__).parents[1].glob("*/pyproject.toml"))
TEXTS = ["a dog in the park", "a cat in the kitchen", "a boy at the beach", "an apple on a table"]


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return Encoder.load("hysac-mini", threads=1)


@pytest.fixture
def photos(tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a collection ``photos`` in ``./data``, which is the current one."""
    with connect("photos", location=tmp_path / "data", model=mini, create=True) as engine:
        payloads = [{"text": text, "rating": 5} for text in TEXTS]
        engine.index.upsert(range(len(TEXTS)), mini.encode_text(TEXTS), modality="text", payloads=payloads)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return tmp_path


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_the_example_runs(plugin: Path, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", (plugin / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(plugin / "README.md"), "exec"), names)
    if "engine" in names:
        names["engine"].close()
    printed = capfd.readouterr().out.splitlines()
    assert printed
    assert any("a dog in the park" in line for line in printed)


def test_the_block_on_frameworks_of_the_main_readme_runs(photos: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    (block,) = [text for text in blocks if "langchain_hysac" in text]
    *imports, last = block.strip().splitlines()
    with connect("photos", location=photos / "data") as engine:
        names: dict[str, Any] = {"engine": engine}
        exec("\n".join(imports), names)
        found = eval(last, names)
    assert {document.page_content for document in found} <= set(TEXTS)
    assert found
