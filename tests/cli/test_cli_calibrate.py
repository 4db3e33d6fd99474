"""``hysac calibrate``: what it writes, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli import Run
from support.toy_bundle import write_toy_bundle

from hysac_retrieval.encoder.bundle import Bundle

THINGS = ("dog", "cat", "house", "man", "woman")


@pytest.fixture
def arguments(tmp_path: Path) -> tuple[Any, ...]:
    """The command with a model, which may be changed, and samples."""
    model = write_toy_bundle(tmp_path / "model").path
    for side, others in (("safe", THINGS), ("unsafe", ("gun", "knife", "gun knife", "blood"))):
        texts = "\n".join(f"a {a} with a {b}" for a in THINGS for b in others)
        (tmp_path / f"{side}.txt").write_text(texts, encoding="utf-8")
    return ("calibrate", model, "--safe", tmp_path / "safe.txt", "--unsafe", tmp_path / "unsafe.txt")


def test_the_folders_of_what_is_written_are_made(run: Run, arguments: tuple[Any, ...], tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep" / "profile.json"
    result = run(*arguments, "--out", out, "--update")
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(Bundle.load(tmp_path / "model").manifest.safety.model_dump_json()) == written


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (("--out", "taken/profile.json"), "cannot be made"),
        (("--roc", "roc.png"), "Give roc.json"),
        (("--roc", "roc.json", "--out", "roc.json"), "would both write"),
        (("--roc", "roc.json", "--out", "roc.png"), "would both write"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_bundle_is_changed(
    run: Run,
    arguments: tuple[Any, ...],
    files: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    before = Bundle.load(tmp_path / "model").fingerprint
    result = run(*arguments, "--update", *files)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert Bundle.load(tmp_path / "model").fingerprint == before
    assert not list(tmp_path.glob("roc.*"))


def test_a_profile_that_cannot_be_written_leaves_the_bundle_as_it_was(
    run: Run, arguments: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name == "profile.json":
            raise OSError("no space left")
        return write(path, *arguments, **options)

    before = Bundle.load(tmp_path / "model").fingerprint
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        run(*arguments, "--update", "--out", tmp_path / "profile.json")
    assert Bundle.load(tmp_path / "model").fingerprint == before
