"""docs/integrate.md: what it shows is run as it stands, and does what it says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import models
from support.guide import GUIDE, ROOT, Reader, blocks, embed, reader

PLAIN, CLIP_RETRIEVAL, LANGCHAIN, SAFE_CLIP = (
    "From CLIP vectors in Qdrant",
    "From clip-retrieval",
    "From langchain-qdrant",
    "From Safe-CLIP",
)


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    with reader(tmp_path, monkeypatch) as made:
        yield made


def ids(points: list) -> set:  # type: ignore[type-arg]
    return {point.id for point in points}


@pytest.mark.slow
def test_from_clip_vectors(person: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    person.fill("photos", [{"file": file} for file in person.captions], list(person.captions.values()))
    everything = set(range(len(person.captions)))
    names, safe = person.names, set()
    for block in person.follow(PLAIN):
        if block.startswith("hysac attach"):
            assert f"scores to {len(everything)} images" in person.said
            safe = person.safe_ids("photos")
            assert set() < safe < everything
    assert ids(names["before"]) == everything
    assert ids(names["after"]) == safe
    assert ids(names["also_after"]) == {point.id for point in names["after"] if point.payload["file"] != "000.webp"}
    assert models.Filter.model_validate_json(names["as_json"]) == names["guard"].filter()
    assert ids(names["result"].hits) == safe
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{len(safe)} were there, 0 are new"
    assert len(printed) == len(safe) + 2
    assert printed[-1] == "searched closer to safety: True"
    assert "is as it was" in person.said
    after = person.client.scroll("photos", limit=100, with_vectors=True)[0]
    assert [record.payload for record in after] == [{"file": file} for file in person.captions]
    expected = np.array([embed(text) for text in person.captions.values()])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose([record.vector for record in after], expected, atol=1e-6)


@pytest.mark.slow
def test_from_clip_retrieval(person: Reader) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra `tables` is not installed")
    import pyarrow.parquet as pq

    # As `clip-retrieval inference` writes it: numbered parts, a row of each for a picture.
    for folder in ("img_emb", "metadata"):
        (person.folder / "embeddings" / folder).mkdir(parents=True)
    files = [f"photos/{file}" for file in person.captions]
    captions = list(person.captions.values())
    for part, rows in enumerate((slice(0, 5), slice(5, len(files)))):
        vectors = np.array([embed(caption) for caption in captions[rows]], dtype=np.float16)
        np.save(person.folder / "embeddings" / "img_emb" / f"img_emb_{part}.npy", vectors)
        table = pa.table({"image_path": files[rows], "caption": captions[rows], "licence": ["free"] * len(vectors)})
        pq.write_table(table, person.folder / "embeddings" / "metadata" / f"metadata_{part}.parquet")
    for _ in person.follow(CLIP_RETRIEVAL):
        pass
    stored = person.client.scroll("web", limit=100, with_vectors=["clip"])[0]
    assert {record.payload["image_path"]: record.payload["caption"] for record in stored if record.payload} == dict(
        zip(files, captions, strict=True)
    )
    first = next(record for record in stored if record.payload and record.payload["image_path"] == files[0])
    vector = np.array(embed(captions[0]))
    np.testing.assert_allclose(first.vector["clip"], vector / np.linalg.norm(vector), atol=1e-3)  # type: ignore[index, call-overload]
    safe = person.safe_ids("web")
    assert 0 < len(safe) < len(files)
    results = person.names["results"]
    assert {row["id"] for row in results} == safe
    assert {row["licence"] for row in results} == {"free"}
    assert person.names["pictures_like"].hits[0].id == results[0]["id"]


@pytest.mark.slow
def test_from_safe_clip(person: Reader) -> None:
    person.fill("gallery", [{"file": file} for file in person.captions], list(person.captions.values()))
    for _ in person.follow(SAFE_CLIP):
        pass
    safe, names = person.safe_ids("gallery"), person.names
    assert set() < safe < set(range(len(person.captions)))
    assert ids(names["hits"]) == ids(names["safe"].hits) == safe
    assert ids(names["everything"].hits) == set(range(len(person.captions)))
    assert [record.context for record in names["heard"]] == [{"user": "ann"}]


def test_from_langchain_qdrant() -> None:
    pytest.importorskip(
        "langchain_hysac",
        reason="langchain-hysac is not installed here; plugins/langchain-hysac/tests/test_guide.py runs this section",
    )
    assert (ROOT / "plugins" / "langchain-hysac" / "tests" / "test_guide.py").is_file()


def test_what_is_installed_exists() -> None:
    (shown,) = blocks("")
    assert shown == ("console", "pip install 'hysac-retrieval[cpu]'\nexport QDRANT_URL=http://localhost:6333\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"pip install '?([\w-]+)(?:\[([\w,]+)\])?", GUIDE.read_text("utf-8"))
    plugins = {path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml")}
    for package, extras in named:
        assert package == project["name"] or package in plugins
        assert set(extras.split(",")) - {""} <= project["optional-dependencies"].keys()


def test_every_section_with_code_is_run() -> None:
    text = GUIDE.read_text("utf-8")
    with_code = [title for title in re.findall(r"^## (.+)$", text, flags=re.M) if blocks(title)]
    assert with_code == [PLAIN, CLIP_RETRIEVAL, LANGCHAIN, SAFE_CLIP]


def test_links_lead_somewhere() -> None:
    text = GUIDE.read_text("utf-8")

    def anchors(path: Path) -> set[str]:
        titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), flags=re.M)
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 8
    for link in links:
        file, _, anchor = link.partition("#")
        path = (GUIDE.parent / file).resolve() if file else GUIDE
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link
