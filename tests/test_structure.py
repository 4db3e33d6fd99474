"""The structure that CONTRIBUTING.md promises; which layer may import which is a contract of import-linter."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ROOT / "hysac_retrieval"
MODULES = sorted(path for folder in (RUNTIME, ROOT / "export" / "hysac_export") for path in folder.rglob("*.py"))
MOST_LINES = 400
MOST_ENTRIES = 22


def test_no_module_is_long() -> None:
    lines = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_the_tree_of_the_runtime_is_taken_in_at_a_glance() -> None:
    entries = [path.name for path in RUNTIME.iterdir() if path.name != "__pycache__"]
    assert "search" in entries
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
