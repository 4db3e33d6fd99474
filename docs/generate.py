"""Write the pages of the site that are made from code, and the tables that repeat the bundled model's card.

``docs/cli.md`` is made from the commands, ``docs/curl.md`` from the OpenAPI document of the service. The card's figures
stand between marks in ``README.md`` and ``docs/decisions/entailment.md``.

    python docs/generate.py
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from hysac_retrieval import Index, SafeSearch
from hysac_retrieval.cli import main
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.service import create_app

DOCS = Path(__file__).parent
WIDTH = 78
"""Columns that click uses in a terminal of 80."""
INTRODUCTION = """# Command line

What `hysac --help` and the `--help` of each command print. `hysac-index` is the same command as `hysac index`.

Exit codes: 0 done, 1 error, 2 usage, 3 finished but some items failed (they are listed; the rest is done), 141 whoever
read the output has gone. `--json` prints the result as JSON, and an error as `{"error": {"type": …, "message": …,
"hint": …}}`, both on stdout. Control characters of captions, names and messages are printed as escapes. This page is
written by `python docs/generate.py`.
"""

CURL = """# Service by curl

Each route of the [service](service.md) with the examples of its OpenAPI document (`/openapi.json`), from which this
page is written by `python docs/generate.py`. The commands want a key with the scopes of the route, and an id that is
stored:

```bash
URL=http://127.0.0.1:8080
KEY=hysac_…
```
"""


def command_line() -> str:
    """Return the page on the command line: what each ``--help`` prints in a terminal of 80 columns."""
    group = click.Context(main, info_name="hysac", terminal_width=WIDTH, **main.context_settings)
    parts = [INTRODUCTION, f"```text\n{main.get_help(group)}\n```\n"]
    for name in main.list_commands(group):
        command = main.get_command(group, name)
        assert command is not None
        context = click.Context(command, parent=group, info_name=name, **command.context_settings)
        parts.append(f"## hysac {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def curl() -> str:
    """Return the page on the service by curl: its routes in order, those that remove something last."""
    safety = Bundle.load("hysac-mini").manifest.safety
    with Index.create("page", dim=2, curvature=1.0, safety=safety, location=":memory:") as index:
        document = create_app(SafeSearch(index, None)).openapi()
    routes = [
        (method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    parts = [CURL]
    for method, path, operation in sorted(routes, key=lambda route: route[0] == "delete"):
        if commands := curl_commands(document, method, path, operation):
            said, block = operation["description"].replace("``", "`"), "\n".join(commands)
            parts.append(f"## {method.upper()} {path}\n\n{said}\n\n```bash\n{block}\n```\n")
    return "\n".join(parts)


def curl_commands(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> list[str]:
    """Return a command for each example of an operation; none where its body has no example."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["schema"]["examples"][0])
    command = f'curl --fail-with-body "$URL{path}" -H "Authorization: Bearer $KEY"'
    if method not in ("get", "post"):
        command += f" -X {method.upper()}"
    kinds = operation["responses"].get("200", {}).get("content", {})
    if picture := next((kind.partition("/")[2] for kind in kinds if kind.startswith("image/")), None):
        command += f" --output thumbnail.{picture}"
    if "requestBody" not in operation:
        return [command]
    ((media, content),) = operation["requestBody"]["content"].items()
    schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    if media == "multipart/form-data":
        return [f"{command} -F {name}=@picture.webp" for name in schema["required"]]
    return [f"{command} \\\n  --json {shlex.quote(json.dumps(example))}" for example in schema.get("examples", ())]


def card_rows(title: str, keys: int = 2) -> dict[tuple[str, ...], list[str]]:
    """Return a table of the model's card, whose title begins so: figures without intervals, by first columns."""
    card = (Bundle.load("hysac-mini").path / "README.md").read_text(encoding="utf-8")
    rows = card.partition(f"**{title}")[2].split("\n\n")[1].splitlines()[2:]
    cells = [[re.sub(r" \[.*?\]", "", cell).strip() for cell in row[1:-1].split("|")] for row in rows]
    return {tuple(row[:keys]): row[keys:] for row in cells}


def quality() -> str:
    """Return the table of the README: the bundled model beside the CLIP that it is compared with."""
    seen, paper = card_rows("Quality, text queries"), card_rows("As in the paper")
    known, unknown = (seen[split, "hysac-mini"] for split in ("unseen combinations", "unseen unsafe entities"))
    own, clip = (paper[model, "none"] for model in ("hysac-mini", "clip"))
    (english,) = card_rows("Plain English", 1)["harmful@1, system",]
    rows = (
        ("safe text finds its image, R@1", known[1], clip[0]),
        ("unsafe text finds its own image, for those who may", own[2], clip[2]),
        ("unsafe text finds the safe twin (`safe=True`)", known[4], clip[4]),
        ("unsafe text finds something unsafe first (`safe=True`)", known[5], clip[6]),
        ("the same, unsafe things never seen in training", unknown[5], "–"),
        ("the same, plain English sentences among themselves", english, "–"),
    )
    return _table(("unseen combinations, text queries, %", "hysac-mini", "CLIP"), rows, ":")


def entailment() -> str:
    """Return the table of the decision on entailment: matched pairs inside; others inside."""
    splits = ("unseen combinations", "context", "unseen unsafe entities", "unseen art style")
    card = card_rows("Entailment of hysac-mini", 3)
    rows = []
    for pair in ("T → I", "I → T*", "T* → I*", "T → T*", "T → I*", "I → I*", "T → I*, of all T → I → I*"):
        found = [card[split, pair, "calibrated"] for split in splits]
        half = "" if found[0][0] == "–" else f"{float(found[0][0]):.0f}°"
        rows.append((pair.replace("*", "\\*"), half, *("; ".join(of[1:3]) for of in found)))
    return _table(("", "θ", *splits), rows, "")


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], side: str) -> str:
    rule = ("---", *[f"---{side}"] * (len(header) - 1))
    body = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (header, *rows)]
    return "\n".join([body[0], f"|{'|'.join(rule)}|", *body[1:]])


def with_tables(page: Path) -> str:
    """Return a page with its tables between marks, ``<!-- quality -->`` to ``<!-- /quality -->``, made again."""
    text = page.read_text(encoding="utf-8")
    for name, table in (("quality", quality), ("entailment", entailment)):
        marks = re.compile(rf"(?<=<!-- {name} -->\n\n).*?(?=\n\n<!-- /{name} -->)", re.DOTALL)
        text = marks.sub(lambda _, made=table: made(), text)
    return text


if __name__ == "__main__":
    for page in (DOCS.parent / "README.md", DOCS / "decisions" / "entailment.md"):
        page.write_text(with_tables(page), encoding="utf-8")
    (DOCS / "cli.md").write_text(command_line(), encoding="utf-8")
    (DOCS / "curl.md").write_text(curl(), encoding="utf-8")
