"""Encoders in the layout of sentence-transformers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file
from support.encoders import TEXTS, bert_config, sentence_folder, states_of, tokens_of, unit, write

from hysac_export.fit.encoders.open import open_encoder
from hysac_export.fit.encoders.transformer import exported
from hysac_export.model import hub
from hysac_retrieval.encoder.tokenization import TextTokenizer
from hysac_retrieval.errors import EncoderError, MissingExtraError, TextError

POOLINGS = {
    "mean_tokens": lambda h, m: (h * m[..., None]).sum(1) / m.sum(1)[:, None],
    "cls_token": lambda h, m: h[:, 0],
    "max_tokens": lambda h, m: np.where(m[..., None] == 1, h, -np.inf).max(1),
}
ROBERTA = {"pad_token_id": 0, "type_vocab_size": 1}
KINDS = [
    bert_config(),
    bert_config(layer_norm_eps=0.1),
    bert_config("roberta", **ROBERTA),
    bert_config("xlm-roberta", **ROBERTA),
]
DISTILLED = {"model_type": "distilbert", "dim": 12, "hidden_dim": 20, "n_layers": 2, "n_heads": 3, "vocab_size": 21}


def opened(folder: Path) -> Any:
    return open_encoder(f"sentence-transformers:{folder}", device="cpu")


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config["model_type"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_transformers_pooled_by_hand(config: Any, pooling: str, tmp_path: Path) -> None:
    model = sentence_folder(tmp_path, config, pooling={f"pooling_mode_{pooling}": True})
    encoder = opened(tmp_path)
    tokens, mask = tokens_of(tmp_path, TEXTS, 16)
    expected = unit(POOLINGS[pooling](states_of(model, tokens, mask), mask))
    assert (encoder.dim, encoder.modalities) == (12, ("text",))
    np.testing.assert_allclose(encoder.text(TEXTS), expected, atol=2e-6)


@pytest.mark.parametrize("config", [bert_config(), DISTILLED], ids=lambda config: config["model_type"])
def test_a_graph_that_is_there_is_used_as_it_is(config: Any, tmp_path: Path) -> None:
    sentence_folder(tmp_path, config)
    expected = opened(tmp_path).text(TEXTS)
    (tmp_path / "onnx").mkdir()
    onnx.save(exported(tmp_path), tmp_path / "onnx" / "model.onnx")
    (tmp_path / "model.safetensors").unlink()
    np.testing.assert_allclose(opened(tmp_path).text(TEXTS), expected, atol=2e-6)


def test_a_transformer_of_another_kind_is_exported(tmp_path: Path) -> None:
    model = sentence_folder(tmp_path, DISTILLED)
    tokens, mask = tokens_of(tmp_path, TEXTS, 16)
    expected = unit(POOLINGS["mean_tokens"](states_of(model, tokens, mask), mask))
    np.testing.assert_allclose(opened(tmp_path).text(TEXTS), expected, atol=2e-6)


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_without_what_exports_it_the_error_names_the_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence_folder(tmp_path, DISTILLED)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"no onnx/model\.onnx .*'{package}'.*hysac-retrieval\[train\]"):
        opened(tmp_path)


@pytest.mark.parametrize(("activation", "apply"), [("Tanh", np.tanh), ("Identity", lambda x: x)])
@pytest.mark.parametrize("order", [("Dense",), ("Dense", "Normalize"), ("Normalize", "Dense")])
def test_dense_layers_follow_in_the_order_of_the_modules(
    activation: str, apply: Any, order: tuple[str, ...], tmp_path: Path
) -> None:
    model = sentence_folder(tmp_path, bert_config(), parts=("Transformer", "Pooling", *order))
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 12)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    folder = tmp_path / f"{2 + order.index('Dense')}_Dense"
    write(folder / "config.json", {"activation_function": f"torch.nn.modules.activation.{activation}"})
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "model.safetensors")
    tokens, mask = tokens_of(tmp_path, TEXTS, 16)
    expected = POOLINGS["mean_tokens"](states_of(model, tokens, mask), mask)
    for kind in order:
        expected = unit(expected) if kind == "Normalize" else apply(expected @ weight.T + bias)
    encoder = opened(tmp_path)
    assert encoder.dim == 5
    np.testing.assert_allclose(encoder.text(TEXTS), unit(expected), atol=2e-6)


def test_a_vector_does_not_depend_on_what_is_encoded_with_it(tmp_path: Path) -> None:
    sentence_folder(tmp_path, bert_config())
    encoder, done = opened(tmp_path), list[int]()
    texts = [text + " dog" * (i % 5) for i in range(30) for text in TEXTS]
    together = encoder.text(texts, done.append)
    assert sum(done) == len(texts)
    for row in (0, 2, 77, 149):
        np.testing.assert_allclose(together[row], encoder.text([texts[row]])[0], atol=1e-6)


def test_a_long_text_is_read_in_windows_of_whole_words(tmp_path: Path) -> None:
    sentence_folder(tmp_path, bert_config())
    graph = opened(tmp_path).graphs().text
    assert (graph.spec.context_length, graph.spec.pad_id, graph.spec.end_id, graph.spec.dynamic) == (16, 0, 3, True)
    windows = TextTokenizer(graph.tokenizer, graph.spec).windows("a dog running on the table . " * 20)
    assert len(windows.rows) > 5
    pieces = {graph.tokenizer.token_to_id("##ning")}
    for row in windows.rows:
        assert row[0] == 2
        assert list(row).count(3) == 1
        assert row[1] not in pieces


@pytest.mark.parametrize(("given", "expected"), [(16, 16), (None, 40)])
def test_a_text_is_cut_where_the_model_says(given: int | None, expected: int, tmp_path: Path) -> None:
    sentence_folder(tmp_path, bert_config(), length=given)
    assert opened(tmp_path).graphs().text.spec.context_length == expected


def test_the_position_of_a_first_token_is_behind_the_padding_of_a_roberta(tmp_path: Path) -> None:
    sentence_folder(tmp_path, bert_config("roberta", **ROBERTA), length=None)
    assert opened(tmp_path).graphs().text.spec.context_length == 39


def test_texts_are_lower_cased_where_the_model_asks_for_it(tmp_path: Path) -> None:
    sentence_folder(tmp_path, bert_config())
    text = (tmp_path / "tokenizer.json").read_text().replace('"lowercase":true', '"lowercase":false')
    (tmp_path / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))
    apart = opened(tmp_path).text(["A DOG", "a dog"])
    assert apart[0] @ apart[1] < 0.9999
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    same = opened(tmp_path).text(["A DOG", "a dog"])
    np.testing.assert_array_equal(same[0], same[1])


def test_an_installed_package_that_carries_a_model_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence_folder(tmp_path / "carries" / "model", bert_config())
    record = tmp_path / "a_model-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: a-model\nVersion: 1.0\n")
    (record / "RECORD").write_text("carries/model/modules.json,,\ncarries/model/config.json,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert hub.installed("a-model", "modules.json") == tmp_path / "carries" / "model"
    assert open_encoder("sentence-transformers:a-model").dim == 12


def broken(folder: Path, what: str) -> None:
    changes: dict[str, Any] = {
        "LSTM": lambda: write(
            folder / "modules.json", [{"type": "x.Transformer", "path": ""}, {"type": "x.LSTM", "path": "1"}]
        ),
        "lists no modules": lambda: (folder / "modules.json").write_text("{"),
        "one of mean_tokens": lambda: write(folder / "1_Pooling" / "config.json", {"pooling_mode": "weightedmean"}),
        "cls_token, mean_tokens": lambda: write(
            folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
        ),
        "prompt": lambda: write(folder / "config_sentence_transformers.json", {"default_prompt_name": "query"}),
        "no tokenizer.json": lambda: (folder / "tokenizer.json").unlink(),
        "is no tokenizer": lambda: (folder / "tokenizer.json").write_text("{}"),
        "cannot be read": lambda: (folder / "model.safetensors").write_bytes(b"{}"),
        "hold no .*layer.2": lambda: write(folder / "config.json", bert_config(num_hidden_layers=3)),
        "cannot be exported": lambda: write(folder / "config.json", {"model_type": "no such", "hidden_size": 12}),
    }
    changes[what]()


@pytest.mark.parametrize(
    "what",
    [
        "LSTM",
        "lists no modules",
        "one of mean_tokens",
        "cls_token, mean_tokens",
        "prompt",
        "no tokenizer.json",
        "is no tokenizer",
        "cannot be read",
        "hold no .*layer.2",
        "cannot be exported",
    ],
)
def test_what_is_not_understood_is_refused(what: str, tmp_path: Path) -> None:
    sentence_folder(tmp_path, bert_config())
    broken(tmp_path, what)
    with pytest.raises(EncoderError, match=what):
        opened(tmp_path)


def test_pictures_and_empty_texts_are_refused(tmp_path: Path) -> None:
    sentence_folder(tmp_path, bert_config())
    with pytest.raises(EncoderError, match="reads texts only"):
        opened(tmp_path).image([tmp_path / "a.png"])
    with pytest.raises(TextError, match="text 1 is empty"):
        opened(tmp_path).text(["a dog", " "])


def test_no_such_folder_is_said_and_nothing_is_fetched_for_it(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no folder"):
        opened(tmp_path / "gone")


def test_neither_the_wing_nor_a_bert_loads_torch(tmp_path: Path) -> None:
    sentence_folder(tmp_path, bert_config())
    shutil.rmtree(tmp_path / "onnx", ignore_errors=True)
    code = (
        "import sys\n"
        "sys.modules['fastembed'] = None\n"  # which qdrant-client imports wherever it is installed
        "from hysac_export.fit.encoders.open import open_encoder\n"
        f"vectors = open_encoder({f'sentence-transformers:{tmp_path}'!r}).text(['a dog'])\n"
        "assert vectors.shape == (1, 12)\n"
        "assert not {'torch', 'transformers', 'open_clip'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
