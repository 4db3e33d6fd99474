"""The audit log: a chain that shows what was changed, whatever several writers and torn lines do to it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hysac_retrieval.cli import main
from hysac_retrieval.service.log import START, AuditError, AuditLog, check_log


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    made = AuditLog(tmp_path / "audit.jsonl")
    for number in range(5):
        made.write("unsafe", {"ids": [number], "text": "ü\n" * number})
    return made


def test_a_log_is_whole_until_a_line_is_changed_removed_or_added(log: AuditLog) -> None:
    whole = log.path.read_bytes()
    assert check_log(log.path).broken is None
    lines = whole.splitlines(keepends=True)
    assert json.loads(lines[0])["prev"] == START
    for number in range(4):
        for changed in (
            [*lines[:number], lines[number].replace(b'"ids": [', b'"ids": [9'), *lines[number + 1 :]],
            [*lines[:number], *lines[number + 1 :]],
            [*lines[:number], lines[number], *lines[number:]],
        ):
            log.path.write_bytes(b"".join(changed))
            assert check_log(log.path).broken in (number + 1, number + 2)
    log.path.write_bytes(whole)
    assert check_log(log.path).lines == 5


def test_writers_in_threads_and_of_their_own_keep_one_chain(log: AuditLog) -> None:
    writers = [AuditLog(log.path) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda one=one: [one.write("unsafe", {"ids": list(range(50))}) for _ in range(10)])
        for one in writers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = check_log(log.path)
    assert (found.lines, found.broken) == (45, None)


def test_a_torn_line_is_told_and_the_next_one_stands_by_itself(log: AuditLog) -> None:
    with log.path.open("ab") as stream:
        stream.write(b'{"time": "2026')
    log.write("unsafe", {"ids": [7]})
    lines = log.path.read_bytes().splitlines()
    assert json.loads(lines[-1])["ids"] == [7]
    assert check_log(log.path).broken == 6


@pytest.mark.parametrize("fails", ["fsync", "write"])
def test_what_is_not_on_the_disk_leaves_nothing_behind(
    log: AuditLog, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = log.path.read_bytes()
    real = os.write

    def full(*arguments: Any) -> int:
        if fails == "write":
            return real(arguments[0], arguments[1][:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"hysac_retrieval.service.log.os.{fails}", full)
        with pytest.raises(AuditError):
            log.write("unsafe", {"ids": [8]})
    assert log.path.read_bytes() == before
    log.write("unsafe", {"ids": [8]})
    assert check_log(log.path).broken is None


def test_long_lines_are_chained_too(log: AuditLog) -> None:
    log.write("unsafe", {"ids": list(range(60_000))})
    log.write("unsafe", {"ids": []})
    assert check_log(log.path).broken is None


def test_keys_are_made_listed_rotated_and_revoked_and_the_log_is_checked(tmp_path: Path, log: AuditLog) -> None:
    path = str(tmp_path / "keys.json")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["keys", *arguments])

    made = json.loads(run("make", "--file", path, "--name", "ann", "--scope", "search", "--json").output)
    assert made["key"].startswith(f"hysac_{made['id']}_")
    assert json.loads(run("rotate", made["id"], "--file", path, "--json").output)["key"] != made["key"]
    assert made["id"] in run("revoke", made["id"], "--file", path).output
    (listed,) = json.loads(run("list", "--file", path, "--json").output)
    assert (listed["name"], listed["scopes"], listed["revoked"] is not None) == ("ann", ["search"], True)
    again = run("rotate", made["id"], "--file", path)
    assert (again.exit_code, "no key" in again.output) == (2, True)
    assert run("make", "--file", path, "--name", "bob", "--scope", "all").exit_code == 2
    assert run("list", "--file", str(tmp_path / "none.json")).exit_code == 2
    assert run("check-log", str(log.path)).exit_code == 0
    log.path.write_bytes(log.path.read_bytes().replace(b'"ids": [2]', b'"ids": [3]'))
    broken = run("check-log", str(log.path), "--json")
    assert (broken.exit_code, json.loads(broken.output)["broken"]) == (1, 4)
