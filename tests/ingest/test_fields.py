"""Paths into an application's payload, where frameworks keep their content, and values that are no texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.applications import NAME, application

from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.guard import Guard
from hysac_retrieval.ingest import Content, attached_collection_for, fill
from hysac_retrieval.ingest.sources.fields import doubt, value_of

NODE = {"id_": "x", "metadata": {"a": 1}, "text": "a dog"}


@pytest.mark.parametrize(
    ("payload", "path", "value"),
    [
        ({"a": "x"}, "a", "x"),
        ({"a": {"b": "x"}}, "a.b", "x"),
        ({"a.b": "x", "a": {"b": "y"}}, "a.b", "x"),
        ({"a|b": "x"}, "a|b", "x"),
        ({"n": json.dumps(NODE)}, "n|text", "a dog"),
        ({"n": json.dumps(NODE)}, "n|metadata.a", 1),
        ({"m": {"n": json.dumps({"o": {"p.q": "x"}})}}, "m.n|o.p.q", None),
        ({"m": {"n": json.dumps({"p.q": "x"})}}, "m.n|p.q", "x"),
        ({"n": json.dumps({"in": json.dumps({"t": "x"})})}, "n|in|t", "x"),
        ({"n": {"text": "x"}}, "n|text", "x"),
        ({"n": json.dumps(["x"])}, "n|text", None),
        ({"n": "null"}, "n|text", None),
        ({"n": ""}, "n|text", None),
        ({}, "n|text", None),
    ],
)
def test_a_path_leads_into_objects_and_into_json(payload: dict[str, Any], path: str, value: Any) -> None:
    assert value_of(payload, path) == value


@pytest.mark.parametrize("held", ["a dog", "{", 3, ["x"], "[" * 100_000, '{"text": "a"'])
def test_what_is_no_json_is_said(held: Any) -> None:
    with pytest.raises(SourceError, match="holds no JSON"):
        value_of({"n": held}, "n|text")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([json.dumps(NODE)] * 3, r"'f\|text'"),
        ([json.dumps({"body": "x"}), json.dumps({"body": "y"})], r"'f\|body'"),
        (['["a", "b"]'], "JSON"),
        (["photos/dog.jpg", "a.png"], "names"),
        (["https://example.org/a?b=c"], "names"),
        (["3d6f0a2e-1111-4111-8111-000000000001"], "codes"),
        (["iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4"], "codes"),
        (["12", "3.5"], "numbers"),
    ],
)
def test_values_that_are_hardly_texts_are_doubted(values: list[str], words: str) -> None:
    import re

    assert re.search(words, doubt("f", values))


@pytest.mark.parametrize(
    "values",
    [
        ["a dog"],
        ["dog"],
        [json.dumps(NODE), "a dog"],
        ["{a dog}"],
        ["12", "twelve"],
        [],
        ["", " "],
        ["Visit https://example.org now"],
        ["犬が公園にいる"],
    ],
)
def test_texts_are_not(values: list[str]) -> None:
    assert doubt("f", values) == ""


PAYLOADS: dict[str, list[dict[str, Any]]] = {
    "langchain": [{"page_content": "a dog", "metadata": {}}, {"page_content": "a gun", "metadata": {}}],
    "llama-index": [
        {"_node_content": json.dumps({"text": "a dog"}), "doc_id": "1"},
        {"_node_content": json.dumps({"text_resource": {"text": "a gun"}}), "doc_id": "2"},
    ],
    "haystack": [{"content": "a dog", "meta": {}}, {"content": "a gun", "meta": {}}],
    "clip-retrieval": [{"caption": "a dog", "url": "x"}, {"caption": "a gun", "url": "y"}],
}


@pytest.mark.parametrize("framework", PAYLOADS)
def test_points_of_a_framework_are_judged_by_their_text(framework: str, tmp_path: Path, encoder: Encoder) -> None:
    content = Content.of_framework(framework)
    assert Content.of_kept(json.loads(json.dumps(content.kept()))) == content
    with application("memory", tmp_path, PAYLOADS[framework]) as app:
        with attached_collection_for(encoder, NAME, content, **app.place) as index:
            assert fill(index, encoder).total == 2
        assert app.client is not None
        points, _ = app.client.scroll(NAME, Guard.open(NAME, **app.place).filter())
        assert [point.id for point in points] == [0]


def test_a_picture_of_llama_index_is_not_judged_by_its_caption(tmp_path: Path, encoder: Encoder) -> None:
    rows = [{"_node_content": json.dumps({"text": "a dog", "image_path": "gone.png"})}]
    content = Content.of_framework("llama-index", root=tmp_path)
    with (
        application("memory", tmp_path, rows) as app,
        attached_collection_for(encoder, NAME, content, **app.place) as index,
    ):
        assert fill(index, encoder).failures == 1
        assert "hysac" not in app.look()[0][0]


def test_a_field_of_json_is_asked_about_and_nothing_is_changed(tmp_path: Path, encoder: Encoder) -> None:
    content = Content(text="_node_content")
    with application("memory", tmp_path, PAYLOADS["llama-index"]) as app:
        before, asked = app.look(), list[str]()
        with pytest.raises(SettingsError, match=r"_node_content\|text"):
            attached_collection_for(encoder, NAME, content, **app.place)
        assert app.look() == before

        def confirm(doubt: str) -> bool:
            asked.append(doubt)
            return True

        with attached_collection_for(encoder, NAME, content, confirm=confirm, **app.place) as index:
            assert fill(index, encoder).total == 2
        assert len(asked) == 1


def test_an_unknown_framework_is_named() -> None:
    with pytest.raises(SettingsError, match="langchain"):
        Content.of_framework("pandas")
