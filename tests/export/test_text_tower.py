"""A trained sentence encoder as the text tower: training, resuming, the cache of states, bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.sentences import small_encoder
from support.toy_bundle import profile

from hysac_export.bundle.onnx import export_bundle
from hysac_export.config import TrainConfig
from hysac_export.training.run import TrainedRun
from hysac_export.training.train import Trainer
from hysac_retrieval.encoder.encoder import Encoder

pytestmark = pytest.mark.slow

TINY = {
    "stem_steps": 1,
    "steps": 3,
    "batch_size": 8,
    "workers": 0,
    "threads": 1,
    "checkpoint_every": 100,
    "log_every": 1,
    "precision": "fp32",
    "data.quadruplets": 200,
    "model.dim": 16,
    "model.image": {"width": 32, "layers": 1, "head_width": 16, "stem": "conv", "patch": 16, "head_mlp": True},
    "model.text.features": 24,
    "model.text.context_length": 40,
    "texts": {"pairs": 4, "others": 6},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small sentence encoder: its folder, and the model of transformers."""
    folder = tmp_path_factory.mktemp("encoders") / "small"
    return folder, small_encoder(folder)


def tiny(encoder: tuple[Path, Any], **overrides: object) -> TrainConfig:
    return TrainConfig.load("mini-en", **(TINY | {"model.text.pretrained": str(encoder[0])} | overrides))


def lines(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def weights(run: TrainedRun) -> dict[str, torch.Tensor]:
    return {name: value for name, value in run.model.state_dict().items() if name.startswith("sentences.transformer")}


@pytest.fixture(scope="module")
def finished(encoder: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    Trainer(tiny(encoder), folder).run()
    return folder


def test_a_run_learns_from_texts_too_and_leaves_a_frozen_encoder_alone(
    encoder: tuple[Path, Any], finished: Path
) -> None:
    assert {"texts/radius", "texts/moved", "texts/direction", "texts/others", "words"} <= lines(finished)[1].keys()
    assert all(np.isfinite(value) for row in lines(finished) for value in row.values())
    there = encoder[1].state_dict()
    kept = weights(TrainedRun.load(finished))
    assert len(kept) > 30
    assert all(torch.equal(value, there[name.removeprefix("sentences.transformer.")]) for name, value in kept.items())


def test_a_bundle_reads_english_without_torch_at_any_length(finished: Path, tmp_path: Path) -> None:
    run = TrainedRun.load(finished)
    bundle = export_bundle(run.model, run.tokenizer, safety=profile(), out=tmp_path / "b", name="b", text=run.text_spec)
    spec = bundle.manifest.text
    assert (spec.dynamic, spec.context_length, spec.pad_id, spec.end_id) == (True, 40, 0, 3)
    texts = ["A dog", "a man threatens his neighbour with a knife", "the cat " * 30, "Zzzgrf!"]
    expected = run.encode_text(texts)
    found = Encoder(bundle, device="cpu", threads=1)
    np.testing.assert_allclose(found.encode_text(texts), expected, atol=2e-5)
    for text, point in zip(texts, expected, strict=True):  # alone, in a row of its own length
        np.testing.assert_allclose(found.encode_text(text)[0], point, atol=2e-5)
