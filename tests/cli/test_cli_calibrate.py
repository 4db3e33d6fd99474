"""``hysac calibrate``: what it writes, and when."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.cli import Run
from support.toy_bundle import write_toy_bundle

from hysac_retrieval.encoder.bundle import Bundle, write_manifest
from hysac_retrieval.safety.profile import SafetyProfile

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


OVERLAPPING = ("gun", "knife", "dog", "cat")
"""Things of samples that are labelled unsafe and are, for the toy model, in part no other than safe ones."""


@pytest.fixture
def hard(arguments: tuple[Any, ...], tmp_path: Path) -> tuple[Any, ...]:
    """The same, where texts of both sides overlap and images do not."""
    texts = "\n".join(f"a {a} with a {b}" for a in THINGS for b in OVERLAPPING)
    (tmp_path / "unsafe.txt").write_text(texts, encoding="utf-8")
    return arguments


@pytest.mark.parametrize("option", ["miss", "lost"])
def test_one_share_is_asked_for_and_both_are_printed(run: Run, hard: tuple[Any, ...], option: str) -> None:
    found = {}
    for share in (0.0, 0.3, 0.6):
        result = run(*hard, f"--max-{option}", share, "--json")
        assert result.exit_code == 0, result.output
        profile = SafetyProfile.model_validate_json(result.stdout)
        assert set(profile.rates) == {"text"}
        assert getattr(profile.rates["text"], option) <= share
        found[share] = profile
        shown = run(*hard, f"--max-{option}", share)
        rates = profile.rates["text"]
        assert f"{rates.miss:.1%}" in shown.stdout
        assert f"{rates.lost:.1%}" in shown.stdout
    other = {"miss": "lost", "lost": "miss"}[option]
    paid = [getattr(found[share].rates["text"], other) for share in (0.0, 0.3, 0.6)]
    assert paid == sorted(paid, reverse=True)
    assert paid[0] > paid[-1]
    # Images, of which there are no samples, keep their own threshold.
    assert {profile.threshold.image for profile in found.values()} == {0.5}
    assert len({profile.threshold.text for profile in found.values()}) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-miss", "0", "--max-lost", "0"), "of the safe ones are lost, and no more than 0.00% may be"),
        (("--max-miss", "1"), "--max-miss"),
        (("--max-lost", "1"), "--max-lost"),
        (("--max-miss", "-0.1"), "--max-miss"),
        (("--max-lost", "nan"), "max_lost is nan"),
        (("--max-lost", "5%"), "--max-lost"),
    ],
)
def test_shares_that_cannot_be_had_are_errors_in_words(
    run: Run, hard: tuple[Any, ...], options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    before = Bundle.load(tmp_path / "model").fingerprint
    result = run(*hard, *options, "--update")
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert Bundle.load(tmp_path / "model").fingerprint == before


def test_cones_are_calibrated_alone_and_leave_scores_and_fingerprint(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Bundle.load("hysac-mini").path, tmp_path / "model"))
    plain = Bundle.load(folder).manifest.model_copy(update={"entailment": None})
    before = write_manifest(folder, plain)
    out = tmp_path / "cones.json"
    result = run("calibrate", before.path, "--cones", "-n", 6, "--update", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    after = Bundle.load(before.path)
    assert after.manifest.entailment is not None
    assert json.loads(result.stdout) == json.loads(out.read_text()) == after.manifest.entailment.model_dump(mode="json")
    assert after.fingerprint == before.fingerprint
    unchanged = after.manifest.model_copy(update={"entailment": None})
    assert unchanged.model_dump_json() == before.manifest.model_dump_json()
    shown = run("calibrate", before.path, "--cones", "-n", 6)
    assert "T* → I*" in shown.output
    assert "6 quadruplets of the split validation" in shown.output


@pytest.mark.parametrize("other", [("--safe", "a.txt"), ("--roc", "roc.json")])
def test_cones_do_not_come_from_samples(run: Run, tmp_path: Path, other: tuple[str, ...]) -> None:
    result = run("calibrate", write_toy_bundle(tmp_path / "model").path, "--cones", *other)
    assert result.exit_code == 2
    assert "--cones goes with none of" in result.stderr


def test_what_is_calibrated_is_the_folder_that_is_changed_whatever_bundled_model_has_its_name(
    run: Run, arguments: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "model", tmp_path / "hysac-mini")
    monkeypatch.chdir(tmp_path)
    command, model, *samples = arguments
    for place in (model, "hysac-mini"):
        result = run(command, place, *samples, "--update")
        assert result.exit_code == 0, result.output
    assert Bundle.load(tmp_path / "hysac-mini").manifest.safety == Bundle.load(model).manifest.safety
    assert run(command, "hysac-mini", "--cones", "-n", 6, "--update").exit_code == 2  # its pictures are too small
