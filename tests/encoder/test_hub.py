"""Models on a hub: fetched once and whole, with the caller's token, and faults that say what mends them.

Each load is a process of its own, for HF_ENDPOINT is read when the client is imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.golden import golden_path
from support.hub import COMMIT, Faults, serving
from support.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"
LOAD = """
import sys
from huggingface_hub import constants
from hysac_retrieval import Encoder
constants.DOWNLOAD_CHUNK_SIZE = 512  # less than a file of the toy bundle
from hysac_retrieval.errors import HysacError
try:
    encoder = Encoder.load(sys.argv[1], revision=sys.argv[2] if sys.argv[2:] else None)
    print("loaded", encoder.fingerprint, *encoder.encode_text(["a dog"]).shape)
except HysacError as error:
    print(type(error).__name__, error, f"[{error.hint}]")
"""
COMMAND = "from hysac_retrieval.cli import main; main()"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    write_toy_bundle(root / "owner/toy")
    return root


@pytest.fixture
def root(bundles: Path, tmp_path: Path) -> Path:
    """What the hub serves; a test may change it."""
    return Path(shutil.copytree(bundles, tmp_path / "hub"))


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def hub(root: Path, faults: Faults) -> Iterator[tuple[str, list[str]]]:
    with serving(root, faults) as found:
        yield found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def run(code: str, *arguments: str, endpoint: str, home: Path, **environment: str) -> str:
    """What a process says on both streams, spaces as they come."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "COLUMNS": "1000"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=kept | ours | environment, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_a_model_is_fetched_through_a_redirect_once_and_then_loaded_offline(
    hub: tuple[str, list[str]], home: Path
) -> None:
    endpoint, asked = hub
    first = run(LOAD, "owner/toy", endpoint=endpoint, home=home)
    assert "loaded" in first
    assert "1 8" in first
    assert {"GET /kept-elsewhere/owner/toy/image.onnx", "GET /kept-elsewhere/owner/toy/text.onnx"} <= {*asked}
    asked.clear()
    assert run(LOAD, "owner/toy", endpoint=endpoint, home=home) == first
    assert not [request for request in asked if request.startswith("GET") and "/api/" not in request]
    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):
        assert run(LOAD, "owner/toy", endpoint=NOWHERE, home=home, **environment) == first


def test_a_changed_file_alone_is_fetched_again(hub: tuple[str, list[str]], root: Path, home: Path) -> None:
    endpoint, asked = hub
    run(LOAD, "owner/toy", endpoint=endpoint, home=home)
    # Another commit with the same graphs, as the etags say.
    snapshots = home / "hub" / "models--owner--toy" / "snapshots"
    (snapshots / COMMIT).rename(snapshots / COMMIT.replace("0", "f"))
    asked.clear()
    assert "loaded" in run(LOAD, "owner/toy", endpoint=endpoint, home=home)
    assert not [request for request in asked if request.startswith("GET /kept-elsewhere")]


def test_an_interrupted_download_says_so_and_goes_on_where_it_stopped(
    hub: tuple[str, list[str]], root: Path, faults: Faults, home: Path
) -> None:
    endpoint, asked = hub
    path = root / "owner/toy/image.onnx"
    faults.cut["image.onnx"] = path.stat().st_size // 2
    first = run(LOAD, "owner/toy", endpoint=endpoint, home=home)
    if "loaded" not in first:  # the client of some versions goes on by itself
        assert "BundleNotFoundError" in first
        assert "what has arrived is kept" in first
        assert "loaded" in run(LOAD, "owner/toy", endpoint=endpoint, home=home)
    resumed = [request for request in asked if "image.onnx from " in request]
    assert len(resumed) == 1
    assert 0 < int(resumed[0].rsplit(" ", 1)[1]) <= path.stat().st_size // 2


def test_without_a_network_a_model_that_was_never_fetched_is_said_to_be_missing(home: Path) -> None:
    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):
        found = run(LOAD, "owner/toy", endpoint=NOWHERE, home=home, **environment)
        assert "BundleNotFoundError" in found
        assert f"{NOWHERE}/owner/toy cannot be reached, and owner/toy is not in the cache" in found


def test_a_private_model_needs_the_token_which_goes_to_the_hub_alone(
    hub: tuple[str, list[str]], faults: Faults, home: Path
) -> None:
    endpoint, _ = hub
    faults.tokens["owner/toy"] = "hf_secret"
    for token in ({}, {"HF_TOKEN": "hf_other"}):
        refused = run(LOAD, "owner/toy", endpoint=endpoint, home=home, **token)
        assert f"there is no {endpoint}/owner/toy, or it is private" in refused
        assert "HF_TOKEN" in refused
        assert "hf_other" not in refused
    # The place of large files refuses every request with a token.
    assert "loaded" in run(LOAD, "owner/toy", endpoint=endpoint, home=home, HF_TOKEN="hf_secret")


def test_a_gated_model_says_where_its_terms_are_accepted(hub: tuple[str, list[str]], home: Path) -> None:
    endpoint, _ = hub
    for code, arguments in ((LOAD, ["owner/gated"]), (COMMAND, ["search", "a dog", "--model", "owner/gated"])):
        arguments += ["--collection", "c", "--location", ":memory:"] if code == COMMAND else []
        found = run(code, *arguments, endpoint=endpoint, home=home)
        assert f"{endpoint}/owner/gated is gated: its terms have to be accepted first" in found
        assert f"Accept them at {endpoint}/owner/gated" in found


def test_a_revision_and_a_repository_that_are_not_there_are_told_apart(hub: tuple[str, list[str]], home: Path) -> None:
    endpoint, _ = hub
    assert "loaded" in run(LOAD, "owner/toy", COMMIT, endpoint=endpoint, home=home)
    found = run(LOAD, "owner/toy", "v9", endpoint=endpoint, home=home)
    assert f"{endpoint}/owner/toy has no revision 'v9'" in found
    assert f"there is no {endpoint}/owner/gone" in run(LOAD, "owner/gone", endpoint=endpoint, home=home)


def test_a_file_that_the_repository_lacks_is_named(hub: tuple[str, list[str]], root: Path, home: Path) -> None:
    endpoint, _ = hub
    (root / "owner/toy/text.onnx").unlink()
    found = run(LOAD, "owner/toy", endpoint=endpoint, home=home)
    assert "ChecksumError" in found
    assert "text.onnx is missing although the manifest lists it" in found
    (root / "owner/toy/hysac.json").unlink()
    shutil.rmtree(home)
    assert "has no hysac.json" in run(LOAD, "owner/toy", endpoint=endpoint, home=home)


def test_a_file_of_another_checksum_is_refused_and_what_to_remove_is_said(
    hub: tuple[str, list[str]], faults: Faults, home: Path
) -> None:
    endpoint, _ = hub
    faults.altered.add("text.onnx")
    found = run(LOAD, "owner/toy", endpoint=endpoint, home=home)
    assert "ChecksumError" in found
    assert "text.onnx has SHA-256" in found
    kept = home / "hub" / "models--owner--toy"
    assert f"remove {kept} before" in found
    faults.altered.clear()
    shutil.rmtree(kept)
    assert "loaded" in run(LOAD, "owner/toy", endpoint=endpoint, home=home)


# --- hysac import -----------------------------------------------------------------------------------------------------


@pytest.fixture
def published(root: Path) -> Path:
    """The repository of a published checkpoint."""
    folder = root / "owner/published"
    folder.mkdir()
    for name in ("hysac_model.pth", "hysac_bounds.json"):
        shutil.copy(golden_path("tiny_model") / name, folder)
    shutil.copy(golden_path("tiny_model") / "base/config.json", folder)
    return folder


def test_a_checkpoint_is_imported_from_the_hub(
    hub: tuple[str, list[str]], published: Path, faults: Faults, home: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    endpoint, asked = hub
    faults.tokens["owner/published"] = "hf_secret"
    tokenizer = golden_path("tiny_model") / "tokenizer.json"
    out = str(tmp_path / "bundle")
    arguments = ("import", "owner/published", "--tokenizer", str(tokenizer), "--out", out, "--json")
    refused = run(COMMAND, *arguments, endpoint=endpoint, home=home)
    assert f"there is no {endpoint}/owner/published, or it is private" in refused
    found = run(COMMAND, *arguments, endpoint=endpoint, home=home, HF_TOKEN="hf_secret")
    assert (tmp_path / "bundle/hysac.json").is_file(), found
    assert COMMIT in (tmp_path / "bundle/hysac.json").read_text()
    assert "GET /kept-elsewhere/owner/published/hysac_model.pth" in asked
    again = run(COMMAND, *arguments, "--overwrite", endpoint=NOWHERE, home=home, HF_HUB_OFFLINE="1")
    assert "error" not in again  # from the cache, with what is known to be lacking


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", "holds no hysac_model.pth"),
        ("altered", "hysac_model.pth has SHA-256"),
        ("gated", "Accept them at"),
        ("offline", "cannot be reached"),
    ],
)
def test_what_keeps_a_checkpoint_from_being_imported_is_said(
    hub: tuple[str, list[str]], published: Path, faults: Faults, home: Path, tmp_path: Path, fault: str, says: str
) -> None:
    pytest.importorskip("torch")
    endpoint, _ = hub
    if fault == "missing":
        (published / "hysac_model.pth").unlink()
    elif fault == "altered":
        faults.altered.add("hysac_model.pth")
    name = "owner/gated" if fault == "gated" else "owner/published"
    environment = {"HF_HUB_OFFLINE": "1"} if fault == "offline" else {}
    out = tmp_path / "bundle"
    found = run(COMMAND, "import", name, "--out", str(out), endpoint=endpoint, home=home, **environment)
    assert says in " ".join(found.split())
    assert not out.exists()
