"""Figures in files: what is in them, and what must not be."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.cli import invoke
from support.figures import held_by

from hysac_retrieval.errors import MissingExtraError, SettingsError, StoreError
from hysac_retrieval.search.explain import Selectivity
from hysac_retrieval.search.figures.report import figures, pictures_in, save, section
from hysac_retrieval.search.figures.still import draw, to_png

World = Any
QUERY = "a man with a gun"
SVG = "{http://www.w3.org/2000/svg}"
with_engine = pytest.mark.skipif(find_spec("py_mini_racer") is None, reason="the extra `figures` is not installed")


def drawn(world: World, *queries: str, safe: bool = True, limit: int = 100) -> dict[str, Any]:
    sections = [section(world.engine.explain(query, safe=safe, near=4)) for query in queries]
    return figures(world.engine, pictures_in({"toy": world.folder / "pictures"}), sections, safe=safe, limit=limit)


def page(world: World, out: Path, *queries: str, safe: bool = True) -> Path:
    save(drawn(world, *queries, safe=safe), out / "report.html")
    return out / "report.html"


def met(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [hit for step in data["sections"][0]["steps"] for hit in (*step["entailing"], *step["nearest"])]


def test_a_safe_report_holds_nothing_unsafe(world: World, tmp_path: Path) -> None:
    path = page(world, tmp_path, QUERY)
    held, text = held_by(path), path.read_text("utf-8")
    safe, unsafe = ({str(one) for one in world.ids(safe=one)} for one in (True, False))
    assert {str(one) for one in held["map"]["ids"]} == set(held["points"]) == safe
    assert set(held["pictures"]) == {str(world.id_of(name)) for name in ("field.png", "lake.png")}
    assert not [word for word in (*unsafe, "gore.png", "wound.png", "a woman with a knife") if word in text]
    assert held["sections"][0]["query"]["redirected"]


def test_with_unsafe_points_all_are_in_it_and_marked(world: World, tmp_path: Path) -> None:
    held = held_by(page(world, tmp_path, QUERY, safe=False))
    marked = {one for one, point in held["points"].items() if point["safe"]}
    assert marked == {str(one) for one in world.ids(safe=True)}
    assert set(held["points"]) - marked == {str(one) for one in world.ids(safe=False)}
    assert met(held)
    assert all(hit["safe"] == (str(hit["id"]) in marked) for hit in met(held))


def test_a_report_refers_to_no_other_file_and_no_caption_ends_its_script(world: World, tmp_path: Path) -> None:
    caption = "</script><script>alert(1)</script><!--"
    point = world.engine.encoder.encode_text(["a dog"])
    world.engine.index.upsert([7], point, modality="text", payloads=[{"text": caption}])
    path = page(world, tmp_path, "a dog")
    text = path.read_text("utf-8")
    assert held_by(path)["points"]["7"]["payload"]["text"] == caption
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"\b(?:src|href)=|@import|url\(|^import |^export ", text, re.MULTILINE)


def texts(drawing: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(drawing).iter(f"{SVG}text")]


@with_engine
@pytest.mark.parametrize("safe", [True, False])
def test_drawings_are_whole_and_hide_what_is_unsafe(world: World, safe: bool) -> None:
    data = drawn(world, QUERY, "a dog", safe=safe)
    made = draw(data)
    assert set(made) == {"query-1", "query-2", "map", "radii-text", "radii-image"}
    way, words = ET.fromstring(made["query-1"]), texts(made["query-1"])
    steps = data["sections"][0]["steps"]
    assert words[0] == QUERY
    assert [word for word in words if re.fullmatch(r"radius [\d.]+", word)] == [
        f"radius {step['radius']:.2f}" for step in steps
    ]
    assert sum(word.startswith("boundary") for word in words) == 1
    dots = [node.get("class", "") for node in way.iter(f"{SVG}circle") if "dot" in node.get("class", "")]
    assert [("unsafe" in dot, "searched" in dot) for dot in dots] == [
        (step["counts_unsafe"], step["searched"]) for step in steps
    ]
    pictures = {node.get("href") for node in way.iter(f"{SVG}image")}
    assert pictures
    assert pictures <= {data["pictures"][str(one)] for one in world.ids(safe=True) if str(one) in data["pictures"]}
    assert not [word for word in words[1:] if "gun" in word or "knife" in word or "gore" in word]
    assert (sum(word.startswith("An unsafe") for word in words) > 0) is not safe
    places = [node.get("d", "") for node in ET.fromstring(made["map"]).iter(f"{SVG}path")]
    assert "".join(places).count("M") == len(data["map"]["ids"])
    assert not [one for one in made.values() if "var(" in one]


@with_engine
def test_hostile_captions_are_text_and_relations_stand_before_what_entails(world: World) -> None:
    caption = '<script>$x^</script> & "\x08 ' + "long " * 60
    found = world.engine.explain(QUERY, near=2)
    hit = replace(found.steps[0].nearest[0], modality="text", payload={"caption": caption})
    first = replace(found.steps[0], entailing=(hit,), relations=("T<T*",), nearest=())
    found = replace(
        found,
        asked="caf\udce9.jpg",
        steps=(first, *found.steps[1:]),
        cones=True,
        selectivity={"T<T*": Selectivity(0.8, 0.1)},
    )
    data = figures(world.engine, pictures_in({}), [section(found)], limit=0)
    (drawing,) = draw(data).values()
    shown = " ".join(texts(drawing))
    assert "T<T* <script>$x^</script> & " in shown
    assert "…" in shown
    assert texts(drawing)[0] == r"caf\udce9.jpg"
    assert drawing.count("<script") == 0
    assert to_png(drawing).startswith(b"\x89PNG")


def test_files_that_cannot_be_written_or_drawn_say_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = drawn(world, limit=0)
    with pytest.raises(StoreError, match="cannot be written"):
        save(data, tmp_path / "nowhere" / "report.html")
    with pytest.raises(SettingsError, match=r"\.html, \.svg or \.png"):
        save(data, tmp_path / "report.gif")
    doors: list[tuple[str, Any, Any]] = [("py_mini_racer", draw, {}), ("resvg_py", to_png, "<svg/>")]
    for name, missing, given in doors:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[figures\]"):
            missing(given)


@with_engine
def test_the_command_writes_a_page_or_a_folder(world: World, tmp_path: Path, toy_bundle: Path) -> None:
    world.engine.close()
    place = ["--collection", "toy", "--location", str(world.folder / "collections"), "--model", str(toy_bundle)]
    given = ["report", *place, "--root", f"toy={world.folder / 'pictures'}", "--query", QUERY, "--out"]
    done = invoke(*given, str(tmp_path / "report.html"))
    assert done.exit_code == 0, done.output
    assert len(held_by(tmp_path / "report.html")["pictures"]) == 2
    done = invoke(*given, str(tmp_path / "figures"))
    assert done.exit_code == 0, done.output
    names = {"query-1", "map", "radii-text", "radii-image"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}{kind}" for name in names for kind in (".svg", ".png")
    }
    refused = invoke(*given, str(tmp_path / "report.svg"))
    assert (refused.exit_code, "4 drawings do not fit" in refused.output) == (2, True)
    assert invoke("report", *place, "--root", "toy", "--out", str(tmp_path / "report.html")).exit_code == 2
