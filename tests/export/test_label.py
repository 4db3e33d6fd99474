"""`hysac label`: the order in which a person is asked, the labels that are kept, and the keys."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from qdrant_client import QdrantClient, models
from support.pictures import COLOURS, write_pictures

from hysac_export.fit.labels.asking import Asking
from hysac_export.fit.labels.candidates import Candidate, encoded, of_sources
from hysac_export.fit.labels.notes import Notes
from hysac_retrieval.cli import main
from hysac_retrieval.errors import SettingsError


def label(keys: str, *arguments: Any) -> Result:
    result = CliRunner().invoke(main, ["label", *map(str, arguments)], input=keys)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def some(vectors: Any, **more: Any) -> list[Candidate]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Candidate(f"text {i}", "text", "", vector=v.astype(np.float32), **more) for i, v in enumerate(unit)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("a dog in the park\na man with a gun\nthe red house\n", encoding="utf-8")
    return path


class TestOrder:
    def test_the_first_are_far_from_each_other(self) -> None:
        rng = np.random.default_rng(0)
        groups = np.repeat(np.eye(6), 20, axis=0)  # six heaps of twenty
        asking = Asking(some(groups + rng.normal(scale=0.05, size=groups.shape)), [])
        seen = []
        for _ in range(6):
            row = asking.next()
            assert row is not None
            seen.append(row // 20)
            asking.answer(row, False)
        assert sorted(seen) == [0, 1, 2, 3, 4, 5]

    def test_with_labels_of_both_kinds_those_at_the_boundary_come_next(self) -> None:
        rng = np.random.default_rng(1)
        across = np.concatenate([rng.uniform(-1, 1, 300), np.full(10, -0.9), np.full(10, 0.9)])
        vectors = np.column_stack([across, rng.normal(scale=0.2, size=(320, 6)), np.ones(320)])
        items = some(vectors)
        asking = Asking(items, [])
        asking.labels.update({place: place >= 310 for place in range(300, 320)})
        chosen = []
        for _ in range(10):
            row = asking.next()
            assert row is not None
            chosen.append(row)
            asking.answer(row, across[row] > 0)
        assert np.abs(across[chosen]).mean() < np.abs(across[:300]).mean() / 2

    def test_before_there_are_labels_the_verdicts_of_a_head_say_where_the_boundary_is(self) -> None:
        rng = np.random.default_rng(2)
        across = rng.uniform(-1, 1, 400)
        vectors = np.column_stack([across, rng.normal(scale=0.2, size=(400, 6)), np.ones(400)])
        items = [
            Candidate("", "text", "", held=bool(a > 0), vector=i.vector)
            for a, i in zip(across, some(vectors), strict=True)
        ]
        asking = Asking(items, [])
        first = asking.next()
        assert first is not None
        assert abs(across[first]) < 0.25

    def test_what_has_no_vector_comes_in_an_order_of_the_seed_and_each_item_once(self) -> None:
        items = [Candidate(f"{i}", "text", "") for i in range(20)]
        orders = []
        for seed in (0, 0, 1):
            asking, order = Asking(items, [], seed), []
            while (row := asking.next()) is not None:
                order.append(row)
                asking.answer(row, False)
            orders.append(order)
        assert orders[0] == orders[1] != orders[2]
        assert sorted(orders[0]) == sorted(orders[2]) == list(range(20))

    def test_texts_and_pictures_take_turns(self) -> None:
        items = [Candidate(f"{i}", "text", "") for i in range(4)] + [
            Candidate(Path(f"{i}"), "image", "") for i in range(4)
        ]
        asking, kinds = Asking(items, []), []
        for _ in range(4):
            row = asking.next()
            assert row is not None
            kinds.append(items[row].modality)
            asking.answer(row, True)
        assert sorted(kinds) == ["image", "image", "text", "text"]


class TestNotes:
    def test_a_line_that_was_cut_short_is_taken_away(self, tmp_path: Path) -> None:
        item, other = Candidate("one", "text", ""), Candidate("two", "text", "")
        Notes(tmp_path).keep(item, True)
        with (tmp_path / "unsafe.jsonl").open("a") as file:
            file.write('{"text": "tw')
        notes = Notes(tmp_path)
        assert notes.of(item) is not None
        assert notes.of(other) is None
        notes.keep(other, True)
        assert [row["text"] for row in rows(tmp_path / "unsafe.jsonl")] == ["one", "two"]

    def test_a_decision_outranks_what_could_not_be_told_and_is_taken_back_alone(self, tmp_path: Path) -> None:
        item = Candidate("one", "text", "")
        notes = Notes(tmp_path)
        notes.keep(item, None, by="a detector", score=0.5)
        notes.keep(item, True)
        assert Notes(tmp_path).of(item) == notes.of(item)
        assert notes.count(True) == 1
        notes.take_back(item)
        found = notes.of(item)
        assert found is not None
        assert (found.unsafe, found.by) == (None, "a detector")

    def test_an_item_with_both_labels_is_named(self, tmp_path: Path) -> None:
        for name in ("safe", "unsafe"):
            (tmp_path / f"{name}.jsonl").write_text('{"text": "a toy gun"}\n')
        with pytest.raises(SettingsError, match="'a toy gun' is labelled safe and unsafe"):
            Notes(tmp_path)

    @pytest.mark.parametrize("line", ["no json", "[]", '{"score": 1}', "\udcff"])
    def test_a_line_that_is_no_label_is_named(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "safe.jsonl").write_bytes(b'{"text": "a"}\n' + line.encode("utf-8", "surrogateescape") + b"\n")
        with pytest.raises(SettingsError, match=r"safe\.jsonl, line"):
            Notes(tmp_path)

    def test_pictures_out_of_tables_are_kept_beside_the_labels(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(buffer, "png")
        item = Candidate(buffer.getvalue(), "image", "table:1")
        Notes(tmp_path / "labels").keep(item, True)
        (read,) = of_sources([tmp_path / "labels" / "unsafe.jsonl"]).items
        assert isinstance(read.content, Path)
        assert read.content.read_bytes() == item.content
        assert Notes(tmp_path / "labels").of(item) is not None


class TestKeys:
    def test_answers_are_kept_as_samples_and_the_next_run_goes_on(self, texts: Path, tmp_path: Path) -> None:
        out = tmp_path / "labels"
        first = label("yq", texts, "--out", out)
        assert first.exit_code == 0
        assert "1 unsafe and 0 safe, 2 left." in first.output
        assert "hysac fit --encoder … --labels" in first.output
        second = label("nn", texts, "--out", out)
        assert "1 unsafe and 2 safe, 0 left." in second.output
        kept = [row["text"] for name in ("safe", "unsafe") for row in rows(out / f"{name}.jsonl")]
        assert sorted(kept) == sorted(texts.read_text().splitlines())
        assert sorted(item.content for item in of_sources([out / "safe.jsonl", out / "unsafe.jsonl"]).items) == sorted(
            kept
        )

    def test_undo_takes_the_label_from_the_file_and_asks_again(self, texts: Path, tmp_path: Path) -> None:
        result = label("uyunq", texts, "--out", tmp_path / "labels", "--json")
        assert json.loads(result.stdout) == {
            "unsafe": 0,
            "safe": 1,
            "left": 2,
            "out": str(tmp_path / "labels"),
            "failed": [],
        }
        assert "nothing to undo" in result.stderr
        assert (tmp_path / "labels" / "unsafe.jsonl").read_bytes() == b""
        assert len(rows(tmp_path / "labels" / "safe.jsonl")) == 1

    def test_what_is_skipped_comes_again_in_the_next_run(self, texts: Path, tmp_path: Path) -> None:
        assert "0 unsafe and 1 safe, 0 left." in label("ssn", texts, "--out", tmp_path / "labels").output
        assert "2 unsafe and 1 safe, 0 left." in label("yy", texts, "--out", tmp_path / "labels").output

    def test_a_skip_is_undone_and_keys_without_meaning_are_nothing(self, texts: Path, tmp_path: Path) -> None:
        result = label("s7uYxq", texts, "--out", tmp_path / "labels")
        assert "1 unsafe and 0 safe, 2 left." in result.output

    def test_pictures_by_an_encoder_one_of_which_is_damaged(
        self, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[str] = []

        def launched(path: str) -> int:
            opened.append(path)
            return 0

        monkeypatch.setattr("click.launch", launched)
        pictures = write_pictures(tmp_path / "pictures")
        (pictures / "broken.png").write_bytes((pictures / "grass.png").read_bytes()[:60])
        result = label("oyyyy", pictures, "--out", tmp_path / "labels", "--encoder", toy_bundle)
        assert result.exit_code == 3
        assert "4 unsafe and 0 safe, 0 left." in result.output
        assert "1 failed" in result.stderr
        assert "broken.png" in result.stderr
        assert Path(opened[0]).name in {Path(name).name for name in COLOURS}
        assert {Path(row["file"]) for row in rows(tmp_path / "labels" / "unsafe.jsonl")} == {
            pictures / name for name in COLOURS
        }

    def test_an_item_knows_what_a_bundle_holds_of_it(self, texts: Path, toy_bundle: Path) -> None:
        found = encoded(of_sources([texts]), str(toy_bundle))
        assert {item.content: item.held for item in found.items} == {
            "a dog in the park": False,
            "a man with a gun": True,
            "the red house": False,
        }


class TestCollection:
    @pytest.fixture
    def qdrant(self, tmp_path: Path) -> Path:
        client = QdrantClient(path=str(tmp_path / "qdrant"))
        client.create_collection("notes", {"own": models.VectorParams(size=4, distance=models.Distance.COSINE)})
        vectors = np.eye(4).tolist()
        payloads = [{"title": f"note {i}"} | ({"nsfw": True} if i == 0 else {}) for i in range(3)] + [{"other": 1}]
        client.upsert(
            "notes",
            [models.PointStruct(id=i, vector={"own": vectors[i]}, payload=payloads[i]) for i in range(4)],
        )
        client.close()
        return tmp_path / "qdrant"

    def payloads(self, path: Path) -> dict[Any, Any]:
        client = QdrantClient(path=str(path))
        found = {record.id: record.payload for record in client.scroll("notes")[0]}
        client.close()
        return found

    def run(self, keys: str, path: Path, *more: Any) -> Result:
        place = ("--collection", "notes", "--path", path, "--text-field", "title", "--vector", "own")
        return label(keys, *place, "--label-field", "nsfw", *more)

    def test_labels_go_to_the_payload_and_nothing_else_changes(self, qdrant: Path, tmp_path: Path) -> None:
        before = self.payloads(qdrant)
        result = self.run("nuyn", qdrant, "--out", tmp_path / "labels")
        assert "2 unsafe and 1 safe, 0 left." in result.output
        assert "--from-collection notes --vector own --label-field nsfw" in result.output
        after = self.payloads(qdrant)
        labels = {key: payload.pop("nsfw", None) for key, payload in after.items()}
        assert labels[0] is True
        assert labels[3] is None
        assert {labels[1], labels[2]} == {True, False}
        assert before[0] == {"title": "note 0", "nsfw": True}
        assert after == {key: {k: v for k, v in value.items() if k != "nsfw"} for key, value in before.items()}
        assert len(rows(tmp_path / "labels" / "safe.jsonl")) == len(rows(tmp_path / "labels" / "unsafe.jsonl")) == 1

    def test_an_undone_label_leaves_no_field(self, qdrant: Path) -> None:
        before = self.payloads(qdrant)
        self.run("yuq", qdrant)
        assert self.payloads(qdrant) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--label-field", "hysac"], "cannot be written to the field 'hysac'"),
            (["--label-field", "meta.nsfw"], "cannot be written to the field"),
            (["--label-field", "title"], "is 'note 0', expected true or false"),
            (["--vector", "none"], "has no vectors 'none'; it has 'own'"),
            (["--encoder", "m:f"], "points are chosen by vectors that they have"),
        ],
    )
    def test_bad_input(self, qdrant: Path, arguments: list[str], message: str) -> None:
        result = self.run("", qdrant, *arguments)
        assert result.exit_code in (1, 2)
        assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "not clear what to label"),
        (["texts.txt"], "no place for the labels"),
        (["texts.txt", "--out", "labels", "--vector", "v"], "--vector is for points"),
        (["texts.txt", "--out", "texts.txt"], "is no folder"),
        (["nothing.txt", "--out", "labels"], "does not exist"),
    ],
)
def test_bad_arguments(texts: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(texts.parent)
    result = label("", *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
