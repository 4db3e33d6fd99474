"""The commands of docs/own-policy.md, run one after the other as they stand, on a model of a few thousand weights.

That they work together is tested, not how well such a model does.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hysac_retrieval.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "own-policy.md"
SIZES = {"--train": "48", "--validation": "24", "--test": "24"}
TINY = {
    "stem_steps": 0,
    "steps": 60,
    "batch_size": 16,
    "workers": 0,
    "threads": 1,
    "precision": "fp32",
    "optim.lr": 4e-3,
    "loss.words": 0,
    "loss.joint": 0,
    "data.augment": 0,
    # What is learned by heart at this size; whether safe is below unsafe on other rows would be luck.
    "data.validation": "canteen/train.jsonl",
    "model.dim": 16,
    "model.image": {"size": 32, "patch": 8, "width": 32, "layers": 1, "head_width": 16, "stem": "conv"},
    "model.text": {"context_length": 48, "vocab_size": 500, "width": 32, "layers": 1, "heads": 2},
}


def blocks(language: str) -> list[str]:
    """The code blocks of the document in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def small(command: str) -> list[str]:
    """The words of a command, with small sizes in place of its own."""
    words = shlex.split(command)
    for option, size in SIZES.items():
        if option in words:
            words[words.index(option) + 1] = size
    if words[:2] == ["hysac", "train"]:
        words += [word for key, value in TINY.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        words += ["--device", "cpu"]
    return words


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command in this process; what it prints."""
    if words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        return ""
    assert words[0] == "hysac"
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}\n{result.exception!r}"
    return result.output


@pytest.mark.slow
def test_the_commands_of_the_document_lead_from_a_policy_to_a_safe_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (config,) = blocks("yaml")
    Path("canteen.yaml").write_text(config, encoding="utf-8")
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    printed = {command: run(small(command), monkeypatch) for command in commands}
    assert [shlex.split(command)[1] for command in commands] == [
        "examples/own_policy.py", "train", "train", "calibrate", "eval", "export", "index", "search",
    ]  # fmt: skip
    table = Path("canteen/train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(table) == 48
    assert "The data can be trained on" in printed[commands[1]]
    assert json.loads(Path("runs/canteen/data.json").read_text(encoding="utf-8"))["train"]["both_images"] == 48
    profile = json.loads(Path("canteen-safety.json").read_text(encoding="utf-8"))
    assert "48 quadruplets" in profile["source"]  # those of the run, not the scenes
    manifest = json.loads(Path("canteen-model/hysac.json").read_text(encoding="utf-8"))
    assert manifest["safety"]["threshold"] == profile["threshold"]
    assert manifest["training"]["config"]["data"]["train"] == ["canteen/train.jsonl"]
    assert "48 images" in printed[commands[6]]  # both pictures of 24 quadruplets
    assert "unsafe score ≤" in printed[commands[7]]


def test_quadruplets_of_the_example_differ_in_what_the_policy_bans_and_in_nothing_else() -> None:
    import numpy as np

    example = runpy.run_path(str(ROOT / "examples" / "own_policy.py"))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        safe, unsafe, category = example["twins"](rng)
        (instead,) = set(safe.entities) - set(unsafe.entities)
        (banned,) = set(unsafe.entities) - set(safe.entities)
        assert (safe.setting, safe.light, len(safe.entities)) == (unsafe.setting, unsafe.light, len(unsafe.entities))
        assert banned in example["POLICY"][category]
        assert not set(safe.entities) & example["BANNED"]
        assert instead != banned
        seen.add(banned)
    assert seen == example["BANNED"]
