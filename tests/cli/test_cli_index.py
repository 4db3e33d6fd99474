"""``hysac index``: what it stores, reports and returns."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.cli import Photos, Run
from support.pictures import COLOURS, write_pictures, write_truncated
from support.rest_server import rest_server

from hysac_retrieval.encoder.bundle import MANIFEST_NAME


def place(tmp_path: Path, model: Path) -> tuple[Any, ...]:
    return ("--collection", "c", "--location", tmp_path / "data", "--model", model)


def test_indexing_reports_counts(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    result = run("index", write_pictures(tmp_path / "p"), *place(tmp_path, toy_bundle))
    assert result.exit_code == 0
    assert "Indexed 4 images" in result.stdout
    assert "4 points, 3 safe, 1 unsafe" in result.stdout
    assert result.stderr == ""


def test_json_holds_report_and_collection(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    result = run("index", write_pictures(tmp_path / "p"), *place(tmp_path, toy_bundle), "--json")
    found = json.loads(result.stdout)
    assert found["report"]["indexed"] == {"image": 4, "text": 0}
    assert (found["collection"]["points"], found["collection"]["unsafe"]) == (4, 1)


def test_failed_items_give_exit_code_3_and_the_others_are_stored(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    folder = write_pictures(tmp_path / "p")
    write_truncated(folder / "half.png")
    journal = tmp_path / "journal.jsonl"
    result = run("index", folder, *place(tmp_path, toy_bundle), "--journal", journal)
    assert result.exit_code == 3
    assert "half.png" in result.stderr
    assert "Copy or download" in result.stderr
    assert "4 points" in result.stdout
    assert json.loads(journal.read_text(encoding="utf-8"))["kind"] == "ImageError"


def test_indexing_again_skips_what_is_there(run: Run, photos: Photos) -> None:
    result = run("index", photos.pictures, photos.texts, *photos.options)
    assert "6 were in the collection already" in result.stdout
    assert "6 points" in result.stdout


def test_without_resume_everything_is_indexed_again(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    command = ("index", write_pictures(tmp_path / "p"), *place(tmp_path, toy_bundle), "--json")
    run(*command)
    found = json.loads(run(*command, "--no-resume").stdout)
    assert (found["report"]["indexed"]["image"], found["report"]["skipped"]) == (len(COLOURS), 0)
    assert found["collection"]["points"] == len(COLOURS)


def test_recreate_starts_afresh(run: Run, tmp_path: Path, photos: Photos) -> None:
    shutil.copytree(photos.data, tmp_path / "data")
    options = ("--collection", "photos", "--location", tmp_path / "data", "--model", photos.model)
    assert "2 points" in run("index", photos.texts, *options, "--recreate").stdout


def test_captions_are_found_again_in_the_payload(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    captions = tmp_path / "captions.csv"
    captions.write_text("file,caption,place\nsea.jpg,the sea,Genoa\n", encoding="utf-8")
    options = place(tmp_path, toy_bundle)
    run("index", write_pictures(tmp_path / "p"), *options, "--captions", captions)
    condition = json.dumps({"must": [{"key": "place", "match": {"value": "Genoa"}}]})
    result = run("search", "a dog", *options, "--filter", condition, "--json")
    (hit,) = json.loads(result.stdout)["hits"]
    assert hit["payload"] == {"file": "sea.jpg", "caption": "the sea", "place": "Genoa"}


@pytest.mark.parametrize(
    ("source", "says"), [("lost", "does not exist"), ("empty", "holds no images"), ("odd.csv", "--image-field")]
)
def test_a_source_that_cannot_be_read_is_an_error(
    run: Run, tmp_path: Path, toy_bundle: Path, source: str, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.csv").write_text("title\nx\n", encoding="utf-8")
    result = run("index", tmp_path / source, *place(tmp_path, toy_bundle))
    assert result.exit_code == 1
    assert says in result.stderr


def test_over_long_texts_are_reported(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("the dog in the park with a cat in the house\n", encoding="utf-8")
    result = run("index", texts, *place(tmp_path, toy_bundle))
    assert result.exit_code == 0
    assert f"1 texts are longer than the model reads; only their beginning counts: {texts}:1" in result.stdout
    assert "all of them is judged" in result.stdout


def test_the_pixel_limit_can_be_set(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    result = run("index", write_pictures(tmp_path / "p"), *place(tmp_path, toy_bundle), "--max-pixels", 100)
    assert result.exit_code == 3
    assert "the limit is 100" in result.stderr


def test_a_collection_of_another_model_is_refused_and_keeps_its_points(
    run: Run, tmp_path: Path, photos: Photos
) -> None:
    from support.toy_bundle import write_toy_bundle

    other = write_toy_bundle(tmp_path / "other", curvature=0.5).path
    collection = ("--collection", "photos", "--location", photos.data)
    for command in (("index", photos.texts), ("search", "a dog")):
        result = run(*command, *collection, "--model", other)
        assert result.exit_code == 1
        assert "was indexed with model" in result.stderr
    assert json.loads(run("info", "photos", "--location", photos.data, "--json").stdout)[0]["points"] == 6


def test_a_damaged_bundle_is_refused(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(toy_bundle, broken)
    data = bytearray((broken / "text.onnx").read_bytes())
    data[100] ^= 1
    (broken / "text.onnx").write_bytes(data)
    result = run("index", write_pictures(tmp_path / "p"), *place(tmp_path, broken))
    assert result.exit_code == 1
    assert "SHA-256" in result.stderr
    assert "Download or export the bundle again" in result.stderr
    (broken / MANIFEST_NAME).unlink()
    assert "not a model bundle" in run("index", tmp_path / "p", *place(tmp_path, broken)).stderr


@pytest.mark.slow
def test_ctrl_c_finishes_the_batch_and_keeps_it(tmp_path: Path, toy_bundle: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"a dog {n}\n" for n in range(20_000)), encoding="utf-8")
    options = [str(part) for part in (*place(tmp_path, toy_bundle), "--batch-size", 4)]
    code = "from hysac_retrieval.cli import index_main; index_main()"
    for wait in (1, 5, 15):  # a busy machine may not get to the first batch in the first second
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(texts), *options, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        # Once the collection exists, the handler is in place soon after.
        deadline = time.monotonic() + 30
        while not (tmp_path / "data" / "c").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        if process.returncode != -signal.SIGINT and json.loads(out)["report"]["indexed"]["text"]:
            break
    assert process.returncode == 1, err
    assert "goes on from there" in err
    found = json.loads(out)
    assert found["report"]["interrupted"]
    assert 0 < found["report"]["indexed"]["text"] == found["collection"]["points"] < 20_000


def test_a_new_collection_is_quantized_as_asked_and_stays_so(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    command = ("index", write_pictures(tmp_path / "p"), *place(tmp_path, toy_bundle))
    made = json.loads(run(*command, "--quantization", "int8", "--on-disk", "--json").stdout)
    assert made["collection"]["quantization"] == "int8"
    again = json.loads(run(*command, "--json").stdout)
    assert (again["collection"]["quantization"], again["report"]["skipped"]) == ("int8", 4)
    other = run(*command, "--quantization", "turbo8")
    assert other.exit_code == 2
    assert "exists with quantization int8" in other.stderr


def test_shards_need_a_cluster(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    result = run("index", write_pictures(tmp_path / "p"), *place(tmp_path, toy_bundle), "--shards", "3")
    assert result.exit_code == 2
    assert "shards" in result.stderr


@pytest.mark.parametrize("wrong", [("nowhere",), ("p", "--captions", "nowhere.csv"), ("p", "--only", "failed")])
def test_a_slip_makes_no_collection_and_removes_none(
    wrong: tuple[str, ...], run: Run, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "p")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))  # where no journal can be kept
    with rest_server() as server:
        there = ("--collection", "c", "--url", server.url, "--model", toy_bundle)
        assert run("index", *wrong, *there).exit_code != 0
        assert not server.backend.collection_exists("c")
        assert run("index", "p", *there).exit_code == 0
        assert run("index", *wrong, *there, "--recreate").exit_code != 0
        assert server.backend.count("c").count == 4


def test_recreating_does_everything_or_nothing(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    folder = write_pictures(tmp_path / "p")
    run("index", folder, *place(tmp_path, toy_bundle))
    result = run("index", folder, *place(tmp_path, toy_bundle), "--recreate", "--only", "missing")
    assert result.exit_code == 2
    assert "--only" in result.stderr
    assert "4 points" in run("index", folder, *place(tmp_path, toy_bundle)).stdout


def test_a_dry_run_tells_what_a_run_without_resuming_does(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    folder = write_pictures(tmp_path / "p")
    run("index", folder, *place(tmp_path, toy_bundle))
    for more, count in (((), 0), (("--no-resume",), 4), (("--recreate",), 4)):
        result = run("index", folder, *place(tmp_path, toy_bundle), "--dry-run", "--json", *more)
        assert json.loads(result.stdout)["would"]["index"] == count


def test_the_command_line_counts_before_the_environment(
    run: Run, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYSAC_URL", "http://127.0.0.1:9")
    assert run("index", write_pictures(tmp_path / "p"), *place(tmp_path, toy_bundle)).exit_code == 0
    monkeypatch.setenv("HYSAC_LOCATION", str(tmp_path / "data"))
    result = run("info", "c")
    assert result.exit_code == 2
    assert "found both" in result.stderr or "found neither" in result.stderr


def test_a_point_that_one_copy_lacks_is_written_again(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    with rest_server() as server:
        copies = server.copied()
        options = ("--collection", "c", "--url", server.url, "--model", toy_bundle, "--json")
        folder = write_pictures(tmp_path / "p")
        assert json.loads(run("index", folder, *options).stdout)["report"]["indexed"]["image"] == 4
        records, _ = server.backend.scroll("c")
        copies.clients[1].delete("c", [record.id for record in records[:2]])
        assert json.loads(run("index", folder, *options, "--consistency", 1).stdout)["report"]["skipped"] == 4
        again = json.loads(run("index", folder, *options).stdout)["report"]
        assert (again["indexed"]["image"], again["skipped"]) == (2, 2)
        assert json.loads(run("index", folder, *options).stdout)["report"]["skipped"] == 4
        assert run("index", folder, *options, "--consistency", "most").exit_code == 2


def test_the_environment_of_qdrant_counts_where_ours_says_nothing(
    run: Run, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rest_server() as server:
        server.key = "k"
        monkeypatch.setenv("QDRANT_URL", server.url)
        monkeypatch.setenv("QDRANT_API_KEY", "k")
        options = ("--collection", "c", "--model", toy_bundle)
        assert run("index", write_pictures(tmp_path / "p"), *options, "--header", "X-Team: search").exit_code == 0
        assert server.backend.count("c").count == 4
        assert server.headers["x-team"] == "search"
        assert run("info", "c", "--header", "nothing").exit_code == 2
        monkeypatch.setenv("HYSAC_LOCATION", str(tmp_path / "data"))
        result = run("info", "c")
        assert (result.exit_code, "no collection 'c'" in result.stderr) == (1, True)
