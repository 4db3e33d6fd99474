"""A report: what is in it, and what must not be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hysac_retrieval.errors import StoreError
from hysac_retrieval.service.pictures import Pictures
from hysac_retrieval.service.report import write_report

World = Any
QUERY = "a man with a gun"


def pictures(world: World) -> Pictures:
    return Pictures({"toy": world.folder / "pictures"}, 10_000_000)


def data(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found
    held: dict[str, Any] = json.loads(found[1])
    return held


def test_a_safe_report_holds_nothing_unsafe(world: World, tmp_path: Path) -> None:
    path = write_report(world.engine, tmp_path / "report.html", pictures(world), [QUERY])
    held, text = data(path), path.read_text("utf-8")
    safe, unsafe = ({str(one) for one in world.ids(safe=one)} for one in (True, False))
    assert {str(one) for one in held["map"]["ids"]} == set(held["points"]) == safe
    assert set(held["pictures"]) == {str(world.id_of(name)) for name in ("field.png", "lake.png")}
    assert not [word for word in (*unsafe, "gore.png", "wound.png", "a woman with a knife") if word in text]
    (explained,) = held["explanations"]
    assert explained["query"]["redirected"]


def test_with_unsafe_points_all_are_in_it_and_marked(world: World, tmp_path: Path) -> None:
    held = data(write_report(world.engine, tmp_path / "report.html", pictures(world), [QUERY], safe=False))
    marked = {one for one, point in held["points"].items() if point["safe"]}
    assert marked == {str(one) for one in world.ids(safe=True)}
    assert set(held["points"]) - marked == {str(one) for one in world.ids(safe=False)}
    met = [hit for step in held["explanations"][0]["steps"] for hit in (*step["entailing"], *step["nearest"])]
    assert met
    assert all(hit["safe"] == (str(hit["id"]) in marked) for hit in met)


def test_a_report_refers_to_no_other_file_and_no_caption_ends_its_script(world: World, tmp_path: Path) -> None:
    caption = "</script><script>alert(1)</script><!--"
    point = world.engine.encoder.encode_text(["a dog"])
    world.engine.index.upsert([7], point, modality="text", payloads=[{"text": caption}])
    path = write_report(world.engine, tmp_path / "report.html", pictures(world), ["a dog"])
    text = path.read_text("utf-8")
    assert data(path)["points"]["7"]["payload"]["text"] == caption
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"\b(?:src|href)=|@import|url\(|^import |^export ", text, re.MULTILINE)


def test_a_report_that_cannot_be_written_says_so(world: World, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(world.engine, tmp_path / "nowhere" / "report.html", pictures(world))


def test_the_command_writes_one(world: World, tmp_path: Path, toy_bundle: Path) -> None:
    from support.cli import invoke

    world.engine.close()
    out = tmp_path / "report.html"
    place = ["--collection", "toy", "--location", str(world.folder / "collections"), "--model", str(toy_bundle)]
    root = ["--root", f"toy={world.folder / 'pictures'}"]
    done = invoke("report", *place, *root, "--query", QUERY, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert len(data(out)["pictures"]) == 2
    assert invoke("report", *place, "--root", "toy", "--out", str(out)).exit_code == 2
