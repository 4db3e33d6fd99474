"""Encoders on a hub: it is said what will be fetched, no more is fetched than needed, and errors tell what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from safetensors.torch import save_file
from support.encoders import bert_config, fast_image, fast_text, sentence_folder, write
from support.hub import serving
from support.toy_bundle import write_toy_bundle

from hysac_export.fit.encoders.open import open_encoder

ARCHITECTURE = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}
CLIP = "Qdrant/clip-ViT-B-32"
SPECS = {
    "sentence-transformers:tiny": "sentence-transformers/tiny",
    "sentence-transformers:owner/other": "owner/other",
    f"fastembed:{CLIP}-text": f"{CLIP}-text",
    "open_clip:hf-hub:owner/clip": "owner/clip",
    "hysac:owner/toy": "owner/toy",
}
"""Specs, and the folders that they are in below the root of the hub."""
DRIVER = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s", handlers=[handler := logging.StreamHandler()])
handler.stream = log = __import__("io").StringIO()
from hysac_export.fit.encoders.open import open_encoder
from hysac_retrieval.errors import HysacError
found = {}
for spec in json.loads(sys.argv[1]):
    log.seek(0), log.truncate()
    try:
        found[spec] = {"vectors": open_encoder(spec, device="cpu").text(["a dog", "the cat"]).tolist()}
    except HysacError as error:
        found[spec] = {"error": f"{type(error).__name__}: {error}"}
    found[spec]["log"] = [line for line in log.getvalue().splitlines() if line.startswith("hysac_export")]
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    sentence_folder(folder / "sentence-transformers/tiny", bert_config())
    sentence_folder(folder / "owner/other", bert_config(), parts=("Transformer", "Pooling"))
    (folder / "owner/other/pytorch_model.bin").write_bytes(b"not needed")
    fast_text(folder / f"{CLIP}-text")
    fast_image(folder / f"{CLIP}-vision")
    write_toy_bundle(folder / "owner/toy")
    (folder / "owner/clip").mkdir(parents=True)
    write(folder / "owner/clip/open_clip_config.json", {"model_cfg": ARCHITECTURE, "preprocess_cfg": {}})
    save_file(open_clip.model.CLIP(**ARCHITECTURE).state_dict(), folder / "owner/clip/open_clip_model.safetensors")  # type: ignore[arg-type]
    return folder


@pytest.fixture
def hub(root: Path) -> Iterator[tuple[str, list[str]]]:
    with serving(root) as found:
        yield found


def run(specs: list[str], endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    """Open encoders in a new process, since HF_ENDPOINT is read when the client is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "FASTEMBED"))}
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "FASTEMBED_CACHE_PATH": str(home / "fastembed")}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(specs)],
        env=kept | ours | {"HF_HUB_DISABLE_TELEMETRY": "1"} | environment,
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr
    found: dict[str, Any] = json.loads(lines[0].removeprefix("FOUND"))
    return found


def test_what_is_fetched_is_said_before_and_no_more_than_needed(
    hub: tuple[str, list[str]], root: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fastembed")
    endpoint, asked = hub
    found = run([*SPECS], endpoint, tmp_path)
    for spec, folder in SPECS.items():
        here = spec.split(":")[0] + f":{root / folder}"
        expected = open_encoder(here, device="cpu").text(["a dog", "the cat"])
        np.testing.assert_allclose(found[spec]["vectors"], expected, atol=2e-6, err_msg=spec)
        assert any(f"{endpoint}/{folder}" in line for line in found[spec]["log"]), spec
    assert any(f"{endpoint}/{CLIP}-vision" in line for line in found[f"fastembed:{CLIP}-text"]["log"])
    (line,) = found["sentence-transformers:owner/other"]["log"]
    assert "model.safetensors" in line
    assert "MB" in line
    assert not any("pytorch_model.bin" in request for request in asked)

    # Now the cache has them: without the hub, in offline mode and out of it.
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):
        again = run([*SPECS], "http://127.0.0.1:9", tmp_path, **environment)
        for spec in SPECS:
            assert again[spec].get("vectors") == found[spec]["vectors"], again[spec]


def test_missing_gated_and_out_of_reach_are_told_apart(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, _ = hub
    specs = ["sentence-transformers:no-such", "sentence-transformers:owner/gated", "open_clip:hf-hub:owner/gone"]
    found = run(specs, endpoint, tmp_path)
    assert f"EncoderError: there is no {endpoint}/sentence-transformers/no-such" in found[specs[0]]["error"]
    assert f"{endpoint}/owner/gated is gated" in found[specs[1]]["error"]
    assert f"there is no {endpoint}/owner/gone" in found[specs[2]]["error"]

    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):
        (error,) = run(specs[:1], "http://127.0.0.1:9", tmp_path, **environment).values()
        assert "cannot be reached, and sentence-transformers/no-such is not in the cache" in error["error"]


def test_weights_that_open_clip_downloads_are_announced(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, _ = hub
    (found,) = run(["open_clip:ViT-B-32/openai"], endpoint, tmp_path).values()
    assert f"ViT-B-32/openai: weights from {endpoint}/timm/" in found["log"][0]
    assert "could not be downloaded" in found["error"]
