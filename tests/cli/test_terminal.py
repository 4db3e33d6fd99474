"""What reaches a terminal, a pipe or a file, and what happens where that is closed, full or of another encoding."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import click
import pytest
from support.cli import Photos, Run

from hysac_retrieval import Encoder, Index, connect
from hysac_retrieval.cli import main
from hysac_retrieval.cli.common import print_json, warn
from hysac_retrieval.cli.terminal import CLOSED_PIPE, console, streams
from hysac_retrieval.errors import InputError, SourceError, printable

HOSTILE = (
    "a dog \x1b]0;title\x07\x1b[2J\x1b[31mred",
    "a cat \x9b31mC1 \u202egpj.exe\u2066x",
    "a house \x08\x08\x7f\ttab \x85 \u2028line",
    "a man [bold]markup[/bold] [link=http://x]l[/link] :bomb:",
)
FORBIDDEN = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> tuple[Any, ...]:
    folder = tmp_path_factory.mktemp("hostile")
    encoder = Encoder.load(toy_bundle, threads=1)
    with Index.for_model(encoder, "c", location=folder) as index:
        payloads = [{"text": text, "album": text, "k\x1b[5m": [text]} for text in HOSTILE]
        index.upsert(range(len(HOSTILE)), encoder.encode_text(list(HOSTILE)), modality="text", payloads=payloads)
    return ("--collection", "c", "--location", folder, "--model", toy_bundle)


@pytest.mark.parametrize(
    "arguments",
    [("search", "a dog"), ("search", "a dog", "--group-by", "album"), ("explain", "a dog"), ("search", "a", "--json")],
)
def test_nothing_of_a_payload_is_obeyed_by_a_terminal(
    run: Run, hostile: tuple[Any, ...], arguments: tuple[str, ...]
) -> None:
    result = run(*arguments, *hostile)
    assert result.exit_code == 0
    assert not FORBIDDEN.search(result.output), FORBIDDEN.findall(result.output)
    assert "[bold]markup[/bold]" in result.output
    assert "💣" not in result.output


def test_json_stays_json_whose_values_are_those_of_the_payload(run: Run, hostile: tuple[Any, ...]) -> None:
    hits = json.loads(run("search", "a dog", "--json", *hostile).stdout)["hits"]
    assert {hit["payload"]["text"] for hit in hits} == set(HOSTILE)


def test_names_of_files_and_collections_are_escaped(run: Run, tmp_path: Path, toy_bundle: Path) -> None:
    (tmp_path / "p").mkdir()
    for name in ("bad\x1b[2J\u202e.png", "line\nbreak.png", os.fsdecode(b"caf\xe9.png")):
        (tmp_path / "p" / name).write_bytes(b"no picture")
    place = ("--collection", "c", "--location", tmp_path / "d", "--model", toy_bundle)
    for result in (run("index", tmp_path / "p", *place, "--workers", 0), run("status", tmp_path / "p", *place[:4])):
        assert not FORBIDDEN.search(result.output)
        assert "line\\nbreak.png" in result.stderr or "line\nbreak" not in result.stderr
    lost = run("info", "c\x1b[2J", "--location", tmp_path / "d")
    assert lost.exit_code in (1, 2)
    assert not FORBIDDEN.search(lost.output)


@pytest.mark.parametrize("text", [*HOSTILE, "two\nlines", "\ud83d half", "\udce9 of a file name", "\x1d\x1e\x00"])
def test_messages_of_errors_are_printable_in_one_line(text: str) -> None:
    error = SourceError(f"{text} is bad", hint=text)
    for shown in (str(error), error.message, error.hint, repr(error)):
        assert not FORBIDDEN.search(shown)
        assert "\n" not in shown
        shown.encode()


def test_whatever_can_be_printed_is_left_as_it_is() -> None:
    for text in ("Müller – Café", "قطة", "猫", "👨\u200d👩\u200d👧", "न\u200dही"):
        assert printable(text) == text


@contextmanager
def printed(monkeypatch: pytest.MonkeyPatch, encoding: str) -> Iterator[BytesIO]:
    buffer = BytesIO()
    with monkeypatch.context() as patched:
        for name in ("stdout", "stderr"):
            patched.setattr(sys, name, TextIOWrapper(buffer, encoding=encoding, write_through=True))
        with streams():
            yield buffer


ENCODINGS = pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "utf-16-le"])


@ENCODINGS
def test_any_encoding_takes_any_text(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    text = "猫 – τ ≤ ½ 🔫 \udce9 \x1b[2J"
    with printed(monkeypatch, encoding) as buffer:
        click.echo(text)
        click.echo(text, err=True)
        console().print(text)
        warn(text)
        print("猫")
        shown = buffer.getvalue().decode(encoding)
    assert shown.count("\n") == 5
    assert not FORBIDDEN.search(shown)


@ENCODINGS
def test_json_is_valid_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    value = {"k\x7f": ["猫 é 🔫", "\x1b[2J\x9b\u202e\n\\x41", "\ud800"]}
    with printed(monkeypatch, encoding) as buffer:
        print_json(value)
        shown = buffer.getvalue().decode(encoding)
    assert json.loads(shown) == value
    assert not FORBIDDEN.search(shown)


class _Broken(BytesIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error: OSError | None = error

    def write(self, data: Any) -> int:
        if self.error:
            raise self.error
        return len(data)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [(BrokenPipeError(32, "gone"), CLOSED_PIPE, ""), (OSError(28, "No space left on device"), 1, "No space left")],
)
@pytest.mark.parametrize("arguments", [("--help",), ("doctor", "--help"), ("info", "--json"), ("info",), ("search",)])
def test_output_that_fails_ends_a_command_quietly(
    monkeypatch: pytest.MonkeyPatch, error: OSError, code: int, says: str, arguments: tuple[str, ...]
) -> None:
    broken, beside = _Broken(error), BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(broken, encoding="utf-8"))
    monkeypatch.setattr(sys, "stderr", TextIOWrapper(beside, encoding="utf-8", write_through=True))
    with pytest.raises(SystemExit) as ended:
        main(list(arguments), prog_name="hysac")
    broken.error = None  # of what the buffer still holds
    if arguments == ("search",):
        assert ended.value.code == 2  # what is wrong is said elsewhere
    else:
        assert ended.value.code == code
        assert says in beside.getvalue().decode()
        assert beside.getvalue().count(b"\n") <= 1


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_a_process_that_was_started_without_output_does_its_work(
    run: Run, photos: Photos, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    for name in ("stdout", "stderr"):
        if closed in (name, "both"):
            monkeypatch.setattr(sys, name, None)
    for arguments in (("search", "a dog", *photos.options), ("info", "--json")):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)], prog_name="hysac")
        assert ended.value.code == 0


LONG = "x" * 300


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        (f"{LONG}.jpg", 1, "does not exist"),
        ("~nobody_has_this_name/x.jpg", 1, "does not exist"),
        ("~/no_such_picture.png", 1, "does not exist"),
        ("http://x/y.jpg", 1, "download it"),
        ("HTTPS://x/a%20b?c=d", 1, "download it"),
        ("s3://bucket/x.png", 1, "download it"),
        ("www.example.org/x.png", 1, "download it"),
        ("data:image/png;base64,iVBOR", 1, "download it"),
        (LONG, 0, ""),
        ("see http://x/y.jpg", 0, ""),
        ("what is in cat.jpg", 0, ""),
        ("C: a dog", 0, ""),
    ],
)
def test_queries_that_are_no_texts_are_errors_in_words(
    run: Run, photos: Photos, query: str, code: int, says: str
) -> None:
    for command in ("search", "explain"):
        result = run(command, *photos.options, "--", query)
        assert result.exit_code == code, result.output
        assert says in result.stderr


@pytest.mark.parametrize("query", ["http://x/y.jpg", " ftp://x/y ", "data:image/png;base64,iVBOR"])
def test_a_url_is_no_query_of_the_sdk_either(photos: Photos, query: str) -> None:
    with connect("photos", location=photos.data, model=str(photos.model)) as engine:
        for ask in (lambda: engine.search(query), lambda: engine.search_batch(["a dog", query])):
            with pytest.raises(InputError, match="search with its bytes"):
                ask()
        for path in (Path("a\0.jpg"), Path(LONG), Path("\ud83d.jpg"), Path("~nobody_has_this_name/x.jpg")):
            with pytest.raises(InputError, match=r"does not exist|cannot be read"):
                engine.search(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", LONG),
        ("info", "é" * 150),
        ("search", "a dog", "--collection", LONG),
        ("search", "a dog", "--collection", "c", "--location", LONG),
        ("search", "a dog", "--collection", "c", "--model", LONG),
        ("search", "--similar", "9" * 5000, "--collection", "photos"),
        ("search", "a dog", "--collection", "c", "--filter", "[" * 100_000),
        ("search", "a dog", "--collection", "c", "--filter", '{"n":' + "9" * 5000 + "}"),
        ("index", LONG, "--collection", "c"),
        ("index", ".", "--collection", "c", "--captions", LONG),
        ("index", ".", "--collection", "c", "--location", LONG),
        ("status", LONG, "--collection", "photos"),
        ("calibrate", LONG, "--safe", "x", "--unsafe", "y"),
        ("rescore", "photos", "--profile", LONG),
    ],
)
def test_names_and_numbers_beyond_measure_are_errors_in_words(
    run: Run, photos: Photos, arguments: tuple[str, ...]
) -> None:
    place = () if "--location" in arguments or arguments[0] == "calibrate" else ("--location", photos.data)
    result = run(*arguments, *place)
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("columns", ["abc", "0", "1", "-5", "²", "9" * 12])
def test_any_width_of_a_terminal_will_do(
    run: Run, photos: Photos, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    assert run("search", "a dog", *photos.options).exit_code == 0
    assert run("index", "--help").exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="shells of Unix")
@pytest.mark.parametrize(
    ("environment", "tail", "code"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "", 0),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "", 0),
        ({}, "| true; exit ${PIPESTATUS[0]}", CLOSED_PIPE),
        ({}, ">&-", 0),
        ({}, ">&- 2>&- <&-", 0),
        ({}, ">/dev/full", 1),
    ],
)
def test_a_real_process_ends_without_a_traceback(environment: dict[str, str], tail: str, code: int) -> None:
    before = "sleep 1; " if "true" in tail else ""  # the reader has gone by then
    script = f"( {before}{sys.executable} -c 'from hysac_retrieval.cli import main; main()' info ) {tail}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
