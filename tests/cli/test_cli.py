"""The group: list of commands, errors and exit codes, light imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from support.cli import Run

import hysac_retrieval
from hysac_retrieval.cli import common, main
from hysac_retrieval.errors import MissingExtraError


def commands() -> list[str]:
    return main.list_commands(click.Context(main))


def runnable() -> list[tuple[str, ...]]:
    """Commands that run, those of a group by its name and their own."""
    context = click.Context(main)
    found: list[tuple[str, ...]] = []
    for name in commands():
        command = main.get_command(context, name)
        inner = command.list_commands(context) if isinstance(command, click.Group) else ()
        found += [(name, part) for part in inner] or [(name,)]
    return found


def test_help_lists_the_commands_and_loads_no_library() -> None:
    code = (
        "import sys\n"
        "from hysac_retrieval.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'onnxruntime', 'numpy', 'qdrant_client', 'rich', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("index", "search", "info", "demo", "doctor", "train", "export"):
        assert f"\n  {name} " in done.stdout


def test_commands_that_do_not_exist_are_not_listed(run: Run) -> None:
    files = Path(hysac_retrieval.__file__).parent.glob("cli/*.py")
    defining = {path.stem.rstrip("_") for path in files if "\ndef command(" in path.read_text(encoding="utf-8")}
    assert set(commands()) == defining
    result = run("paint")
    assert result.exit_code == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize("name", runnable(), ids=" ".join)
def test_every_command_has_help_and_can_print_json(run: Run, name: tuple[str, ...]) -> None:
    result = run(*name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "\\b" not in result.stdout  # the mark that keeps the lines of examples


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"hysac, version {hysac_retrieval.__version__}\n"


def test_a_wrong_option_is_a_usage_error(run: Run) -> None:
    assert run("search", "x", "--collection", "c", "--nope").exit_code == 2


@pytest.mark.parametrize("place", [(), ("--location", "a", "--url", "http://b")])
def test_exactly_one_place_must_be_named(run: Run, place: tuple[str, ...]) -> None:
    result = run("search", "x", "--collection", "c", *place)
    assert result.exit_code == 2
    assert "--location DIR" in result.stderr


def test_errors_are_json_for_who_asks_for_json(run: Run, tmp_path: Path) -> None:
    for arguments, code, kind in (
        (("info", "lost", "--location", tmp_path), 1, "CollectionNotFoundError"),
        (("status", "photos", "--collection", "lost"), 2, "SettingsError"),
    ):
        result = run(*arguments, "--json")
        error = json.loads(result.stdout)["error"]
        assert (result.exit_code, error["type"], list(error)) == (code, kind, ["type", "message", "hint"])
    assert "--location DIR" in error["hint"]
    assert "--location" not in error["message"]


def test_a_location_that_is_an_address_is_a_usage_error(run: Run, toy_bundle: Path) -> None:
    result = run("search", "x", "--collection", "c", "--location", "http://localhost", "--model", toy_bundle)
    assert result.exit_code == 2
    assert "url=" in result.stderr


@pytest.mark.parametrize(("command", "package"), [("train", "torch"), ("export", "open_clip")])
def test_a_missing_extra_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, package: str
) -> None:
    found = common.find_spec
    monkeypatch.setattr(common, "find_spec", lambda name: None if name == package else found(name))
    result = run(command, "mini", "--out", tmp_path / "out")
    assert result.exit_code == 1
    error = MissingExtraError(package, "train", _PURPOSE[command])
    assert result.stderr == f"Error: {error.message}\nHint: {error.hint}\n"
    assert not (tmp_path / "out").exists()


_PURPOSE: dict[str, Any] = {"train": "training", "export": "export"}


def test_the_script_for_indexing_is_the_index_command(tmp_path: Path) -> None:
    code = "from hysac_retrieval.cli import index_main; index_main()"
    arguments = [tmp_path / "lost", "--collection", "c", "--location", tmp_path / "data", "--model", tmp_path]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "not a model bundle" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_command_without_memory_says_so() -> None:
    from hysac_retrieval.cli.common import Command

    @click.command(cls=Command)
    def greedy() -> None:
        raise MemoryError

    done = CliRunner().invoke(greedy, [])
    assert done.exit_code == 1
    assert "memory" in done.output
    assert "Traceback" not in done.output
