"""``hysac search``, ``hysac explain``, ``hysac info`` and ``hysac doctor``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cli import Photos, Run
from support.figures import held_by

from hysac_retrieval.cli import doctor


def found(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_an_unsafe_query_is_redirected_and_answered_safely(run: Run, photos: Photos) -> None:
    result = found(run("search", "a man with a gun", *photos.options, "--json"))
    assert result["query"]["redirected"]
    assert result["query"]["radius"] == pytest.approx(2.0, abs=1e-4)
    assert result["query"]["radius_searched"] == pytest.approx(1.1, abs=1e-6)
    assert len(result["hits"]) == 4
    assert all(hit["unsafe"] <= 0.5 for hit in result["hits"])


def test_with_unsafe_it_is_answered_as_asked(run: Run, photos: Photos) -> None:
    result = found(run("search", "a man with a gun", *photos.options, "--unsafe", "--json"))
    assert not result["query"]["redirected"]
    assert result["hits"][0]["payload"] == {"text": "a man with a gun"}
    assert len(result["hits"]) == 6


def test_the_table_says_what_was_done_to_the_query(run: Run, photos: Photos) -> None:
    lines = run("search", "a man with a gun", *photos.options).stdout.splitlines()
    assert lines[0] == "text query: radius 2.000, unsafe 0.993 → redirected to radius 1.100"
    assert lines[2].split() == ["#", "distance", "unsafe", "radius", "kind", "payload"]
    assert len(lines) == 3 + 4
    asked = run("search", "a man with a gun", *photos.options, "--unsafe").stdout
    assert "searched as asked (unsafe results allowed)" in asked


def test_an_image_is_searched_with_and_hits_can_be_of_one_kind(run: Run, photos: Photos) -> None:
    image = photos.pictures / "sea.jpg"
    nearest = found(run("search", image, *photos.options, "--limit", 1, "--json"))
    assert nearest["query"]["modality"] == "image"
    assert nearest["hits"][0]["payload"]["file"] == "sea.jpg"
    texts = found(run("search", image, *photos.options, "--modality", "text", "--json"))
    assert {hit["modality"] for hit in texts["hits"]} == {"text"}


def test_image_and_text_say_what_a_query_is(run: Run, photos: Photos, tmp_path: Path) -> None:
    image = photos.pictures / "sea.jpg"
    (tmp_path / "sea").write_bytes(image.read_bytes())
    forced = found(run("search", "--image", tmp_path / "sea", *photos.options, "--json"))
    assert forced == found(run("search", image, *photos.options, "--json"))
    as_text = run("search", "--text", image, *photos.options, "--json")
    assert "--image would search by the picture" in as_text.stderr
    assert found(run("search", "--text", "lost.png", *photos.options, "--json"))["query"]["modality"] == "text"
    mixed = run("search", "--text", "--positive", image, *photos.options, "--json")
    assert "--image would search" in mixed.stderr


def test_a_query_longer_than_the_model_reads_is_noted(run: Run, photos: Photos) -> None:
    result = run("search", "the dog in the park with a cat in the house", *photos.options, "--json")
    assert "only its beginning counts for what is found, all for its score" in result.stderr
    assert json.loads(result.stdout)["hits"]


def test_a_stored_point_can_be_searched_with(run: Run, photos: Photos) -> None:
    everything = found(run("search", "a man with a gun", *photos.options, "--unsafe", "--json"))["hits"]
    similar = found(run("search", "--similar", everything[0]["id"], *photos.options, "--unsafe", "--json"))
    assert [hit["id"] for hit in similar["hits"]] == [hit["id"] for hit in everything[1:]]
    safe = found(run("search", "--similar", everything[0]["id"], *photos.options, "--json"))
    assert safe["query"]["redirected"]
    assert len(safe["hits"]) == 4


def test_examples_can_be_texts_and_images(run: Run, photos: Photos) -> None:
    image = photos.pictures / "sea.jpg"
    examples = ("--positive", image, "--positive", "the dog in the park", "--negative", "a man with a gun")
    result = found(run("search", *examples, *photos.options, "--json"))
    assert result["query"]["modality"] is None
    alone = found(run("search", "--positive", image, *photos.options, "--json"))
    assert alone["hits"] == found(run("search", image, *photos.options, "--json"))["hits"]


def test_pages_go_on_where_the_last_one_ended(run: Run, photos: Photos) -> None:
    whole, page = (
        run("search", "a dog", *photos.options, *more).stdout.splitlines()
        for more in ((), ("--offset", 2, "--limit", 1))
    )
    assert page[-1].split() == whole[-2].split()
    assert page[-1].split()[0] == "3"


def test_hits_that_are_too_far_away_are_left_out(run: Run, photos: Photos) -> None:
    hits = found(run("search", "a dog", *photos.options, "--json"))["hits"]
    near = found(run("search", "a dog", *photos.options, "--max-distance", hits[1]["distance"] + 1e-6, "--json"))[
        "hits"
    ]
    assert [hit["id"] for hit in near] == [hit["id"] for hit in hits[:2]]


def test_hits_can_be_grouped(run: Run, photos: Photos) -> None:
    options = ("a dog", *photos.options, "--unsafe", "--group-by", "file", "--limit", 2)
    groups = found(run("search", *options, "--json"))["groups"]
    assert [[hit["payload"]["file"] for hit in group["hits"]] for group in groups] == [[g["value"]] for g in groups]
    assert len(groups) == 2
    lines = run("search", *options).stdout.splitlines()
    assert {group["value"] for group in groups} < set(lines)
    assert "nothing found" in run("search", *options[:-4], "--group-by", "album").stdout


def test_the_path_of_an_adaptive_search_is_shown(run: Run, photos: Photos) -> None:
    options = ("search", "a man with a gun", *photos.options, "--traversal", "adaptive")
    path = found(run(*options, "--json"))["query"]["path"]
    assert path[0]["radius"] == pytest.approx(2.0, abs=1e-4)
    assert [step["chosen"] for step in path].count(True) == 1
    assert run(*options).stdout.splitlines()[1].startswith("nearest points on the path: 2.00 (")


def test_a_penalty_and_exact_distances_can_be_asked_for(run: Run, photos: Photos) -> None:
    plain, exact, ordered = (
        found(run("search", "a man with a gun", *photos.options, "--unsafe", "--json", *more))["hits"]
        for more in ((), ("--rerank", "exact"), ("--penalty", 100))
    )
    assert [hit["id"] for hit in plain] == [hit["id"] for hit in exact]
    assert [round(hit["unsafe"], 3) for hit in ordered] == sorted(round(hit["unsafe"], 3) for hit in plain)


def test_explain_follows_a_query_to_the_origin(run: Run, photos: Photos) -> None:
    way = found(run("explain", "a man with a gun", *photos.options, "--steps", 5, "--near", 2, "--json"))
    radii = [step["radius"] for step in way["steps"]]
    assert radii == sorted(radii, reverse=True)
    assert (way["asked"], way["steps"][-1]["radius"], len(radii)) == ("a man with a gun", 0.0, 6)
    assert way["query"]["redirected"]
    assert [step["radius"] for step in way["steps"] if step["searched"]] == [pytest.approx(1.1, abs=1e-6)]
    assert all(hit["unsafe"] <= 0.5 for step in way["steps"] for hit in (*step["entailing"], *step["nearest"]))
    unsafe = found(run("explain", "a man with a gun", *photos.options, "--unsafe", "--json"))
    assert unsafe["steps"][0]["nearest"][0]["payload"]["text"] == "a man with a gun"


def test_strict_domain_refuses_words_that_the_model_does_not_know(run: Run, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a dog on the beach\n", encoding="utf-8")
    place = ("--collection", "texts", "--location", tmp_path / "data")  # of hysac-mini
    assert run("index", tmp_path / "texts.txt", *place).exit_code == 0
    for command in ("search", "explain"):
        assert run(command, "qwrtz bnmkl", *place).exit_code == 0
        assert run(command, "a dog", *place, "--strict-domain").exit_code == 0
        refused = run(command, "qwrtz bnmkl", *place, "--strict-domain")
        assert refused.exit_code == 1
        assert "unlike anything the model knows" in refused.stderr


def test_explain_prints_a_table_and_draws(run: Run, photos: Photos, tmp_path: Path) -> None:
    image = photos.pictures / "sea.jpg"
    plot = tmp_path / "way.html"
    result = run("explain", image, *photos.options, "--plot", plot, "--root", f"pictures={photos.pictures}")
    assert result.stdout.startswith("image query: radius")
    assert "the query, searched" in result.stdout
    assert "origin" in result.stdout
    assert f"Plot: {plot}" in result.stdout
    drawn = held_by(plot)
    (shown,) = drawn["sections"]
    assert shown["picture"].startswith("data:image/webp;base64,")
    met = {hit["id"] for step in shown["steps"] for hit in step["nearest"] if hit["payload"].get("file") == "sea.jpg"}
    assert met
    assert {str(one) for one in met} <= drawn["pictures"].keys()
    refused = run("explain", image, *photos.options, "--plot", tmp_path / "way.gif")
    assert (refused.exit_code, ".html, .svg or .png" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "what to search with"),
        (("a dog", "--similar", "1"), 2, "Give one of"),
        (("--negative", "a dog"), 2, "what to search with"),
        (("a dog", "--negative", "a cat"), 2, "--positive"),
        (("--similar", "1"), 1, "no point 1"),
        (("--similar", "one"), 1, "UUID"),
        (("a dog", "--group-by", "file", "--offset", "1"), 2, "--offset"),
        (("a dog", "--penalty", "-1"), 2, "--penalty"),
        (("lost.png",), 1, "Give --text"),
        (("lost.png", "--image"), 1, "does not exist"),
        (("",), 1, "empty"),
        (("a dog", "--threshold", "0.9"), 2, "--unsafe"),
        (("a dog", "--limit", "0"), 2, "--limit"),
        (("a dog", "--filter", "{"), 2, "not JSON"),
        (("a dog", "--filter", "[]"), 2, "JSON object"),
        (("a dog", "--modality", "sound"), 2, "--modality"),
    ],
)
def test_bad_queries_end_with_a_message(
    run: Run, photos: Photos, arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = run("search", *arguments, *photos.options)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""


def test_damaged_query_images_end_with_a_message(run: Run, tmp_path: Path, photos: Photos) -> None:
    (tmp_path / "fake.png").write_text("no picture", encoding="utf-8")
    result = run("search", tmp_path / "fake.png", *photos.options)
    assert result.exit_code == 1
    assert "not an image" in result.stderr


def test_a_folder_that_is_no_collection_is_named(run: Run, tmp_path: Path, photos: Photos) -> None:
    missing = run("search", "a dog", "--collection", "nothing", *photos.options[2:])
    assert (missing.exit_code, "there are: photos" in missing.stderr) == (1, True)
    (tmp_path / "stuff").mkdir()
    rest = ("--location", tmp_path, "--model", photos.model)
    other = run("search", "a dog", "--collection", "stuff", *rest)
    assert (other.exit_code, "not a hysac collection" in other.stderr) == (1, True)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_an_error(photos: Photos) -> None:
    # In a process of its own: the client looks at the server from a thread, which warns.
    place = ("--collection", "photos", "--url", "http://127.0.0.1:9", "--model", str(photos.model))
    code = "from hysac_retrieval.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "search", "a dog", *place], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_info_describes_all_collections_or_those_that_are_named(run: Run, tmp_path: Path, photos: Photos) -> None:
    everything = json.loads(run("info", "--location", photos.data, "--json").stdout)
    named = json.loads(run("info", "photos", "--location", photos.data, "--json").stdout)
    assert everything == named
    assert (named[0]["name"], named[0]["points"], named[0]["unsafe"]) == ("photos", 6, 2)
    assert run("info", "nothing", "--location", photos.data).exit_code == 1
    assert "no collections yet" in run("info", "--location", tmp_path / "new").stdout


def test_info_describes_a_model(run: Run, toy_bundle: Path) -> None:
    (model,) = json.loads(run("info", "--model", toy_bundle, "--json").stdout)
    assert (model["name"], model["dim"], model["curvature"]) == ("toy", 8, 1.0)
    assert model["safety"]["text"]["boundary"] == pytest.approx(1.1)
    assert "queries kept up to" in run("info", "--model", toy_bundle).stdout


def test_doctor_finds_a_sound_installation(run: Run) -> None:
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json").stdout)}
    for name in ("packages", "ONNX Runtime", "embedded engine", "model hysac-mini"):
        assert checks[name]["status"] == "ok", checks[name]


def test_doctor_notices_that_both_runtimes_are_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "1.20" if name == "onnxruntime-gpu" else installed(name))
    result = run("doctor")
    assert result.exit_code == 1
    assert "pip uninstall" in result.stdout


def test_doctor_names_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json").stdout)}
    assert checks["packages"]["status"] == checks["ONNX Runtime"]["status"] == "broken"
    assert checks["training"]["status"] == "missing"
    assert "hysac-retrieval[train]" in checks["training"]["hint"]
