"""docs/fit.md does what it says: its blocks, in order, in a folder where its reader would be."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from hysac_retrieval.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "fit.md"


def run(line: str) -> str:
    name, *arguments = shlex.split(line)
    result = CliRunner().invoke(main, ["index", *arguments] if name == "hysac-index" else arguments)
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    return result.output


def test_the_blocks_lead_from_a_labelled_collection_to_a_safe_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    last = ""
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S):
        if kind == "sh":
            for line in block.splitlines():
                run(line)
        elif kind == "python":
            capsys.readouterr()
            exec(compile(block, PAGE.name, "exec"), names)
            last = capsys.readouterr().out
        elif kind == "text":
            assert last == block
    assert (tmp_path / "fitted" / "report.html").is_file()


def test_the_commands_of_the_page_have_the_options_that_it_names() -> None:
    lines = re.findall(r"^hysac(?:-| )(fit|label|index|search) (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    for name, line in lines:
        words = shlex.split(line)
        name = words[0] if words[0] == "attach" else name
        known = {option for parameter in main.get_command(None, name).params for option in parameter.opts}  # type: ignore[arg-type,union-attr]
        assert {word for word in words if word.startswith("--")} <= known
