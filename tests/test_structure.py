"""The structure that CONTRIBUTING.md promises; which layer may import which is a contract of import-linter."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ROOT / "hysac_retrieval"
MODULES = sorted(path for folder in (RUNTIME, ROOT / "export" / "hysac_export") for path in folder.rglob("*.py"))
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_ENTRIES = 22

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Modules of both packages, parsed, by path."""
    assert len(MODULES) > 100
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def definitions(tree: ast.Module) -> Iterator[Definition]:
    return (node for node in ast.walk(tree) if isinstance(node, Definition))


def test_no_module_is_long() -> None:
    lines = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_no_function_is_long(trees: dict[str, ast.Module]) -> None:
    lengths = {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, tree in trees.items()
        for node in definitions(tree)
        if not isinstance(node, ast.ClassDef)
    }
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}


def test_docstrings_of_public_objects_do_not_begin_with_what(trees: dict[str, ast.Module]) -> None:
    found = []
    for name, tree in trees.items():
        public = [node for node in definitions(tree) if not node.name.startswith("_")]
        for node in (tree, *public):
            if (ast.get_docstring(node) or "").startswith("What "):
                found.append(f"{name}:{getattr(node, 'lineno', 1)}")
    assert found == []


def test_the_tree_of_the_runtime_is_taken_in_at_a_glance() -> None:
    entries = [path.name for path in RUNTIME.iterdir() if path.name != "__pycache__"]
    assert "search" in entries
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
