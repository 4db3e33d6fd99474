"""README and the pages of the site: what they show is run, what they link to exists, what is generated is current."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.guide import ROOT, Reader, embed, reader

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("plugins/**/README.md")])
LARGEST_README = 7 * 1024
TITLES = ["a dog in the park", "a man with a gun", "a cat in the kitchen"]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and text of the fenced blocks of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    with reader(tmp_path, monkeypatch) as made:
        yield made


def follow(person: Reader, page: Path) -> list[str]:
    """Run the blocks of a page in order; return what was run.

    A block of text after one of Python is what that one prints. Left out are setting up and training, and what needs
    a framework that the tests of the plugins have.
    """
    ran, printed = [], ""
    for language, text in blocks(page):
        if language == "console":
            for line in text.splitlines():
                if re.match(r"pip install|git clone|make |hysac train|hysac doctor", line):
                    continue
                person.run(line.replace("http://localhost:6333", os.environ["QDRANT_URL"]))
                ran.append(line)
        elif language == "python" and "langchain_hysac" not in text:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, page.name, "exec"), person.names)
            printed = out.getvalue()
            ran.append(text)
        elif language == "text":
            assert printed == text
    return ran


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= LARGEST_README


@pytest.mark.slow
def test_the_readme_does_what_it_says(person: Reader) -> None:
    person.fill("products", [{"title": title} for title in TITLES], TITLES)
    # Its vector has no name, so that the engine ranks by a companion.
    person.run('hysac attach --collection products --text-field title --companion --url "$QDRANT_URL"')
    person.names.update(client=person.client, vector=embed("a dog"))
    ran = follow(person, ROOT / "README.md")
    assert sum(command.startswith("hysac ") for command in ran) == 4
    assert sum("import" in block for block in ran) == 3
    found = person.names["safe"].query_points("products", query=embed("a dog")).points
    assert {point.id for point in found} == person.safe_ids("products") != set()
    person.names["engine"].close()


@pytest.mark.slow
def test_the_quickstart_does_what_it_says(person: Reader) -> None:
    ran = follow(person, DOCS / "quickstart.md")
    assert sum(command.startswith("hysac ") for command in ran) == 6
    assert sum("print" in block for block in ran) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_generated_pages_are_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = (DOCS / "cli.md").read_text("utf-8")
    assert generate.command_line() == page, "docs/cli.md is old; run python docs/generate.py"
    assert generate.curl() == (DOCS / "curl.md").read_text("utf-8"), "docs/curl.md is old; run python docs/generate.py"
    for path, mark in ((ROOT / "README.md", "quality"), (DOCS / "decisions" / "entailment.md", "entailment")):
        assert f"<!-- {mark} -->\n\n| " in path.read_text("utf-8")
        assert generate.with_tables(path) == path.read_text("utf-8"), f"{path} is old; run python docs/generate.py"
    done = subprocess.run(
        [sys.executable, "-c", "from hysac_retrieval.cli import main; main(prog_name='hysac')", "search", "--help"],
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"```text\n{done.stdout}```" in page


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    source = re.compile(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)|<link[^>]*\shref="([^"]+)')
    for page in pages:
        loaded = {first or second for first, second in source.findall(page.read_text("utf-8"))}
        assert loaded
        assert not [where for where in loaded if "//" in where], page
